"""The transport seam: the one protocol that every backend implements."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import Any, Final, Protocol

from jobbus.errors import Unsupported
from jobbus.message import (
    Abandonment,
    Capabilities,
    Completion,
    DeadLetter,
    Delivery,
    LeaseState,
    Message,
    Priority,
    QueueDepth,
)


class BackgroundJobQueue(Protocol):
    """Moves messages from producers to workers, at least once, under a lease.

    Used from one event loop, by many tasks at once. An implementation does not retry, log, measure
    or encode: its callers do. A transient failure is ``BackendUnavailable``; anything else that the
    broker says is ``BackendError``. What ``capabilities`` does not declare is refused with
    ``Unsupported``. Every call has a deadline of its own.
    """

    @property
    def capabilities(self) -> Capabilities:
        """Fixed once constructed; readable before :meth:`open`."""
        ...

    async def open(self) -> None:
        """Connect. Fails here, not at the first message."""
        ...

    async def close(self) -> None:
        """Let go of everything, promptly. Harmless when repeated or never opened."""
        ...

    def separate(self) -> BackgroundJobQueue:
        """The same queue on connections of its own, unopened, for another event loop or thread."""
        ...

    async def enqueue(
        self, messages: Sequence[Message], *, connection: Any | None = None
    ) -> Sequence[str]:
        """Accept every message durably, or none; return the job ids, in order.

        A returned id differs from the message's where its ``unique_key`` is held by an unfinished
        job: that job's id. Enqueueing a known ``job_id`` again changes nothing. With
        ``connection``, the messages exist if and only if that connection's transaction commits.
        """
        ...

    async def receive(
        self, queue: str, *, limit: int, wait: timedelta, lease: timedelta
    ) -> Sequence[Delivery]:
        """Hand out up to ``limit`` messages, best first, waiting for the first.

        Returns as soon as there is one, or empty after ``wait``. When cancelled, messages taken but
        not returned go back or expire; they are never lost.
        """
        ...

    async def complete(
        self, done: Sequence[Completion], *, connection: Any | None = None
    ) -> Sequence[Delivery]:
        """Remove these messages for good; return those whose lease was lost.

        Completing twice under the same lease is completing once. With ``connection``, within that
        connection's transaction.
        """
        ...

    async def abandon(self, back: Sequence[Abandonment]) -> Sequence[Delivery]:
        """Make the messages receivable again; return those whose lease was lost."""
        ...

    async def dead_letter(self, dead: Sequence[DeadLetter]) -> Sequence[Delivery]:
        """Set the messages aside, with their reasons; return those whose lease was lost."""
        ...

    async def extend(self, held: Sequence[Delivery], lease: timedelta) -> Sequence[LeaseState]:
        """Keep the messages for ``lease`` from now; one answer for each, in order.

        Messages that came in one receive may share one lease: keeping one keeps them all.
        """
        ...

    async def get_queue_depth(self, queue: str) -> QueueDepth:
        """Count. May be approximate and a little late, never blocking for long."""
        ...


LEDGER_REMEDY: Final = (
    "give the broker a ledger, which makes all of it possible: set BACKGROUND_JOBS__LEDGER "
    "(--ledger) to sqlite:///jobs.db or postgresql://user@host/database"
)


def refuse_beyond(message: Message, can: Capabilities, carrier: str) -> None:
    """Raise Unsupported, with the remedy, where a message asks for what is not declared.

    For queues without a ledger; ``carrier`` is their name in the error.
    """
    if lacking := list(beyond(message, can)):
        raise Unsupported(
            f"{carrier} cannot do what was asked: {message.job_type} {'; '.join(lacking)}. "
            f"{LEDGER_REMEDY}"
        )


def beyond(message: Message, can: Capabilities) -> Iterator[str]:
    """What a message asks for and these capabilities do not declare, in words."""
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
    if message.delay and not can.delays:
        yield f"is due in {message.delay}, and the queue delays nothing"
    elif can.max_delay is not None and message.delay > can.max_delay:
        yield f"is due in {message.delay}, and the queue delays for at most {can.max_delay}"
