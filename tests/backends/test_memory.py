"""The specification, in memory and virtual time."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from jobbus.backends.memory import MemoryQueue
from jobbus.testing import QueueConformance, StoreConformance, VirtualClock, VirtualTime


class InMemory(VirtualTime):
    """A fresh memory for every case."""

    @pytest.fixture
    async def queue(self) -> AsyncIterator[MemoryQueue]:
        self.clock = VirtualClock()
        queue = MemoryQueue(clock=self.clock)
        await queue.open()
        yield queue
        await queue.close()


class TestMemoryQueue(InMemory, QueueConformance):
    """A queue."""


class TestMemoryStore(InMemory, StoreConformance):
    """And a ledger."""
