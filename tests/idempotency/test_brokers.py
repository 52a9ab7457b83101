"""Messages that real brokers deliver again, with keys in Redis: one effect, however often (D-5)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Final

import pytest

from jobbus import JobBus, Message
from jobbus.idempotency.redis import RedisIdempotencyStore
from jobbus.middleware.idempotency_values import KeyEvent
from jobbus.queue import BackgroundJobQueue
from tests.flow.brokers import empty_broker, flow_rabbitmq, flow_sqs
from tests.flow.support import PLAIN, at_work, until
from tests.services import RedisServer

__all__ = ["flow_rabbitmq", "flow_sqs"]

pytestmark = [pytest.mark.services, pytest.mark.timeout(120)]
LEASE: Final = timedelta(seconds=4)
"""Who finds a key busy comes back when this is over."""
LATE: Final = 100


@dataclass
class Done:
    """What the handler did, and when it may go on."""

    effects: list[int] = field(default_factory=list)
    gate: asyncio.Event = field(default_factory=asyncio.Event)


@pytest.fixture(params=["rabbitmq", "sqs"])
def broker(request: pytest.FixtureRequest) -> Iterator[Callable[[], BackgroundJobQueue]]:
    with empty_broker(request.param, request) as new_broker:
        yield new_broker


def bus_on(
    broker: Callable[[], BackgroundJobQueue], server: RedisServer, prefix: str, done: Done
) -> JobBus:
    """A bus without a ledger, as one of several processes has it."""
    keys = RedisIdempotencyStore(server.url, prefix=prefix)
    bus = JobBus(PLAIN, queue=broker(), idempotency=keys)

    @bus.job
    async def charge(order: int) -> int:
        done.effects.append(order)
        await done.gate.wait()
        return order

    return bus


async def test_a_message_that_comes_twice_at_once_and_many_times_late_has_one_effect(
    broker: Callable[[], BackgroundJobQueue], redis_default: RedisServer, prefix: str
) -> None:
    done = Done()
    async with (
        bus_on(broker, redis_default, prefix, done) as one,
        bus_on(broker, redis_default, prefix, done) as other,
    ):
        sent = await one.message_for("charge", {"order": 7})
        async with (
            at_work(one, lease=LEASE, concurrency=2) as first,
            at_work(other, lease=LEASE, concurrency=2) as second,
        ):
            guards = [guard for worker in (first, second) if (guard := worker.guard) is not None]

            def counted(event: KeyEvent) -> int:
                return sum(guard.counts[event] for guard in guards)

            await send(one.queue, [sent, sent])
            await until(lambda: counted(KeyEvent.IN_PROGRESS) == 1, "the second to find it busy")
            done.gate.set()
            await until(lambda: counted(KeyEvent.HIT) == 1, "the second to hear of the first")
            await send(one.queue, [sent] * LATE)
            await until(lambda: counted(KeyEvent.HIT) == LATE + 1, "all the late ones")
            assert done.effects == [7]
            assert counted(KeyEvent.MISS) == 1


async def send(queue: BackgroundJobQueue, several: list[Message]) -> None:
    """Each as a message of its own, as a producer that is not sure sends them again."""
    sending: list[Awaitable[object]] = [queue.enqueue([replace(one)]) for one in several]
    await asyncio.gather(*sending)
