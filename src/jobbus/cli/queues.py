"""``jobbus queues``: list, pause, resume and purge."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from jobbus.cli import filters, values
from jobbus.cli.consent import confirm
from jobbus.cli.console import Column, Item
from jobbus.cli.failures import NothingFound
from jobbus.cli.options import Cli, DryRun, Yes, store_command
from jobbus.cli.root import new_group
from jobbus.cli.shapes import queue_shape
from jobbus.cli.text import counted, did_you_mean

if TYPE_CHECKING:
    from jobbus.bus import JobBus

group = new_group("List, pause, resume and purge queues.")

Name = Annotated[str, typer.Argument(metavar="QUEUE", help="The queue's name")]
_SHOWN: Final = ("queued", "running", "scheduled", "retrying", "blocked", "completed")


def _count(word: str, queue: Item) -> str:
    return f"{queue['counts'][word]:,}"


def _dead(queue: Item) -> int:
    return int(queue["counts"]["failed"] + queue["counts"]["timed_out"])


_COLUMNS: Final[Sequence[Column]] = (
    Column("QUEUE", lambda queue: queue["name"], whole=True),
    *(Column(word.upper(), partial(_count, word), right=True) for word in _SHOWN),
    Column("DEAD", lambda queue: f"{_dead(queue):,}", right=True, style="red"),
    Column(
        "PAUSED",
        lambda queue: (queue["reason"] or "yes") if queue["paused"] else "",
        style="yellow",
    ),
)


@group.command("ls")
@store_command
def ls(cli: Cli) -> None:
    """List the queues, with their jobs by state."""

    async def work() -> list[dict[str, Any]]:
        async with cli.bus() as bus:
            return [queue_shape(status) for status in await bus.queues()]

    cli.console.listing(
        "queues", cli.run(work()), _COLUMNS, empty="no queue has jobs", id_key="name"
    )


@group.command("pause")
@store_command
def pause(cli: Cli, name: Name, reason: filters.Reason = "") -> None:
    """Hand no more jobs of the queue out. Running ones go on."""
    queue = values.queue_name(name)

    async def work() -> list[str]:
        async with cli.bus() as bus:
            known = [status.name for status in await bus.queues()]
            await bus.pause(queue, reason=reason)
            return known

    known = cli.run(work())
    _report(cli, queue, paused=True)
    if queue not in known:
        cli.console.note(f"no job of queue {queue} is known so far. {did_you_mean(queue, known)}")


@group.command("resume")
@store_command
def resume(cli: Cli, name: Name) -> None:
    """Hand jobs of the queue out again."""
    queue = values.queue_name(name)

    async def work() -> None:
        async with cli.bus() as bus:
            await _refuse_unknown(bus, queue)
            await bus.resume(queue)

    cli.run(work())
    _report(cli, queue, paused=False)


def _report(cli: Cli, queue: str, *, paused: bool) -> None:
    cli.console.record(
        {"name": queue, "paused": paused},
        lambda: cli.console.note(f"queue {queue} is {'paused' if paused else 'running'}"),
        id_key="name",
    )


@group.command("purge")
@store_command
def purge(cli: Cli, name: Name, dry_run: DryRun = False, yes: Yes = False) -> None:
    """Delete all jobs of the queue that have not started. Asks for the queue's name."""
    cli.run(_purge(cli, values.queue_name(name), dry_run=dry_run, yes=yes))


async def _purge(cli: Cli, queue: str, *, dry_run: bool, yes: bool) -> None:
    purged = 0
    async with cli.bus() as bus:
        await _refuse_unknown(bus, queue)
        waiting = await _waiting(bus, queue)
        what = f"delete {counted(waiting, 'job')} of queue {queue} for good"
        agreed = confirm(cli, what, yes=yes, dry_run=dry_run, word=queue)
        if agreed:
            purged = await bus.purge(queue)
    shape = {"name": queue, "waiting": waiting, "purged": purged, "dry_run": dry_run}
    cli.console.record(
        shape,
        lambda: cli.console.note(f"deleted {counted(purged, 'job')}") if agreed else None,
        id_key="name",
    )


async def _waiting(bus: JobBus, queue: str) -> int:
    from jobbus.job import UNFINISHED, JobState

    counts = await bus.counts(queue)
    return sum(counts.get((queue, state), 0) for state in UNFINISHED - {JobState.RUNNING})


async def _refuse_unknown(bus: JobBus, queue: str) -> None:
    from jobbus.cli.connecting import describe

    known = [status.name for status in await bus.queues()]
    if queue not in known:
        raise NothingFound(
            f"there is no queue {queue}",
            why=f"{describe(bus.queue)} has {', '.join(known) or 'none at all'}",
            fix=did_you_mean(queue, known) or "`jobbus queues ls` lists them",
        )
