"""The machine that a simulation runs on: a database without threads, and real workers before it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import sqlite3
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any, Final, Self, TypeVar
from unittest.mock import patch

from jobbus import ids
from jobbus.backends.memory import MemoryQueue
from jobbus.backends.sql import base
from jobbus.backends.sql.identity import ProcessIdentity
from jobbus.backends.sql.program import Program, drive
from jobbus.backends.sql.sqlite_engine import SqliteEngine, _Request, run_statement
from jobbus.backends.sql.statements import Naming, load
from jobbus.bus import JobBus
from jobbus.errors import BackendUnavailable
from jobbus.job_type import JobType
from jobbus.settings import Settings, load_settings
from jobbus.store import JobTypeRecord
from jobbus.testing.clock import EPOCH
from jobbus.worker import worker as worker_module
from jobbus.worker.heartbeat import Heartbeat
from jobbus.worker.held import Held
from tests.crash.agent import Agent, Watched
from tests.crash.application import register_simple
from tests.crash.history import History, Record
from tests.simulation.loop import GROUP, Group, SeededLoop

T = TypeVar("T")
SPACE: Final = "simulated"


class InlineEngine(SqliteEngine):
    """The engine without its threads: a program is committed where it is submitted."""

    def __init__(self, clock: Callable[[], datetime]) -> None:
        super().__init__(":memory:", naming=Naming(), clock=clock)
        self._connection: sqlite3.Connection | None = None

    def start(self) -> None:
        if self._connection is None:
            self._connection = self._connect()
            template().backup(self._connection)

    def stop_unless_used(self) -> None:
        """It lives as long as the simulation."""

    def submit(self, make: Callable[[], Program[T]], *, write: bool) -> Future[T]:
        if self._connection is None:
            raise BackendUnavailable("this simulation is over")
        future: Future[T] = Future()
        future.set_running_or_notify_cancel()
        self._commit(self._connection, [_Request(make, future)])
        return future

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


@cache
def template() -> sqlite3.Connection:
    """An empty database with its tables, since making them takes longer than a whole run."""
    connection = sqlite3.connect(":memory:", isolation_level=None)
    texts = load("sqlite", Naming())
    drive(MemoryQueue()._migrating(None), lambda s: run_statement(connection, s, texts, 0))
    return connection


class Recorder(History):
    """A history in memory."""

    def __init__(self, records: list[Record], process: str) -> None:
        self.process = process
        self._records = records

    def note(self, event: str, job: str = "", attempt: int = 0, **detail: Any) -> None:
        self._records.append(
            Record(
                process=self.process, event=event, job=job, attempt=attempt, detail=detail,
                monotonic=time.monotonic(), wall=0.0,
            )
        )  # fmt: skip

    def close(self) -> None:
        """Nothing is open."""


class AmbientAgent(Agent):
    """Notes for whichever process runs: the handlers of all of them are the same objects."""

    def __init__(self) -> None:
        self.finish_writing = lambda: None

    def note(self, event: str, job: str = "", attempt: int = 0, **detail: Any) -> None:
        machine().process().agent.note(event, job, attempt, **detail)

    def reach(self, label: str) -> None:
        """Processes die by their number of steps here."""


@dataclass(eq=False)
class VirtualProcess:
    """One process: what it is called, what it runs, and how its line to the database is."""

    group: Group
    agent: Agent
    identity: ProcessIdentity
    cut_until: float = 0.0
    """Until then nothing gets through to the database."""
    flaky_until: float = 0.0
    """Until then requests and replies may get lost."""
    slow_until: float = 0.0
    """Until then requests and replies take seconds."""
    ended: bool = False
    """It has come to its end by itself."""
    stop: Callable[[], None] = field(default=lambda: None)

    @property
    def name(self) -> str:
        return self.group.name


class DistantMemory(MemoryQueue):
    """A database at the end of a line on which requests and replies take time and get lost."""

    def __init__(self, machine: Machine, process: VirtualProcess) -> None:
        super().__init__(_engine=machine.engine)
        self._machine = machine
        self._process = process

    def separate(self) -> Self:
        return type(self)(self._machine, self._process)

    async def _run(
        self, make: Callable[[], Program[T]], *, write: bool = True, atomic: bool = True
    ) -> T:
        await self._machine.travel(self._process, "the request was lost")
        result = await super()._run(make, write=write, atomic=atomic)
        await self._machine.travel(self._process, "the reply was lost")
        return result


class SimulatedQueue(Watched, DistantMemory):
    """That database, with a witness before it."""

    def __init__(self, machine: Machine, process: VirtualProcess) -> None:
        super().__init__(machine, process)
        self.agent = process.agent


class SimulatedHeartbeat(Heartbeat):
    """The heartbeat as a task: threads have no place in virtual time."""

    async def start(self) -> None:
        self._ending = asyncio.Event()
        self._task = asyncio.create_task(self._beat())
        await self._ready.wait()
        if self._failure is not None:
            raise self._failure

    async def stop(self) -> None:
        self._ending.set()
        await asyncio.wait({self._task}, timeout=10)

    async def _stopped_within(self, seconds: float) -> bool:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._ending.wait()
        return self._ending.is_set()


class Machine:
    """Virtual time, a database, and the processes before it."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.records: list[Record] = []
        self.loop = SeededLoop(self.chance, self.kill)
        self._jumped = timedelta(0)
        self.engine = InlineEngine(self.wall)
        self.processes: dict[str, VirtualProcess] = {}
        self._births = 0
        self.test = self._process("test")

    def wall(self) -> datetime:
        """The clock that the database reads."""
        return EPOCH + timedelta(seconds=self.loop.time()) + self._jumped

    def jump(self, by: timedelta) -> None:
        """Set the clock. What is measured monotonically does not notice."""
        self._jumped += by

    # processes

    def process(self) -> VirtualProcess:
        """The one that runs now."""
        return self.processes[GROUP.get().name]

    def _process(self, name: str) -> VirtualProcess:
        self._births += 1
        identity = ProcessIdentity(
            f"sim:{self._births}:{name}", "sim", SPACE, self._births, str(self._births)
        )
        process = VirtualProcess(Group(name), Agent(Recorder(self.records, name)), identity)
        self.processes[name] = process
        return process

    def start(self, name: str, main: Callable[[VirtualProcess, JobBus], Any]) -> VirtualProcess:
        """A new process that runs ``main`` with a bus of its own."""
        process = self._process(name)
        self.loop.spawn(process.group, main(process, self.bus(process)))
        return process

    def bus(self, process: VirtualProcess) -> JobBus:
        bus = JobBus(settings(), queue=SimulatedQueue(self, process))
        bus.share_handlers(application())
        return bus

    def kill(self, group: Group) -> None:
        if not group.dead:
            self.test.agent.note("killed", process=group.name)
            self.loop.kill(group)

    def alive(self, birth: str) -> bool:
        return any(
            p.identity.birth == birth and not p.group.dead and not p.ended
            for p in self.processes.values()
        )

    # the line to the database

    async def travel(self, process: VirtualProcess, loss: str) -> None:
        """The way of a request or a reply."""
        await asyncio.sleep(self.chance.expovariate(1 / 0.003))
        if process.slow_until > self.loop.time() and self.chance.random() < 0.4:
            process.agent.note("cut", process=process.name)
            await asyncio.sleep(self.chance.choice([0.1, 0.5, 2.0, 9.0]))
            process.agent.note("cut", process=process.name)
        if process.cut_until > self.loop.time():
            # As long as a call may take: its deadline passes, or the line is whole again.
            await asyncio.sleep(min(process.cut_until - self.loop.time(), 2.0))
            self._lose(process, loss)
        if process.flaky_until > self.loop.time() and self.chance.random() < 0.2:
            self._lose(process, loss)

    def _lose(self, process: VirtualProcess, loss: str) -> None:
        process.agent.note("cut", process=process.name)
        raise BackendUnavailable(loss)


