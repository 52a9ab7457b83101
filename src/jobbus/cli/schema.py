"""The schema of a SQL backend, looked at without changing it."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from jobbus.cli.options import Cli
from jobbus.errors import BackendError, Unsupported

if TYPE_CHECKING:
    from jobbus.backends.sql.migrate import SchemaStatus
    from jobbus.settings import Settings


class Schema(Protocol):
    """What can be asked of, and done to, a database's schema."""

    @property
    def place(self) -> str: ...

    async def status(self) -> SchemaStatus: ...

    async def migrate(self, target: int | None) -> list[str]:
        """Go up, or to ``target``; return the names of the steps taken."""
        ...

    async def jobs(self) -> int:
        """How many jobs the tables hold."""
        ...


def schema_of(cli: Cli) -> Schema:
    """The schema of the chosen backend, or of its ledger; Unsupported where there is none."""
    from jobbus.settings import create_queue

    settings = cli.settings()
    settings = settings.ledger_settings or settings
    if settings.provider == "sqlite":
        return SqliteSchema(settings)
    queue: Any = create_queue(settings)
    if settings.provider == "memory" or not hasattr(queue, "schema_status"):
        raise Unsupported(f"the {settings.provider} backend has no schema to migrate")
    return ServerSchema(settings.provider, queue)


class ServerSchema:
    """The schema of a backend that leaves it alone when it opens."""

    def __init__(self, provider: str, queue: Any) -> None:
        self._queue = queue
        self.place = f"{provider} {queue.location}"

    async def status(self) -> SchemaStatus:
        found: SchemaStatus = await self._queue.schema_status()
        return found

    async def migrate(self, target: int | None) -> list[str]:
        steps: list[str] = await self._queue.migrate(target=target)
        return steps

    async def jobs(self) -> int:
        return await asyncio.to_thread(self._count)

    def _count(self) -> int:
        # Not through the queue, which does not open on a schema that is not the newest.
        query = self._queue.naming.apply("SELECT count(*) FROM background_jobs")
        with self._queue.transaction_sync() as connection:
            return int(connection.execute(query).fetchone()[0])


class SqliteSchema:
    """The schema of a SQLite file, whose backend would bring it up to date by opening it."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._path = Path(settings.sqlite.path)
        self.place = f"sqlite {settings.sqlite.path}"

    async def status(self) -> SchemaStatus:
        from jobbus.backends.sql.migrate import SchemaStatus, migrations

        table = f"{self._settings.table_prefix}_migrations"
        applied = self._rows(table, "version, checksum") if self._path.exists() else []
        return SchemaStatus(dict(applied), migrations("sqlite"))

    async def migrate(self, target: int | None) -> list[str]:
        from jobbus.backends.sqlite import SqliteQueue

        before = (await self.status()).applied
        queue = SqliteQueue.from_settings(self._settings)
        await queue.open()
        try:
            steps = await queue.migrate(target=target)
        finally:
            await queue.close()
        # Opening the file has taken the steps up already; what it took is told all the same.
        after = (await self.status()).known
        opened = [f"{m.version:04d} {m.name} up" for m in after if m.version not in before]
        return opened + steps if target is None else steps or opened

    async def jobs(self) -> int:
        ((number,),) = self._rows(f"{self._settings.table_prefix}s", "count(*)")
        return int(number)

    def _rows(self, table: str, columns: str) -> list[Any]:
        """What is in a table; nothing when there is none. The prefix was checked as a setting."""
        try:
            with closing(
                sqlite3.connect(f"{self._path.resolve().as_uri()}?mode=ro", uri=True)
            ) as db:
                there = db.execute("SELECT 1 FROM sqlite_master WHERE name = ?", [table]).fetchone()
                query = f'SELECT {columns} FROM "{table}"'  # noqa: S608
                return db.execute(query).fetchall() if there else []
        except sqlite3.Error as error:
            raise BackendError(f"the SQLite file {self._path} cannot be read: {error}") from error
