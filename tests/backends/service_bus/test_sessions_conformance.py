"""The specification on queues that require sessions: groups keep their order."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import ClassVar

import pytest_asyncio

from jobbus.backends.azure_service_bus import AzureServiceBusQueue
from jobbus.testing import QueueConformance
from tests.backends.service_bus.places import SessionNamespace
from tests.backends.service_bus.test_conformance import OnTheEmulator
from tests.emulators.servicebus import Emulator


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def opened(
    emulator: Emulator,
) -> AsyncIterator[tuple[SessionNamespace, AzureServiceBusQueue]]:
    """A queue object for all cases: opening and closing one takes the SDK a second."""
    namespace = SessionNamespace(emulator)
    queue = namespace.connect()
    await queue.open()
    yield namespace, queue
    await queue.close()


class TestQueueThatRequiresSessions(OnTheEmulator, QueueConformance):
    """Groups in order; all else as on the other queues."""

    silence: ClassVar[timedelta] = timedelta(milliseconds=200)

    @pytest_asyncio.fixture(loop_scope="module")
    async def queue(
        self, opened: tuple[SessionNamespace, AzureServiceBusQueue]
    ) -> AzureServiceBusQueue:
        namespace, queue = opened
        namespace.reset()
        return queue
