"""What a running handler sees of its job, and what it can say about it."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar, Token
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, Protocol
from uuid import UUID

from jobbus.errors import Cancelled, Unsupported
from jobbus.job import Progress
from jobbus.message import Message

log = logging.getLogger("jobbus.handler")
_current: ContextVar[Callable[[], JobContext]] = ContextVar("jobbus_job_context")
"""How to come by the context: most handlers never ask, and making it costs each of them."""


class ContextHost(Protocol):
    """What stands behind a context: the worker itself, or the pipe to it from a child process."""

    def report(self, progress: Progress) -> None:
        """Note progress. Never blocks; any thread."""
        ...

    def cancel_requested(self) -> bool:
        """Any thread."""
        ...

    async def enqueue(self, messages: Sequence[Message]) -> Sequence[str]: ...

    def enqueue_sync(self, messages: Sequence[Message]) -> Sequence[str]: ...

    def complete_with(self, connection: Any, result: object) -> Any:
        """Complete the job in the connection's transaction; awaitable where the connection is."""
        ...

    def transaction(self, result: object) -> Any:
        """See :meth:`JobContext.transaction`."""
        ...


@dataclass(slots=True, kw_only=True)
class JobContext:
    """The job that a handler is running. Shared by async and sync handlers.

    Take it as a parameter annotated ``JobContext``, or from :meth:`current`.
    """

    job_id: str
    job_type: str
    queue: str
    attempt: int
    """Counts hand-outs; only ever grows, also over redrives. Pass it on as a fencing token."""
    failures: int
    """Failed attempts before this one."""
    max_attempts: int
    host: ContextHost
    headers: Mapping[str, str]
    tags: tuple[str, ...] = ()
    metadata: Mapping[str, Any]
    parent_id: str | None = None
    timeout: timedelta | None = None
    last_progress: Progress | None = None
    spawned: int = 0

    @classmethod
    def current(cls) -> JobContext:
        """The context of the job that this code runs in. Raises LookupError outside of one."""
        try:
            make = _current.get()
        except LookupError:
            raise LookupError("no job is running here: this is not inside a handler") from None
        return make()

    @property
    def idempotency_key(self) -> str:
        """The same over all attempts of the job: hand it to APIs that take such a key."""
        return self.job_id

    @property
    def last_attempt(self) -> bool:
        """Whether a failure now would be final."""
        return self.failures + 1 >= self.max_attempts

    def progress(self, percent: float, stage: str = "", message: str = "") -> None:
        """Say how far along the job is. Call it as often as you like; writing is coalesced.

        Raises ValueError when ``percent`` is not within 0 to 100.
        """
        if not 0 <= percent <= 100:
            raise ValueError(f"progress is a percentage from 0 to 100, not {percent!r}")
        self.last_progress = Progress(percent=percent, stage=stage, message=message)
        self.host.report(self.last_progress)

    @property
    def cancel_requested(self) -> bool:
        """Whether somebody has asked this job to stop, or its worker must give it up."""
        return self.host.cancel_requested()

    def raise_if_cancelled(self) -> None:
        """Stop here if the job was asked to: raises :class:`~jobbus.errors.Cancelled`.

        Async handlers are cancelled at their next ``await`` anyway; sync ones call this in loops.
        """
        if self.cancel_requested:
            raise Cancelled("the job was asked to stop")

    async def spawn(self, *messages: Message, key: str | None = None) -> list[str]:
        """Enqueue children of this job and return their ids.

        Ids follow from this job's id and ``key``, else from the order of the spawning calls, so
        that a handler that runs again enqueues the same children and not new ones.
        """
        return list(await self.host.enqueue(self._adopt(messages, key)))

    def spawn_sync(self, *messages: Message, key: str | None = None) -> list[str]:
        """:meth:`spawn` for sync handlers."""
        return list(self.host.enqueue_sync(self._adopt(messages, key)))

    def transaction(self, result: object = None) -> Any:
        """A database transaction whose commit completes the job with ``result``.

        ``async with ctx.transaction() as connection`` in async handlers, ``with`` in sync ones:
        what the handler writes through ``connection`` and the job's completion are one. Raises
        ``LeaseLost`` at the end, and rolls back, when another worker has taken the job over.
        Needs a SQL backend.
        """
        return self.host.transaction(result)

    def complete_in(self, connection: Any, result: object = None) -> Any:
        """Complete the job in the transaction of a connection of your own; you commit.

        Await it for async connections. Raises ``LeaseLost`` when the job was taken over: then roll
        back. Takes what :meth:`jobbus.JobBus.enqueue` takes.
        """
        return self.host.complete_with(connection, result)

    def _adopt(self, messages: Sequence[Message], key: str | None) -> list[Message]:
        children = []
        for index, message in enumerate(messages):
            own = f"{key}/{index}" if key is not None else f"#{self.spawned}"
            self.spawned += key is None
            children.append(
                replace(message, job_id=child_id(self.job_id, own), parent_id=self.job_id)
            )
        return children


def child_id(parent_id: str, key: str) -> str:
    """A UUID that follows from the parent's and ``key``, and sorts just beside the parent's.

    The parent's time stamp is kept (RFC 9562 version 8, laid out as version 7), so that children
    list with their parent and the primary key stays nearly ordered.
    """
    digest = hashlib.sha256(f"{parent_id}/{key}".encode()).digest()
    stamp = UUID(parent_id).bytes[:6]
    raw = bytearray(stamp + digest[:10])
    raw[6] = (raw[6] & 0x0F) | 0x80
    raw[8] = (raw[8] & 0x3F) | 0x80
    return str(UUID(bytes=bytes(raw)))


def run_in(context: Callable[[], JobContext]) -> Token[Callable[[], JobContext]]:
    """Make the context that this call gives the current one; :func:`leave` takes the token."""
    return _current.set(context)


def leave(token: Token[Callable[[], JobContext]]) -> None:
    _current.reset(token)


class Detached:
    """The host of a context without a worker: for calling handlers directly in unit tests."""

    def __init__(self) -> None:
        self.reports: list[Progress] = []
        self.enqueued: list[Message] = []

    def report(self, progress: Progress) -> None:
        self.reports.append(progress)

    def cancel_requested(self) -> bool:
        return False

    async def enqueue(self, messages: Sequence[Message]) -> Sequence[str]:
        return self.enqueue_sync(messages)

    def enqueue_sync(self, messages: Sequence[Message]) -> Sequence[str]:
        self.enqueued.extend(messages)
        return [message.job_id for message in messages]

    def complete_with(self, connection: Any, result: object) -> Any:
        raise Unsupported("a handler called outside a worker has no job to complete")

    def transaction(self, result: object) -> Any:
        raise Unsupported("a handler called outside a worker has no job to complete")
