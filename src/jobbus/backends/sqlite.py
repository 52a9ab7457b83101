"""Queue and ledger in one SQLite file: the embedded default.

Delivery: at least once, under leases that expire. One host only: a network file system is refused.
Durability: with ``synchronous=FULL`` (the default) an accepted job survives the loss of power; with
``NORMAL`` it survives the death of every process, and the last commits may go with the power.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

from jobbus.errors import ConfigurationError

from .sql.filesystem import refuse_network
from .sql.sqlite_dialect import Clock, utc_now
from .sql.sqlite_engine import SqliteEngine, translate
from .sql.sqlite_queue import SqliteBased
from .sql.statements import DEFAULT_PREFIX, Naming

if TYPE_CHECKING:
    from jobbus.settings import Settings

_SYNCHRONOUS: Final = ("FULL", "NORMAL", "EXTRA")


class SqliteQueue(SqliteBased):
    """Jobs in a SQLite file, shared by any number of processes on one machine."""

    def __init__(
        self,
        path: str | Path = "jobbus.db",
        *,
        clock: Clock = utc_now,
        synchronous: str = "FULL",
        busy_timeout: timedelta = timedelta(seconds=5),
        table_prefix: str = DEFAULT_PREFIX,
        allow_network_filesystem: bool = False,
    ) -> None:
        if synchronous.upper() not in _SYNCHRONOUS:
            raise ConfigurationError(
                f"synchronous is one of {', '.join(_SYNCHRONOUS)}, not {synchronous!r}"
            )
        self._path = Path(path)
        self._clock = clock
        self._synchronous = synchronous.upper()
        self._busy_timeout = busy_timeout
        self._allow_network = allow_network_filesystem
        super().__init__(
            SqliteEngine(
                str(path),
                naming=Naming(None, table_prefix),
                clock=clock,
                synchronous=self._synchronous,
                busy_timeout=busy_timeout,
            )
        )

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        """A queue on the file that the settings name."""
        chosen = settings.sqlite
        return cls(
            chosen.path,
            synchronous=chosen.synchronous,
            busy_timeout=timedelta(seconds=chosen.busy_timeout_seconds),
            table_prefix=settings.table_prefix,
            allow_network_filesystem=chosen.allow_network_filesystem,
        )

    async def open(self) -> None:
        """Open the file, making it and its tables where they are missing.

        Raises ConfigurationError on a network file system and SchemaMismatch for a file that a
        newer jobbus has written.
        """
        if not self._allow_network:
            refuse_network(self._path)
        await super().open()

    def separate(self) -> SqliteQueue:
        return SqliteQueue(
            self._path,
            clock=self._clock,
            synchronous=self._synchronous,
            busy_timeout=self._busy_timeout,
            table_prefix=self.naming.prefix,
            allow_network_filesystem=True,  # this very file has been checked
        )

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[sqlite3.Connection]:
        """A connection of its own with a write transaction begun; commits at the end.

        What is done on the connection blocks the event loop, so keep it short.
        """
        with ExitStack() as stack:
            yield await asyncio.to_thread(stack.enter_context, self.transaction_sync())

    @contextmanager
    def transaction_sync(self) -> Iterator[sqlite3.Connection]:
        """:meth:`transaction` for synchronous code."""
        connection = sqlite3.connect(
            self._path,
            isolation_level=None,
            timeout=self._busy_timeout.total_seconds(),
            check_same_thread=False,
        )
        try:
            connection.execute(f"PRAGMA synchronous = {self._synchronous}")
            connection.execute("BEGIN IMMEDIATE")
            yield connection
            connection.execute("COMMIT")
        except sqlite3.Error as error:
            raise translate(error, "commit") from error
        finally:
            connection.close()  # which rolls back what was not committed
