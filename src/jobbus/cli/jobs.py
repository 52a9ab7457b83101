"""``jobbus jobs``: list, show, cancel and retry."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from jobbus.cli import bulk, filters, tables
from jobbus.cli.failures import BadUsage, NothingFound
from jobbus.cli.options import Cli, DryRun, Yes, store_command
from jobbus.cli.root import new_group
from jobbus.cli.shapes import event_shape, job_detail, job_summary, progress_shape
from jobbus.cli.text import counted, plain
from jobbus.store import JobFilter

if TYPE_CHECKING:
    from jobbus.bus import JobBus
    from jobbus.job import Job

group = new_group("List, show, cancel and retry jobs.")

Id = Annotated[str, typer.Argument(metavar="ID", help="The job's id")]
Ids = Annotated[list[str] | None, typer.Argument(metavar="[ID]...", help="Ids of jobs")]


@group.command("ls")
@store_command
@filters.filtered
def ls(
    cli: Cli,
    where: JobFilter,
    limit: filters.Limit = 50,
    cursor: filters.Cursor = None,
) -> None:
    """List jobs, newest first."""
    cli.run(list_jobs(cli, where, limit=limit, cursor=cursor, columns=tables.JOB_COLUMNS))


async def list_jobs(
    cli: Cli, where: JobFilter, *, limit: int, cursor: str | None, columns: Any, word: str = "job"
) -> None:
    """A page of jobs, and how to get the next one."""
    from jobbus.cli.connecting import describe

    async with cli.bus() as bus:
        try:
            page = await bus.find(where, limit=limit, cursor=cursor)
        except ValueError as error:
            raise BadUsage(
                "--cursor is not one that a page before ended with", why=str(error),
                fix="leave it out to start with the newest job",
            ) from error  # fmt: skip
        place = describe(bus.queue)
    words = filters.describe(where)
    cli.console.listing(
        "jobs",
        [job_summary(job) for job in page.jobs],
        columns,
        more={"cursor": page.cursor},
        empty=f"no {word}s in {place}" + (f" with {words}" if words else ""),
    )
    if page.cursor is not None and cli.console.format != "json":
        cli.console.note(f"there are more: --cursor {page.cursor}")


@group.command("show")
@store_command
def show(cli: Cli, job_id: Id) -> None:
    """Show all about one job: payload, result, progress, history, and what can be done now."""
    cli.run(show_job(cli, job_id))


async def show_job(cli: Cli, job_id: str) -> None:
    """A job's page."""
    async with cli.bus() as bus:
        job = await bus.get(job_id)
        if job is None:
            raise await _unknown(bus, job_id)
        shape = await _whole(cli, bus, job)
    cli.console.record(shape, lambda: tables.job_page(cli.console, shape))


async def _unknown(bus: JobBus, job_id: str) -> NothingFound:
    from jobbus.cli.connecting import describe
    from jobbus.ids import parse_id

    known = parse_id(job_id) is not None
    return NothingFound(
        f"there is no job {plain(job_id)[:80]}",
        why=f"{describe(bus.queue)} holds none of this id" if known else "job ids are UUIDs",
        fix="`jobbus jobs ls` lists the jobs there are",
    )


async def _whole(cli: Cli, bus: JobBus, job: Job) -> dict[str, Any]:
    shape = {
        **job_detail(job),
        "children": await _children(bus, job.id),
        "history": [event_shape(event) for event in await bus.history(job.id)],
        "progress_history": [progress_shape(one) for one in await bus.progress_history(job.id)],
    }
    return {**shape, "next": tables.suggestions(shape, cli.shared)}


async def _children(bus: JobBus, job_id: str) -> dict[str, int]:
    from jobbus.job import DEAD, UNFINISHED

    total = await bus.count(JobFilter(parent_id=job_id))
    if not total:
        return {"total": 0, "unfinished": 0, "dead": 0}
    return {
        "total": total,
        "unfinished": await bus.count(JobFilter(parent_id=job_id, states=UNFINISHED)),
        "dead": await bus.count(JobFilter(parent_id=job_id, states=DEAD)),
    }


