"""What the policy of idempotency keys deals in, and what settlements say of keys."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol, TypeGuard

from jobbus.idempotency.store import KEPT_RESULT, Answer, KeyClaim, KeyEnd, KeyHold, Reply
from jobbus.job import Problem
from jobbus.message import Abandonment, Completion, DeadLetter, Delivery

Settlement = Completion | Abandonment | DeadLetter
Attempt = Callable[[], Awaitable[Settlement | None]]


class KeyEvent(StrEnum):
    """What is counted. The first four are metrics: ``background_jobs.idempotency.*``."""

    HIT = "hit"
    """Done before: the handler did not run."""
    MISS = "miss"
    """The key was free, and the handler ran."""
    IN_PROGRESS = "in_progress"
    """Somebody else is at it: the job comes back later."""
    ERROR = "error"
    """The store could not be asked or told."""
    UNGUARDED = "unguarded"
    """A naturally idempotent job ran without the store."""
    MISMATCH = "mismatch"
    POISON = "poison"
    FENCED = "fenced"
    """An outcome came too late: the key was another's by then."""
    GONE = "gone"
    """The store had forgotten a key under which work was going on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyNotice:
    """One counted event, with the names that may label a metric."""

    event: KeyEvent
    job_type: str
    queue: str


@dataclass(slots=True, eq=False)
class Ahead:
    """A key that is begun before its job's turn, together with those of one delivery."""

    claim: KeyClaim
    told: asyncio.Future[None]
    """Done when the store has answered for all of them, or could not be asked."""
    reply: Reply | None = None
    """None also where the store could not be asked."""


class Holder(Protocol):
    """What the worker holds a delivery in; its heartbeat keeps the key that is noted here."""

    @property
    def delivery(self) -> Delivery: ...

    hold: KeyHold | None
    hold_until: float
    """Monotonic seconds; beyond it the key's lease is not trusted."""
    hold_ending: bool
    """The outcome is on its way: nothing is renewed any more."""
    ahead: Ahead | None
    """What was asked for it while it waits for its slot; see :meth:`Idempotency.begin_ahead`."""
    finished: bool


def acquired(reply: Reply | None) -> TypeGuard[Reply]:
    return reply is not None and reply.answer in (Answer.ACQUIRED, Answer.STOLEN)


def succeeded(settlement: Settlement | None) -> bool:
    return isinstance(settlement, Completion) and not settlement.cancelled


def end_of(hold: KeyHold, done: Completion) -> KeyEnd:
    """The success to be recorded; a large result stays with its job, whose id the key has."""
    result = done.result
    return KeyEnd(
        hold=hold, data=None if result is not None and len(result) > KEPT_RESULT else result
    )


def dead(delivery: Delivery, kind: str, message: str) -> DeadLetter:
    return DeadLetter(delivery=delivery, problem=Problem(kind=kind, message=message))


def written_problem(problem: Problem) -> bytes:
    return json.dumps({"kind": problem.kind, "message": problem.message}).encode()


def read_problem(data: bytes | None) -> Problem:
    told: dict[str, str] = json.loads(data) if data else {}
    return Problem(
        kind=told.get("kind", "failed_before"),
        message=told.get("message", "the job that did this work under the same key failed"),
    )
