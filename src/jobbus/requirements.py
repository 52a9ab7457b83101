"""What job types and messages need, held against what a queue declares, before anything runs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from datetime import timedelta

from jobbus.errors import Unsupported
from jobbus.job_type import JobType
from jobbus.message import NO_DELAY, Capabilities, Message, Priority
from jobbus.queue import LEDGER_REMEDY, refuse_beyond
from jobbus.retry import RetryPolicy


def check_job_types(
    job_types: Iterable[JobType[..., object]],
    capabilities: Capabilities,
    *,
    longest: timedelta | None = None,
    default_timeout: timedelta = NO_DELAY,
) -> None:
    """Raise Unsupported, naming every job type that this queue cannot serve, and the remedy.

    ``longest`` is for how long the queue lets a worker hold a job, where that has a bound.
    """
    if capabilities.ledger:
        return
    lacking = [
        f"{job_type.name} {need}"
        for job_type in job_types
        for need in _needs_of_type(job_type, capabilities, longest, default_timeout)
    ]
    if lacking:
        raise Unsupported(
            f"this queue cannot do what was declared: {'; '.join(lacking)}. {LEDGER_REMEDY}"
        )


def check_messages(messages: Iterable[Message], capabilities: Capabilities) -> None:
    """Raise Unsupported for the first message that asks for what this queue cannot do."""
    if capabilities.ledger:
        return
    for message in messages:
        refuse_beyond(message, capabilities, "this queue")


def check_transaction(capabilities: Capabilities) -> None:
    """Raise Unsupported for a queue that cannot join a database's transaction."""
    if not capabilities.transactional and not capabilities.ledger:
        raise Unsupported(f"this queue cannot enqueue in a transaction of yours. {LEDGER_REMEDY}")


def _needs_of_type(
    job_type: JobType[..., object],
    can: Capabilities,
    longest_hold: timedelta | None,
    default_timeout: timedelta,
) -> Iterator[str]:
    asked = job_type.settings
    timeout = job_type.timeout or default_timeout
    if longest_hold is not None and timeout > longest_hold:
        yield f"may run for {timeout}, and a worker may hold a job for {longest_hold} here"
    if asked.priority != Priority.NORMAL and not can.priorities:
        yield f"has priority {asked.priority}, and the queue knows none"
    if asked.expires_in is not None and not can.expiry:
        yield "has a start deadline, and the queue keeps none"
    longest = longest_back_off(asked.retry)
    if can.max_delay is not None and longest > can.max_delay:
        yield f"backs off for up to {longest}, and the queue delays for at most {can.max_delay}"


def longest_back_off(policy: RetryPolicy) -> timedelta:
    """The longest wait that the policy can lead to."""
    plain = replace(policy, jitter=False)
    tries = range(1, min(policy.max_attempts, 100))
    return max((plain.delay(failures) for failures in tries), default=NO_DELAY)
