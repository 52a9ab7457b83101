"""Connections to Postgres: opening, pooling, deadlines, LISTEN, and what psycopg's errors mean."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from datetime import timedelta
from functools import lru_cache
from ipaddress import ip_address
from typing import Any, Final, TypeVar

import psycopg
from psycopg import AsyncConnection, errors
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg_pool import AsyncConnectionPool, PoolTimeout, TooManyRequests

from jobbus.errors import (
    BackendError,
    BackendFull,
    BackendUnavailable,
    ConfigurationError,
    SchemaMismatch,
)

from .callers import CallerSql, render
from .program import Call, Program, Rows, Statement, drive_async
from .rows import single_row
from .statements import Naming, load, to_pyformat
from .warm import WarmConnections

T = TypeVar("T")
TRY_AGAIN: Final = (
    errors.DeadlockDetected,
    errors.SerializationFailure,
    errors.UniqueViolation,  # two redrives of one unique key; the next look sees the winner
)
_OLD_SCHEMA: Final = (errors.UndefinedTable, errors.UndefinedFunction, errors.UndefinedColumn)
_AWAY: Final = (
    psycopg.OperationalError,
    psycopg.InterfaceError,
    errors.ReadOnlySqlTransaction,
)
_CONNECT_SECONDS: Final = 10
_GRACE_SECONDS: Final = 5
"""Beyond the server's own statement timeout, before the client gives a call up."""
_RECONNECT_CAP: Final = 30.0


def prepared_texts(naming: Naming) -> Mapping[str, str]:
    """Every statement as psycopg takes it."""
    return _prepared_texts(naming)


@lru_cache(maxsize=16)
def _prepared_texts(naming: Naming) -> Mapping[str, str]:
    return {name: to_pyformat(sql) for name, sql in load("postgres", naming).items()}


async def drive_on(
    connection: AsyncConnection[Any], program: Program[T], texts: Mapping[str, str]
) -> T:
    """Run a program on a connection; the transaction, if any, is the caller's."""
    cursor = connection.cursor(binary=True)
    sql = CallerSql("postgres", texts, _no_clock)

    async def step(statement: Statement) -> Rows:
        if (single := single_row(statement)) is not None:
            await cursor.execute(texts["enqueue_one"], single)
            return [(single["id"],)] if cursor.rowcount else []
        text, parameters = render(statement, sql)
        if isinstance(statement, Call) and statement.sql is not None:
            if not parameters:
                # A script of several statements goes through the simple protocol: no binary.
                plain = await connection.execute(text)
                return await plain.fetchall() if plain.description else []
            text = to_pyformat(text)
        await cursor.execute(text, parameters)
        # Its ``description`` would be made for each statement anew, and tells no more.
        found = cursor.pgresult is not None and cursor.pgresult.nfields
        return await cursor.fetchall() if found else []

    return await drive_async(program, step)


