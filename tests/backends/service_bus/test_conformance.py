"""The specification, through the vendor's SDK, on the emulator and its clock."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest

from jobbus.queue import BackgroundJobQueue
from jobbus.testing import QueueConformance
from tests.backends.service_bus.conftest import LOCK
from tests.emulators.servicebus import Emulator


class OnTheEmulator:
    """Its clock, and leases of its one length."""

    silence = timedelta(milliseconds=30)
    # A lease is the queue's lock, whatever was asked for.
    short_lease = LOCK
    long_lease = LOCK
    short_delay = timedelta(seconds=20)
    long_delay = timedelta(days=3)
    tick = timedelta(milliseconds=50)
    emulator: Emulator

    @pytest.fixture(autouse=True)
    def _clock(self, emulator: Emulator) -> None:
        type(self).emulator = emulator

    async def pass_time(self, queue: BackgroundJobQueue, delta: timedelta) -> None:
        self.emulator.advance(delta)

    def now(self, queue: BackgroundJobQueue) -> datetime:
        return self.emulator.now()


class TestAzureServiceBusQueue(OnTheEmulator, QueueConformance):
    """A bare broker: no ledger, no groups, no priorities."""
