"""Tasks that are told to end do end, also when the first word is lost."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import pytest

from jobbus.message import Delivery
from jobbus.testing import make
from jobbus.worker.ending import end
from jobbus.worker.fetch import Fetcher

PATIENCE = 10.0


async def deaf(times: int) -> None:
    """Goes on so many times although it was cancelled, as ``asyncio.wait_for`` could."""
    while True:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            if times == 0:
                raise
            times -= 1


async def started(task: asyncio.Task[Any]) -> asyncio.Task[Any]:
    await asyncio.sleep(0)
    return task


async def test_a_task_that_loses_a_cancellation_is_cancelled_again() -> None:
    task = await started(asyncio.create_task(deaf(1)))
    async with asyncio.timeout(PATIENCE):
        await end([task])
    assert task.cancelled()


async def test_tasks_that_failed_or_ended_before_are_ended_too() -> None:
    async def fail() -> None:
        raise ValueError("never looked at, and never complained about")

    tasks = [asyncio.create_task(fail()), asyncio.create_task(asyncio.sleep(0))]
    await asyncio.wait(tasks)
    await end(tasks)
    await end([])


async def test_who_is_cancelled_while_it_ends_others_passes_it_on() -> None:
    task = await started(asyncio.create_task(deaf(1)))
    ending = await started(asyncio.create_task(end([task])))
    ending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await ending
    async with asyncio.timeout(PATIENCE):
        await asyncio.wait([task])
    assert task.cancelled()


class HalfDeafQueue:
    """Has something in one queue; the wait at the other loses its first cancellation."""

    def __init__(self) -> None:
        self.served = asyncio.Event()
        self.asked_again = asyncio.Event()

    async def receive(
        self, queue: str, *, limit: int, wait: timedelta, lease: timedelta
    ) -> Sequence[Delivery]:
        if not wait:
            if self.served.is_set():
                self.asked_again.set()
            return []
        if queue == "silent":
            await deaf(1)
        if self.served.is_set():
            await asyncio.Event().wait()
        self.served.set()
        return [make_delivery()]


def make_delivery() -> Delivery:
    return Delivery(message=make.message(), receipt=None, attempt=1)


async def test_a_fetcher_goes_on_when_the_wait_at_another_queue_loses_its_cancellation() -> None:
    queue: Any = HalfDeafQueue()
    fetcher = Fetcher(
        queue,
        {"busy": 1.0, "silent": 1.0},
        timedelta(seconds=60),
        room=lambda: 1,
        free=lambda: 1,
        freed=asyncio.Event(),
        deliver=lambda deliveries, *more: None,
    )
    fetching = asyncio.create_task(fetcher.run())
    async with asyncio.timeout(PATIENCE):
        await queue.asked_again.wait()
        await end([fetching])
    assert fetching.cancelled()
