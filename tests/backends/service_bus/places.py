"""Queues that require sessions, for one test each."""

from __future__ import annotations

import asyncio
import secrets
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from jobbus.backends.azure_service_bus import AzureServiceBusQueue
from jobbus.errors import BackendUnavailable
from jobbus.message import Delivery
from tests.emulators.servicebus import Emulator

LOCK = timedelta(seconds=60)
PATIENCE = timedelta(seconds=20)
SILENCE = timedelta(milliseconds=700)
"""Longer than it takes to open a link."""
QUEUES = ("default", "mail", "video")


@dataclass(frozen=True)
class SessionNamespace:
    """New queues on the emulator, under a prefix of their own."""

    emulator: Emulator
    lock: timedelta = LOCK
    names: tuple[str, ...] = QUEUES
    prefix: str = field(default_factory=lambda: f"grouped-{secrets.token_hex(4)}-")

    def __post_init__(self) -> None:
        for name in self.names:
            self.emulator.create_queue(
                f"{self.prefix}{name}",
                lock_duration=self.lock,
                max_delivery_count=100,
                requires_session=True,
                partitioned=True,
            )

    @property
    def default(self) -> str:
        """The name of the queue ``default`` there."""
        return f"{self.prefix}default"

    def connect(self, **options: Any) -> AzureServiceBusQueue:
        """A queue object, unopened."""
        given = {"sessions": True, "lock_duration": self.lock, **options}
        return AzureServiceBusQueue(
            self.emulator.connection_string,
            queue_prefix=self.prefix,
            clock=self.emulator.now,
            **given,
        )

    def reset(self) -> None:
        """Remove all messages, and end every lease and every session's lock."""
        for name in self.names:
            self.emulator.purge(f"{self.prefix}{name}")
        self.emulator.advance(self.lock * 1.1)

    def delete(self) -> None:
        for name in self.names:
            self.emulator.delete_queue(f"{self.prefix}{name}")


async def one(queue: AzureServiceBusQueue) -> Delivery:
    [delivery] = await queue.receive("default", limit=1, wait=PATIENCE, lease=LOCK)
    return delivery


async def nothing(queue: AzureServiceBusQueue) -> bool:
    return not await queue.receive("default", limit=5, wait=SILENCE, lease=LOCK)


async def several(queue: AzureServiceBusQueue, number: int) -> list[Delivery]:
    held: list[Delivery] = []
    async with asyncio.timeout(PATIENCE.total_seconds()):
        while len(held) < number:
            left = number - len(held)
            held += await queue.receive("default", limit=left, wait=PATIENCE, lease=LOCK)
    return held


async def patiently(queue: AzureServiceBusQueue) -> Delivery:
    """The next delivery, once the links that were cut are opened again."""
    async with asyncio.timeout(30):
        while True:
            try:
                return await one(queue)
            except BackendUnavailable:
                await asyncio.sleep(0.05)
