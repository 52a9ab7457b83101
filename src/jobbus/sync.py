"""The bus for synchronous code: the same bus, on an event loop in a thread of its own."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Coroutine, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError, Future
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final, TypeVar

from jobbus.errors import ConfigurationError, Unsupported
from jobbus.job import Job, JobEvent
from jobbus.message import Message, QueueDepth
from jobbus.requirements import check_transaction
from jobbus.store import CancelOutcome, JobFilter, Page
from jobbus.telemetry.tracing import sending

if TYPE_CHECKING:
    from jobbus.bus import JobBus
    from jobbus.handlers import EnqueueOptions

T = TypeVar("T")
_CLOSED: Final = "the synchronous bus was closed by another thread meanwhile"


class SyncJobBus:
    """The verbs of :class:`~jobbus.JobBus` that applications use, without ``await``, on any thread.

    The thread and the connections are made at the first call, and again in a child process after a
    fork: nothing is shared across one. With ``connection=`` the statements run in the calling
    thread, on that connection. Where an event loop runs, which a call would block, calls raise
    ConfigurationError: there the bus itself is to be awaited.
    """

    def __init__(self, bus: JobBus) -> None:
        self._bus = bus
        self._own: JobBus | None = None
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._thread: threading.Thread | None = None
        self._pid = 0

    def enqueue(
        self,
        job: Message | str | object,
        payload: object = None,
        options: EnqueueOptions | None = None,
        *,
        connection: Any | None = None,
        **asked: Any,
    ) -> str:
        """See :meth:`jobbus.JobBus.enqueue`."""
        if connection is None:
            return self._call(self._target().enqueue(job, payload, options, **asked))
        message = self._call(self._target()._message(job, payload, _options(options, asked), False))
        return self.enqueue_many([message], connection=connection)[0]

    def enqueue_many(
        self, messages: Sequence[Message], *, connection: Any | None = None
    ) -> list[str]:
        """See :meth:`jobbus.JobBus.enqueue_many`."""
        if connection is None:
            return self._call(self._target().enqueue_many(messages))
        check_transaction(self._bus.queue.capabilities)
        enqueue_sync = getattr(self._bus.queue, "enqueue_sync", None)
        if enqueue_sync is None or not self._bus.queue.capabilities.transactional:
            raise Unsupported("this backend cannot enqueue in a transaction of yours")
        if any(each.idempotency_key is not None for each in messages):
            self._call(self._target().check_keys(messages))
        tally = self._bus.tally
        with sending(messages, enabled=tally is not None) as outgoing:
            ids = list(enqueue_sync(outgoing, connection))
        if tally is not None:
            tally.enqueued(outgoing)
        return ids

    def get(self, job_id: str) -> Job | None:
        """See :meth:`jobbus.JobBus.get`."""
        return self._call(self._target().get(job_id))

    def find(
        self, where: JobFilter | None = None, *, limit: int = 50, cursor: str | None = None
    ) -> Page:
        """See :meth:`jobbus.JobBus.find`."""
        return self._call(self._target().find(where, limit=limit, cursor=cursor))

    def history(self, job_id: str) -> Sequence[JobEvent]:
        """See :meth:`jobbus.JobBus.history`."""
        return self._call(self._target().history(job_id))

    def stats(self) -> dict[str, int]:
        """See :meth:`jobbus.JobBus.stats`."""
        return self._call(self._target().stats())

    def depth(self, queue: str = "default") -> QueueDepth:
        """See :meth:`jobbus.JobBus.depth`."""
        return self._call(self._target().depth(queue))

    def cancel(
        self, *job_ids: str, reason: str = "", children: bool = False
    ) -> Mapping[str, CancelOutcome]:
        """See :meth:`jobbus.JobBus.cancel`."""
        return self._call(self._target().cancel(*job_ids, reason=reason, children=children))

    def abort_all(
        self, where: JobFilter | None = None, *, reason: str = "", dry_run: bool = False
    ) -> int:
        """See :meth:`jobbus.JobBus.abort_all`."""
        return self._call(self._target().abort_all(where, reason=reason, dry_run=dry_run))

    def retry(self, *job_ids: str) -> list[str]:
        """See :meth:`jobbus.JobBus.retry`."""
        return self._call(self._target().retry(*job_ids))

    def redrive(self, *job_ids: str) -> list[str]:
        """See :meth:`jobbus.JobBus.redrive`."""
        return self._call(self._target().redrive(*job_ids))

    def discard(self, *job_ids: str) -> list[str]:
        """See :meth:`jobbus.JobBus.discard`."""
        return self._call(self._target().discard(*job_ids))

    def cleanup(self, older_than: timedelta) -> int:
        """See :meth:`jobbus.JobBus.cleanup`."""
        return self._call(self._target().cleanup(older_than))

    def recover_stuck(self, older_than: timedelta = timedelta(0)) -> int:
        """See :meth:`jobbus.JobBus.recover_stuck`."""
        return self._call(self._target().recover_stuck(older_than))

    def pause(self, queue: str, *, reason: str = "") -> None:
        """See :meth:`jobbus.JobBus.pause`."""
        self._call(self._target().pause(queue, reason=reason))

    def resume(self, queue: str) -> None:
        """See :meth:`jobbus.JobBus.resume`."""
        self._call(self._target().resume(queue))

    def purge(self, queue: str) -> int:
        """See :meth:`jobbus.JobBus.purge`."""
        return self._call(self._target().purge(queue))

    def wait(self, job_id: str, *, timeout: timedelta | None = None) -> Job:
        """See :meth:`jobbus.JobBus.wait`."""
        return self._call(self._target().wait(job_id, timeout=timeout))

    def watch(self, job_id: str) -> Iterator[Job]:
        """See :meth:`jobbus.JobBus.watch`."""
        snapshots = self._target().watch(job_id)
        while True:
            try:
                yield self._call(_next(snapshots))
            except StopAsyncIteration:
                return

    def close(self) -> None:
        """Close the connections and end the thread. A later call starts anew."""
        with self._lock:
            loop, stop, thread = self._loop, self._stop, self._thread
            self._own = self._loop = self._stop = self._thread = None
        if loop is None or stop is None or thread is None or self._pid != os.getpid():
            return
        loop.call_soon_threadsafe(stop.set)
        thread.join()

    def _target(self) -> JobBus:
        """The bus on this process's own loop, with connections of its own."""
        if _loop_runs_here():
            raise ConfigurationError(
                "an event loop runs here, which a synchronous call would block: await the bus "
                "itself (await bus.enqueue(...)), or call this in a thread (asyncio.to_thread)"
            )
        with self._lock:
            if self._own is None or self._pid != os.getpid():
                self._start()
            if self._own is None:
                raise AssertionError("a started loop has its bus")
            return self._own

    def _start(self) -> None:
        from jobbus.bus import JobBus

        own = JobBus(
            self._bus.settings,
            queue=self._bus.queue.separate(),
            idempotency=self._bus.separate_keys(),
        )
        own.share_handlers(self._bus)
        started: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = Future()
        self._thread = threading.Thread(
            target=lambda: asyncio.run(_serve(own, started)), name="jobbus-sync", daemon=True
        )
        self._thread.start()
        self._loop, self._stop = started.result()
        self._own, self._pid = own, os.getpid()

    def _call(self, coroutine: Coroutine[Any, Any, T]) -> T:
        loop = self._loop
        if loop is None or loop.is_closed():
            coroutine.close()
            raise ConfigurationError(_CLOSED)
        try:
            return asyncio.run_coroutine_threadsafe(coroutine, loop).result()
        except CancelledError as error:
            raise ConfigurationError(_CLOSED) from error


async def _serve(
    own: JobBus, started: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]]
) -> None:
    """Keep a loop running for other threads' calls until told to stop."""
    stop = asyncio.Event()
    started.set_result((asyncio.get_running_loop(), stop))
    await stop.wait()
    await own.close()


def _loop_runs_here() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


async def _next(snapshots: Any) -> Any:
    return await anext(snapshots)


def _options(options: EnqueueOptions | None, asked: dict[str, Any]) -> EnqueueOptions:
    from jobbus.handlers import EnqueueOptions

    return (options or EnqueueOptions()).merged(EnqueueOptions(**asked))
