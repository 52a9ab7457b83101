"""``--wait``: stays with jobs until they have ended, and exits by how they did."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from jobbus.cli.failures import CommandFailed
from jobbus.cli.progress import Bar, counting, percentage
from jobbus.cli.shapes import job_detail
from jobbus.cli.tables import same_backend
from jobbus.cli.text import counted, plain, to_json
from jobbus.errors import JobNotFound

if TYPE_CHECKING:
    from jobbus.bus import JobBus
    from jobbus.cli.options import Cli
    from jobbus.job import Job

_AT_ONCE: Final = 50
"""Jobs that are watched at the same time."""
_TOLD: Final = 5


class JobsFailed(CommandFailed):
    """Jobs that were waited for ended without success."""

    exit_code = 1


async def wait_for(cli: Cli, bus: JobBus, ids: Sequence[str]) -> None:
    """Return when all have completed. Raises JobsFailed when one ended otherwise."""
    sys.stdout.flush()
    await _warn_without_worker(cli, bus)
    try:
        ended = await (_one(cli, bus, ids[0]) if len(ids) == 1 else _many(cli, bus, ids))
    except asyncio.CancelledError:
        cli.console.note(f"no longer waiting; {counted(len(ids), 'job')} may still run")
        raise
    _tell(cli, ids, ended)
    bad = [job for job in ended if job.state != "completed"]
    if bad:
        raise _failure(cli, bad, len(ids))


async def _warn_without_worker(cli: Cli, bus: JobBus) -> None:
    if not any(worker.alive for worker in await bus.workers()):
        cli.console.note("no worker is running so far: `jobbus worker` starts one")


async def _one(cli: Cli, bus: JobBus, job_id: str) -> list[Job]:
    with percentage(cli.console, job_id) as bar:
        last: Job | None = None
        async for last in bus.watch(job_id):
            _show(bar, last)
    if last is None or not last.state.terminal:
        raise JobNotFound(f"job {job_id} was deleted while it was waited for")
    return [last]


def _show(bar: Bar, job: Job) -> None:
    if job.state.terminal:
        return
    if job.state == "running" and job.progress is not None:
        progress = job.progress
        words = [word for word in (progress.stage, progress.message) if word]
        bar.update(progress.percent, " ".join(words))
    else:
        percent = 0 if job.progress is None else job.progress.percent
        problem = f" after {job.problem.kind}" if job.problem else ""
        bar.update(percent, f"{job.state}{problem}")


async def _many(cli: Cli, bus: JobBus, ids: Sequence[str]) -> list[Job]:
    ended: list[Job] = []
    with counting(cli.console, "waiting", len(ids)) as bar:
        for start in range(0, len(ids), _AT_ONCE):
            some = ids[start : start + _AT_ONCE]
            waits = [asyncio.ensure_future(bus.wait(job_id)) for job_id in some]
            try:
                for finished in asyncio.as_completed(waits):
                    ended.append(await finished)
                    bar.update(len(ended))
            finally:
                for wait in waits:
                    wait.cancel()
                await asyncio.gather(*waits, return_exceptions=True)
    return ended


def _tell(cli: Cli, ids: Sequence[str], ended: Sequence[Job]) -> None:
    if cli.console.chosen == "json":
        outcomes = [_outcome(job) for job in ended]
        cli.console.write_json({"ids": list(ids), "count": len(ids), "jobs": outcomes})
    elif cli.console.chosen == "ndjson":
        cli.console.write_lines(_outcome(job) for job in ended)
    elif len(ended) == 1 and ended[0].state == "completed":
        result = _outcome(ended[0])["result"]
        cli.console.note("completed" + (f": {to_json(result)}" if result is not None else ""))
    else:
        done = sum(job.state == "completed" for job in ended)
        cli.console.note(f"completed {done} of {counted(len(ended), 'job')}")


def _outcome(job: Job) -> dict[str, Any]:
    whole = job_detail(job)
    keys = ("id", "type", "state", "attempt", "result", "result_base64", "problem")
    return {key: whole[key] for key in keys}


def _failure(cli: Cli, bad: Sequence[Job], number: int) -> JobsFailed:
    told = []
    for job in bad[:_TOLD]:
        problem = f": {job.problem.kind}: {job.problem.message}" if job.problem else ""
        told.append(plain(f"{job.id} is {job.state} after attempt {job.attempt}{problem}"))
    if len(bad) > _TOLD:
        told.append(f"and {len(bad) - _TOLD} more")
    again = same_backend(cli.shared)
    return JobsFailed(
        "the job did not complete"
        if number == 1
        else f"{len(bad)} of {counted(number, 'job')} did not complete",
        why="\n".join(told),
        fix=f"jobbus jobs show {bad[0].id}{again}\njobbus jobs retry {bad[0].id}{again}",
    )
