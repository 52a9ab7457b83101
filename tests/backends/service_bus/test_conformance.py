"""The specification, through the vendor's SDK, on the emulator and its clock."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import ClassVar

import pytest

from jobbus.queue import BackgroundJobQueue
from jobbus.testing import QueueConformance
from tests.backends.service_bus.places import LOCK
from tests.emulators.servicebus import Emulator


class OnTheEmulator:
    """Its clock, and leases of its one length."""

    silence: ClassVar[timedelta] = timedelta(milliseconds=30)
    # A lease is the queue's lock, whatever was asked for.
    short_lease: ClassVar[timedelta] = LOCK
    long_lease: ClassVar[timedelta] = LOCK
    short_delay: ClassVar[timedelta] = timedelta(seconds=20)
    long_delay: ClassVar[timedelta] = timedelta(days=3)
    tick: ClassVar[timedelta] = timedelta(milliseconds=50)
    emulator: ClassVar[Emulator]

    @pytest.fixture(autouse=True)
    def _clock(self, emulator: Emulator) -> None:
        type(self).emulator = emulator

    async def pass_time(self, queue: BackgroundJobQueue, delta: timedelta) -> None:
        self.emulator.advance(delta)

    def now(self, queue: BackgroundJobQueue) -> datetime:
        return self.emulator.now()


class TestAzureServiceBusQueue(OnTheEmulator, QueueConformance):
    """A bare broker: no ledger, no groups, no priorities."""
