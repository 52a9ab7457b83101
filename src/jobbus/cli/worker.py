"""``jobbus worker``: runs an application's jobs, in one process or in several."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Final

import typer

from jobbus.cli import values
from jobbus.cli.failures import INTERRUPTED
from jobbus.cli.logs import LogLevel, configure_logging
from jobbus.cli.options import Cli, command
from jobbus.cli.service_manager import ServiceManager, keeping_told, without_notices
from jobbus.cli.text import counted

if TYPE_CHECKING:
    from jobbus.cli.connecting import Application
    from jobbus.settings import Settings
    from jobbus.worker import Worker

log = logging.getLogger("jobbus.cli.worker")
_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_STOP_MARGIN: Final = timedelta(seconds=10)
"""Beyond the time to drain, before a supervisor kills a worker."""

AppArgument = Annotated[
    str | None,
    typer.Argument(
        metavar="[APP]",
        help="Where the application's bus is, as module:attribute; else --app, the settings, "
        "./tasks.py or ./jobs.py",
        show_default=False,
    ),
]
Queues = Annotated[
    str | None,
    typer.Option("--queues", "-q", metavar="NAMES", help="Queues, with weights: high:3,default"),
]
Concurrency = Annotated[
    int | None, typer.Option("--concurrency", "-c", min=1, help="Jobs at once, per process")
]
Processes = Annotated[
    int | None, typer.Option("--processes", min=1, max=1024, help="How many processes")
]
Reload = Annotated[bool, typer.Option("--reload", help="Restart when a Python file changes")]
Burst = Annotated[bool, typer.Option("--burst", help="End when no job is left")]
DrainTimeout = Annotated[
    str | None,
    typer.Option("--drain-timeout", metavar="SPAN", help="Time for running jobs to finish: 25s"),
]
Monitor = Annotated[
    str | None,
    typer.Option(
        "--monitor",
        metavar="ADDRESS",
        help="Where to show metrics and health: 9464, 0.0.0.0:9464, unix:/run/jobbus/worker.sock",
    ),
]
Level = Annotated[LogLevel, typer.Option("--log-level", help="From which level on to log")]


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """What was asked of the worker."""

    queues: str | None
    concurrency: int | None
    burst: bool
    drain_timeout: timedelta | None
    monitor: str | None
    log_level: LogLevel


@command("backend", "ledger", "app", "no_color", "debug")
def worker(
    cli: Cli,
    application: AppArgument = None,
    queues: Queues = None,
    concurrency: Concurrency = None,
    processes: Processes = None,
    reload: Reload = False,
    burst: Burst = False,
    drain_timeout: DrainTimeout = None,
    monitor: Monitor = None,
    log_level: Level = LogLevel.INFO,
) -> int:
    """Run the jobs of an application, until told to stop.

    SIGTERM or Ctrl-C lets running jobs finish; a second one hands them back at once.
    """
    wishes = Wishes(
        queues=queues,
        concurrency=concurrency,
        burst=burst,
        drain_timeout=values.maybe_duration("--drain-timeout", drain_timeout),
        monitor=monitor,
        log_level=log_level,
    )
    configure_logging(cli.console, log_level)
    settings = cli.settings({"monitor.address": monitor})
    number = settings.processes if processes is None else processes
    if number > 1 or reload:
        return _supervise(cli, settings, application, wishes, processes=number, reload=reload)
    return _work(cli, application, wishes)


def _work(cli: Cli, app: str | None, wishes: Wishes) -> int:
    from jobbus.cli.connecting import load_application
    from jobbus.worker.process import tune_collector

    application = load_application(cli.shared, app)
    tune_collector()
    return cli.run(_run(cli, application, wishes))


async def _run(cli: Cli, application: Application, wishes: Wishes) -> int:
    from jobbus.worker import Worker

    worker = Worker(
        application.bus,
        queues=None if wishes.queues is None else values.parse_queues(wishes.queues),
        concurrency=wishes.concurrency,
        drain_timeout=wishes.drain_timeout,
        burst=wishes.burst,
        app=application.name,
        monitor=wishes.monitor,
    )
    signals = _Signals(worker)
    for number in _SIGNALS:
        asyncio.get_running_loop().add_signal_handler(number, signals.arrived, number)
    try:
        async with application.bus:
            _banner(cli, application, worker)
            async with keeping_told(worker):
                await worker.run()
    finally:
        for number in _SIGNALS:
            asyncio.get_running_loop().remove_signal_handler(number)
    log.info("stopped")
    return INTERRUPTED if signals.impatient else 0


class _Signals:
    """Passes signals on to the worker: the first one drains, the second one releases."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._count = 0

    @property
    def impatient(self) -> bool:
        return self._count > 1

    def arrived(self, number: int) -> None:
        self._count += 1
        name = signal.Signals(number).name
        if self._count == 1:
            seconds = self._worker.drain_timeout.total_seconds()
            running = counted(self._worker.running, "job")
            log.info(
                "%s: finishing %s, for up to %g s; again to hand them back at once",
                name, running, seconds,
            )  # fmt: skip
        elif self._count == 2:
            log.warning("%s again: handing %s back", name, counted(self._worker.running, "job"))
        if self._count <= 2:
            self._worker.stop()


