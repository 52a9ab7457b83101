"""The witness inside a process: notes what the queue is asked, and dies or stops where it is told.

Points are ``verb:before`` and ``verb:after`` (before and after a verb of the queue or a step of a
handler), and ``verb/statement:before`` and ``verb/statement:after`` (in the middle of the verb's
transaction, where it has one).
"""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, closing, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Self, TypeVar

from jobbus.backends.postgres import PostgresQueue
from jobbus.backends.sql.base import SqlQueue
from jobbus.backends.sql.maintenance import Due
from jobbus.backends.sql.program import Program
from jobbus.backends.sqlite import SqliteQueue
from jobbus.message import Abandonment, Completion, DeadLetter, Delivery, LeaseState, Message
from tests.crash.agent_redis import WatchedRedis
from tests.crash.history import History

T = TypeVar("T")
POINT_VARIABLE = "CRASH_POINT"
_verb: ContextVar[str] = ContextVar("crash_verb", default="")


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """Where a process ends itself, and how."""

    label: str
    time: int = 1
    """At which arrival there."""
    signal: signal.Signals = signal.SIGKILL

    def __str__(self) -> str:
        return f"{self.label}#{self.time}!{self.signal.name}"

    @classmethod
    def parse(cls, text: str) -> Self:
        label, _, rest = text.partition("#")
        times, _, name = rest.partition("!")
        return cls(label=label, time=int(times), signal=signal.Signals[name])

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Self | None:
        text = environment.get(POINT_VARIABLE)
        return cls.parse(text) if text else None


class Agent:
    """Keeps the history of one process, and its appointment."""

    def __init__(self, history: History, point: Point | None = None) -> None:
        self._history = history
        self._point = point
        self._arrivals = 0
        self._lock = threading.Lock()
        self.note = history.note
        self.settling_takes = 0.0
        """Seconds that completions are held up, as by a busy database."""
        self.finish_writing: Callable[[], None] = lambda: None
        """Returns when no thread of this process is writing to the database."""

    def close(self) -> None:
        self._history.close()

    def note_enqueuing(self, messages: Sequence[Message]) -> None:
        """With what each has to wait for."""
        for message in messages:
            waits = {"group": message.group} if message.group else {}
            after = [dependency.job_id for dependency in message.depends_on]
            asked = {**waits, "after": after} if after else waits
            self.note("enqueuing", message.job_id, **asked)

    def reach(self, label: str) -> None:
        """Go no further if this is the point. A process that was stopped goes on from here."""
        point = self._point
        if point is None or point.label != label:
            return
        with self._lock:
            self._arrivals += 1
            if self._arrivals != point.time:
                return
            if point.signal is signal.SIGSTOP:
                self.finish_writing()
            self.note("dying" if point.signal is signal.SIGKILL else "stopping", label=label)
            os.kill(os.getpid(), point.signal)

    def steps(self, verb: str, program: Program[T]) -> Program[T]:
        """The program, with points before and after each of its statements."""
        try:
            statement = next(program)
            while True:
                self.reach(f"{verb}/{statement.name}:before")
                try:
                    rows = yield statement
                except Exception as error:
                    statement = program.throw(error)
                else:
                    self.reach(f"{verb}/{statement.name}:after")
                    statement = program.send(rows)
        except StopIteration as stop:
            result: T = stop.value
            return result