class Connections:
    """A pool with deadlines, and single connections beside it."""

    def __init__(
        self, url: str, *, max_size: int, pooler: str, statement_timeout: timedelta
    ) -> None:
        self._conninfo = _conninfo(url)
        self._max_size = max_size
        self._statement_seconds = statement_timeout.total_seconds()
        self._warm: WarmConnections | None = None
        self._handlers: AsyncConnectionPool[AsyncConnection[Any]] | None = None
        self._asked_pooler = pooler
        self._pid = 0
        self.pooled = pooler == "transaction"
        """A transaction pooler stands between us and the server."""

    @property
    def is_open(self) -> bool:
        return self._warm is not None

    async def open(self) -> None:
        # One plain connection first: it fails at once and with the server's own words, where a
        # pool would keep trying until its time is over.
        async with self.single():
            pass
        self._pid = os.getpid()
        pool: AsyncConnectionPool[AsyncConnection[Any]] = AsyncConnectionPool(
            self._conninfo,
            min_size=1,
            max_size=self._max_size,
            timeout=self._statement_seconds,
            # Its pauses double until it gives up. A server that was away for long must not be
            # waited for as long again: who asks next starts anew.
            reconnect_timeout=self._statement_seconds,
            kwargs={"autocommit": True},
            configure=self._configure,
            open=False,
            name="jobbus",
        )
        await pool.open()
        # Who asks before its first connection is there makes it open a second one besides. A loop
        # that ends meanwhile could not cancel that: connecting, the pool swallows it.
        with translated("fill the connection pool"):
            await pool.wait(self._statement_seconds)
        self._warm = WarmConnections(pool)

    async def close(self) -> None:
        warm, handlers = self._warm, self._handlers
        self._warm = self._handlers = None
        if warm is not None:
            await warm.close(_GRACE_SECONDS)
        if handlers is not None:
            await handlers.close(timeout=_GRACE_SECONDS)

    async def run(self, work: Callable[[AsyncConnection[Any]], Awaitable[T]]) -> T:
        """Do this on a connection from the pool, all of it under one deadline."""
        warm = self._warm
        if warm is None or self._pid != os.getpid():
            raise BackendUnavailable("this Postgres queue is not open in this process")
        try:
            async with asyncio.timeout(self._statement_seconds + _GRACE_SECONDS):
                lent = await warm.take()
                try:
                    return await work(lent.connection)
                finally:
                    await warm.give_back(lent)
        except Exception as error:
            meant = meaning(error, "run a statement")
            if meant is error:
                raise
            raise meant from error

    @asynccontextmanager
    async def single(self) -> AsyncIterator[AsyncConnection[Any]]:
        """A connection outside the pool, closed at the end."""
        with translated(f"reach {readable(self._conninfo)}"):
            connection = await AsyncConnection.connect(self._conninfo, autocommit=True)
            async with connection:
                await self._configure(connection)
                yield connection

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[AsyncConnection[Any]]:
        """A connection in a transaction, for a handler's own work and as long as it takes."""
        pool = await self._handlers_pool()
        async with pool.connection() as connection, connection.transaction():
            yield connection

    async def _handlers_pool(self) -> AsyncConnectionPool[AsyncConnection[Any]]:
        """A pool apart: handlers that hold their connections must not starve the worker of its."""
        if self._warm is None:
            raise BackendUnavailable("this Postgres queue is not open")
        if self._handlers is None:
            self._handlers = AsyncConnectionPool(
                self._conninfo,
                min_size=0,
                max_size=self._max_size,
                reconnect_timeout=self._statement_seconds,
                kwargs={"autocommit": True},
                configure=self._leave_as_is,
                open=False,
                name="jobbus-handlers",
            )
            await self._handlers.open()
        return self._handlers

    async def _leave_as_is(self, connection: AsyncConnection[Any]) -> None:
        if self.pooled:
            connection.prepare_threshold = None

    @contextmanager
    def transaction_sync(self) -> Iterator[psycopg.Connection[Any]]:
        with translated("open a transaction"):
            connection = psycopg.connect(self._conninfo)
        with connection:
            if self.pooled:
                connection.prepare_threshold = None
            yield connection

    async def _configure(self, connection: AsyncConnection[Any]) -> None:
        """Session settings, where the session is ours to set."""
        if self._asked_pooler == "auto":
            cursor = await connection.execute("SELECT pg_backend_pid()")
            row = await cursor.fetchone()
            # A pooler invents the process number that it sends at log-in.
            self.pooled = row is None or row[0] != connection.info.backend_pid
        if self.pooled:
            connection.prepare_threshold = None
            return
        connection.prepare_threshold = 2
        milliseconds = round(self._statement_seconds * 1000)
        await connection.execute(
            "SELECT set_config('statement_timeout', %s, false), "
            "set_config('lock_timeout', %s, false), set_config('TimeZone', 'UTC', false), "
            "set_config('idle_in_transaction_session_timeout', %s, false)",
            [str(milliseconds), str(max(milliseconds // 2, 1)), str(milliseconds + 5000)],
        )


class Listener:
    """Keeps one LISTEN connection alive and rings a bell for what it hears."""

    def __init__(self, connections: Connections, channel: str, ring: Callable[[], None]) -> None:
        self._connections = connections
        self._channel = channel
        self._ring = ring
        self._task: asyncio.Task[None] | None = None
        self.connected = False

    def start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._keep_listening())

    async def stop(self) -> None:
        # More than once: psycopg waits with asyncio.wait_for, which before Python 3.12 drops a
        # cancellation that comes together with a notification.
        while self._task is not None and not self._task.done():
            self._task.cancel()
            await asyncio.wait([self._task], timeout=0.5)

    async def _keep_listening(self) -> None:
        failures = 0
        while True:
            try:
                async with self._connections.single() as connection:
                    await connection.execute(
                        psycopg.sql.SQL("LISTEN {}").format(psycopg.sql.Identifier(self._channel))
                    )
                    self.connected = True
                    failures = 0
                    self._ring()  # for what was announced before we listened
                    async for _ in connection.notifies():
                        self._ring()
            except BackendError:
                failures += 1  # the polls go on meanwhile; they are what correctness rests on
            finally:
                self.connected = False
            pause = min(_RECONNECT_CAP, 0.5 * 2 ** min(failures, 10))
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311


@contextmanager
def translated(doing: str) -> Iterator[None]:
    """psycopg's errors as jobbus names them."""
    try:
        yield
    except Exception as error:
        meant = meaning(error, doing)
        if meant is error:
            raise
        raise meant from error


def meaning(error: Exception, doing: str) -> Exception:
    """What jobbus calls an error of psycopg's; the error itself where it has no name for it."""
    if isinstance(error, TRY_AGAIN):
        return error
    if isinstance(error, errors.DiskFull | errors.OutOfMemory):
        return BackendFull(f"Postgres could not {doing}: {_said(error)}")
    if isinstance(error, _OLD_SCHEMA):
        return SchemaMismatch(
            f"jobbus's tables are missing or older: run `jobbus migrate up` ({_said(error)})"
        )
    if isinstance(error, PoolTimeout | TooManyRequests):
        return BackendUnavailable(f"Postgres could not {doing}: no connection came free")
    if isinstance(error, TimeoutError):
        return BackendUnavailable(f"Postgres could not {doing} within the deadline")
    if isinstance(error, _AWAY):
        return BackendUnavailable(f"Postgres could not {doing}: {_said(error)}")
    if isinstance(error, psycopg.Error):
        return BackendError(f"Postgres could not {doing}: {_said(error)}")
    if isinstance(error, UnicodeEncodeError):
        return BackendError(f"Postgres could not {doing}: it keeps no {error.object!r}")
    return error


def readable(conninfo: str) -> str:
    """An address without its secrets."""
    parts = conninfo_to_dict(conninfo)
    host = parts.get("host") or "local socket"
    return f"postgresql://{host}:{parts.get('port') or 5432}/{parts.get('dbname') or ''}"


def _said(error: psycopg.Error) -> str:
    return " ".join(str(error).split())[:400]


def _conninfo(url: str) -> str:
    """The address with deadlines, keepalives and, off this machine, verified TLS filled in."""
    try:
        given = conninfo_to_dict(url.replace("postgresql+psycopg://", "postgresql://", 1))
    except psycopg.ProgrammingError as error:
        raise ConfigurationError(f"this is no Postgres address: {_said(error)}") from error
    wanted: dict[str, Any] = {
        "connect_timeout": _CONNECT_SECONDS,
        "keepalives_idle": 15,
        "keepalives_interval": 5,
        "keepalives_count": 3,
        "tcp_user_timeout": 15000,
        "application_name": "jobbus",
        "target_session_attrs": "read-write",
    }
    if not _is_local(str(given.get("host") or "")) and "PGSSLMODE" not in os.environ:
        wanted |= {"sslmode": "verify-full"}
        if "sslrootcert" not in given and "PGSSLROOTCERT" not in os.environ:
            wanted |= {"sslrootcert": "system"}
    if "sslmode" in given:
        wanted.pop("sslrootcert", None)
    return make_conninfo(**{**wanted, **given})


def _is_local(hosts: str) -> bool:
    def local(host: str) -> bool:
        if host in ("", "localhost") or host.startswith(("/", "@")):
            return True
        try:
            return ip_address(host).is_loopback
        except ValueError:
            return False

    return all(local(host) for host in hosts.split(","))


def _no_clock() -> Any:
    raise AssertionError("Postgres keeps its own time")
