"""One SQLite database, its single writer thread with group commit, and a reader beside it."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import random
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Final, TypeVar

from jobbus.errors import BackendError, BackendFull, BackendUnavailable, ConfigurationError

from . import migrate
from .program import Call, Many, Program, Rows, Statement, drive
from .sqlite_dialect import Clock, to_milliseconds, utc_now
from .statements import Naming, load

T = TypeVar("T")
_Loop = Callable[[Future[None]], None]
_MEMORY: Final = ":memory:"
_BUSY_RETRIES: Final = 10
_GROUP: Final = 200
"""Programs in one commit at the most."""
_GLANCE: Final = 0.002
"""Seconds between looks for other processes' commits, while somebody waits for a job."""
_QUIET: Final = 60.0
"""Seconds without anybody's commit after which the looks become rare, to let the machine sleep."""
_QUIET_GLANCE: Final = 0.02


class _Look:
    """Asks the reader to see whether other processes have committed anything."""


@dataclass(frozen=True, slots=True)
class _Request:
    make: Callable[[], Program[Any]]
    future: Future[Any]


class SqliteEngine:
    """Runs programs against one database file, or against memory.

    Writes go through one thread, which commits all programs that wait at that moment together: one
    fsync for all of them. Reads have a thread and a connection of their own.
    """

    def __init__(
        self,
        path: str,
        *,
        naming: Naming,
        clock: Clock = utc_now,
        synchronous: str = "FULL",
        busy_timeout: timedelta = timedelta(seconds=5),
    ) -> None:
        self.path = path
        self.naming = naming
        self.clock = clock
        self.on_change: list[Callable[[], None]] = []
        self._waiting = 0
        self._synchronous = synchronous
        self._busy_timeout = busy_timeout
        self._sql = load("sqlite", naming)
        self._writes: queue.SimpleQueue[_Request | None] = queue.SimpleQueue()
        self._reads: queue.SimpleQueue[_Request | _Look | None] = queue.SimpleQueue()
        self._threads: list[tuple[threading.Thread, queue.SimpleQueue[Any]]] = []
        self._starting = threading.Lock()
        self._pid = 0
        self._last_change = time.monotonic()

    @property
    def in_memory(self) -> bool:
        return self.path == _MEMORY

    def start(self) -> None:
        """Open the connections, unless they are. Raises ConfigurationError or BackendError."""
        with self._starting:
            if self._threads:
                return
            self._pid = os.getpid()
            loops: list[tuple[_Loop, queue.SimpleQueue[Any], str]]
            loops = [(self._write_loop, self._writes, "writer")]
            if not self.in_memory:
                loops.append((self._read_loop, self._reads, "reader"))
            try:
                for loop, requests, name in loops:
                    ready: Future[None] = Future()
                    thread = threading.Thread(
                        target=loop, args=(ready,), name=f"jobbus-sqlite-{name}", daemon=True
                    )
                    thread.start()
                    ready.result()
                    self._threads.append((thread, requests))
            except BaseException:
                self._stop()
                raise

    def stop_unless_used(self) -> None:
        """Finish what was accepted, then close; nothing of it while somebody listens."""
        with self._starting:
            if not self.on_change:
                self._stop()

    def _stop(self) -> None:
        threads, self._threads = self._threads, []
        if os.getpid() == self._pid:
            for thread, requests in threads:
                requests.put(None)
                thread.join(timeout=10)

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Within it, ``on_change`` is called soon after other processes' commits."""
        self._waiting += 1
        if self._waiting == 1 and not self.in_memory:
            self._reads.put(_Look())  # the reader may be about to doze, with nobody to look for
        try:
            yield
        finally:
            self._waiting -= 1

    def submit(self, make: Callable[[], Program[T]], *, write: bool) -> Future[T]:
        """Run a program in one transaction; the future resolves after its commit."""
        if os.getpid() != self._pid:
            raise BackendUnavailable(
                "this SQLite queue was opened before a fork or not at all; open one in this process"
            )
        if not self._threads:
            raise BackendUnavailable("this SQLite queue is closed")
        future: Future[T] = Future()
        target = self._writes if write or self.in_memory else self._reads
        target.put(_Request(make, future))
        return future

    def script(self, sql: str) -> Program[None]:
        """A program that runs several statements given as one text."""
        for statement in _statements(sql):
            yield Call("script", {}, statement)

    # the writer

    def _write_loop(self, ready: Future[None]) -> None:
        try:
            connection = self._connect()
        except BaseException as error:
            ready.set_exception(error)
            return
        ready.set_result(None)
        while (request := self._writes.get()) is not None:
            group, last = self._gather(request)
            self._commit(connection, group)
            if last:
                break
        connection.close()
        _refuse_rest(self._writes)

    def _gather(self, first: _Request) -> tuple[list[_Request], bool]:
        group = [first] if first.future.set_running_or_notify_cancel() else []
        with contextlib.suppress(queue.Empty):
            while len(group) < _GROUP:
                request = self._writes.get_nowait()
                if request is None:
                    return group, True
                if request.future.set_running_or_notify_cancel():
                    group.append(request)
        return group, False

    def _commit(self, connection: sqlite3.Connection, group: list[_Request]) -> None:
        done: list[tuple[_Request, Any]] = []
        try:
            self._begin(connection)
            for request in group:
                with contextlib.suppress(_Failed):
                    done.append((request, self._attempt(connection, request, len(group) > 1)))
            connection.execute("COMMIT")
        except BaseException as error:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            failure = translate(error, "write")
            for request in group:
                if not request.future.done():
                    request.future.set_exception(failure)
            return
        for request, result in done:
            request.future.set_result(result)

    def _attempt(self, connection: sqlite3.Connection, request: _Request, shared: bool) -> Any:
        """Run one program; undo it alone if it fails."""
        if shared:
            connection.execute("SAVEPOINT one")
        try:
            result = drive(request.make(), lambda s: self._run(connection, s))
        except BaseException as error:
            if _spoils_transaction(error) or not connection.in_transaction:
                raise
            connection.execute("ROLLBACK TO one" if shared else "ROLLBACK")
            if not shared:
                connection.execute("BEGIN")
            request.future.set_exception(translate(error, "write"))
            raise _Failed from error
        if shared:
            connection.execute("RELEASE one")
        return result

    def _begin(self, connection: sqlite3.Connection) -> None:
        # Immediate: a transaction that turns from reading to writing fails at once when another
        # process wrote in between, whatever the busy timeout says.
        for attempt in range(_BUSY_RETRIES):
            try:
                connection.execute("BEGIN IMMEDIATE")
                return
            except sqlite3.OperationalError as error:
                if not _is_busy(error) or attempt == _BUSY_RETRIES - 1:
                    raise
                time.sleep(random.uniform(0.001, 0.02))  # noqa: S311  # jitter, not a secret

    # the reader

    def _read_loop(self, ready: Future[None]) -> None:
        try:
            connection = self._connect()
            # Before anybody looks for jobs: a commit after their look must not pass for an old one.
            version = connection.execute("PRAGMA data_version").fetchone()[0]
        except BaseException as error:
            ready.set_exception(error)
            return
        ready.set_result(None)
        while True:
            request: _Request | _Look | None = _Look()
            with contextlib.suppress(queue.Empty):
                request = self._reads.get(timeout=self._glance())
            if request is None:
                break
            if isinstance(request, _Request):
                self._read(connection, request)
            elif self._waiting:
                version = self._see_others(connection, version)
        connection.close()
        _refuse_rest(self._reads)

    def _glance(self) -> float:
        """Seconds until the next look: often while something happens, seldom in quiet hours."""
        if not self._waiting:
            return 0.1
        quiet = time.monotonic() - self._last_change > _QUIET
        return _QUIET_GLANCE if quiet else _GLANCE

    def _see_others(self, connection: sqlite3.Connection, version: int) -> int:
        """Ring when the file has changed and something is ready; return the file's version."""
        seen: int = connection.execute("PRAGMA data_version").fetchone()[0]
        if seen != version:
            self._last_change = time.monotonic()
            if connection.execute(self._sql["any_ready"]).fetchone():
                for changed in self.on_change:
                    changed()
        return seen

    def _read(self, connection: sqlite3.Connection, request: _Request) -> None:
        if not request.future.set_running_or_notify_cancel():
            return
        try:
            connection.execute("BEGIN")
            try:
                result = drive(request.make(), lambda s: self._run(connection, s))
            finally:
                connection.execute("ROLLBACK")
        except BaseException as error:
            request.future.set_exception(translate(error, "read"))
        else:
            request.future.set_result(result)

    # statements

    def _run(self, connection: sqlite3.Connection, statement: Statement) -> Rows:
        return run_statement(connection, statement, self._sql, to_milliseconds(self.clock()))

    def _write_ahead(self, connection: sqlite3.Connection) -> None:
        """Switch to the write-ahead log.

        Where several open a new file at once, SQLite refuses all but one of them without waiting:
        each holds a read lock that the switch needs gone, so its busy handler is not asked.
        """
        until = time.monotonic() + self._busy_timeout.total_seconds()
        while True:
            try:
                connection.execute("PRAGMA journal_mode = WAL")
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() >= until:
                    raise
                time.sleep(_GLANCE)
            else:
                return

    def _connect(self) -> sqlite3.Connection:
        if sqlite3.sqlite_version_info < (3, 35):
            raise ConfigurationError(
                f"jobbus needs SQLite 3.35 or newer; this Python carries {sqlite3.sqlite_version}"
            )
        if not self.in_memory:
            Path(self.path).parent.mkdir(parents=True, exist_ok=True)
        try:
            connection = sqlite3.connect(
                self.path,
                isolation_level=None,
                timeout=self._busy_timeout.total_seconds(),
                cached_statements=256,
            )
            if not self.in_memory:
                self._write_ahead(connection)
                connection.execute(f"PRAGMA synchronous = {self._synchronous}")
            return connection
        except sqlite3.Error as error:
            raise translate(error, f"open {self.path}") from error

    def schema_status(self) -> Program[migrate.SchemaStatus]:
        """What the database has of the schema."""
        table = self.naming.apply("background_job_migrations")
        present = yield Call(
            "script",
            {"table": table},
            "SELECT name FROM sqlite_master WHERE type = 'table' AND name = :table",
        )
        rows: Rows = []
        if present:
            rows = yield Call("script", {}, f"SELECT version, checksum FROM {table}")  # noqa: S608
        applied = {version: checksum for version, checksum in rows}
        return migrate.SchemaStatus(applied, migrate.migrations("sqlite"))