@group.command("cancel")
@store_command
@filters.filtered
def cancel(
    cli: Cli,
    where: JobFilter,
    ids: Ids = None,
    all_matching: filters.AllMatching = False,
    children: Annotated[
        bool, typer.Option("--children", help="Their unfinished children, too")
    ] = False,
    reason: filters.Reason = "",
    dry_run: DryRun = False,
    yes: Yes = False,
) -> None:
    """Cancel jobs that wait, and ask running ones to stop."""
    selection = bulk.select(ids, where, all_matching=all_matching)
    cli.run(_cancel(cli, selection, reason=reason, children=children, dry_run=dry_run, yes=yes))


async def _cancel(
    cli: Cli, selection: bulk.Selection, *, reason: str, children: bool, dry_run: bool, yes: bool
) -> None:
    from jobbus.job import UNFINISHED
    from jobbus.store import CancelOutcome

    states = selection.where.states & UNFINISHED if selection.where.states else UNFINISHED
    if not states:
        raise BadUsage("jobs that have ended cannot be cancelled", fix="leave --state out")
    selection = replace(selection, where=replace(selection.where, states=states))
    outcomes: dict[str, CancelOutcome] = {}
    async with cli.bus() as bus:
        if await bulk.agreed(cli, bus, selection, "cancel", yes=yes, dry_run=dry_run) is None:
            return
        async for batch in bulk.batches(bus, selection):
            outcomes |= await bus.cancel(*batch, reason=reason, children=children)
        late = [one for one in selection.ids if outcomes[one] not in _DONE]
        missed = await bulk.states_of(bus, late)
    _report_cancelled(cli, outcomes)
    bulk.refuse_missed(missed, could_not="cancelled", advice={})


_DONE: Final = ("cancelled", "requested")


def _report_cancelled(cli: Cli, outcomes: dict[str, Any]) -> None:
    totals = Counter(outcomes.values())
    shape = {
        **{word: totals[word] for word in ("cancelled", "requested", "finished", "not_found")},
        "jobs": [{"id": job_id, "outcome": str(word)} for job_id, word in outcomes.items()],
    }

    def page() -> None:
        cli.console.note(f"cancelled {counted(totals['cancelled'], 'job')}")
        if totals["requested"]:
            cli.console.note(f"asked {counted(totals['requested'], 'running job')} to stop")

    _report(cli, shape, [one for one, word in outcomes.items() if word in _DONE], page)


@group.command("retry")
@store_command
@filters.filtered
def retry(
    cli: Cli,
    where: JobFilter,
    ids: Ids = None,
    all_matching: filters.AllMatching = False,
    dry_run: DryRun = False,
    yes: Yes = False,
) -> None:
    """Run ended jobs anew, and waiting ones at once. With filters: dead ones, unless --state."""
    from jobbus.job import DEAD

    selection = bulk.select(ids, where, all_matching=all_matching)
    selection = replace(selection, where=filters.in_states(where, DEAD))
    cli.run(_retry(cli, selection, dry_run=dry_run, yes=yes))


async def _retry(cli: Cli, selection: bulk.Selection, *, dry_run: bool, yes: bool) -> None:
    from jobbus.job import JobState

    async with cli.bus() as bus:
        if await bulk.agreed(cli, bus, selection, "retry", yes=yes, dry_run=dry_run) is None:
            return
        done, late = await bulk.perform(bus, selection, bus.retry)
        missed = await bulk.states_of(bus, late)
    report_done(cli, "retried", done)
    bulk.refuse_missed(
        missed,
        could_not="retried",
        advice={
            JobState.COMPLETED: "a completed job is not run again: enqueue a new one",
            JobState.RUNNING: "a running job is not retried: cancel it first",
            JobState.QUEUED: "a queued job runs as soon as a worker is free",
            JobState.BLOCKED: "a blocked job waits for others: `jobbus jobs show` it",
        },
    )


def report_done(cli: Cli, word: str, done: list[str]) -> None:
    """Say how many jobs something was done to; in JSON, which."""
    _report(
        cli,
        {word: len(done), "ids": done},
        done,
        lambda: cli.console.note(f"{word} {counted(len(done), 'job')}"),
    )


def _report(cli: Cli, shape: dict[str, Any], ids: list[str], page: Any) -> None:
    if cli.console.format == "id":
        for job_id in ids:
            cli.console.record({"id": job_id}, page)
        return
    cli.console.record(shape, page)
