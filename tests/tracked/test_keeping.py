"""Two leases for one job: the ledger's, which counts, and the broker's."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import timedelta

import pytest

from jobbus.errors import BackendUnavailable
from jobbus.message import Delivery, LeaseState
from jobbus.testing.make import message
from tests.tracked.stage import LEASE, PATIENCE, Stage, take_one

pytestmark = pytest.mark.asyncio


class SlowBroker:
    """What happens to the broker's side of leases."""

    def __init__(self) -> None:
        self.asked: list[list[str]] = []
        self.answer = asyncio.Event()

    async def extend(self, held: Sequence[Delivery], lease: timedelta) -> Sequence[LeaseState]:
        self.asked.append([one.job_id for one in held])
        await self.answer.wait()
        return [LeaseState.KEPT for _ in held]


async def turns() -> None:
    """Everybody who can go on does."""
    for _ in range(10):
        await asyncio.sleep(0)


async def test_a_lease_in_the_ledger_does_not_wait_for_a_slow_broker(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is the one that counts, and a heartbeat has to come round in time."""
    queue = await stage.process()
    await queue.enqueue([message()])
    held = await take_one(queue)
    slow = SlowBroker()
    monkeypatch.setattr(queue.broker, "extend", slow.extend)
    for _ in range(2):
        async with asyncio.timeout(PATIENCE.total_seconds()):
            assert await queue.extend([held], LEASE) == [LeaseState.KEPT]
        await turns()
    assert slow.asked == [[held.job_id]], "one call at a time"
    slow.answer.set()
    await turns()
    assert await queue.extend([held], LEASE) == [LeaseState.KEPT]
    await turns()
    assert slow.asked == [[held.job_id]] * 2


async def test_a_broker_that_never_answers_does_not_hold_up_the_end(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = await stage.process()
    await queue.enqueue([message()])
    held = await take_one(queue)
    slow = SlowBroker()
    monkeypatch.setattr(queue.broker, "extend", slow.extend)
    await queue.extend([held], LEASE)
    await turns()
    assert slow.asked
    async with asyncio.timeout(PATIENCE.total_seconds()):
        await queue.close()


async def test_what_goes_wrong_at_the_broker_is_told_and_changes_no_lease(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    queue = await stage.process()
    await queue.enqueue([message()])
    held = await take_one(queue)
    for error in (BackendUnavailable("away"), ValueError("a mistake")):

        async def fail(*_: object, error: Exception = error) -> None:
            raise error

        monkeypatch.setattr(queue.broker, "extend", fail)
        assert await queue.extend([held], LEASE) == [LeaseState.KEPT]
        await turns()
    assert "could not be told" in caplog.text
    assert "could not be asked" in caplog.text
