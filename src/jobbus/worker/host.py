"""What stands behind the context of a job that runs in this worker."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any

from jobbus.connections import is_async
from jobbus.errors import ConfigurationError, LeaseLost, Unsupported
from jobbus.job import Progress
from jobbus.message import Completion, Message

from .held import Held

if TYPE_CHECKING:
    from jobbus.bus import JobBus
    from jobbus.handlers import JobType

_ENQUEUE_SECONDS = 60


class WorkerHost:
    """Implements :class:`~jobbus.context.ContextHost` for one held delivery."""

    def __init__(self, bus: JobBus, held: Held, job_type: JobType[..., Any]) -> None:
        self._bus = bus
        self._held = held
        self._job_type = job_type

    def report(self, progress: Progress) -> None:
        self._held.progress = progress

    def cancel_requested(self) -> bool:
        return self._held.must_stop

    async def enqueue(self, messages: Sequence[Message]) -> Sequence[str]:
        return await self._bus.enqueue_many(messages)

    def enqueue_sync(self, messages: Sequence[Message]) -> Sequence[str]:
        runner = self._held.runner
        if runner is None:
            raise LeaseLost(f"job {self._held.delivery.job_id} is not in this worker's hands")
        if _loop_of_this_thread() is runner.get_loop():
            raise ConfigurationError(
                "ctx.spawn_sync() would wait for the very loop that it blocks: await ctx.spawn()"
            )
        call = asyncio.run_coroutine_threadsafe(self.enqueue(messages), runner.get_loop())
        return call.result(_ENQUEUE_SECONDS)

    def complete_with(self, connection: Any, result: object) -> Any:
        if is_async(connection):
            return self._complete(connection, result)
        self._complete_sync(connection, result)
        return _Done()

    def transaction(self, result: object) -> Any:
        return _Transaction(self, result)

    async def _complete(self, connection: Any, result: object) -> None:
        lost = await self._bus.queue.complete([self._completion(result)], connection=connection)
        self._check(lost)

    def _complete_sync(self, connection: Any, result: object) -> None:
        complete = getattr(self._bus.queue, "complete_sync", None)
        if complete is None or not self._bus.queue.capabilities.transactional:
            raise Unsupported("this backend cannot complete a job in a transaction of yours")
        self._check(complete([self._completion(result)], connection))

    def _completion(self, result: object) -> Completion:
        return Completion(delivery=self._held.delivery, result=self._job_type.encode_result(result))

    def _check(self, lost: Sequence[object]) -> None:
        if lost or self._held.lost:
            raise LeaseLost(
                f"job {self._held.delivery.job_id} was taken over by another worker; "
                "this attempt's writes are rolled back"
            )

    def open_async(self, result: object) -> Any:
        return self._open_async(result)

    def open_sync(self, result: object) -> Any:
        return self._open_sync(result)

    @asynccontextmanager
    async def _open_async(self, result: object) -> AsyncIterator[Any]:
        async with self._require("transaction")() as connection:
            yield connection
            await self.complete_with(connection, result)

    @contextmanager
    def _open_sync(self, result: object) -> Iterator[Any]:
        with self._require("transaction_sync")() as connection:
            yield connection
            self._complete_sync(connection, result)

    def _require(self, name: str) -> Any:
        opener = getattr(self._bus.queue, name, None)
        if opener is None:
            raise Unsupported(
                "ctx.transaction() needs a SQL backend: set the provider to Sqlite or Postgres"
            )
        return opener


def _loop_of_this_thread() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


class _Done:
    """Already done; awaiting it says so, so that the two kinds of connection read alike."""

    def __await__(self) -> Iterator[None]:
        return iter(())


class _Transaction:
    """``async with`` in async handlers, ``with`` in sync ones."""

    def __init__(self, host: WorkerHost, result: object) -> None:
        self._host = host
        self._result = result
        self._entered: Any = None

    async def __aenter__(self) -> Any:
        self._entered = self._host.open_async(self._result)
        return await self._entered.__aenter__()

    async def __aexit__(self, *exc_info: Any) -> bool | None:
        return await self._entered.__aexit__(*exc_info)  # type: ignore[no-any-return]

    def __enter__(self) -> Any:
        self._entered = self._host.open_sync(self._result)
        return self._entered.__enter__()

    def __exit__(self, *exc_info: Any) -> bool | None:
        return self._entered.__exit__(*exc_info)  # type: ignore[no-any-return]
