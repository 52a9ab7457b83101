"""Where a machine plays: SQLite on virtual time, Postgres and Redis on their own."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final, TypeVar

import psycopg
import redis

from jobbus.backends.postgres import PostgresQueue
from jobbus.backends.redis import RedisQueue
from jobbus.backends.redis_store.options import RedisOptions
from jobbus.backends.sqlite import SqliteQueue
from jobbus.testing import VirtualClock
from jobbus.testing.wrapping import LedgerQueue
from tests.backends import redis_bytes
from tests.backends.machine_base import Pace
from tests.backends.postgres_tables import empty_tables

T = TypeVar("T")
VIRTUAL: Final = Pace(
    delays=(timedelta(seconds=40), timedelta(hours=5)),
    leases=(timedelta(seconds=30), timedelta(hours=2)),
    deadline=timedelta(hours=1),
    steps=(timedelta(seconds=20), timedelta(seconds=50), timedelta(minutes=20)),
    slack=timedelta(0),
)
REAL: Final = Pace(
    delays=(timedelta(milliseconds=40), timedelta(hours=5)),
    leases=(timedelta(seconds=1), timedelta(hours=2)),
    deadline=timedelta(milliseconds=300),
    steps=(
        timedelta(milliseconds=30),
        timedelta(milliseconds=50),
        timedelta(milliseconds=50),
        timedelta(milliseconds=100),
        timedelta(milliseconds=1020),
    ),
    slack=timedelta(milliseconds=5),
)


class SqliteStage:
    """A new file for every example; one event loop and one clock for all."""

    pace = VIRTUAL

    def __init__(
        self,
        folder: Path,
        runner: asyncio.Runner,
        disguise: Callable[[LedgerQueue], LedgerQueue] = lambda queue: queue,
    ) -> None:
        self._files = (folder / f"{number}.db" for number in itertools.count())
        self._runner = runner
        self._clock = VirtualClock()
        self._disguise = disguise

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self._runner.run(work)

    def fresh(self) -> LedgerQueue:
        queue = SqliteQueue(next(self._files), clock=self._clock, synchronous="NORMAL")
        self.run(queue.open())
        return self._disguise(queue)

    def leave(self, queue: LedgerQueue) -> None:
        self.run(queue.close())

    def now(self) -> datetime:
        return self._clock()

    def pass_time(self, delta: timedelta) -> None:
        self._clock.advance(delta)


class PostgresStage:
    """One database, emptied for every example; a second connection tells the server's time."""

    pace = REAL

    def __init__(
        self, url: str, runner: asyncio.Runner, bystander: psycopg.Connection[Any]
    ) -> None:
        self._url = url
        self._runner = runner
        self._bystander = bystander

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self._runner.run(work)

    def fresh(self) -> LedgerQueue:
        empty_tables(self._bystander)
        queue = PostgresQueue(self._url)
        self.run(queue.open())
        return queue

    def leave(self, queue: LedgerQueue) -> None:
        self.run(queue.close())

    def now(self) -> datetime:
        row = self._bystander.execute("SELECT clock_timestamp()").fetchone()
        assert row is not None
        moment: datetime = row[0]
        return moment

    def pass_time(self, delta: timedelta) -> None:
        self.run(asyncio.sleep(delta.total_seconds()))


class RedisStage:
    """A prefix for every example; a second connection tells the server's time."""

    pace = REAL

    def __init__(
        self, url: str, prefix: str, runner: asyncio.Runner, bystander: redis.Redis
    ) -> None:
        self._url = url
        self._prefixes = (f"{prefix}.{number}" for number in itertools.count())
        self._runner = runner
        self._bystander = bystander

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self._runner.run(work)

    def fresh(self) -> LedgerQueue:
        queue = RedisQueue(options=RedisOptions(url=self._url, prefix=next(self._prefixes)))
        self.run(queue.open())
        return queue

    def leave(self, queue: LedgerQueue) -> None:
        assert isinstance(queue, RedisQueue)
        try:
            assert self.run(redis_bytes.told(queue)) == self.run(redis_bytes.weighed(queue))
        finally:
            self.run(queue.close())

    def now(self) -> datetime:
        answer: Any = self._bystander.time()
        seconds, microseconds = answer
        return datetime.fromtimestamp(seconds, UTC) + timedelta(microseconds=microseconds)

    def pass_time(self, delta: timedelta) -> None:
        self.run(asyncio.sleep(delta.total_seconds()))
