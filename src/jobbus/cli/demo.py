"""``jobbus demo``: the library example on real folders, with a live view, from start to report."""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import sys
import sysconfig
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from jobbus.cli.failures import BadUsage

if TYPE_CHECKING:
    from rich.console import RenderableType

    from jobbus.bus import JobBus
    from jobbus.job import Job
    from jobbus.worker import AttemptReport, Worker

REFRESH: Final = 0.25
PLAIN_INTERVAL: Final = 2.0
"""Seconds between lines where there is no terminal to redraw."""
_WAITS: Final = 5000
_SHOWN_DEAD: Final = 12


@dataclass(slots=True)
class Tally:
    """What the demo's own worker has done, for the line at the bottom."""

    outcomes: Counter[str] = field(default_factory=Counter)
    waits: deque[float] = field(default_factory=lambda: deque(maxlen=_WAITS))
    started: float = field(default_factory=time.monotonic)
    at_work: Callable[[], int] = lambda: 0
    """Handlers at work; the ledger counts as running what waits for a slot here, too."""
    recent: deque[str] = field(default_factory=lambda: deque(maxlen=6))

    def see(self, report: AttemptReport) -> None:
        """An observer of the worker."""
        self.outcomes[report.outcome] += 1
        self.waits.append(report.delivery.wait.total_seconds())
        if report.problem is not None:
            self.recent.append(
                f"{report.outcome:8} {report.delivery.message.job_type} "
                f"{report.problem.kind}: {report.problem.message[:80]}"
            )

    @property
    def rate(self) -> float:
        """Finished jobs a second."""
        done = self.outcomes["completed"] + self.outcomes["dead"]
        return done / max(time.monotonic() - self.started, 0.001)

    @property
    def wait_p95(self) -> float:
        """Milliseconds."""
        waits = sorted(self.waits)
        return waits[int(len(waits) * 0.95)] * 1000 if waits else 0.0


@dataclass(frozen=True, slots=True)
class Wish:
    """What was asked for."""

    roots: list[Path]
    output: Path
    limit_bytes: int
    concurrency: int
    plain: bool
    store: str
    """The address under which other commands find the jobs."""


def demo(
    paths: Sequence[Path],
    *,
    backend: str | None,
    ledger: str | None,
    output: Path,
    limit_bytes: int,
    concurrency: int,
    plain: bool,
) -> int:
    """Run the example to its end and return the exit code.

    Killed half way and started again with the same arguments, it goes on where it was.
    """
    output = output.resolve()
    output.mkdir(parents=True, exist_ok=True)
    from jobbus.demo.parts import jobs, samples
    from jobbus.settings import load_settings

    address = backend or f"sqlite:///{output / 'jobs.db'}"
    settings = load_settings({"backend": address, "ledger": ledger})
    jobs.bus.use(settings)
    if not jobs.bus.queue.capabilities.ledger:
        raise BadUsage(
            "the demo cannot run here",
            why=f"{settings.provider} by itself remembers no jobs, and the report is made of them",
            fix="give it a ledger: --ledger sqlite:///jobs.db",
        )
    roots = [path.resolve() for path in paths] or default_roots()
    roots.append(samples.write_samples(output / "samples", limit_bytes=limit_bytes))
    # A broker's address is not repeated: it may hold a password, and the jobs are in the ledger.
    wish = Wish(roots, output, limit_bytes, concurrency, plain, settings.ledger or address)
    return asyncio.run(_run(jobs, wish))


def default_roots() -> list[Path]:
    """The project's own tree, in a checkout, and Python's standard library."""
    from jobbus.demo import locate

    stdlib = Path(sysconfig.get_path("stdlib"))
    project = locate().parents[1]
    return [project, stdlib] if (project / "pyproject.toml").is_file() else [stdlib]


async def _run(jobs: Any, wish: Wish) -> int:
    from jobbus.worker import Worker

    bus: JobBus = jobs.bus
    await _bring_schema_up(bus)
    async with bus:
        scan_id = await jobs.start(wish.roots, wish.output, limit_bytes=wish.limit_bytes)
        worker = Worker(bus, queues=[jobs.QUEUE], concurrency=wish.concurrency)
        tally = Tally(at_work=lambda: worker.running)
        worker.observers.append(tally.see)
        _banner(bus, wish)
        working = asyncio.create_task(worker.run())
        _stop_on_signals(worker)
        watching = asyncio.create_task(_watch(bus, jobs, scan_id, tally, wish.plain))
        try:
            await asyncio.wait({working, watching}, return_when=asyncio.FIRST_COMPLETED)
            if working.done():
                await working
                watching.cancel()
                print("stopped; run the same command again to go on", file=sys.stderr)
                return 130
            last = await watching
        finally:
            worker.stop()
            await asyncio.gather(working, return_exceptions=True)
        return await _summary(bus, scan_id, last, tally, wish.store)


async def _bring_schema_up(bus: JobBus) -> None:
    """SQLite does this when it opens; elsewhere it is asked for, and the demo asks."""
    if (bus.settings.ledger_settings or bus.settings).provider == "postgres":
        store: Any = getattr(bus.queue, "ledger", bus.queue)
        await store.migrate()


def _stop_on_signals(worker: Worker) -> None:
    import signal

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, worker.stop)


