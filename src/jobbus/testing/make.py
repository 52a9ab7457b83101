"""Builders of messages and settlements for tests, with everything irrelevant filled in."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, Final

from jobbus.ids import new_id
from jobbus.job import Problem
from jobbus.message import (
    NO_DELAY,
    Abandonment,
    Completion,
    CountsAs,
    DeadLetter,
    Delivery,
    Dependency,
    Message,
    OnFailure,
)

JOB_TYPE: Final = "example.work"


def message(job_type: str = JOB_TYPE, *, payload: bytes = b"{}", **wanted: Any) -> Message:
    """A message with an id of its own; ``wanted`` are further fields of :class:`Message`."""
    given = {"job_id": new_id(), **wanted}
    return Message(job_type=job_type, payload=payload, **given)


def messages(number: int, **wanted: Any) -> list[Message]:
    """``number`` messages that differ in their ids only, in the order of their ids."""
    return [message(**wanted) for _ in range(number)]


def after(
    *parents: Message | str, on_failure: OnFailure = OnFailure.FAIL
) -> tuple[Dependency, ...]:
    """The ``depends_on`` of a message that waits for these parents."""
    ids = [parent if isinstance(parent, str) else parent.job_id for parent in parents]
    return tuple(Dependency(job_id, on_failure) for job_id in ids)


def problem(kind: str = "ValueError", text: str = "it broke") -> Problem:
    """A reason for a failure."""
    return Problem(kind=kind, message=text, traceback='File "work.py", line 1')


def done(delivery: Delivery, result: bytes | None = None) -> Completion:
    """The delivery, completed."""
    return Completion(delivery=delivery, result=result)


def stopped(delivery: Delivery, reason: str = "asked to stop") -> Completion:
    """The delivery, cancelled by its worker while it ran."""
    return Completion(delivery=delivery, cancelled=True, reason=reason)


def back(
    delivery: Delivery, delay: timedelta = NO_DELAY, counts_as: CountsAs = CountsAs.FAILURE
) -> Abandonment:
    """The delivery, abandoned; failures and crashes carry a problem."""
    blamed = counts_as in (CountsAs.FAILURE, CountsAs.CRASH)
    return Abandonment(
        delivery=delivery,
        delay=delay,
        counts_as=counts_as,
        problem=problem() if blamed else None,
    )


def dead(delivery: Delivery, *, timed_out: bool = False) -> DeadLetter:
    """The delivery, dead-lettered."""
    return DeadLetter(delivery=delivery, problem=problem(), timed_out=timed_out)
