"""How jobs leave a SQL ledger for another store, and how they come from one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace

from jobbus.errors import JobbusError
from jobbus.message import Capabilities
from jobbus.movable import Departure, JobRecord, TakenOut
from jobbus.store import JobFilter

from . import transfer
from .checks import check_message
from .ledger import SqlLedger
from .moving import column
from .program import Call, Program, Rows


class SqlMovable(SqlLedger, ABC):
    """Implements :class:`~jobbus.movable.Movable` by running programs."""

    @property
    @abstractmethod
    def capabilities(self) -> Capabilities: ...

    async def take_out(
        self, where: JobFilter, *, to: str, limit: int, after: str | None = None
    ) -> TakenOut:
        from . import queries

        sql, parameters = queries.following(
            where, limit=limit, after=after, scope=self._scope, naming=self.naming
        )

        def make() -> Program[TakenOut]:
            ids = column((yield Call("find", parameters, sql)))
            taken = yield from transfer.take_out(ids, where.states, to=to, scope=self._scope)
            return replace(taken, cursor=ids[-1] if len(ids) == limit else None)

        return await self._run(make)

    async def take_in(
        self, records: Sequence[JobRecord], *, origin: str | None
    ) -> Mapping[str, str]:
        if not records:
            return {}
        unfit = {}
        for record in records:
            try:
                check_message(record.message(), self.capabilities)
            except JobbusError as error:
                unfit[record.job.id] = str(error)
        refused = await self._run(
            lambda: transfer.take_in(records, origin=origin, refused=dict(unfit), scope=self._scope)
        )
        self._announce_ready({record.job.queue for record in records})
        return refused

    async def departures(
        self, *, limit: int, after: str | None = None, ids: Sequence[str] | None = None
    ) -> Sequence[Departure]:
        return await self._run(
            lambda: transfer.departures(limit=limit, after=after, ids=ids), write=False
        )

    async def note_arrival(self, job_ids: Sequence[str]) -> None:
        await self._run(lambda: _rows(Call("note_arrival", {"ids": list(job_ids)})))

    async def forget_departures(self, job_ids: Sequence[str]) -> None:
        await self._run(lambda: _rows(Call("forget_departures", {"ids": list(job_ids)})))


def _rows(statement: Call) -> Program[Rows]:
    return (yield statement)
