"""The queue on a SQLite engine: what the file and the in-memory backend share."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from typing import TypeVar

from jobbus.errors import BackendUnavailable
from jobbus.message import Capabilities, Message

from . import migrate
from .base import CAPABILITIES, SqlQueue
from .callers import CallerSql
from .migrate import SchemaStatus
from .program import Call, Dialect, Program, Statement
from .sqlite_dialect import SQLITE, utc_now
from .sqlite_engine import SqliteEngine
from .statements import Naming, load

T = TypeVar("T")


class SqliteBased(SqlQueue):
    """Runs programs on an engine; news is a bell in this process, and a look at the file."""

    def __init__(self, engine: SqliteEngine) -> None:
        super().__init__()
        self._engine = engine
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def capabilities(self) -> Capabilities:
        return CAPABILITIES

    @property
    def dialect(self) -> Dialect:
        return SQLITE

    @property
    def naming(self) -> Naming:
        return self._engine.naming

    @property
    def location(self) -> str:
        """Where the jobs are, for people to read."""
        return self._engine.path

    async def open(self) -> None:
        if self._loop is not None:
            return
        self._loop = asyncio.get_running_loop()
        self._engine.on_change.append(self._ring)
        try:
            # Several queue objects may share the engine, and open it from several threads at once.
            await asyncio.to_thread(self._engine.start)
            await self.migrate()
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        if self._loop is None:
            return
        await self._finish_handing_back()
        self._loop = None
        self._news.arrived()  # whoever waits learns at once
        self._engine.on_change.remove(self._ring)
        await asyncio.to_thread(self._engine.stop_unless_used)

    async def migrate(self, *, target: int | None = None) -> list[str]:
        """Bring the schema up, or to version ``target``; return the names of the steps taken."""
        return await self._run(lambda: self._migrating(target))

    async def schema_status(self) -> SchemaStatus:
        """What the database has of the schema, beside what this code brings."""
        return await self._run(self._engine.schema_status, write=False)

    async def _run(
        self,
        make: Callable[[], Program[T]],
        *,
        write: bool = True,
        atomic: bool = True,
    ) -> T:
        if self._loop is None:
            raise BackendUnavailable("this queue is not open: it was closed, or never opened")
        return await asyncio.wrap_future(self._engine.submit(make, write=write))

    def _listening(self) -> AbstractContextManager[None]:
        return self._engine.listening()

    def _publish_ready(self, queues: Iterable[str]) -> None:
        if self._engine.in_memory:
            # Nobody else sees the file change: the queue objects on this engine ring each other.
            for ring in self._engine.on_change:
                if ring != self._ring:
                    ring()

    def _ring(self) -> None:
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._news.arrived)

    def _always_look(self) -> bool:
        return self._engine.clock is not utc_now

    def _hint_in_transaction(self, messages: Sequence[Message]) -> Statement | None:
        return None

    def _caller_sql(self) -> CallerSql:
        return CallerSql("sqlite", load("sqlite", self.naming), self._engine.clock)

    @property
    def _job_columns(self) -> str:
        return load("sqlite", self.naming)["job_columns"]

    def _migrating(self, target: int | None) -> Program[list[str]]:
        yield Call("script", {}, migrate.bookkeeping(self.naming))
        status = yield from self._engine.schema_status()
        steps = migrate.plan(status, target)
        for step in steps:
            yield from self._engine.script(self.naming.apply_to_schema(step.sql))
            yield Call("script", step.parameters, self.naming.apply(step.bookkeeping))
        return [step.title for step in steps]
