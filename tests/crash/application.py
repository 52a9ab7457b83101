"""The application under test: job types that note what they do, and the processes that run them.

Run as ``python -m tests.crash.application`` with a role and its options as one JSON document.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import logging
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

from jobbus.bus import JobBus
from jobbus.context import JobContext
from jobbus.errors import PermanentError, Retry
from jobbus.message import Dependency, OnFailure
from jobbus.settings import load_settings
from jobbus.worker import Worker
from jobbus.worker.reports import AttemptReport
from jobbus.worker.supervisor import RestartPolicy, Supervisor
from tests.crash.agent import POINT_VARIABLE, Agent, open_agent, watched_queue
from tests.crash.isolated import ISOLATED

LONGEST_LIFE = 120
"""Seconds after which a process ends whatever becomes of the test, so that none is left behind."""
GLANCE = 0.02
CHILDREN = 4
"""How many jobs a ``spawner`` spawns."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What a process is to be and do."""

    role: str
    """``work``, ``produce`` or ``supervise``."""
    name: str
    address: str
    folder: str
    queues: Sequence[str] = ("default",)
    lease: float = 60.0
    """Seconds, as are all times here."""
    concurrency: int = 4
    drain: float = 25.0
    slow_settling: float = 0.0
    """How long completions are held up, as by a busy database."""
    life: int = LONGEST_LIFE
    planted: str = ""
    """The name of a bug to have."""
    produce: Sequence[str] = ()
    """The ids of the jobs to enqueue."""
    in_transaction: bool = False
    """Enqueue together with a row of the application's own."""

    def command(self) -> list[str]:
        return [sys.executable, "-m", "tests.crash.application", json.dumps(asdict(self))]


def make_bus(address: str, folder: Path, agent: Agent) -> JobBus:
    """A bus with all job types; nothing is read from the environment or the directory."""
    settings = load_settings({"backend": "memory"}, environ={}, directory=folder)
    bus = JobBus(settings, queue=watched_queue(address, agent))
    register_all(bus, agent, folder)
    return bus


def register_all(bus: JobBus, agent: Agent, folder: Path) -> None:
    """All job types of the application; ``folder`` is where their gates are opened."""
    register_simple(bus, agent, folder)
    _register_obstinate(bus, agent, folder)
    _register_special(bus, agent)
    for job_type in ISOLATED:
        bus.handlers.register(job_type)


def register_simple(bus: JobBus, agent: Agent, folder: Path) -> None:
    """Those that need neither threads nor processes nor transactions."""
    _register_plain(bus, agent, folder)
    _register_ending(bus, agent)
    _register_families(bus, agent)


def _register_plain(bus: JobBus, agent: Agent, folder: Path) -> None:
    @bus.job
    async def plain(context: JobContext, gate: str = "", seconds: float = 0.0) -> int:
        """Has one effect, after a gate has opened and so many seconds have passed."""
        agent.note("started", context.job_id, context.attempt)
        agent.reach("handler:before_effect")
        try:
            await asyncio.sleep(seconds)
            while gate and not (folder / gate).exists():  # noqa: ASYNC110 - it is opened elsewhere
                await asyncio.sleep(GLANCE)
        except asyncio.CancelledError:
            agent.note("interrupted", context.job_id, context.attempt)
            raise
        agent.note("effect", context.job_id, context.attempt)
        agent.reach("handler:after_effect")
        return context.attempt


def _register_obstinate(bus: JobBus, agent: Agent, folder: Path) -> None:
    @bus.job
    def blocking(context: JobContext, gate: str) -> int:
        """Waits in a thread, where nothing can interrupt it."""
        agent.note("started", context.job_id, context.attempt)
        while not (folder / gate).exists():
            time.sleep(GLANCE)
        agent.note("effect", context.job_id, context.attempt)
        return context.attempt

    @bus.job
    async def obstinate(context: JobContext, gate: str) -> int:
        """Waits on the event loop without ever giving it back."""
        agent.note("started", context.job_id, context.attempt)
        while not (folder / gate).exists():
            time.sleep(GLANCE)  # noqa: ASYNC251 - its very fault
        agent.note("effect", context.job_id, context.attempt)
        return context.attempt


def _register_ending(bus: JobBus, agent: Agent) -> None:
    @bus.job
    async def fails_once(context: JobContext, seconds: float = 0.0) -> int:
        agent.note("started", context.job_id, context.attempt)
        await asyncio.sleep(seconds)
        if context.failures == 0:
            agent.note("failing", context.job_id, context.attempt)
            raise Retry("once more", after=timedelta(seconds=0.05))
        agent.note("effect", context.job_id, context.attempt)
        return context.attempt

    @bus.job
    async def fails_for_good(context: JobContext) -> None:
        agent.note("started", context.job_id, context.attempt)
        agent.note("failing", context.job_id, context.attempt)
        raise PermanentError("never")