class _Failed(Exception):
    """One program of a group failed, and its caller has been told."""


def run_statement(
    connection: Any, statement: Statement, sql: Mapping[str, str], now: int | None
) -> Rows:
    """Run one statement on a sqlite3 connection."""
    if isinstance(statement, Call):
        text = statement.sql if statement.sql is not None else sql[statement.name]
        rows: Rows = connection.execute(text, _bound(statement.parameters, now)).fetchall()
        return rows
    return _run_many(connection, statement, sql[statement.name], now)


class _Row(dict[str, Any]):
    """Parameters of which only what is not NULL needs to be there."""

    def __missing__(self, name: str) -> None:
        return None


def _run_many(connection: Any, statement: Many, text: str, now: int | None) -> Rows:
    shared = _bound(statement.parameters, now)
    if "RETURNING" not in text:
        connection.executemany(text, [_Row({**shared, **row}) for row in statement.batch])
        return []
    found: list[Any] = []
    execute = connection.execute
    for row in statement.batch:
        found.extend(execute(text, _Row({**shared, **row})).fetchall())
    return found


def _bound(parameters: Mapping[str, Any], now: int | None) -> dict[str, Any]:
    bound = {k: json.dumps(v) if isinstance(v, list) else v for k, v in parameters.items()}
    bound["now"] = now
    return bound


