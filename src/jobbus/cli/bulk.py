"""One verb on many jobs: which they are, a preview, a yes, and what became of each."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from jobbus.cli.consent import confirm
from jobbus.cli.failures import BadUsage, Conflict, NothingFound
from jobbus.cli.filters import describe
from jobbus.cli.options import Cli
from jobbus.cli.text import counted, plain

if TYPE_CHECKING:
    from jobbus.bus import JobBus
    from jobbus.job import JobState
    from jobbus.store import JobFilter

BATCH: Final = 200
COUNT_CAP: Final = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """The jobs that a command is about: ids as given, or everything that a filter matches."""

    ids: Sequence[str]
    where: JobFilter
    named: bool


def select(ids: Sequence[str] | None, where: JobFilter, *, all_matching: bool) -> Selection:
    """The selection. Raises BadUsage unless it is either ids or ``--all-matching``."""
    given = list(dict.fromkeys(ids or ()))
    words = describe(where)
    if given and all_matching:
        raise BadUsage("give either job ids or --all-matching, not both")
    if not given and not all_matching:
        raise BadUsage(
            "no job was named",
            why=f"{words} is a filter, and it is not said to mean all that it matches"
            if words
            else "",
            fix="give ids, or filters with --all-matching",
        )
    if given and words:
        raise BadUsage("filters go with --all-matching, not with job ids", why=words)
    return Selection(ids=given, where=where, named=not all_matching)


async def agreed(
    cli: Cli,
    bus: JobBus,
    selection: Selection,
    verb: str,
    *,
    yes: bool,
    dry_run: bool,
    always_ask: bool = False,
) -> int | None:
    """How many jobs it is about; None when nothing is to be done about them.

    A single job that was named is no question, unless ``always_ask``.
    """
    if selection.named:
        number, what = len(selection.ids), counted(len(selection.ids), "job")
    else:
        number = await bus.count(selection.where, cap=COUNT_CAP)
        words = describe(selection.where)
        what = counted(number, "job", cap=COUNT_CAP) + (f" ({words})" if words else "")
    if number == 0:
        cli.console.note("no job matches; nothing was done")
        return None
    if dry_run or always_ask or number > 1 or not selection.named:
        go_on = confirm(cli, f"{verb} {what}", yes=yes, dry_run=dry_run)
        return number if go_on else None
    return number


async def batches(bus: JobBus, selection: Selection) -> AsyncIterator[list[str]]:
    """The ids, in batches. All are read before the first is given, so that none is met twice."""
    ids = list(selection.ids)
    if not selection.named:
        ids = [job.id async for job in bus.find_all(selection.where)]
    for start in range(0, len(ids), BATCH):
        yield ids[start : start + BATCH]


async def perform(
    bus: JobBus, selection: Selection, act: Callable[..., Awaitable[Sequence[str]]]
) -> tuple[list[str], list[str]]:
    """Do it to all; return those that it was done to, and those named that it was not."""
    done: list[str] = []
    missed: list[str] = []
    async for batch in batches(bus, selection):
        worked = set(await act(*batch))
        done += [job_id for job_id in batch if _among(job_id, worked)]
        missed += [job_id for job_id in batch if not _among(job_id, worked)]
    return done, missed if selection.named else []


def _among(job_id: str, ids: set[str]) -> bool:
    return job_id in ids or job_id.casefold() in ids


async def states_of(bus: JobBus, ids: Sequence[str]) -> Mapping[str, JobState | None]:
    """Where each job stands; None for those that there are not."""
    from jobbus.store import JobFilter

    found: dict[str, JobState] = {}
    for start in range(0, len(ids), BATCH):
        where = replace(JobFilter(), ids=tuple(ids[start : start + BATCH]))
        found |= {job.id: job.state async for job in bus.find_all(where)}
    return {job_id: found.get(job_id) or found.get(job_id.casefold()) for job_id in ids}


def refuse_missed(
    missed: Mapping[str, JobState | None], *, could_not: str, advice: Mapping[JobState, str]
) -> None:
    """Raise what is to be said of jobs that were named and that nothing could be done to."""
    if not missed:
        return
    unknown = [job_id for job_id, state in missed.items() if state is None]
    told = [
        f"{plain(job_id)} " + (f"is {state}" if state else "is no job of this backend")
        for job_id, state in list(missed.items())[:10]
    ]
    if len(missed) > len(told):
        told.append(f"and {len(missed) - len(told)} more")
    what = f"{counted(len(missed), 'job')} could not be {could_not}"
    if unknown:
        raise NothingFound(what, why="\n".join(told), fix="`jobbus jobs ls` lists the jobs")
    fixes = {advice[state] for state in missed.values() if state is not None and state in advice}
    raise Conflict(what, why="\n".join(told), fix="\n".join(sorted(fixes)))
