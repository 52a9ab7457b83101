"""Queue and ledger in one Postgres table.

Delivery: at least once, under leases that expire; claims skip rows that others are taking. NOTIFY
is a hint that makes pick-up quick; polling is what makes it certain. Behind a transaction pooler
such as PgBouncer, which is detected, prepared statements and LISTEN are left out and polling is
all. Durability is the server's: by default an accepted job survives a crash.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager, contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar

from jobbus.errors import BackendUnavailable, ConfigurationError, MissingDependency
from jobbus.message import Capabilities, Message

from .sql import migrate
from .sql.base import CAPABILITIES, SqlQueue
from .sql.callers import CallerSql
from .sql.migrate import SchemaStatus
from .sql.program import Call, Dialect, Program, Statement
from .sql.statements import DEFAULT_PREFIX, Naming, load

try:
    from .sql import postgres_connection as link
except ImportError as error:
    raise MissingDependency(
        'the Postgres backend needs psycopg: pip install "jobbus[postgres]"'
    ) from error

if TYPE_CHECKING:
    import psycopg
    from psycopg import AsyncConnection

    from jobbus.settings import Settings

T = TypeVar("T")
_RETRIES: Final = 5
"""Of a transaction that Postgres gave up for a deadlock or a serialization failure."""
_NOTIFY_GAP: Final = 0.01
"""Seconds between two NOTIFYs of one process: they serialize every commit of the database."""
_POLL_FASTEST: Final = 0.05
"""Seconds between polls where no LISTEN can be had, just after there was work."""
_LOCK_KEY: Final = 0x6A6F6262
"""The advisory lock that keeps two migrations apart: "jobb" in ASCII."""


def _write_moment(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat()


def _read_moment(value: datetime | None) -> datetime | None:
    return value


POSTGRES: Final = Dialect("postgres", _read_moment, _write_moment, one_statement_each=True)


class PostgresQueue(SqlQueue):
    """Jobs in a Postgres database, shared by any number of machines."""

    def __init__(
        self,
        url: str,
        *,
        schema: str | None = None,
        table_prefix: str = DEFAULT_PREFIX,
        pool_max_size: int = 10,
        pooler: str = "auto",
        statement_timeout: timedelta = timedelta(seconds=10),
        notify: bool = True,
        poll_interval: timedelta = timedelta(seconds=1),
    ) -> None:
        super().__init__()
        if pooler not in ("auto", "none", "transaction"):
            raise ConfigurationError(f"pooler is auto, none or transaction, not {pooler!r}")
        self._options: dict[str, Any] = {
            "schema": schema,
            "table_prefix": table_prefix,
            "pool_max_size": pool_max_size,
            "pooler": pooler,
            "statement_timeout": statement_timeout,
            "notify": notify,
            "poll_interval": poll_interval,
        }
        self._url = url
        self._naming = Naming(schema, table_prefix)
        self._sql = link.prepared_texts(self._naming)
        self._connections = link.Connections(
            url, max_size=pool_max_size, pooler=pooler, statement_timeout=statement_timeout
        )
        self._notify = notify
        self._channel = f"{schema or 'public'}.{table_prefix}"
        self._listener: link.Listener | None = None
        self._poll_interval = poll_interval.total_seconds()
        self._empty_polls = 0
        self._notified = 0.0
        self._to_notify: set[str] = set()
        self._notifying: asyncio.Task[None] | None = None
        self._notifying_soon: asyncio.TimerHandle | None = None

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        """A queue on the database that the settings name."""
        chosen = settings.postgres
        if not chosen.url:
            raise ConfigurationError(
                "the Postgres backend needs an address: set BACKGROUND_JOBS__POSTGRES__URL, or "
                "give the backend as postgresql://user@host/database"
            )
        return cls(
            chosen.url,
            schema=chosen.schema,
            table_prefix=settings.table_prefix,
            pool_max_size=chosen.pool_max_size,
            pooler=chosen.pooler,
            statement_timeout=timedelta(seconds=chosen.statement_timeout_seconds),
            notify=chosen.notify,
            poll_interval=timedelta(seconds=min(settings.poll_interval_seconds, 1)),
        )

    @property
    def capabilities(self) -> Capabilities:
        return CAPABILITIES

    @property
    def dialect(self) -> Dialect:
        return POSTGRES

    @property
    def naming(self) -> Naming:
        return self._naming

    @property
    def location(self) -> str:
        """Which database, and where in it, for people to read; without its password."""
        naming = self._naming
        inside = [] if naming.schema is None else [f"schema {naming.schema}"]
        inside += [] if naming.prefix == DEFAULT_PREFIX else [f"tables {naming.prefix}s"]
        return " ".join([link.readable(self._url), *inside])

    async def open(self) -> None:
        """Connect and check the schema.

        Raises BackendUnavailable when the server cannot be reached, and SchemaMismatch when
        ``jobbus migrate up`` has not been run or the database is newer than this code.
        """
        if self._connections.is_open:
            return
        await self._connections.open()
        try:
            (await self.schema_status()).check()
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        await self._finish_handing_back()
        if self._notifying_soon is not None:
            self._notify_now()
        if self._notifying is not None:
            with contextlib.suppress(BackendUnavailable):  # a lost hint costs one poll
                await self._notifying
        if self._listener is not None:
            await self._listener.stop()
            self._listener = None
        await self._connections.close()

    def separate(self) -> PostgresQueue:
        return PostgresQueue(self._url, **{**self._options, "pool_max_size": 2})

    async def migrate(self, *, target: int | None = None) -> list[str]:
        """Bring the schema up, or to version ``target``; return the names of the steps taken.

        Works on a queue that is not open. One transaction; two at once wait for each other.
        """
        async with self._connections.single() as connection, connection.transaction():
            await connection.execute("SELECT pg_advisory_xact_lock(%s)", [_LOCK_KEY])
            return await link.drive_on(connection, self._migrating(target), self._sql)

    async def schema_status(self) -> SchemaStatus:
        """What the database has of the schema, beside what this code brings."""
        async with self._connections.single() as connection:
            return await link.drive_on(connection, self._reading_status(), self._sql)

    def transaction(self) -> AbstractAsyncContextManager[AsyncConnection[Any]]:
        """An async psycopg connection in a transaction that commits at the end."""
        return self._connections.transaction()

    def transaction_sync(self) -> AbstractContextManager[psycopg.Connection[Any]]:
        """A synchronous psycopg connection in a transaction that commits at the end."""
        return self._connections.transaction_sync()

    # how programs run

    async def _run(
        self,
        make: Callable[[], Program[T]],
        *,
        write: bool = True,
        atomic: bool = True,
    ) -> T:
        async def work(connection: AsyncConnection[Any]) -> T:
            if not (atomic and write):
                return await link.drive_on(connection, make(), self._sql)
            async with connection.transaction():
                return await link.drive_on(connection, make(), self._sql)

        for attempt in range(1, _RETRIES + 1):
            try:
                return await self._connections.run(work)
            except link.TRY_AGAIN as error:
                if attempt == _RETRIES:
                    raise BackendUnavailable(
                        "Postgres kept giving this transaction up to others; try again"
                    ) from error
                await asyncio.sleep(random.uniform(0, 0.02) * 2**attempt)  # noqa: S311
        raise AssertionError("the loop above returns or raises")

    # how news arrives

    @contextmanager
    def _listening(self) -> Iterator[None]:
        if self._listener is None and self._notify and not self._connections.pooled:
            self._listener = link.Listener(self._connections, self._channel, self._news.arrived)
            self._listener.start()
        self._empty_polls += 1
        yield

    def _poll_pause(self) -> float:
        if self._listener is not None and self._listener.connected:
            return self._poll_interval
        pause = min(_POLL_FASTEST * 2.0 ** min(self._empty_polls, 10), self._poll_interval)
        return pause * random.uniform(0.8, 1.0)  # noqa: S311  # so that a fleet does not poll as one

    def _found_work(self) -> None:
        self._empty_polls = 0

    def _publish_ready(self, queues: Iterable[str]) -> None:
        if not self._notify:
            return
        self._to_notify.update(queues)
        self._notify_now()

    def _publish_soon(self, queues: Iterable[str]) -> None:
        if not self._notify:
            return
        self._to_notify.update(queues)
        if self._notifying_soon is None:
            loop = asyncio.get_running_loop()
            self._notifying_soon = loop.call_later(_NOTIFY_GAP, self._notify_now)

    def _notify_now(self) -> None:
        if self._notifying_soon is not None:
            self._notifying_soon.cancel()
            self._notifying_soon = None
        if self._to_notify and (self._notifying is None or self._notifying.done()):
            self._notifying = asyncio.get_running_loop().create_task(self._send_notifications())

    async def _send_notifications(self) -> None:
        while self._to_notify:
            await asyncio.sleep(max(0.0, self._notified + _NOTIFY_GAP - time.monotonic()))
            queues, self._to_notify = self._to_notify, set()
            self._notified = time.monotonic()
            payload = queues.pop() if len(queues) == 1 else "*"
            try:
                await self._run(lambda: _single(self._notification(payload)), atomic=False)  # noqa: B023
            except BackendUnavailable:
                return  # A lost hint costs the others one poll; the jobs themselves are committed.

    def _always_look(self) -> bool:
        return False

    def _notification(self, payload: str) -> Call:
        return Call(
            "notify",
            {"channel": self._channel, "payload": payload},
            "SELECT pg_notify(CAST(:channel AS text), CAST(:payload AS text))",
        )

    def _hint_in_transaction(self, messages: Sequence[Message]) -> Statement | None:
        if not self._notify or not messages:
            return None
        queues = {m.queue for m in messages}
        return self._notification(queues.pop() if len(queues) == 1 else "*")

    def _caller_sql(self) -> CallerSql:
        return CallerSql("postgres", load("postgres", self._naming), _now)

    @property
    def _job_columns(self) -> str:
        return load("postgres", self._naming)["job_columns"]

    def _migrating(self, target: int | None) -> Program[list[str]]:
        yield Call("script", {}, migrate.bookkeeping(self._naming))
        status = yield from self._reading_status()
        steps = migrate.plan(status, target)
        for step in steps:
            yield Call("script", {}, self._naming.apply_to_schema(step.sql))
            yield Call("script", step.parameters, self._naming.apply(step.bookkeeping))
        return [step.title for step in steps]

    def _reading_status(self) -> Program[SchemaStatus]:
        table = self._naming.apply("background_job_migrations")
        present = yield Call(
            "script", {"name": table}, "SELECT to_regclass(CAST(:name AS text)) IS NOT NULL"
        )
        applied: dict[int, str] = {}
        if present[0][0]:
            rows = yield Call("script", {}, f"SELECT version, checksum FROM {table}")  # noqa: S608
            applied = {version: checksum for version, checksum in rows}
        return SchemaStatus(applied, migrate.migrations("postgres"))


def _single(statement: Call) -> Program[None]:
    yield statement


def _now() -> datetime:
    return datetime.now(UTC)
