"""What ``jobbus doctor`` looks at, whatever the backend: settings, schema, workers, jobs."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from jobbus.cli.backend_checks import check_postgres, check_sqlite
from jobbus.cli.broker_checks import check_broker
from jobbus.cli.connecting import load_application, usual_application
from jobbus.cli.findings import Finding, Level, doubtful, failed, fine
from jobbus.cli.schema import schema_of
from jobbus.cli.text import counted
from jobbus.errors import BackendError, ConfigurationError, JobbusError, SchemaMismatch, Unsupported

if TYPE_CHECKING:
    from jobbus.bus import JobBus
    from jobbus.cli.options import Cli
    from jobbus.job import Job, JobState
    from jobbus.settings import Settings

_LOOKED_AT: Final = 2_000
"""Jobs of each kind that are looked at; a sample is enough to see what is wrong."""


async def examine(cli: Cli, *, create: bool) -> AsyncIterator[Finding]:
    """All findings, in the order in which one would look. Stops where nothing more can be seen."""
    try:
        settings = cli.settings()
    except ConfigurationError as error:
        yield failed("settings", str(error))
        return
    for finding in _settings(settings):
        yield finding
    yield _application(cli, settings)
    from jobbus.settings import create_queue

    try:
        queue = create_queue(settings)
    except ConfigurationError as error:
        yield failed("backend", str(error))
        return
    for finding in _lease(settings, queue):
        yield finding
    reachable = True
    async for finding in _database(cli, settings, queue, create=create):
        reachable = reachable and finding.level is not Level.FAILED
        yield finding
    if reachable and _there(settings) and queue.capabilities.ledger:
        async with cli.bus() as bus:
            async for finding in _ledger(bus):
                yield finding


def _settings(settings: Settings) -> Iterator[Finding]:
    given = sorted({_whence(source) for source in settings.sources.values()} - {"default"})
    yield fine("settings", f"from {', '.join(given)}" if given else "nothing set: all defaults")
    for note in settings.notes:
        yield doubtful("settings", note)


def _whence(source: str) -> str:
    return "the command line" if source == "explicit" else source


def _application(cli: Cli, settings: Settings) -> Finding:
    named = cli.shared.app or settings.app
    if named is None and usual_application() is None:
        return fine("application", "none named; only a worker needs one")
    try:
        application = load_application(cli.shared)
    except JobbusError as error:
        why = getattr(error, "why", "")
        told = f"{error}: {why}" if why else str(error)
        return (failed if named else doubtful)("application", told, getattr(error, "fix", ""))
    number = len(application.bus.handlers)
    told = f"{application.name} has {counted(number, 'job type')}"
    return fine("application", told) if number else doubtful("application", told)


def _lease(settings: Settings, queue: Any) -> Iterator[Finding]:
    from jobbus.settings import check_lease

    problems = check_lease(settings, queue.capabilities)
    for problem in problems:
        yield failed("lease", problem)
    if not problems:
        seconds = settings.lease.total_seconds()
        renewed = ", renewed while a job runs" if queue.capabilities.extends_leases else ""
        yield fine("lease", f"{seconds:g} s{renewed}")


def _there(settings: Settings) -> bool:
    return settings.provider != "sqlite" or Path(settings.sqlite.path).exists()


async def _database(
    cli: Cli, settings: Settings, queue: Any, *, create: bool
) -> AsyncIterator[Finding]:
    """Whether it can be reached, fits this code, and is well."""
    try:
        async for finding in _schema(cli, settings, create=create):
            yield finding
        if settings.provider == "sqlite" and _there(settings):
            for finding in check_sqlite(settings):
                yield finding
        elif settings.provider == "postgres":
            for finding in await check_postgres(settings, queue):
                yield finding
    except SchemaMismatch as error:
        yield failed("schema", str(error), "`jobbus migrate status`")
    except BackendError as error:
        yield failed("backend", str(error), "check the address, the server and the network")


async def _schema(cli: Cli, settings: Settings, *, create: bool) -> AsyncIterator[Finding]:
    try:
        schema = schema_of(cli)
    except Unsupported:
        from jobbus.settings.names import BROKERS

        if settings.provider in BROKERS:
            async for finding in check_broker(settings, create=create):
                yield finding
            return
        yield fine("backend", f"{settings.provider}, which has no schema")
        return
    if not _there(settings) and not create:
        yield doubtful(
            "backend",
            f"there is no file {settings.sqlite.path} yet",
            "`jobbus doctor --create`, `jobbus migrate up`, or the first job makes it",
        )
        return
    steps = await schema.migrate(None) if create else []
    status = await schema.status()
    yield fine("backend", f"{schema.place} answers")
    status.check_history()
    if status.pending:
        yield failed(
            "schema",
            f"{counted(len(status.pending), 'migration')} missing",
            "`jobbus migrate up`, or `jobbus doctor --create`",
        )
        return
    done = f", after {', '.join(steps)}" if steps else ""
    yield fine("schema", f"version {max(status.applied)}{done}")


async def _ledger(bus: JobBus) -> AsyncIterator[Finding]:
    from jobbus.job import DEAD, UNFINISHED, JobState

    workers = await bus.workers()
    alive = {worker.name for worker in workers if worker.alive}
    counts: Counter[JobState] = Counter()
    for (_, state), number in (await bus.counts()).items():
        counts[state] += number
    waiting = sum(counts[state] for state in UNFINISHED - {JobState.RUNNING})
    yield _workers(len(alive), waiting)
    yield await _types(bus)
    yield await _dead_leases(bus, alive)
    dead = sum(counts[state] for state in DEAD)
    if dead:
        yield doubtful("dead letters", counted(dead, "job"), "`jobbus dlq ls` lists them")
    else:
        yield fine("dead letters", "none")
    for finding in await _paused(bus):
        yield finding


def _workers(alive: int, waiting: int) -> Finding:
    if alive or not waiting:
        return fine(
            "workers", f"{counted(alive, 'worker')} alive, {counted(waiting, 'job')} waiting"
        )
    return doubtful(
        "workers", f"none alive, and {counted(waiting, 'job')} waiting", "start `jobbus worker`"
    )


async def _types(bus: JobBus) -> Finding:
    """Whether somebody has announced every type that jobs wait for."""
    from jobbus.job import UNFINISHED, JobState

    known = {record.name for record in await bus.job_types()}
    types: Counter[str] = Counter()
    async for job in _some(bus, UNFINISHED - {JobState.RUNNING}):
        types[job.job_type] += 1
    unknown = {name: number for name, number in types.items() if name not in known}
    if not unknown:
        return fine("job types", f"{len(known)} announced; none is missing")
    told = ", ".join(f"{name} ({number})" for name, number in sorted(unknown.items())[:10])
    return doubtful(
        "job types",
        f"jobs wait whose type no worker has announced: {told}",
        "start a worker of the application that has them; after a day they are dead letters",
    )


async def _dead_leases(bus: JobBus, alive: set[str]) -> Finding:
    from jobbus.job import JobState

    orphans: Counter[str] = Counter()
    async for job in _some(bus, frozenset({JobState.RUNNING})):
        if job.worker not in alive:
            orphans[job.worker or "nobody"] += 1
    if not orphans:
        return fine("leases", "every running job is in the hands of a worker that is alive")
    return doubtful(
        "leases", f"{_listed(orphans)} in the hands of workers that died",
        "workers take them back when the lease runs out; `jobbus recover` does so as well",
    )  # fmt: skip


def _listed(orphans: Mapping[str, int]) -> str:
    return counted(sum(orphans.values()), "job")


async def _some(bus: JobBus, states: frozenset[JobState]) -> AsyncIterator[Job]:
    from jobbus.store import JobFilter

    number = 0
    async for job in bus.find_all(JobFilter(states=states)):
        yield job
        number += 1
        if number >= _LOOKED_AT:
            return


async def _paused(bus: JobBus) -> list[Finding]:
    return [
        doubtful(
            "queues",
            f"{status.name} is paused" + (f": {status.reason}" if status.reason else ""),
            f"`jobbus queues resume {status.name}`",
        )
        for status in await bus.queues()
        if status.paused
    ]
