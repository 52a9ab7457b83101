"""``jobbus move``: takes jobs from one backend to another, with their history, and back."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from jobbus.cli import values
from jobbus.cli.connecting import place_of, refuse_missing_file
from jobbus.cli.consent import confirm
from jobbus.cli.failures import BadUsage, CommandFailed
from jobbus.cli.options import Cli, DryRun, Shared, Yes, plain_command
from jobbus.cli.text import counted
from jobbus.errors import BackendError

if TYPE_CHECKING:
    from jobbus.job import JobState
    from jobbus.queue import BackgroundJobQueue
    from jobbus.services.move import Move, Moved, Plan, Verdict
    from jobbus.services.move_ends import End

_SHOWN: Final = 10
"""Reasons that are told one by one."""
_PAUSES: Final = (1.0, 15.0)
"""Seconds between the passes of a bridge: from while it finds jobs to when it finds none."""


class Step(StrEnum):
    """What is asked for besides moving once."""

    BRIDGE = "--bridge"
    VERIFY = "--verify"
    ROLLBACK = "--rollback"
    FINISH = "--finish"


From = Annotated[
    str, typer.Option("--from", metavar="URL", help="Address of the backend that jobs leave")
]
To = Annotated[str, typer.Option("--to", metavar="URL", help="Address of the backend they go to")]
FromLedger = Annotated[
    str | None, typer.Option("--from-ledger", metavar="URL", help="Ledger of the broker they leave")
]
ToLedger = Annotated[
    str | None, typer.Option("--to-ledger", metavar="URL", help="Ledger of the broker they go to")
]
Queues = Annotated[
    list[str] | None,
    typer.Option("--queue", metavar="QUEUE", help="Only this queue; may be given several times"),
]
States = Annotated[
    list[str] | None,
    typer.Option(
        "--state",
        metavar="STATE",
        help="Jobs in this state, instead of all that wait and the dead letters; several times",
    ),
]
Bridge = Annotated[
    bool,
    typer.Option("--bridge", help="Go on moving what comes or falls free, until told to stop"),
]
UntilDrained = Annotated[
    bool,
    typer.Option("--until-drained", help="With --bridge: end once the old one has nothing left"),
]
Verify = Annotated[
    bool, typer.Option("--verify", help="Compare what moved with what is there; exit 1 if unequal")
]
Rollback = Annotated[
    bool, typer.Option("--rollback", help="Bring back what moved and has not started there")
]
Finish = Annotated[
    bool, typer.Option("--finish", help="Verify, then forget the journal, and with it the way back")
]


@plain_command
def move(
    cli: Cli,
    source: From,
    target: To,
    from_ledger: FromLedger = None,
    to_ledger: ToLedger = None,
    queue: Queues = None,
    state: States = None,
    bridge: Bridge = False,
    until_drained: UntilDrained = False,
    verify: Verify = False,
    rollback: Rollback = False,
    finish: Finish = False,
    dry_run: DryRun = False,
    yes: Yes = False,
) -> None:
    """Move waiting, scheduled and dead jobs to another backend, with their history.

    Safe to stop and to repeat at any time: what left the one and has not reached the other is in
    the journal of the one it left, and goes on next time. Running jobs end where they are.
    """
    asked = {
        Step.BRIDGE: bridge,
        Step.VERIFY: verify,
        Step.ROLLBACK: rollback,
        Step.FINISH: finish,
    }
    step = _one_of([each for each, wanted in asked.items() if wanted], until_drained=until_drained)
    queues = tuple(values.queue_name(name) for name in queue or ())
    states = _states(state or ())

    async def work() -> None:
        planning = dry_run and step is not Step.ROLLBACK
        async with _both(source, from_ledger, target, to_ledger, alone=planning) as (start, end):
            from jobbus.movable import MOVABLE
            from jobbus.services.move import Move, Scope

            moving = Move(start, end, Scope(queues=queues, states=states or MOVABLE))
            way = (start.location, end.location)
            match step:
                case Step.VERIFY:
                    _check(cli, await moving.verify())
                case Step.FINISH:
                    _check(cli, await moving.verify())
                    cli.console.note(f"forgot {counted(await moving.finish(), 'line')}")
                case Step.ROLLBACK:
                    await _roll_back(cli, moving, way, yes=yes, dry_run=dry_run)
                case _:
                    await _move(
                        cli, moving, way, yes=yes, dry_run=dry_run,
                        bridge=bridge, until_drained=until_drained,
                    )  # fmt: skip

    cli.run(work())


def _one_of(steps: Sequence[Step], *, until_drained: bool) -> Step | None:
    if len(steps) > 1:
        raise BadUsage(f"{' and '.join(steps)} do not go together", fix="one after the other")
    if until_drained and steps != [Step.BRIDGE]:
        raise BadUsage("--until-drained belongs to --bridge")
    return steps[0] if steps else None


def _states(words: Sequence[str]) -> frozenset[JobState]:
    from jobbus.job import JobState

    found = values.parse_states(words)
    if JobState.RUNNING in found:
        raise BadUsage("running jobs do not move", why="they end where they are")
    return found


# the two ends


@asynccontextmanager
async def _both(
    source: str, from_ledger: str | None, target: str, to_ledger: str | None, *, alone: bool
) -> AsyncIterator[tuple[End, End]]:
    """The two ends, open; with ``alone`` only the one that jobs leave, since opening may create."""
    from jobbus.services.move_ends import end_of

    async with contextlib.AsyncExitStack() as stack:
        old = _queue("--from", source, from_ledger)
        new = _queue("--to", target, to_ledger)
        refuse_missing_file(old)
        ends = end_of(old, place_of(old)), end_of(new, place_of(new))
        if ends[0].location == ends[1].location:
            raise BadUsage("--from and --to are the same place", why=ends[0].location)
        for queue in (old,) if alone else (old, new):
            stack.push_async_callback(queue.close)
            await queue.open()
        yield ends


def _queue(option: str, address: str, ledger: str | None) -> BackgroundJobQueue:
    from jobbus.cli.connecting import settings_for
    from jobbus.settings import create_queue

    settings = settings_for(Shared(backend=address, ledger=ledger or "none"))
    if settings.provider == "memory":
        raise BadUsage(f"{option} memory is a queue inside one process: there is nothing to move")
    return create_queue(settings)


# moving


async def _move(
    cli: Cli, moving: Move, way: tuple[str, str], *, yes: bool, dry_run: bool, bridge: bool,
    until_drained: bool,
) -> None:  # fmt: skip
    plan = await moving.plan()
    total = sum(plan.moving.values())
    if dry_run or not yes:
        _show_plan(cli, plan, way, dry_run=dry_run)
    if not confirm(cli, f"move {counted(total, 'job')}", yes=yes, dry_run=dry_run):
        return
    if bridge:
        await _bridge(cli, moving, until_drained=until_drained)
        return
    _report(cli, await moving.once())


async def _bridge(cli: Cli, moving: Move, *, until_drained: bool) -> None:
    """Move again and again. An outage of either side is waited out."""
    cli.console.note("bridging; stop it with Ctrl-C or SIGTERM")
    task = asyncio.ensure_future(_keep_moving(cli, moving, until_drained=until_drained))
    loop = asyncio.get_running_loop()
    numbers = (signal.SIGTERM, signal.SIGINT)
    for number in numbers:
        loop.add_signal_handler(number, task.cancel)
    try:
        with contextlib.suppress(asyncio.CancelledError):
            await task
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)


async def _keep_moving(cli: Cli, moving: Move, *, until_drained: bool) -> None:
    pause, total = _PAUSES[0], 0
    while True:
        try:
            result = await moving.once()
        except BackendError as error:
            cli.console.note(f"not now, trying again: {error}")
            await asyncio.sleep(pause)
            continue
        total += result.moved
        if result.moved:
            cli.console.note(f"moved {counted(result.moved, 'job')}, {total:,} in all")
            pause = _PAUSES[0]
        if until_drained and (await moving.plan()).drained:
            cli.console.note("the old one is drained")
            return
        await asyncio.sleep(pause)
        pause = min(2 * pause, _PAUSES[1])


async def _roll_back(
    cli: Cli, moving: Move, way: tuple[str, str], *, yes: bool, dry_run: bool
) -> None:
    verdict = await moving.verify()
    what = f"bring back up to {counted(verdict.moved + verdict.unsent, 'job')} to {way[0]}"
    if confirm(cli, what, yes=yes, dry_run=dry_run):
        _report(cli, await moving.roll_back())


# telling


def _show_plan(cli: Cli, plan: Plan, way: tuple[str, str], *, dry_run: bool) -> None:
    shape = {
        "from": way[0],
        "to": way[1],
        "moving": [
            {"queue": queue, "state": state.value, "jobs": number}
            for (queue, state), number in sorted(plan.moving.items())
        ],
        "staying": [
            {"queue": queue, "reason": reason, "jobs": number}
            for (queue, reason), number in sorted(plan.staying.items())
        ],
        "notes": list(plan.notes),
    }
    if dry_run:
        cli.console.record(shape, lambda: _plan_page(cli, shape))
    else:
        _plan_page(cli, shape)


def _plan_page(cli: Cli, shape: Mapping[str, Any]) -> None:
    note = cli.console.note
    note(f"from {shape['from']} to {shape['to']}")
    for line in shape["moving"]:
        note(f"  {line['jobs']:>9,}  {line['state']} of queue {line['queue']}")
    for line in shape["staying"]:
        note(f"  {line['jobs']:>9,}  stay in queue {line['queue']}: {line['reason']}")
    for text in shape["notes"]:
        note(f"  note: {text}")
    if not shape["moving"]:
        note("  nothing is to be moved")


def _report(cli: Cli, result: Moved) -> None:
    def page() -> None:
        cli.console.note(f"moved {counted(result.moved, 'job')}")
        for (queue, why), number in sorted(result.apart.items()):
            cli.console.note(f"  {number:,} stay among the dead letters of queue {queue}: {why}")
        for word, reasons in (("stays", result.staying), ("refused", result.refused)):
            for job_id, why in list(reasons.items())[:_SHOWN]:
                cli.console.note(f"  {job_id} {word}: {why}")
            if len(reasons) > _SHOWN:
                cli.console.note(f"  and {len(reasons) - _SHOWN:,} more ({word})")

    cli.console.record(
        {
            "moved": result.moved,
            "staying": result.staying,
            "refused": result.refused,
            "apart": [
                {"queue": queue, "reason": why, "messages": number}
                for (queue, why), number in sorted(result.apart.items())
            ],
            "homeless": sorted(result.homeless),
        },
        page,
    )
    if result.homeless:
        raise CommandFailed(
            f"{counted(len(result.homeless), 'job')} can live in neither place; they wait in the "
            "journal of the old one",
            why=next(iter(result.refused.values()), ""),
            fix="mend the reason, and move again",
        )


def _check(cli: Cli, verdict: Verdict) -> None:
    left = sum(verdict.left.values())

    def page() -> None:
        note = cli.console.note
        there = "the target cannot say" if verdict.found is None else f"{verdict.found:,} are there"
        note(f"{counted(verdict.moved, 'job')} moved; {there}")
        note(f"{counted(verdict.unsent, 'job')} on the way; {left:,} left in the old one")
        if verdict.elsewhere:
            note(f"the journal also tells of {counted(verdict.elsewhere, 'move')} to other places")

    cli.console.record(
        {
            "moved": verdict.moved,
            "found": verdict.found,
            "missing": list(verdict.missing),
            "unsent": verdict.unsent,
            "elsewhere": verdict.elsewhere,
            "left": left,
            "equal": verdict.equal,
        },
        page,
    )
    if not verdict.equal:
        raise CommandFailed(
            "the counts are not equal",
            why=f"{counted(len(verdict.missing), 'job')} not found at the target, first "
            f"{verdict.missing[0]}: deleted there since, or lost"
            if verdict.missing
            else f"{counted(verdict.unsent, 'job')} did not arrive yet",
            fix="" if verdict.missing else "run the move again: it goes on where it was",
        )
