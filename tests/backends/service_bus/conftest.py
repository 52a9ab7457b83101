"""One emulator and one event loop for a module: opening a link takes the SDK half a second."""

from __future__ import annotations

import asyncio
import gc
import inspect
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import pytest_asyncio

from jobbus.backends.azure_service_bus import AzureServiceBusQueue
from jobbus.message import NO_DELAY
from tests.backends.service_bus.places import LOCK, QUEUES, SessionNamespace
from tests.emulators.servicebus import Emulator


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        ours = "tests/backends/service_bus/" in item.path.as_posix()
        if ours:
            # The SDK leaves the sockets of connections that were cut to the garbage collector.
            for words in ("unclosed", "loop is closed"):
                item.add_marker(pytest.mark.filterwarnings(f"ignore:{words}:ResourceWarning"))
        if ours and inspect.iscoroutinefunction(getattr(item, "obj", None)):
            # In front, so that it is the one that counts.
            item.add_marker(pytest.mark.asyncio(loop_scope="module"), append=False)


@dataclass(frozen=True)
class Namespace:
    """Queues on an emulator, and the open queue object of a module."""

    emulator: Emulator
    queue: AzureServiceBusQueue

    def connect(self) -> AzureServiceBusQueue:
        """Another queue object on the same namespace, unopened."""
        return AzureServiceBusQueue(self.emulator.connection_string, clock=self.emulator.now)


@pytest.fixture(scope="module")
def emulator() -> Iterator[Emulator]:
    with Emulator() as emulator:
        for name in QUEUES:
            emulator.create_queue(name, lock_duration=LOCK, max_delivery_count=100)
        yield emulator
    gc.collect()  # while the warnings about those sockets are still ignored


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def namespace(emulator: Emulator) -> AsyncIterator[Namespace]:
    queue = AzureServiceBusQueue(emulator.connection_string, clock=emulator.now)
    await queue.open()
    yield Namespace(emulator, queue)
    await queue.close()
    gc.collect()
    await asyncio.sleep(0.01)  # transports close at the loop's next turn


@pytest_asyncio.fixture(loop_scope="module")
async def queue(namespace: Namespace) -> AzureServiceBusQueue:
    """The module's queue, with nothing in it, and nothing in the client's buffers."""
    for name in QUEUES:
        if namespace.emulator.purge(name):
            while await namespace.queue.receive(name, limit=50, wait=NO_DELAY, lease=LOCK):
                pass
    return namespace.queue


@pytest.fixture
def grouped(emulator: Emulator) -> Iterator[SessionNamespace]:
    """Queues that require sessions, empty."""
    namespace = SessionNamespace(emulator)
    yield namespace
    namespace.delete()


@pytest_asyncio.fixture(loop_scope="module")
async def consumer(grouped: SessionNamespace) -> AsyncIterator[AzureServiceBusQueue]:
    """A queue object on them."""
    queue = grouped.connect()
    await queue.open()
    yield queue
    await queue.close()


@pytest_asyncio.fixture(loop_scope="module")
async def another(grouped: SessionNamespace) -> AsyncIterator[AzureServiceBusQueue]:
    """As another process would have it."""
    queue = grouped.connect()
    await queue.open()
    yield queue
    await queue.close()


class KeptOpen:
    """A queue object that outlives the cases: opening a link takes it long."""

    def __init__(self, broker: AzureServiceBusQueue) -> None:
        self._broker = broker

    def __getattr__(self, name: str) -> Any:
        return getattr(self._broker, name)

    async def open(self) -> None:
        """It is."""

    async def close(self) -> None:
        """It stays open."""