def _register_special(bus: JobBus, agent: Agent) -> None:
    @bus.job
    async def transactional(context: JobContext) -> int:
        """Has its effect in the transaction that completes it."""
        agent.note("started", context.job_id, context.attempt)
        with _failures_noted(agent, context):
            async with context.transaction(context.attempt) as connection:
                await insert_effect(connection, context.job_id, context.attempt)
        return context.attempt

    @bus.job
    async def killer(context: JobContext) -> None:
        """Takes its whole process with it, as a fault in a native library would."""
        agent.note("started", context.job_id, context.attempt)
        agent.note("dying", label="killer")
        os._exit(9)


def _register_families(bus: JobBus, agent: Agent) -> None:
    plain = bus.handlers.get("plain")
    assert plain is not None

    @bus.job
    async def late_parent(context: JobContext) -> int:
        """Gets a dependent while it runs, which its delivery says nothing of."""
        agent.note("started", context.job_id, context.attempt)
        child = plain.options(
            queue=context.queue, depends_on=[Dependency(context.job_id, OnFailure.FAIL)]
        )
        with _failures_noted(agent, context):
            await context.spawn(child.message())
        agent.note("effect", context.job_id, context.attempt)
        return context.attempt

    @bus.job
    async def spawner(context: JobContext) -> list[str]:
        """Spawns a batch in which each job but the first waits for the one before."""
        agent.note("started", context.job_id, context.attempt)
        ordered = plain.options(queue=context.queue, group=f"family-{context.job_id}")
        with _failures_noted(agent, context):
            ids = await context.spawn(*(ordered.message() for _ in range(CHILDREN)))
        agent.note("effect", context.job_id, context.attempt)
        return ids


@contextmanager
def _failures_noted(agent: Agent, context: JobContext) -> Iterator[None]:
    try:
        yield
    except Exception:
        agent.note("failing", context.job_id, context.attempt)
        raise


async def insert_effect(connection: Any, job: str, attempt: int) -> None:
    """Write a row of the application's own through a connection of either database."""
    mark = "?" if type(connection).__module__ == "sqlite3" else "%s"
    statement = f"INSERT INTO effects (job, attempt) VALUES ({mark}, {mark})"  # noqa: S608
    outcome = connection.execute(statement, [job, attempt])
    if inspect.isawaitable(outcome):
        await outcome


async def work(bus: JobBus, options: Options, agent: Agent) -> None:
    """Be a worker until SIGTERM."""
    worker = Worker(
        bus,
        queues=options.queues,
        concurrency=options.concurrency,
        lease=timedelta(seconds=options.lease),
        drain_timeout=timedelta(seconds=options.drain),
        app="tests.crash.isolated:ISOLATED",
    )

    def reported(report: AttemptReport) -> None:
        held = report.delivery
        agent.note("reported", held.job_id, held.attempt, outcome=report.outcome)

    worker.observers.append(reported)

    def stop() -> None:
        agent.note("draining")
        worker.stop()

    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop)
    agent.note("ready")
    await worker.run()
    agent.note("drained")
    if worker.stuck:
        await bus.close()
        os._exit(0)  # else the interpreter waits for threads that will not end


async def produce(bus: JobBus, options: Options, agent: Agent) -> None:
    """Enqueue the jobs, and leave."""
    plain = bus.handlers.get("plain")
    assert plain is not None
    messages = [
        plain.options(job_id=job_id, queue=options.queues[0]).message()
        for job_id in options.produce
    ]
    if not options.in_transaction:
        await bus.enqueue_many(messages)
        return
    queue = bus.queue
    assert hasattr(queue, "transaction")
    async with queue.transaction() as connection:
        for message in messages:
            await insert_effect(connection, message.job_id, 0)
        await bus.enqueue_many(messages, connection=connection)


def supervise(options: Options) -> int:
    """Keep a worker running, as an operator would who starts it by its command."""
    second = timedelta(seconds=1)
    supervisor = Supervisor(
        replace(options, role="work").command(),
        environment={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        restart=RestartPolicy(first=second / 100, cap=second / 10),
    )
    return supervisor.run()


async def run(options: Options, agent: Agent) -> None:
    agent.settling_takes = options.slow_settling
    bus = make_bus(options.address, Path(options.folder), agent)
    async with bus:
        await {"work": work, "produce": produce}[options.role](bus, options, agent)


def enter(options: Options, point: str | None, log: Path) -> None:
    """What a process does that was forked for this."""
    os.setsid()  # so that whatever it starts can be found
    with log.open("ab") as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
    if point is not None:
        os.environ[POINT_VARIABLE] = point
    be(options)


def be(options: Options) -> None:
    signal.alarm(options.life)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    if options.role == "supervise":
        sys.exit(supervise(options))
    agent = open_agent(Path(options.folder), f"{options.name}-{os.getpid()}", os.environ)
    with ExitStack() as stack:
        if options.planted:
            from tests.chaos.planted import BUGS

            stack.enter_context(BUGS[options.planted].planted())
        asyncio.run(run(options, agent))


if __name__ == "__main__":
    be(Options(**json.loads(sys.argv[1])))