def _banner(bus: JobBus, wish: Wish) -> None:
    from jobbus import __version__

    location = getattr(bus.queue, "location", "")
    backend = f"backend {bus.settings.provider} ({location})"
    print(f"jobbus {__version__}   {backend}   {wish.concurrency} slots")
    for root in wish.roots:
        print(f"  looking at {root}")


async def _watch(bus: JobBus, jobs: Any, scan_id: str, tally: Tally, plain: bool) -> Job | None:
    """Show how it goes until the export has ended; return it, or the scan if that failed."""
    show, close = _plain_view() if plain or not sys.stdout.isatty() else _live_view()
    export_id = jobs.export_id(scan_id)
    try:
        while True:
            scan, export, stats = (
                await bus.get(scan_id),
                await bus.get(export_id),
                await bus.stats(),
            )
            show(scan, stats, tally)
            if export is not None and export.state.terminal:
                return export
            if export is None and scan is not None and scan.state.terminal and not scan.result:
                return scan
            await asyncio.sleep(REFRESH)
    finally:
        close()


View = tuple[Callable[["Job | None", dict[str, int], Tally], None], Callable[[], None]]


def _plain_view() -> View:
    last = 0.0

    def show(scan: Job | None, stats: dict[str, int], tally: Tally) -> None:
        nonlocal last
        if time.monotonic() - last >= PLAIN_INTERVAL:
            last = time.monotonic()
            print(_line(stats, tally), flush=True)

    return show, lambda: None


def _live_view() -> View:
    from rich.console import Console, Group
    from rich.live import Live
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
    from rich.text import Text

    bars = Progress(
        TextColumn("{task.description:10}"),
        BarColumn(bar_width=40),
        TextColumn("{task.percentage:>3.0f} %"),
        TextColumn("{task.fields[note]}"),
        TimeElapsedColumn(),
    )
    scanning = bars.add_task("scan", total=100, note="")
    analysing = bars.add_task("analyze", total=None, note="")
    logging.getLogger("jobbus").setLevel(logging.CRITICAL)  # the view shows what they say
    live = Live(console=Console(), refresh_per_second=8, transient=True)
    live.start()

    def show(scan: Job | None, stats: dict[str, int], tally: Tally) -> None:
        if scan is not None:
            reported = scan.progress.percent if scan.progress else 0
            note = scan.progress.message if scan.progress else ""
            done = 100.0 if scan.state.terminal else reported
            bars.update(scanning, completed=done, note=note)
        ended = stats["completed"] + stats["dead"]
        bars.update(analysing, total=stats["total"] or None, completed=ended, note=f"{ended} jobs")
        recent = Text("\n".join(tally.recent), style="dim")
        pieces: list[RenderableType] = [bars, Text(_line(stats, tally), style="bold"), recent]
        live.update(Group(*pieces))

    return show, live.stop


def _line(stats: dict[str, int], tally: Tally) -> str:
    at_work = min(tally.at_work(), stats["running"])
    waiting = stats["queued"] + stats["blocked"] + stats["scheduled"] + stats["running"] - at_work
    return (
        f"queued {waiting}   running {at_work}   done {stats['completed']}   "
        f"retrying {stats['retrying']}   dead {stats['dead']}   |   {tally.rate:.0f} jobs/s   "
        f"wait p95 {tally.wait_p95:.0f} ms"
    )


async def _summary(bus: JobBus, scan_id: str, last: Job | None, tally: Tally, store: str) -> int:
    import json

    from jobbus.job import DEAD, JobState
    from jobbus.store import JobFilter

    where = JobFilter(parent_id=scan_id, states=DEAD)
    dead = [job async for job in bus.find_all(where)]
    print(_line(await bus.stats(), tally))
    if last is None or last.state is not JobState.COMPLETED or last.result is None:
        told = f"{last.problem.kind}: {last.problem.message}" if last and last.problem else "?"
        print(f"the report could not be made: {told}", file=sys.stderr)
        return 1
    result = json.loads(last.result)
    print(
        f"\n{result['analysed']} files analysed, {result['failed']} failed; "
        f"{result['bytes'] / 1e6:.1f} MB, {result['lines_of_text']} lines of text, "
        f"{result['python_functions']} Python functions, {result['images']} images, "
        f"{result['seconds_of_sound']} s of sound"
    )
    if dead:
        print(f"\n{len(dead)} jobs in the dead letters:")
        for job in sorted(dead, key=lambda job: job.payload)[:_SHOWN_DEAD]:
            problem = job.problem
            told = f"{problem.kind}: {problem.message}" if problem else job.state.value
            print(f"  {job.id}  {json.loads(job.payload)['path']}\n      {told}")
        program, option = _program(), f" --backend {store}"
        print(f"\n  look at one    {program} jobs show {dead[0].id}{option}")
        print(f"  try it again   {program} dlq redrive {dead[0].id}{option}")
    print(f"\nreport   {result['json']}\n         {result['csv']}")
    return 0


def _program() -> str:
    """How to call jobbus again from here."""
    if shutil.which("jobbus"):
        return "jobbus"
    called = Path(sys.argv[0])
    return os.path.relpath(called) if called.name == "jobbus" else "python -m jobbus"
