"""What real queues let a fleet know of them, and that nothing is made up where they cannot."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Final

import pytest

from jobbus.queue import BackgroundJobQueue
from jobbus.services.relay import relay_once
from jobbus.store import JobStore
from jobbus.telemetry import names
from jobbus.telemetry.fleet import FleetWatch
from jobbus.telemetry.names import Instrument
from jobbus.telemetry.tally import Labels
from jobbus.testing.clock import VirtualClock
from jobbus.testing.make import dead, done, message
from tests.telemetry.carriers import BARE, CARRIERS, taken
from tests.tracked.stage import Stage, take_one

QUEUE: Final = ("default",)
KNOWN: Final = {
    "rabbitmq": {names.QUEUE_DEPTH, names.DEAD_LETTERS},
    "sqs": {names.QUEUE_DEPTH, names.IN_FLIGHT, names.DELAYED, names.DEAD_LETTERS},
    "service-bus": {names.QUEUE_DEPTH, names.DELAYED, names.DEAD_LETTERS},
}
"""All that a broker can say by itself."""
AGED: Final = {"service-bus": {names.OLDEST_AGE}}
"""What it can say as well, while there is something."""
Told = dict[Instrument, dict[Labels, float]]


async def told(queue: BackgroundJobQueue) -> Told:
    """What one worker tells for all; what it cannot tell is left out."""
    store = queue if isinstance(queue, JobStore) else None
    fleet = FleetWatch(queue, store, ["default"], exports="always")
    await fleet.sample_once()
    return {one.instrument: dict(one.values) for one in fleet.readings() if one.values}


@pytest.mark.services
# The SDK of Service Bus leaves sockets to the garbage collector.
@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
@pytest.mark.parametrize("broker", BARE)
def test_what_a_bare_broker_cannot_say_is_absent_and_not_zero(
    request: pytest.FixtureRequest, broker: str
) -> None:
    with BARE[broker](request) as queue:
        full, empty = asyncio.run(_full_and_empty(queue))
    assert set(empty) == KNOWN[broker]
    assert set(full) == KNOWN[broker] | AGED.get(broker, set())
    assert full[names.QUEUE_DEPTH] == {QUEUE: 1}
    assert empty[names.QUEUE_DEPTH] == {QUEUE: 0}
    assert full[names.DEAD_LETTERS] == empty[names.DEAD_LETTERS] == {QUEUE: 1}


@pytest.mark.services
@pytest.mark.parametrize("carrier", [name for name in CARRIERS if name not in BARE])
def test_where_jobs_are_remembered_depth_age_and_dead_letters_are_told(
    request: pytest.FixtureRequest, carrier: str
) -> None:
    with CARRIERS[carrier](request) as queue:
        full, empty = asyncio.run(_full_and_empty(queue))
    assert full[names.QUEUE_DEPTH] == {QUEUE: 1}
    assert full[names.OLDEST_AGE][QUEUE] >= 0
    assert (empty[names.QUEUE_DEPTH], empty[names.OLDEST_AGE]) == ({QUEUE: 0}, {QUEUE: 0})
    assert full[names.DEAD_LETTERS] == empty[names.DEAD_LETTERS] == {QUEUE: 1}
    assert (names.RELAY_LAG in full) == (carrier == "tracked")


async def _full_and_empty(queue: BackgroundJobQueue) -> tuple[Told, Told]:
    """With one job in the dead letters: what is told while another waits, and once it is done."""
    await queue.open()
    await queue.enqueue([message()])
    await queue.dead_letter([dead(await taken(queue))])
    await queue.enqueue([message()])
    full = await told(queue)
    await queue.complete([done(await taken(queue))])
    empty = await told(queue)
    await queue.close()
    return full, empty


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    """A broker and a ledger that go by a clock of the test's own."""
    stage = Stage(tmp_path / "jobs.db", VirtualClock())
    yield stage
    await stage.close()


async def test_the_relays_lag_is_the_age_of_what_the_broker_has_not_got(stage: Stage) -> None:
    queue = await stage.process(relays=False)
    assert (await told(queue))[names.RELAY_LAG] == {QUEUE: 0}
    await queue.enqueue([message()])
    stage.pass_time(timedelta(seconds=90))
    late = await told(queue)
    await relay_once(queue, queue.relay(window=10))
    sent = await told(queue)
    assert late[names.RELAY_LAG] == {QUEUE: pytest.approx(90)}
    assert sent[names.RELAY_LAG] == {QUEUE: 0}
    for found in (late, sent):
        assert found[names.QUEUE_DEPTH] == {QUEUE: 1}
        assert found[names.OLDEST_AGE] == {QUEUE: pytest.approx(90)}


async def test_who_only_relays_does_not_measure_and_is_no_worker(stage: Stage) -> None:
    """It has been there longest, and would leave the queues unmeasured."""
    elder, worker = await stage.process(), await stage.process()
    elder.ledger.only_relay()
    await worker.enqueue([message()])
    await relay_once(elder, elder.relay(window=1))
    assert await worker.workers() == []
    await take_one(worker)
    [found] = await worker.workers()
    assert found.running == 1


async def test_a_job_that_is_not_due_does_not_lag(stage: Stage) -> None:
    queue = await stage.process(relays=False)
    await queue.enqueue([message(delay=timedelta(hours=1))])
    stage.pass_time(timedelta(minutes=5))
    found = await told(queue)
    assert found[names.RELAY_LAG] == {QUEUE: 0}
    assert found[names.DELAYED] == {QUEUE: 1}


async def test_a_job_that_the_broker_lost_lags_until_it_is_sent_again(stage: Stage) -> None:
    queue = await stage.process(relays=False)
    sent = message()
    await queue.enqueue([sent])
    await queue.ledger.hand_over("default", limit=1, within=timedelta(seconds=30))
    stage.pass_time(timedelta(minutes=3))
    await queue.recover()
    assert (await told(queue))[names.RELAY_LAG] == {QUEUE: pytest.approx(180)}
    await relay_once(queue, queue.relay(window=10))
    assert (await told(queue))[names.RELAY_LAG] == {QUEUE: 0}
    assert (await take_one(queue)).job_id == sent.job_id
