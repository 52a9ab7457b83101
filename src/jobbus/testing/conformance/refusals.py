"""How a queue says no: what it must answer to a request for each capability it lacks."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import pytest

from jobbus.errors import Unsupported
from jobbus.message import DEFAULT_QUEUE, NO_DELAY, Message, Priority
from jobbus.queue import BackgroundJobQueue
from jobbus.store import JobStore
from jobbus.testing.make import after, message

_LEASE: Final = timedelta(seconds=60)
_SOON: Final = timedelta(milliseconds=20)
_PATIENCE: Final = timedelta(seconds=10)


async def refuses(queue: BackgroundJobQueue, capability: str) -> None:
    """Raise AssertionError unless the queue refuses what it does not declare."""
    await _REFUSALS[capability](queue)


async def refuses_to_enqueue(queue: BackgroundJobQueue, unwanted: Message) -> None:
    """Raise AssertionError unless the message is Unsupported, and kept out altogether."""
    await _raises_unsupported(queue.enqueue([message(), unwanted]), f"enqueueing {unwanted}")
    kept = await queue.receive(DEFAULT_QUEUE, limit=2, wait=_SOON, lease=_LEASE)
    assert not kept, f"a refused enqueue left {kept}"


async def _raises_unsupported(request: Awaitable[Any], what: str) -> None:
    try:
        answer = await request
    except Unsupported:
        return
    raise AssertionError(f"{what} is not declared, and yet was answered with {answer!r}")


async def _no_priorities(queue: BackgroundJobQueue) -> None:
    await refuses_to_enqueue(queue, message(priority=Priority.HIGH))


async def _no_groups(queue: BackgroundJobQueue) -> None:
    await refuses_to_enqueue(queue, message(group="tenant-1"))


async def _no_dependencies(queue: BackgroundJobQueue) -> None:
    await refuses_to_enqueue(queue, message(depends_on=after(message())))


async def _no_unique_keys(queue: BackgroundJobQueue) -> None:
    await refuses_to_enqueue(queue, message(unique_key="report-7"))


async def _no_expiry(queue: BackgroundJobQueue) -> None:
    deadline = datetime.now(UTC) + timedelta(hours=1)
    await refuses_to_enqueue(queue, message(expires_at=deadline))


async def _no_delays(queue: BackgroundJobQueue) -> None:
    await refuses_to_enqueue(queue, message(delay=timedelta(seconds=1)))
    await refuses_to_enqueue(queue, message(run_at=datetime.now(UTC) + timedelta(hours=1)))


async def _no_transactions(queue: BackgroundJobQueue) -> None:
    await _raises_unsupported(
        queue.enqueue([message()], connection=object()), "enqueueing in a transaction"
    )
    kept = await queue.receive(DEFAULT_QUEUE, limit=1, wait=_SOON, lease=_LEASE)
    assert not kept, f"a refused enqueue left {kept}"


async def _no_extension(queue: BackgroundJobQueue) -> None:
    await queue.enqueue([message()])
    held = await queue.receive(DEFAULT_QUEUE, limit=1, wait=_PATIENCE, lease=_LEASE)
    await _raises_unsupported(queue.extend(held, _LEASE), "extending a lease")


async def _no_ledger(queue: BackgroundJobQueue) -> None:
    assert not isinstance(queue, JobStore), "it declares no ledger, and yet is a JobStore"


async def _no_promise(queue: BackgroundJobQueue) -> None:
    await queue.receive(DEFAULT_QUEUE, limit=1, wait=NO_DELAY, lease=_LEASE)
    pytest.skip("not declared, and nothing that could be refused")


_REFUSALS: Final[Mapping[str, Callable[[BackgroundJobQueue], Awaitable[None]]]] = {
    "priorities": _no_priorities,
    "ordered_groups": _no_groups,
    "dependencies": _no_dependencies,
    "unique_keys": _no_unique_keys,
    "expiry": _no_expiry,
    "delays": _no_delays,
    "transactional": _no_transactions,
    "extends_leases": _no_extension,
    "ledger": _no_ledger,
    "deduplicates": _no_promise,
    "exact_counts": _no_promise,
}