def translate(error: BaseException, doing: str) -> BaseException:
    """A sqlite3 error as jobbus names it; anything else as it is."""
    if isinstance(error, UnicodeEncodeError):
        made: BackendError = BackendError(f"SQLite could not {doing}: it keeps no {error.object!r}")
        made.__cause__ = error
        return made
    if not isinstance(error, sqlite3.Error):
        return error
    name = getattr(error, "sqlite_errorname", "") or ""
    if name.startswith("SQLITE_FULL"):
        made = BackendFull(
            f"SQLite could not {doing}: the disk or the page limit is full; nothing was kept"
        )
    elif name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
        made = BackendUnavailable(
            f"SQLite could not {doing}: another process held the write lock for too long"
        )
    elif name.startswith("SQLITE_CANTOPEN"):
        made = BackendUnavailable(f"SQLite could not {doing}: the file cannot be opened")
    else:
        made = BackendError(f"SQLite could not {doing}: {error} ({name or type(error).__name__})")
    made.__cause__ = error
    return made


def _is_busy(error: sqlite3.Error) -> bool:
    return (getattr(error, "sqlite_errorname", "") or "").startswith(
        ("SQLITE_BUSY", "SQLITE_LOCKED")
    )


def _spoils_transaction(error: BaseException) -> bool:
    """Whether SQLite may have rolled the whole transaction back by itself."""
    name = getattr(error, "sqlite_errorname", "") or ""
    return name.startswith(("SQLITE_FULL", "SQLITE_IOERR", "SQLITE_NOMEM", "SQLITE_INTERRUPT"))


def _refuse_rest(requests: queue.SimpleQueue[Any]) -> None:
    with contextlib.suppress(queue.Empty):
        while True:
            request = requests.get_nowait()
            if isinstance(request, _Request) and request.future.set_running_or_notify_cancel():
                request.future.set_exception(BackendUnavailable("this SQLite queue is closed"))


def _statements(sql: str) -> list[str]:
    """The single statements of a script."""
    found, current = [], ""
    for line in sql.splitlines():
        current += line + "\n"
        if sqlite3.complete_statement(current):
            found.append(current)
            current = ""
    return [*found, current] if current.strip() else found
