"""What job types and messages need, held against what a queue declares, before anything runs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Final

from jobbus.errors import Unsupported
from jobbus.job_type import JobType
from jobbus.message import NO_DELAY, Capabilities, Message, Priority
from jobbus.queue import BackgroundJobQueue
from jobbus.retry import RetryPolicy

REMEDY: Final = (
    "give the broker a ledger, which makes all of it possible: set BACKGROUND_JOBS__LEDGER "
    "(--ledger) to sqlite:///jobs.db or postgresql://user@host/database"
)


def check_job_types(job_types: Iterable[JobType[..., object]], capabilities: Capabilities) -> None:
    """Raise Unsupported, naming every job type that this queue cannot serve, and the remedy."""
    if capabilities.ledger:
        return
    lacking = [
        f"{job_type.name} {need}"
        for job_type in job_types
        for need in _needs_of_type(job_type, capabilities)
    ]
    if lacking:
        raise Unsupported(f"this queue cannot do what was declared: {'; '.join(lacking)}. {REMEDY}")


def check_timeouts(
    job_types: Iterable[JobType[..., object]], queue: BackgroundJobQueue, default: timedelta
) -> None:
    """Raise Unsupported for job types that may run for longer than a job can be held here.

    A queue that bounds that says so as ``max_job_timeout``, and knows it best once it is open.
    """
    longest: timedelta | None = getattr(queue, "max_job_timeout", None)
    if longest is None:
        return
    lacking = [
        f"{each.name} may run for {each.timeout or default}"
        for each in job_types
        if (each.timeout or default) > longest
    ]
    if lacking:
        raise Unsupported(
            f"this queue lets a worker hold a job for {longest}: {'; '.join(lacking)}. Lower the "
            f"time limits (JOB_TIMEOUT_MINUTES, or timeout= of the job type), or {REMEDY}"
        )


def check_messages(messages: Iterable[Message], capabilities: Capabilities) -> None:
    """Raise Unsupported for the first message that asks for what this queue cannot do."""
    if capabilities.ledger:
        return
    for message in messages:
        if lacking := list(_needs_of_message(message, capabilities)):
            raise Unsupported(
                f"this queue cannot do what was asked: {message.job_type} {'; '.join(lacking)}. "
                f"{REMEDY}"
            )


def check_transaction(capabilities: Capabilities) -> None:
    """Raise Unsupported for a queue that cannot join a database's transaction."""
    if not capabilities.transactional and not capabilities.ledger:
        raise Unsupported(f"this queue cannot enqueue in a transaction of yours. {REMEDY}")


def _needs_of_type(job_type: JobType[..., object], can: Capabilities) -> Iterator[str]:
    asked = job_type.settings
    if asked.priority != Priority.NORMAL and not can.priorities:
        yield f"has priority {asked.priority}, and the queue knows none"
    if asked.expires_in is not None and not can.expiry:
        yield "has a start deadline, and the queue keeps none"
    longest = longest_back_off(asked.retry)
    if can.max_delay is not None and longest > can.max_delay:
        yield f"backs off for up to {longest}, and the queue delays for at most {can.max_delay}"


def _needs_of_message(message: Message, can: Capabilities) -> Iterator[str]:
    if message.priority != Priority.NORMAL and not can.priorities:
        yield f"has priority {message.priority}, and the queue knows none"
    if message.group is not None and not can.ordered_groups:
        yield f"belongs to the group {message.group!r}, and the queue keeps no order"
    if message.depends_on and not can.dependencies:
        yield "depends on other jobs, which the queue cannot wait for"
    if message.unique_key is not None and not can.unique_keys:
        yield "has a unique key, which the queue cannot hold"
    if message.expires_at is not None and not can.expiry:
        yield "has a start deadline, and the queue keeps none"
    if can.max_delay is not None and message.delay > can.max_delay:
        yield f"is due in {message.delay}, and the queue delays for at most {can.max_delay}"


def longest_back_off(policy: RetryPolicy) -> timedelta:
    """The longest wait that the policy can lead to."""
    plain = replace(policy, jitter=False)
    tries = range(1, min(policy.max_attempts, 100))
    return max((plain.delay(failures) for failures in tries), default=NO_DELAY)
