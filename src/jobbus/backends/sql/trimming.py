"""Keeps the newest ended jobs of each queue: to the job in a small table, nearly so in a large one.

No index leads to ended jobs in the order of their ends: it would cost every completion. A small
table is ranked as a whole each time. A large one is walked in pages, and only once so many jobs
have come that a deletion may be due, so that measuring costs no more than deleting does.
"""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Protocol, TypeVar

from jobbus.job import DEAD

from .moving import column
from .program import Call, Program, Rows
from .steering import delete
from .tally import FIRST, Limits, Tally, crossing

T = TypeVar("T")
SMALL: Final = 10_000
"""Jobs up to which a table is ranked as a whole; in a larger one, jobs of a page of the walk."""
COARSE: Final = timedelta(minutes=1)
FINE: Final = timedelta(milliseconds=60)
"""Intervals by which a walk counts: by the long ones first, then within the one of the limit."""
SHARE: Final = 100
"""All workers together measure for one part in so many of the time, at the most."""
LONGEST: Final = 3600.0
"""Seconds after which a large table is measured anyway: jobs that were moved in have old ids."""
EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
NEVER: Final = datetime(3000, 1, 1, tzinfo=UTC)


class Runner(Protocol):
    """Runs a program, in a transaction when it writes."""

    def __call__(
        self, make: Callable[[], Program[T]], *, write: bool = True, atomic: bool = True
    ) -> Awaitable[T]: ...


@dataclass(slots=True)
class _Measured:
    """What is known of a large table since it was walked."""

    at: float
    took: float
    """Seconds, if all workers measured one after the other."""
    reached: str
    """The last id there was."""
    room: dict[str, float]
    """By queue, how many jobs may come, or end, before a deletion can be due."""
    fresh: float
    """The same for a queue without jobs."""
    cuts: dict[str, datetime]
    """By queue, the moment before which everything that ended is beyond its limits."""
    deleted_to: str = FIRST
    """The id behind which deleting goes on."""