@cache
def settings() -> Settings:
    """The defaults: nothing is read from the environment or the directory."""
    return load_settings({"backend": "memory"}, environ={}, directory=Path(__file__).parent)


@cache
def announced(job_type: JobType[..., Any]) -> JobTypeRecord:
    """What a worker tells of a job type."""
    return _record(job_type)


_record = JobType.record


@cache
def application() -> JobBus:
    """The job types, made once: reading their signatures takes longer than running them."""
    bus = JobBus(settings())
    register_simple(bus, AmbientAgent(), Path(os.devnull))
    return bus


_running: list[Machine] = []


def machine() -> Machine:
    """The one in whose time we are."""
    return _running[-1]


@contextmanager
def simulated(seed: int) -> Iterator[Machine]:
    """Everything that decides what happens comes from the seed: time, chance, names, numbers."""
    before = random.getstate()
    random.seed(seed)
    made = Machine(seed)

    def identity() -> ProcessIdentity:
        return made.process().identity

    def dead(space: str, pid: int, birth: str) -> bool:
        return space == SPACE and not made.alive(birth)

    with ExitStack() as stack:
        for target, name, substitute in (
            (time, "monotonic", made.loop.time),
            (time, "time_ns", lambda: round(made.wall().timestamp() * 1e9)),
            (os, "urandom", made.chance.randbytes),
            (ids, "_clock", ids._Clock()),
            (ProcessIdentity, "current", identity),
            (base, "provably_dead", dead),
            (worker_module, "Heartbeat", SimulatedHeartbeat),
            # The same each time, and half of what starting a worker takes.
            (JobType, "record", announced),
            (Held, "__hash__", lambda held: int(held.delivery.job_id[-8:], 16)),
        ):
            stack.enter_context(patch.object(target, name, substitute))
        level = logging.root.manager.disable
        logging.disable(logging.CRITICAL)
        stack.callback(logging.disable, level)
        stack.callback(random.setstate, before)
        _running.append(made)
        stack.callback(_running.remove, made)
        stack.callback(made.engine.close)
        stack.callback(made.loop.close)
        made.engine.start()
        yield made