class Watched(SqlQueue):
    """A SQL queue that tells its agent of every verb and every statement."""

    agent: Agent

    async def enqueue(
        self, messages: Sequence[Message], *, connection: Any | None = None
    ) -> Sequence[str]:
        self.agent.note_enqueuing(messages)
        with self._points("enqueue"):
            ids = await super().enqueue(messages, connection=connection)
        if connection is None:  # else it is the caller's commit that accepts them
            for job_id in ids:
                self.agent.note("enqueued", job_id)
        return ids

    async def _claim(self, queue: str, limit: int, lease: timedelta) -> list[Delivery]:
        before = time.monotonic()
        with _within("claim"):
            self.agent.reach("claim:before")
            deliveries = await super()._claim(queue, limit, lease)
        for delivery in deliveries:
            self.agent.note(
                "claimed",
                delivery.job_id,
                delivery.attempt,
                before=before,
                lease=lease.total_seconds(),
            )
        if deliveries:
            self.agent.reach("claim:after")
        return deliveries

    async def complete(
        self, done: Sequence[Completion], *, connection: Any | None = None
    ) -> Sequence[Delivery]:
        verb = "complete" if connection is None else "complete_in"
        if self.agent.settling_takes:
            await asyncio.sleep(self.agent.settling_takes)
        with self._settling(verb, done) as lost:
            lost += await super().complete(done, connection=connection)
        return lost

    def complete_sync(self, done: Sequence[Completion], connection: Any) -> Sequence[Delivery]:
        with self._settling("complete_in", done) as lost:
            lost += super().complete_sync(done, connection)
        return lost

    async def abandon(self, back: Sequence[Abandonment]) -> Sequence[Delivery]:
        with self._settling("abandon", back) as lost:
            lost += await super().abandon(back)
        return lost

    async def dead_letter(self, dead: Sequence[DeadLetter]) -> Sequence[Delivery]:
        with self._settling("dead_letter", dead) as lost:
            lost += await super().dead_letter(dead)
        return lost

    async def extend(self, held: Sequence[Delivery], lease: timedelta) -> Sequence[LeaseState]:
        before = time.monotonic()
        with self._points("extend") if held else _within("extend"):
            states = await super().extend(held, lease)
        for delivery, state in zip(held, states, strict=True):
            self.agent.note(
                "renewed" if state is not LeaseState.LOST else "lost",
                delivery.job_id,
                delivery.attempt,
                before=before,
                lease=lease.total_seconds(),
            )
        return states

    async def _tend(self, due: Due, *, expired_for: timedelta, thorough: bool) -> int:
        with self._points("tend"):
            return await super()._tend(due, expired_for=expired_for, thorough=thorough)

    async def _run(
        self,
        make: Callable[[], Program[T]],
        *,
        write: bool = True,
        atomic: bool = True,
    ) -> T:
        verb = _verb.get()  # now: the program may be driven by another thread
        return await super()._run(  # type: ignore[safe-super]  # the backend's comes next in line
            lambda: self.agent.steps(verb, make()), write=write, atomic=atomic
        )

    @contextmanager
    def _points(self, verb: str) -> Iterator[None]:
        with _within(verb):
            self.agent.reach(f"{verb}:before")
            yield
            self.agent.reach(f"{verb}:after")

    @contextmanager
    def _settling(
        self, verb: str, settlements: Sequence[Completion | Abandonment | DeadLetter]
    ) -> Iterator[list[Delivery]]:
        deliveries = [settlement.delivery for settlement in settlements]
        for delivery in deliveries:
            self.agent.note("settling", delivery.job_id, delivery.attempt, verb=verb)
        lost: list[Delivery] = []
        with self._points(verb) if deliveries else _within(verb):
            yield lost
        refused = {(delivery.job_id, delivery.attempt) for delivery in lost}
        for delivery in deliveries:
            key = (delivery.job_id, delivery.attempt)
            # What is written in a handler's transaction counts only once that has committed.
            event = "written" if verb == "complete_in" else "settled"
            self.agent.note(event, *key, verb=verb, accepted=key not in refused)


class WatchedSqlite(Watched, SqliteQueue):
    """Jobs in a SQLite file."""

    def __init__(self, path: str, agent: Agent) -> None:
        super().__init__(path)
        self.agent = agent
        self.address = path
        agent.finish_writing = self._finish_writing

    def _finish_writing(self) -> None:
        # Who is frozen in a write transaction holds up everybody, which is not what is tested.
        with closing(sqlite3.connect(self.address, isolation_level=None)) as connection:
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("ROLLBACK")

    def separate(self) -> WatchedSqlite:
        return WatchedSqlite(self.address, self.agent)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Any]:
        async with super().transaction() as connection:
            yield connection
            self.agent.reach("commit:before")
        self.agent.reach("commit:after")


class WatchedPostgres(Watched, PostgresQueue):
    """Jobs in a Postgres database."""

    def __init__(self, url: str, agent: Agent) -> None:
        super().__init__(url)
        self.agent = agent
        self.address = url

    def separate(self) -> WatchedPostgres:
        return WatchedPostgres(self.address, self.agent)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Any]:
        async with super().transaction() as connection:
            yield connection
            self.agent.reach("commit:before")
        self.agent.reach("commit:after")


def watched_queue(address: str, agent: Agent) -> WatchedSqlite | WatchedPostgres | WatchedRedis:
    """The queue at an address: a Postgres or Redis URL, else the path of a SQLite file."""
    if address.startswith("redis://"):
        return WatchedRedis(address, agent)
    if address.startswith("postgresql://"):
        return WatchedPostgres(address, agent)
    return WatchedSqlite(address, agent)


def open_agent(folder: Path, process: str, environment: Mapping[str, str]) -> Agent:
    """The agent of a process that says its appointment in its environment."""
    return Agent(History(folder, process), Point.from_environment(environment))


@contextmanager
def _within(verb: str) -> Iterator[None]:
    token = _verb.set(verb)
    try:
        yield
    finally:
        _verb.reset(token)
