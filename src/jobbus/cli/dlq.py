"""``jobbus dlq``: list, show, redrive and discard dead letters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Final

import typer

from jobbus.cli import bulk, filters, tables
from jobbus.cli.jobs import Id, Ids, list_jobs, report_done, show_job
from jobbus.cli.options import Cli, DryRun, Yes, store_command
from jobbus.cli.root import new_group
from jobbus.job import DEAD, JobState
from jobbus.store import JobFilter

group = new_group("List, show, redrive and discard dead letters: jobs that failed for good.")

_ADVICE: Final[Mapping[JobState, str]] = {
    JobState.CANCELLED: "a cancelled job is no dead letter: `jobbus jobs retry` runs it again",
    JobState.EXPIRED: "an expired job is no dead letter: `jobbus jobs retry` runs it again",
}
AllMatching = Annotated[
    bool,
    typer.Option(
        "--all-matching", "--all", help="All dead letters that the filters match, instead of ids"
    ),
]


@group.command("ls")
@store_command
@filters.filtered_within_states
def ls(
    cli: Cli, where: JobFilter, limit: filters.Limit = 50, cursor: filters.Cursor = None
) -> None:
    """List dead letters, newest first."""
    dead = replace(where, states=DEAD)
    work = list_jobs(
        cli, dead, limit=limit, cursor=cursor, columns=tables.DEAD_COLUMNS, word="dead letter"
    )
    cli.run(work)


@group.command("show")
@store_command
def show(cli: Cli, job_id: Id) -> None:
    """Show all about one dead letter, as `jobbus jobs show` does."""
    cli.run(show_job(cli, job_id))


@group.command("redrive")
@store_command
@filters.filtered_within_states
def redrive(
    cli: Cli,
    where: JobFilter,
    ids: Ids = None,
    all_matching: AllMatching = False,
    dry_run: DryRun = False,
    yes: Yes = False,
) -> None:
    """Run dead letters anew, from their first attempt."""
    selection = _dead(bulk.select(ids, where, all_matching=all_matching))
    cli.run(_act(cli, selection, "redrive", "redriven", dry_run=dry_run, yes=yes))


@group.command("discard")
@store_command
@filters.filtered_within_states
def discard(
    cli: Cli,
    where: JobFilter,
    ids: Ids = None,
    all_matching: AllMatching = False,
    dry_run: DryRun = False,
    yes: Yes = False,
) -> None:
    """Delete dead letters for good, with their history."""
    selection = _dead(bulk.select(ids, where, all_matching=all_matching))
    cli.run(_act(cli, selection, "discard", "discarded", dry_run=dry_run, yes=yes))


def _dead(selection: bulk.Selection) -> bulk.Selection:
    return replace(selection, where=replace(selection.where, states=DEAD))


async def _act(
    cli: Cli, selection: bulk.Selection, verb: str, done_word: str, *, dry_run: bool, yes: bool
) -> None:
    """Redrive or discard. Ids of jobs that are not dead are left alone, and told at the end."""
    missed: dict[str, JobState | None] = {}
    done: list[str] = []
    async with cli.bus() as bus:
        if selection.named:
            states = await bulk.states_of(bus, selection.ids)
            missed = {one: state for one, state in states.items() if state not in DEAD}
            selection = replace(selection, ids=[one for one in selection.ids if one not in missed])
        if selection.ids or not missed:
            always_ask = verb == "discard"
            if await bulk.agreed(
                cli, bus, selection, verb, yes=yes, dry_run=dry_run, always_ask=always_ask
            ):
                act = bus.discard if verb == "discard" else bus.redrive
                done, late = await bulk.perform(bus, selection, act)
                missed |= await bulk.states_of(bus, late)
            elif not missed:
                return
    if done or not missed:
        report_done(cli, done_word, done)
    bulk.refuse_missed(missed, could_not=done_word, advice=_ADVICE)
