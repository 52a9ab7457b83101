"""The trace context reaches whoever runs the job, whatever carries it, at every attempt."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from jobbus.backends.memory import MemoryQueue
from jobbus.backends.sqlite import SqliteQueue
from jobbus.message import Abandonment, Completion
from jobbus.queue import BackgroundJobQueue
from jobbus.testing.broker import BareBroker, Weather
from jobbus.testing.make import message
from jobbus.tracked import TrackedQueue
from jobbus.tracked.bundles import TICKET
from tests.telemetry.carriers import CARRIERS, taken

TRACED: Final = {
    "traceparent": "00-" + "ab" * 16 + "-" + "cd" * 8 + "-01",
    "tracestate": "vendor=value,other=" + "x" * 200,
}


@pytest.fixture(params=CARRIERS)
def carrier(request: pytest.FixtureRequest) -> Iterator[BackgroundJobQueue]:
    """Each of them in turn."""
    with CARRIERS[request.param](request) as queue:
        yield queue


@pytest.mark.services
# The SDK of Service Bus leaves sockets to the garbage collector.
@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
async def test_the_trace_context_reaches_the_first_attempt_and_the_next(
    carrier: BackgroundJobQueue,
) -> None:
    sent = message(headers=TRACED)
    await carrier.open()
    await carrier.enqueue([sent])
    first = await taken(carrier)
    await carrier.abandon([Abandonment(delivery=first)])
    second = await taken(carrier)
    await carrier.complete([Completion(delivery=second)])
    await carrier.close()
    assert [one.job_id for one in (first, second)] == [sent.job_id] * 2
    assert [one.attempt for one in (first, second)] == [1, 2]
    for one in (first, second):
        assert {name: one.message.headers.get(name) for name in TRACED} == TRACED


async def test_a_ticket_leaves_the_trace_context_in_the_ledger(tmp_path: Path) -> None:
    weather = Weather()
    ledger = SqliteQueue(tmp_path / "jobs.db", synchronous="NORMAL")
    queue = TrackedQueue(BareBroker(MemoryQueue(), weather), ledger)
    await queue.open()
    await queue.enqueue([message(headers=TRACED)])
    delivery = await taken(queue)
    await queue.close()
    [ticket] = weather.accepted
    assert dict(ticket.headers) == {TICKET: "0"}
    assert dict(delivery.message.headers) == TRACED
