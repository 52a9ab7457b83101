"""The transport seam: the one protocol that every backend implements."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any, Protocol

from jobbus.message import (
    Abandonment,
    Capabilities,
    Completion,
    DeadLetter,
    Delivery,
    LeaseState,
    Message,
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
