"""Which attempt a ticket is for, whatever the broker counts."""

from __future__ import annotations

from datetime import timedelta

import pytest

from jobbus.message import Delivery
from jobbus.services.relay import relay_once
from jobbus.testing.make import message
from jobbus.tracked.bundles import TICKET, shares_of
from tests.tracked.stage import LEASE, PATIENCE, Stage, take_one

pytestmark = pytest.mark.asyncio


async def test_a_ticket_that_comes_again_is_for_the_attempt_that_it_was_sent_for(
    stage: Stage,
) -> None:
    """A worker that died before the gate made no attempt, whatever the broker counts (RM-3)."""
    stage.weather.counting = True
    queue = await stage.process()
    sent = message()
    await queue.enqueue([sent])
    await relay_once(queue, queue.relay(window=1))
    doomed = queue.broker.separate()
    await doomed.open()
    assert await doomed.receive("default", limit=1, wait=PATIENCE, lease=LEASE)
    await doomed.close()
    stage.pass_time(LEASE + timedelta(seconds=1))
    held = await take_one(queue)
    assert (held.job_id, held.attempt, held.crashes) == (sent.job_id, 1, 0)


@pytest.mark.parametrize("said", ["", "one", "-1", "\u0663", "9" * 5000], ids=lambda said: said[:4])
async def test_a_header_that_names_no_attempt_says_nothing(said: str) -> None:
    """Anybody may have written it."""
    sent = message(headers={TICKET: said}, prior_attempts=2)
    [share] = shares_of(Delivery(message=sent, receipt=None, attempt=3))
    assert (share.job_id, share.attempts, share.bundle.is_job) == (sent.job_id, 2, False)
