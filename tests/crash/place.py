"""One database, one history, and the processes of a test over them."""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import os
import signal
import sqlite3
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, closing
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import psycopg

from jobbus.bus import JobBus
from jobbus.errors import BackendError
from jobbus.job import UNFINISHED, Job, JobEvent
from jobbus.store import JobFilter
from jobbus.worker import Worker
from tests.crash.agent import Agent, Point, WatchedPostgres, WatchedSqlite, watched_queue
from tests.crash.application import Options, enter, make_bus
from tests.crash.checker import Evidence, violations
from tests.crash.history import History, Reader, Record

PATIENCE: Final = 30.0
"""Seconds that anything may take before a test gives up."""
GLANCE: Final = 0.01
TOGETHER: Final = 8
"""Histories that are asked for at the same time."""
FORKS: Final = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload([enter.__module__])
EFFECTS: Final = "CREATE TABLE effects (job text NOT NULL, attempt integer NOT NULL)"


class Process:
    """A real process of the application, and what is done to it, noted.

    Forked from a process that has imported everything already, which saves most of its start.
    """

    def __init__(self, options: Options, point: Point | None, note: Callable[..., None]) -> None:
        self._note = note
        self._log = Path(options.folder) / f"{options.name}.log"
        self._process = FORKS.Process(
            target=enter, args=(options, None if point is None else str(point), self._log)
        )
        self._process.start()
        self.name = f"{options.name}-{self._process.pid}"
        """What it is called in the history."""

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process.exitcode is None

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    async def ended(self, seconds: float = PATIENCE) -> int:
        """Its exit code; minus the signal's number when a signal ended it."""
        # Not in another thread: whoever starts a process reads the exit codes of all others.
        async with _patience(f"{self.name} to end", lambda: self.log, seconds):
            while (code := self._process.exitcode) is None:  # noqa: ASYNC110 - it cannot tell us
                await asyncio.sleep(GLANCE)
        return code

    async def died(self) -> None:
        """Until it has been killed, as it was told to be."""
        code = await self.ended()
        assert code == -signal.SIGKILL, f"{self.name} ended with {code}:\n{self.log}"

    def terminate(self) -> None:
        self._send(signal.SIGTERM)

    def kill(self) -> None:
        self._send(signal.SIGKILL)
        self._process.join()
        self._note("killed", process=self.name)

    def stop(self) -> None:
        """Freeze it, as a debugger or a busy hypervisor would."""
        self._send(signal.SIGSTOP)
        self._note("stopped", process=self.name)

    def resume(self) -> None:
        self._note("resumed", process=self.name)
        self._send(signal.SIGCONT)

    def clear_away(self) -> None:
        """Leave nothing of it, its children included."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        self._process.kill()
        self._process.join()
        self._process.close()

    def _send(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)


class Place:
    """Where a test plays: a database with jobs in it, and a folder with the history."""

    def __init__(self, address: str, folder: Path) -> None:
        self.address = address
        self.folder = folder
        self._history = History(folder, "test")
        self._reader = Reader(folder)
        self._processes: list[Process] = []
        self._looks: list[Job] = []
        self.histories: dict[str, Sequence[JobEvent]] = {}
        """What the ledger says happened, once it has been proved."""
        self.agent = Agent(self._history)

    @property
    def on_sqlite(self) -> bool:
        return "://" not in self.address

    def close(self) -> None:
        for process in self._processes:
            process.clear_away()
        self.agent.close()

    def note(self, event: str, **detail: Any) -> None:
        self._history.note(event, **detail)

    def note_about(self, event: str, job_id: str) -> None:
        self._history.note(event, job_id)

    # processes

    def start(self, name: str, *, point: Point | None = None, **options: Any) -> Process:
        """Start a process of the application: a worker, where nothing else is said."""
        asked = Options(
            **{"role": "work", "address": self.address, **options},
            name=name,
            folder=str(self.folder),
        )
        process = Process(asked, point, self.note)
        self._processes.append(process)
        return process

    @asynccontextmanager
    async def bus(self) -> AsyncIterator[JobBus]:
        """The test's own bus, with the application's job types."""
        async with make_bus(self.address, self.folder, self.agent) as bus:
            yield bus

    async def work_off(
        self, bus: JobBus, queues: Sequence[str] = ("default",), **options: Any
    ) -> None:
        """Do what is left to do, with a worker in this process."""
        worker = Worker(
            bus,
            queues=list(queues),
            burst=True,
            app="tests.crash.isolated:ISOLATED",
            **{"lease": timedelta(seconds=60), **options},
        )
        async with asyncio.timeout(PATIENCE):
            await worker.run()

    async def enqueue(self, bus: JobBus, number: int, **payload: Any) -> list[str]:
        """So many plain jobs, in one batch."""
        messages = [await bus.message_for("plain", payload) for _ in range(number)]
        return await bus.enqueue_many(messages)

    def open_gate(self, name: str) -> None:
        """Let the handlers go on that wait for it."""
        (self.folder / name).touch()

    # what can be waited for

    async def seen(
        self, event: str, *, number: int = 1, where: Callable[[Record], bool] | None = None
    ) -> list[Record]:
        """The records of such an event, once there are so many."""
        async with _patience(f"{number} times {event!r}", self._logs):
            while True:
                found = self.records(event, where=where)
                if len(found) >= number:
                    return found
                await asyncio.sleep(GLANCE)

    def records(self, event: str, *, where: Callable[[Record], bool] | None = None) -> list[Record]:
        """The records of such an event so far."""
        return [
            record
            for record in self._reader.read()
            if record.event == event and (where is None or where(record))
        ]

    async def until(self, what: str, reached: Callable[[], Awaitable[bool]]) -> None:
        """Until the ledger says so."""
        async with _patience(what, self._logs):
            while not await reached():  # noqa: ASYNC110 - nobody in this process knows when
                await asyncio.sleep(GLANCE)

    async def until_done(self, bus: JobBus, *, seconds: float = PATIENCE) -> None:
        """Until no job is unfinished; survives a database that is away."""
        async with _patience("all jobs to end", self._logs, seconds):
            while True:
                with contextlib.suppress(BackendError):
                    if not any(state in UNFINISHED for _, state in await bus.counts()):
                        return
                await asyncio.sleep(5 * GLANCE)

    async def look(self, bus: JobBus) -> dict[str, Job]:
        """All jobs as they stand; the checker holds later looks against this one."""
        jobs = {job.id: job async for job in bus.find_all(JobFilter())}
        self._looks.extend(jobs.values())
        return jobs

    async def effects(self) -> list[tuple[str, int]] | None:
        """What the jobs wrote to the table of effects: their ids and attempts. None on Redis."""
        if self.address.startswith("redis://"):
            return None
        return await asyncio.to_thread(self._read_effects)

    def _read_effects(self) -> list[tuple[str, int]]:
        query = "SELECT job, attempt FROM effects"
        if self.on_sqlite:
            with closing(sqlite3.connect(self.address)) as connection:
                return connection.execute(query).fetchall()
        with psycopg.connect(self.address) as session:
            return session.execute(query).fetchall()

    def _logs(self) -> str:
        return "\n".join(f"--- {one.name}\n{one.log[-3000:]}" for one in self._processes)

    # what is proved in the end

    async def prove(
        self, bus: JobBus, *, effects: Iterable[tuple[str, int]] | None = None
    ) -> dict[str, Job]:
        """Hold all invariants against what happened; return the jobs.

        ``effects`` are what the jobs of type ``transactional`` have written, once each.
        """
        evidence = await self.evidence(bus, effects=effects)
        found = violations(evidence)
        told = "\n".join(str(one) for one in found[:20])
        assert not found, f"{len(found)} violations:\n{told}\n{self._logs()}"
        return dict(evidence.jobs)

    async def evidence(
        self, bus: JobBus, *, effects: Iterable[tuple[str, int]] | None = None
    ) -> Evidence:
        """Everything there is to judge by."""
        earlier = list(self._looks)
        jobs = await self.look(bus)
        self.histories = {}
        for ids in batched(sorted(jobs), TOGETHER):
            told = await asyncio.gather(*(bus.history(id) for id in ids))
            self.histories.update(zip(ids, told, strict=True))
        return Evidence(
            records=self._reader.read(),
            jobs=jobs,
            histories=self.histories,
            earlier=earlier,
            effects=None if effects is None else list(effects),
        )


def opened(address: str, folder: Path) -> Place:
    """A place with its tables."""
    place = Place(address, folder)
    asyncio.run(_migrate(place))
    if place.on_sqlite:
        with closing(sqlite3.connect(address)) as connection, connection:
            connection.execute(EFFECTS)
    elif address.startswith("postgresql://"):
        with psycopg.connect(address) as session:
            session.execute(EFFECTS)
    return place


async def _migrate(place: Place) -> None:
    queue = watched_queue(place.address, place.agent)
    if isinstance(queue, WatchedSqlite):
        await queue.open()
        await queue.close()
    elif isinstance(queue, WatchedPostgres):
        await queue.migrate()


def point(label: str, *, time: int = 1, with_signal: signal.Signals = signal.SIGKILL) -> Point:
    return replace(Point(label=label), time=time, signal=with_signal)


def batched(items: Sequence[str], size: int) -> Iterator[Sequence[str]]:
    """The same, in pieces."""
    return (items[start : start + size] for start in range(0, len(items), size))


@asynccontextmanager
async def _patience(
    what: str, logs: Callable[[], str], seconds: float = PATIENCE
) -> AsyncIterator[None]:
    began = time.monotonic()
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError as error:
        waited = time.monotonic() - began
        raise AssertionError(f"waited {waited:.0f} s for {what}\n{logs()}") from error