def _banner(cli: Cli, application: Application, worker: Worker) -> None:
    from jobbus.cli.connecting import describe
    from jobbus.cli.facts import own_version
    from jobbus.settings import check_lease

    bus = application.bus
    types = sorted(job_type.name for job_type in bus.handlers)
    weights = worker.queues
    even = len(set(weights.values())) < 2
    queues = [name if even else f"{name}:{weight:g}" for name, weight in weights.items()]
    place = describe(bus.queue)
    if sys.stderr.isatty():
        cli.console.note(f"jobbus {own_version()}  pid {os.getpid()}")
        for name, value in (
            ("backend", place),
            ("app", application.name),
            ("queues", ", ".join(queues)),
            ("job types", ", ".join(types) or "none"),
            ("slots", str(worker.concurrency)),
        ):
            cli.console.note(f"  {name:<9}  {value}")
    else:
        facts = {
            "version": own_version(), "backend": place, "app": application.name,
            "queues": ", ".join(queues), "job_types": ", ".join(types),
            "concurrency": worker.concurrency, "pid": os.getpid(),
        }  # fmt: skip
        log.info("worker starts", extra=facts)
    if not types:
        log.warning("%s has no job types: this worker can run nothing", application.name)
    for problem in (*check_lease(bus.settings, bus.queue.capabilities), *bus.settings.notes):
        log.warning("%s", problem)


def _supervise(
    cli: Cli, settings: Settings, app: str | None, wishes: Wishes, *, processes: int, reload: bool
) -> int:
    from jobbus.worker.supervisor import Supervisor

    drain = wishes.drain_timeout or settings.drain_timeout
    with _monitor_of_all(settings, processes) as address, ServiceManager().told_while_alive():
        supervisor = Supervisor(
            _single_command(cli, app, replace(wishes, monitor=address)),
            processes=processes,
            reload=[Path.cwd()] if reload else (),
            until_done=wishes.burst,
            environment=without_notices(os.environ),
            stop_within=drain + _STOP_MARGIN,
        )
        log.info("supervising %d worker process(es)", processes)
        return supervisor.run()


@contextmanager
def _monitor_of_all(settings: Settings, processes: int) -> Iterator[str | None]:
    """Show all processes at the one address; yields where each of them shows itself to us."""
    from jobbus.telemetry.merging import SOCKET_NAME, Processes
    from jobbus.telemetry.server import Address, MonitorServer

    address = settings.monitor.address
    if address is None or not settings.monitor.enabled:
        yield None
        return
    with TemporaryDirectory(prefix="jobbus-monitor-") as folder:
        server = MonitorServer(Address.parse(address), Processes(Path(folder), processes).pages())
        server.start()
        log.info("monitor at %s", server.address)
        try:
            yield f"unix:{folder}/{SOCKET_NAME}"
        finally:
            server.stop()


def _single_command(cli: Cli, app: str | None, wishes: Wishes) -> Sequence[str]:
    """The command line of one of the workers, as it was asked for."""
    drain = wishes.drain_timeout
    options = {
        "--app": cli.shared.app,
        "--backend": cli.shared.backend,
        "--ledger": cli.shared.ledger,
        "--queues": wishes.queues,
        "--concurrency": wishes.concurrency,
        "--drain-timeout": None if drain is None else f"{drain.total_seconds():f}s",
        "--monitor": wishes.monitor,
        "--log-level": wishes.log_level.value,
        "--processes": 1,
    }
    words = [word for name, value in options.items() if value is not None
             for word in (name, str(value))]  # fmt: skip
    flags = {
        "--burst": wishes.burst,
        "--no-color": cli.shared.no_color,
        "--debug": cli.shared.debug,
    }
    words += [name for name, on in flags.items() if on]
    return [sys.executable, "-m", "jobbus", "worker", *([app] if app else []), *words]
