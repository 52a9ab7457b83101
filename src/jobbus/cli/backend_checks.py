"""What ``jobbus doctor`` looks at in a SQLite file or a Postgres server."""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from jobbus.cli.findings import Finding, doubtful, failed, fine
from jobbus.cli.text import span
from jobbus.errors import ConfigurationError

if TYPE_CHECKING:
    from jobbus.settings import Settings

_LITTLE_ROOM: Final = 200 * 1024 * 1024
_SKEW: Final = timedelta(seconds=2)
_OLDEST_POSTGRES: Final = 14
_QUICK_CHECK_LINES: Final = 3


def check_sqlite(settings: Settings) -> Iterator[Finding]:
    """The file: on a local disk, with room, in WAL mode, whole. Changes nothing."""
    from jobbus.backends.sql.filesystem import refuse_network

    path = Path(settings.sqlite.path)
    try:
        refuse_network(path)
        yield fine("disk", f"{path.resolve().parent} is on a local disk")
    except ConfigurationError as error:
        allowed = settings.sqlite.allow_network_filesystem
        yield (doubtful if allowed else failed)("disk", str(error))
    room = shutil.disk_usage(_existing(path)).free
    told = f"{room / 1e9:.1f} GB free"
    yield fine("room", told) if room > _LITTLE_ROOM else doubtful("room", told, "free some")
    if not os.access(path, os.W_OK):
        yield failed("file", f"{path} cannot be written to", "change its owner or its mode")
    yield from _inside(path)


def _inside(path: Path) -> Iterator[Finding]:
    try:
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as database:
            ((mode,),) = database.execute("PRAGMA journal_mode").fetchall()
            found = database.execute(f"PRAGMA quick_check({_QUICK_CHECK_LINES})").fetchall()
    except sqlite3.Error as error:
        yield failed("file", f"{path} cannot be read: {error}", "restore it from a backup")
        return
    if mode == "wal":
        yield fine("journal", "write-ahead log")
    else:
        yield failed(
            "journal", f"journal_mode is {mode}, not wal", "open it once with `jobbus migrate up`"
        )
    problems = [str(row[0]) for row in found if row[0] != "ok"]
    if problems:
        yield failed("integrity", "; ".join(problems), f"save what can be: sqlite3 {path} .recover")
    else:
        yield fine("integrity", "quick_check found nothing")


def _existing(path: Path) -> Path:
    return next(each for each in path.resolve().parents if each.exists())


@dataclass(frozen=True, slots=True)
class Server:
    """What a Postgres server says of itself."""

    version: int
    autovacuum: bool
    skew: timedelta
    pooled: bool
    tables_without_vacuum: tuple[str, ...]


async def check_postgres(settings: Settings, queue: Any) -> list[Finding]:
    """The server: its version, clock and vacuum, and whether a pooler stands before it."""
    server = await asyncio.to_thread(_ask, queue, settings.table_prefix)
    return [*_server_findings(server), _pooler_finding(settings, server)]


def _ask(queue: Any, prefix: str) -> Server:
    with queue.transaction_sync() as connection:
        before = datetime.now(UTC)
        row = connection.execute(
            "SELECT current_setting('server_version_num')::int, current_setting('autovacuum'), "
            "clock_timestamp(), pg_backend_pid()"
        ).fetchone()
        halfway = before + (datetime.now(UTC) - before) / 2
        off = connection.execute(
            "SELECT relname FROM pg_class WHERE relname LIKE %s "
            "AND 'autovacuum_enabled=false' = ANY (reloptions)",
            [prefix.replace("_", "\\_") + "%"],
        ).fetchall()
        return Server(
            version=row[0],
            autovacuum=row[1] == "on",
            skew=row[2] - halfway,
            # A pooler invents the process number that it sends at log-in.
            pooled=row[3] != connection.info.backend_pid,
            tables_without_vacuum=tuple(sorted(name for (name,) in off)),
        )


def _server_findings(server: Server) -> Iterator[Finding]:
    major = server.version // 10_000
    told = f"PostgreSQL {major}.{server.version % 10_000}"
    if major < _OLDEST_POSTGRES:
        yield doubtful("version", f"{told} is no longer maintained", "upgrade the server")
    else:
        yield fine("version", told)
    away = span(abs(server.skew))
    if abs(server.skew) > _SKEW:
        yield doubtful(
            "clock",
            f"the server's clock is {away} {'ahead' if server.skew > timedelta(0) else 'behind'}",
            "synchronise both clocks; jobs go by the server's",
        )
    else:
        yield fine("clock", f"the server's clock agrees within {away}")
    if not server.autovacuum or server.tables_without_vacuum:
        where = ", ".join(server.tables_without_vacuum) or "the whole server"
        yield doubtful("autovacuum", f"off for {where}: claims will slow down", "switch it on")
    else:
        yield fine("autovacuum", "on")


def _pooler_finding(settings: Settings, server: Server) -> Finding:
    if server.pooled and settings.postgres.pooler == "none":
        return failed(
            "pooler",
            "a pooler stands before the server, and postgres.pooler says none",
            "set BACKGROUND_JOBS__POSTGRES__POOLER to auto or transaction",
        )
    if server.pooled or settings.postgres.pooler == "transaction":
        return doubtful(
            "pooler",
            "a transaction pooler stands before the server: workers poll, which is slower",
            "give workers an address that goes to the server itself",
        )
    return fine("pooler", "none")
