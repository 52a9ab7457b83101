"""Where relay tests play: one broker, one ledger, any number of processes on both."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

from jobbus.backends.memory import MemoryQueue
from jobbus.backends.sqlite import SqliteQueue
from jobbus.job import Job, JobState
from jobbus.message import Delivery, Message
from jobbus.testing.broker import BareBroker, Weather
from jobbus.testing.clock import VirtualClock
from jobbus.tracked import TrackedQueue

PATIENCE: Final = timedelta(seconds=15)
AT_ONCE: Final = timedelta(0)
LEASE: Final = timedelta(seconds=60)


class Stage:
    """Virtual time; the broker outlives every process that uses it."""

    def __init__(self, path: Path, clock: VirtualClock) -> None:
        self.path = path
        self.clock = clock
        self.weather = Weather()
        self._broker = MemoryQueue(clock=clock)
        self._open: list[Any] = []

    async def process(self, *, relays: bool = True) -> TrackedQueue:
        """A queue with connections of its own, as each process has."""
        if not self._open:
            await self._broker.open()
            self._open.append(self._broker)
        queue = TrackedQueue(
            BareBroker(self._broker.separate(), self.weather),
            SqliteQueue(self.path, clock=self.clock, synchronous="NORMAL"),
            relays=relays,
        )
        await queue.open()
        self._open.append(queue)
        return queue

    async def close(self) -> None:
        for queue in reversed(self._open):
            await queue.close()

    def pass_time(self, span: timedelta) -> None:
        self.clock.advance(span)

    async def at_broker(self) -> int:
        """Messages that the broker still has, those in somebody's hands included."""
        depth = await self._broker.get_queue_depth("default")
        return depth.ready + (depth.leased or 0) + (depth.delayed or 0)

    @property
    def sent(self) -> list[str]:
        """Ids of the messages that the broker was given, in order."""
        return [message.id for message in self.weather.accepted]


async def take(
    queue: TrackedQueue, limit: int = 10, *, wait: timedelta = AT_ONCE, name: str = "default"
) -> Sequence[Delivery]:
    """What a worker gets."""
    return await queue.receive(name, limit=limit, wait=wait, lease=LEASE)


async def take_one(queue: TrackedQueue, *, name: str = "default") -> Delivery:
    """The delivery that must come."""
    [delivery] = await take(queue, 1, wait=PATIENCE, name=name)
    return delivery


async def job(queue: TrackedQueue, wanted: Message | Delivery) -> Job:
    """The job as the ledger has it."""
    found = await queue.get(wanted.job_id)
    assert found is not None
    return found


async def state(queue: TrackedQueue, wanted: Message | Delivery) -> JobState:
    return (await job(queue, wanted)).state


async def until_cancelled(task: asyncio.Task[Any]) -> None:
    """End a task that runs for ever."""
    task.cancel()
    await asyncio.wait({task})
