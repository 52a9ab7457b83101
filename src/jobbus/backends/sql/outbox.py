"""The outbox of a SQL ledger: every verb of :class:`~jobbus.store.Outbox`."""

from __future__ import annotations

import contextlib
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

from jobbus.errors import BackendUnavailable, Unsupported
from jobbus.ids import parse_id
from jobbus.message import DeadLetter, Delivery
from jobbus.store import HandOver, NamesJob

from . import claims, maintenance, relaying
from .identity import RELAY
from .movable import SqlMovable
from .moving import column
from .news import News
from .program import Call, Program
from .rows import NO_TICKETS, Tickets, deliveries_from

if TYPE_CHECKING:
    from .program import Rows

MIN_LEASE: Final = timedelta(seconds=1)


class SqlOutbox(SqlMovable, ABC):
    """Hands jobs over to a broker, and starts those whose messages come back from it."""

    def __init__(self) -> None:
        super().__init__()
        self._news = News()
        self._claims = claims.ClaimBook()
        self._kind = ""
        """In front of the name under which this process is listed."""

    @abstractmethod
    async def _registered(self) -> int:
        """The number of this worker in the ledger."""

    @abstractmethod
    async def look_after(self) -> None: ...

    @abstractmethod
    def _until_look(self) -> float:
        """Seconds until something is to be looked at."""

    @abstractmethod
    def _listening(self) -> AbstractContextManager[None]: ...

    @abstractmethod
    async def dead_letter(self, dead: Sequence[DeadLetter]) -> Sequence[Delivery]: ...

    def await_relay(self) -> None:
        self._relayed = True

    def only_relay(self) -> None:
        self._kind = RELAY

    async def waiting_queues(self) -> Sequence[str]:
        return column(await self._run(lambda: _rows(Call("waiting_queues")), write=False))

    async def hand_over(
        self, queue: str, *, limit: int, within: timedelta, beside: Sequence[int] = ()
    ) -> HandOver:
        asked = relaying.Request(
            queue=queue,
            limit=limit,
            within=within,
            beside=beside,
            worker=await self._registered(),
        )
        return await self._run(lambda: relaying.hand_over(asked, self._scope), atomic=False)

    async def handed_over(self, claim: int, *, within: timedelta) -> None:
        lease_ms = round(within.total_seconds() * 1000)
        statement = Call("extend", {"claims": [claim], "lease_ms": lease_ms})
        await self._run(lambda: _rows(statement), atomic=False)

    async def put_back(self, claim: int, job_ids: Sequence[str]) -> None:
        await self._run(lambda: maintenance.put_back([(job_id, claim) for job_id in job_ids]))

    async def start(
        self, tickets: Sequence[NamesJob], *, queue: str, lease: timedelta
    ) -> Sequence[Delivery]:
        if lease < MIN_LEASE:
            raise Unsupported(f"a lease must last at least {MIN_LEASE}, not {lease}")
        wanted = {
            (ticket.job_id, ticket.attempts): ticket
            for ticket in tickets
            if parse_id(ticket.job_id) == ticket.job_id  # the database would choke on others
        }
        if not wanted:
            return []
        worker = await self._registered()
        asked = time.monotonic()
        rows = await self._run(
            lambda: relaying.start(
                list(wanted), queue=queue, worker=worker, lease=lease, scope=self._scope
            ),
            atomic=False,
        )
        return await self._opened(rows, queue, asked, wanted)

    async def _opened(
        self, rows: Rows, queue: str, asked: float, tickets: Tickets = NO_TICKETS
    ) -> list[Delivery]:
        """The deliveries of claimed rows; what cannot be read goes to the dead letters."""
        deliveries, unreadable = deliveries_from(rows, queue, asked, self.dialect, tickets)
        self._claims.opened([*deliveries, *(dead.delivery for dead in unreadable)])
        if unreadable:
            with contextlib.suppress(BackendUnavailable):  # then they come again
                await self.dead_letter(unreadable)
        return deliveries

    async def _with_broker(self, queue: str) -> tuple[int, float | None]:
        """Jobs handed over and not started: how many, and for how many ms the oldest is due."""
        rows = await self._run(lambda: _rows(Call("handed_depth", {"queue": queue})), write=False)
        return int(rows[0][0]), rows[0][1]

    @property
    def news(self) -> int:
        return self._news.version

    async def await_news(self, seen: int, longest: timedelta) -> None:
        pause = max(min(self._until_look(), longest.total_seconds()), 0.001)
        with self._listening():
            await self._news.wait(seen, pause)


def _rows(statement: Call) -> Program[Sequence[tuple[Any, ...]]]:
    return (yield statement)
