"""Queue and ledger in this process's memory: for tests, and for work that may die with the process.

The same programs on the same engine as SQLite, on a private database that is never written to disk,
so that what a test sees here is what it will see there.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final, Self

from jobbus.errors import Unsupported
from jobbus.message import Capabilities

from .sql.base import CAPABILITIES as FILE_CAPABILITIES
from .sql.callers import CallerSql
from .sql.sqlite_dialect import Clock, utc_now
from .sql.sqlite_engine import SqliteEngine
from .sql.sqlite_queue import SqliteBased
from .sql.statements import Naming

if TYPE_CHECKING:
    from jobbus.settings import Settings

CAPABILITIES: Final = replace(FILE_CAPABILITIES, durable=False, transactional=False)


class MemoryQueue(SqliteBased):
    """Jobs that live until the last open queue object that shares them is closed."""

    def __init__(self, *, clock: Clock = utc_now, _engine: SqliteEngine | None = None) -> None:
        super().__init__(_engine or SqliteEngine(":memory:", naming=Naming(), clock=clock))

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        """An empty queue; nothing in the settings concerns it."""
        return cls()

    @property
    def capabilities(self) -> Capabilities:
        return CAPABILITIES

    def separate(self) -> MemoryQueue:
        return MemoryQueue(_engine=self._engine)

    def _caller_sql(self) -> CallerSql:
        raise Unsupported(
            "the memory backend cannot join a connection's transaction: use SQLite or Postgres"
        )