class Trimming:
    """Deletes what is beyond the limits of one store, and knows when to look."""

    def __init__(self, run: Runner, moment: Callable[[datetime], Any]) -> None:
        """``moment`` makes a parameter of a time."""
        self._run = run
        self._moment = moment
        self._measured: dict[Limits, _Measured] = {}

    async def trim(self, limits: Limits, limit: int) -> int:
        """Delete some of what is beyond; 0 when nothing is to be done by now."""
        dead = limits.states <= DEAD
        jobs = Call("some_dead" if dead else "some_jobs", {"cap": SMALL + 1})
        [[number]] = await self._run(lambda: _rows(jobs), write=False)
        if number <= SMALL:
            self._measured.pop(limits, None)
            return await self._delete_surplus(limits, limit, dead=dead)
        removed = await self._delete_beyond(limits, limit)
        if not removed and await self._due(limits):
            self._measured[limits] = await self._measure(limits)
            removed = await self._delete_beyond(limits, limit)
        return removed

    async def _delete_surplus(self, limits: Limits, limit: int, *, dead: bool) -> int:
        """Rank all there is, beside the writers, and delete the oldest beyond."""
        asked = {"count": limits.count, "bytes": limits.size, "limit": limit}
        rows = await self._page("surplus_dead" if dead else "surplus", asked, limits)
        return await self._delete(column(rows), limits)

    async def _delete_beyond(self, limits: Limits, limit: int) -> int:
        """Go on deleting what the last measurement found, to the first page with something."""
        known = self._measured.get(limits)
        while known is not None and known.cuts:
            cuts = [
                {"queue": queue, "before_ms": (before - EPOCH) // timedelta(milliseconds=1)}
                for queue, before in known.cuts.items()
            ]
            asked = {"cuts": cuts, "after": known.deleted_to, "limit": limit}
            rows = await self._page("beyond", asked, limits)
            ids = [job_id for job_id, length in rows if length is None]
            end = [(job_id, length) for job_id, length in rows if length is not None]
            known.deleted_to = end[0][0] if end else FIRST
            if not end or end[0][1] < limit:
                known.cuts, known.deleted_to = {}, FIRST
            if removed := await self._delete(ids, limits):
                return removed
        return 0

    async def _delete(self, ids: Sequence[str], limits: Limits) -> int:
        return await self._run(functools.partial(_delete, ids, limits)) if ids else 0

    async def _due(self, limits: Limits) -> bool:
        """Whether enough to delete may be there by now, and measuring took not long just before."""
        known = self._measured.get(limits)
        if known is None:
            return True
        passed = time.monotonic() - known.at
        if passed < SHARE * known.took:
            return False
        came = await self._walk(limits, after=known.reached)
        known.reached = came.reached
        for queue in came.queues:
            number = came.total(queue)[0] + came.unfinished[queue]
            known.room[queue] = known.room.get(queue, known.fresh) - number
        return passed > LONGEST or any(room < 0 for room in known.room.values())

    async def _measure(self, limits: Limits) -> _Measured:
        began = time.monotonic()
        tally = await self._walk(limits)
        cuts: dict[str, datetime] = {}
        room: dict[str, float] = {}
        for queue in tally.queues:
            kept = tally.total(queue)
            if limits.clearly_beyond(*kept):
                cuts[queue], kept = await self._cut(limits, queue, tally)
            room[queue] = limits.room(*kept, tally.average) - tally.unfinished[queue]
        ended = time.monotonic()
        took = (ended - began) * await self._workers()
        fresh = limits.room(0, 0, tally.average)
        return _Measured(ended, took, tally.reached, room, fresh, cuts)

    async def _workers(self) -> int:
        """How many processes measure, this one among them."""
        rows = await self._run(lambda: _rows(Call("workers")), write=False)
        return max(sum(bool(row[-1]) for row in rows), 1)

    async def _cut(
        self, limits: Limits, queue: str, tally: Tally
    ) -> tuple[datetime, tuple[int, int]]:
        """The moment before which everything of the queue is beyond, and what it leaves."""
        coarse = crossing(tally.ended[queue], limits)
        if coarse is None:
            raise AssertionError("what is clearly beyond a limit crosses it")
        start = EPOCH + coarse.interval * COARSE
        if not limits.clearly_beyond(*coarse.kept):
            return start, coarse.kept
        within = await self._walk(limits, width=FINE, since=start, until=start + COARSE)
        fine = crossing(within.ended[queue], limits.beside(*coarse.newer))
        if fine is None:  # somebody deleted meanwhile
            return start, coarse.kept
        jobs, size = (a + b for a, b in zip(coarse.newer, fine.kept, strict=True))
        return EPOCH + fine.interval * FINE, (jobs, size)

    async def _walk(
        self,
        limits: Limits,
        *,
        after: str = FIRST,
        width: timedelta = COARSE,
        since: datetime = EPOCH,
        until: datetime = NEVER,
    ) -> Tally:
        """Count through the table behind an id, a page at a time."""
        tally = Tally(reached=after)
        asked = {
            "width_ms": width // timedelta(milliseconds=1),
            "since": self._moment(since),
            "until": self._moment(until),
            "limit": SMALL,
        }
        while True:
            rows = await self._page("tally", {**asked, "after": tally.reached}, limits)
            if tally.add(rows) < SMALL:
                return tally

    async def _page(self, name: str, asked: dict[str, Any], limits: Limits) -> Sequence[Any]:
        """Read a page, and rest for as long as it took: jobs go first."""
        statement = Call(name, {**asked, "states": sorted(limits.states)})
        began = time.monotonic()
        rows = await self._run(lambda: _rows(statement), write=False)
        await asyncio.sleep(time.monotonic() - began)
        return rows


def _rows(statement: Call) -> Program[Rows]:
    return (yield statement)


def _delete(ids: Sequence[str], limits: Limits) -> Program[int]:
    """Delete those that nobody waits for; somebody may have redriven others meanwhile."""
    asked = {"ids": list(ids), "states": sorted(limits.states)}
    free = column((yield Call("deletable", asked)))
    return len((yield from delete(free)))
