"""Where jobs move from and to: a store, or a broker that remembers nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, cast

from jobbus.errors import Unsupported
from jobbus.movable import JobRecord, Movable, TakenOut
from jobbus.queue import BackgroundJobQueue
from jobbus.store import JobFilter, JobStore

from .move_broker import BrokerEnd


class MovableStore(BackgroundJobQueue, JobStore, Movable, Protocol):
    """A backend with a ledger from which and into which jobs can be moved."""


@dataclass(frozen=True, slots=True)
class StoreEnd:
    """A backend that remembers its jobs."""

    store: MovableStore
    location: str
    """Without secrets."""

    async def take_out(
        self, where: JobFilter, *, to: str, limit: int, after: str | None
    ) -> TakenOut:
        return await self.store.take_out(where, to=to, limit=limit, after=after)

    async def take_in(self, records: Sequence[JobRecord], *, origin: str) -> Mapping[str, str]:
        return await self.store.take_in(records, origin=origin)

    async def settle(self, arrived: Sequence[JobRecord], back: Sequence[JobRecord]) -> set[str]:
        """Note what the other end has, and take the rest home; ids of what cannot come home."""
        if arrived:
            await self.store.note_arrival([record.job.id for record in arrived])
        return set(await self.store.take_in(back, origin=None)) if back else set()

    async def let_go(self) -> None:
        """Nothing is held: what is not elsewhere is in the journal."""


End = StoreEnd | BrokerEnd


def end_of(queue: BackgroundJobQueue, location: str) -> End:
    """The kind of place that this queue is. Raises Unsupported for a ledger that nothing leaves."""
    if not queue.capabilities.ledger:
        return BrokerEnd(queue, location)
    if not isinstance(queue, Movable):
        raise Unsupported(f"jobs cannot be moved from or to {location}: it implements no Movable")
    return StoreEnd(cast(MovableStore, queue), location)
