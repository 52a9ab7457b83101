"""Idempotency keys in a worker: what renews them, what completes them in a transaction."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

from jobbus.errors import BackendError, ConfigurationError, LeaseLost
from jobbus.idempotency.store import Answer, IdempotencyStore, JoinsTransactions
from jobbus.message import Completion
from jobbus.middleware.idempotency import Idempotency
from jobbus.middleware.idempotency_values import KeyNotice, end_of
from jobbus.services.loop import every
from jobbus.store import JobStore

from .held import Held, Holdings, margin

if TYPE_CHECKING:
    from jobbus.bus import JobBus
    from jobbus.settings import Settings
    from jobbus.telemetry.tally import Tally

log = logging.getLogger("jobbus.worker")
_PAGE: Final = 500
_PRUNE_PAGES: Final = 10
_PROBE_INTERVAL: Final = timedelta(seconds=1)


class KeyKeeper:
    """Renews the keys of what runs: on the heartbeat's thread, on a connection of its own.

    Connects when the first key is held: a worker that never sees one pays nothing.
    """

    def __init__(
        self,
        store: IdempotencyStore,
        holdings: Holdings,
        lease: timedelta,
        tell_lost: Callable[[Held], None],
    ) -> None:
        self._store = store
        self._holdings = holdings
        self._lease = lease
        self._tell_lost = tell_lost
        self._own: IdempotencyStore | None = None

    async def run(self) -> None:
        """Renew until cancelled; apart from the queue's leases, lest a slow store cost those."""
        interval = self._lease.total_seconds() / 3
        try:
            while True:
                renewed = await self._renew_all()
                await asyncio.sleep(interval if renewed else interval / 4)
        finally:
            if self._own is not None:
                await self._own.close()

    async def _renew_all(self) -> bool:
        held = [one for one in self._holdings.snapshot() if one.hold and not one.hold_ending]
        try:
            for start in range(0, len(held), _PAGE):
                await self._renew(held[start : start + _PAGE])
        except BackendError as error:
            log.warning("idempotency keys could not be renewed, trying again: %s", error)
            return False
        except Exception:
            log.exception("renewing idempotency keys failed; it goes on")
            return False
        return True

    async def _renew(self, held: Sequence[Held]) -> None:
        if self._own is None:
            own = self._store.separate()
            await own.open()
            self._own = own
        # The lease counts from before the call: the reply may be late.
        until = time.monotonic() + (self._lease - margin(self._lease)).total_seconds()
        holds = [one.hold for one in held if one.hold is not None]
        answers = await self._own.renew(holds, self._lease)
        for one, answer in zip(held, answers, strict=True):
            if answer is Answer.OK:
                one.hold_until = max(one.hold_until, until)
            elif one.ahead is not None:
                one.hold_until = -math.inf  # to be begun again, or noticed if it began just now
            elif not one.hold_ending:
                self._tell_lost(one)


async def guard_for(
    bus: JobBus, lease: timedelta, observers: Sequence[Callable[[KeyNotice], None]]
) -> Idempotency | None:
    """The policy for a worker of this bus; None where the settings want none.

    Raises ConfigurationError where the store is not to be had or would forget keys too soon.
    """
    from jobbus.settings import check_ttl

    settings = bus.settings
    if not settings.enable_idempotency:
        return None
    if problems := check_ttl(settings, bus.queue.capabilities):
        raise ConfigurationError("\n".join(problems))
    store = await bus.idempotency_store()
    try:
        for concern in await store.concerns():
            log.warning("%s", concern)
    except BackendError as error:
        log.warning("the idempotency store could not be looked at: %s", error)
    ledger = bus.queue.capabilities.ledger
    return Idempotency(
        store,
        lease=lease,
        trusted=lease - margin(lease),
        ledger=ledger,
        waits_always=settings.idempotency_on_unavailable == "wait",
        result_of=_results(bus.store) if ledger else None,
        observers=observers,
    )


def key_services(
    guard: Idempotency, settings: Settings, found: Callable[[], None]
) -> list[Coroutine[Any, Any, None]]:
    """What goes on beside the work: looking for a store that is away, and forgetting old keys.

    ``found`` is called when the store is back.
    """

    async def look_for_idempotency_store() -> None:
        if await guard.probe():
            found()

    async def prune_idempotency_keys() -> None:
        for _ in range(_PRUNE_PAGES):
            if await guard.store.prune(limit=_PAGE) < _PAGE:
                return

    return [
        every(_PROBE_INTERVAL, look_for_idempotency_store),
        every(timedelta(seconds=settings.cleanup_interval_seconds), prune_idempotency_keys),
    ]


def counts_in(tally: Tally | None) -> list[Callable[[KeyNotice], None]]:
    """What counts the notices for whoever measures this process; nothing where nobody does."""
    if tally is None:
        return []

    def count(notice: KeyNotice) -> None:
        tally.idempotency(notice.event)

    return [count]


def _results(store: JobStore) -> Callable[[str], Awaitable[bytes | None]]:
    async def result_of(job_id: str) -> bytes | None:
        job = await store.get(job_id)
        return None if job is None else job.result

    return result_of


async def complete_key(
    store: IdempotencyStore, held: Held, done: Completion, connection: Any
) -> None:
    """Complete the key of a held delivery in a connection's transaction, if it is kept there.

    Raises LeaseLost, so that the transaction rolls back, when the key is no longer ours.
    """
    if held.hold is not None and isinstance(store, JoinsTransactions):
        held.hold_ending = True  # its row may be locked until the commit: no renewal must wait
        _check(held, await store.complete([end_of(held.hold, done)], connection=connection))


def complete_key_sync(
    store: IdempotencyStore, held: Held, done: Completion, connection: Any
) -> None:
    """:func:`complete_key` for synchronous connections."""
    if held.hold is not None and isinstance(store, JoinsTransactions):
        held.hold_ending = True
        _check(held, store.complete_sync([end_of(held.hold, done)], connection))


def _check(held: Held, answers: Sequence[Answer]) -> None:
    if list(answers) != [Answer.OK]:
        raise LeaseLost(
            f"the idempotency key of job {held.delivery.job_id} is another's by now "
            f"({answers[0]}); this attempt's writes are rolled back"
        )
