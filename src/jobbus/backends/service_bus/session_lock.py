"""The lock of one session: how fresh it is, and its renewal."""

from __future__ import annotations

import asyncio
import time
from datetime import datetime, timedelta

from azure.servicebus.aio import ServiceBusReceiver

from .links import CALL_DEADLINE
from .receiving import Clock


class SessionLock:
    """Renewed through the link that holds it, which keeps that from idling as well."""

    def __init__(self, receiver: ServiceBusReceiver, clock: Clock, duration: timedelta) -> None:
        self.renewed_at = float("-inf")
        """Monotonic seconds just before the last renewal; its first term is of unknown age."""
        self.renewals = 0
        self._receiver = receiver
        self._clock = clock
        self._duration = duration
        self._renewed = clock()
        self._renewal: asyncio.Task[None] | None = None

    @property
    def valid_until(self) -> datetime:
        """By this process's clock."""
        return self._renewed + self._duration

    @property
    def age(self) -> float:
        """The part of its term that is over, by the worst of clocks."""
        waited = (time.monotonic() - self.renewed_at) / self._duration.total_seconds()
        return max(waited, (self._clock() - self._renewed) / self._duration)

    async def renew(self) -> None:
        """One renewal for all who ask meanwhile."""
        if self._renewal is None or self._renewal.done():
            self._renewal = asyncio.create_task(self._renew())
        await asyncio.shield(self._renewal)

    async def _renew(self) -> None:
        asked, asked_at = self._clock(), time.monotonic()
        self.renewals += 1
        async with asyncio.timeout(CALL_DEADLINE):
            await self._receiver.session.renew_lock()
        self._renewed, self.renewed_at = asked, asked_at
