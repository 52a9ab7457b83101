"""How jobs leave Redis for another store, and how they come from one: a script for each step."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from jobbus.backends.sql.checks import check_message
from jobbus.backends.sql.rows import mended, unique_lock
from jobbus.errors import JobbusError
from jobbus.job import JobState
from jobbus.message import Capabilities
from jobbus.movable import Departure, JobRecord, TakenOut, in_order
from jobbus.store import JobFilter

from . import finding
from .connection import Argument
from .ledger import RedisLedger, known_ids, steps
from .whole import arrival_arguments, departure_from

_LEAVING: Final = 200
"""Jobs that one script takes out."""
_LINES: Final = 100
"""Lines of the journal that one script answers."""
_COMING: Final = 100
"""Jobs that one script takes in."""


class RedisMovable(RedisLedger, ABC):
    """Implements :class:`~jobbus.movable.Movable`.

    The journal is the jobs themselves, under other keys: no moment lies between leaving and being
    written down.
    """

    @property
    @abstractmethod
    def capabilities(self) -> Capabilities: ...

    @abstractmethod
    def _announce_arrivals(self) -> None:
        """Wake whoever waits here."""

    async def take_out(
        self, where: JobFilter, *, to: str, limit: int, after: str | None = None
    ) -> TakenOut:
        where = replace(where, states=where.states - {JobState.RUNNING})
        if not where.states or finding.impossible(where):
            return TakenOut()
        await self._resolve()
        conditions = json.dumps(finding.conditions_of(where))
        records: list[JobRecord] = []
        staying: dict[str, str] = {}
        while (left := limit - len(records) - len(staying)) > 0:
            index, page = finding.index_behind(where, after)
            reached, held_back, lines = await self._link.run(
                "take_out", index, _behind(after), page, min(left, _LEAVING), conditions, mended(to)
            )
            records += [departure_from(line).record for line in lines]
            words = [word.decode() for word in held_back]
            staying |= dict(zip(words[::2], words[1::2], strict=True))
            after = reached.decode() or None
            if after is None:
                break
        return TakenOut(records=records, staying=staying, cursor=after)

    async def take_in(
        self, records: Sequence[JobRecord], *, origin: str | None
    ) -> Mapping[str, str]:
        refused: dict[str, str] = {}
        fit: list[JobRecord] = []
        for record in in_order(records):
            try:
                check_message(record.message(), self.capabilities)
            except JobbusError as error:
                refused[record.job.id] = str(error)
            else:
                fit.append(record)
        for start in range(0, len(fit), _COMING):
            refused |= await self._take_in(fit[start : start + _COMING], origin)
        await self._resolve()
        self._announce_arrivals()
        return refused

    async def _take_in(self, records: Sequence[JobRecord], origin: str | None) -> dict[str, str]:
        arguments: list[Argument] = ["" if origin is None else mended(f"from {origin}")]
        for record in records:
            arguments += arrival_arguments(record)
        known = {record.job.id: record for record in records}
        return {
            id.decode(): _refusal(known[id.decode()], why, other.decode())
            for id, why, other in await self._link.run("take_in", *arguments)
        }

    async def departures(
        self, *, limit: int, after: str | None = None, ids: Sequence[str] | None = None
    ) -> Sequence[Departure]:
        if ids is not None:
            return await self._named_departures(ids, after, limit)
        found: list[Departure] = []
        while (wanted := min(limit - len(found), _LINES)) > 0:
            lines = await self._link.run("departures", _behind(after), wanted)
            found += [departure_from(line) for line in lines]
            if len(lines) < wanted:
                break
            after = found[-1].record.job.id
        return found

    async def _named_departures(
        self, ids: Sequence[str], after: str | None, limit: int
    ) -> list[Departure]:
        known = sorted({one for one in known_ids(ids).values() if after is None or one > after})
        found: list[Departure] = []
        for start in range(0, len(known), _LINES):
            lines: list[Any] = await self._link.run(
                "departures", "-", _LINES, *known[start : start + _LINES]
            )
            found += [departure_from(line) for line in lines]
            if len(found) >= limit:
                break
        return found[:limit]

    async def note_arrival(self, job_ids: Sequence[str]) -> None:
        for some in steps(list(known_ids(job_ids).values())):
            await self._link.run("note_arrival", *some)

    async def forget_departures(self, job_ids: Sequence[str]) -> None:
        for some in steps(list(known_ids(job_ids).values())):
            await self._link.run("forget_departures", *some)


def _behind(job_id: str | None) -> str:
    """Where a page of an index begins."""
    return "-" if job_id is None else f"({job_id}"


def _refusal(record: JobRecord, why: bytes, other: str) -> str:
    if why == b"key":
        return f"job {other} holds its unique key {unique_lock(record.message())!r} here"
    return f"it waits for job {other}, which is not here"
