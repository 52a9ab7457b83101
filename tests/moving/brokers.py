"""Real brokers without a ledger, to move from and to, with what is done to them beside jobbus."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Final

import pytest
from aiormq import spec
from azure.servicebus import ServiceBusMessage
from azure.servicebus.aio import ServiceBusClient

from jobbus.backends.amqp.topology import Topology
from jobbus.backends.aws_sqs import AwsSqsQueue
from jobbus.backends.azure_service_bus import AzureServiceBusQueue
from jobbus.backends.rabbitmq import RabbitMqQueue
from jobbus.message import Delivery
from jobbus.queue import BackgroundJobQueue
from jobbus.services.move_broker import BrokerEnd
from tests.backends.rabbitmq_broker import QUEUES, channel_to, delete_all, new_prefix
from tests.emulators.servicebus import Emulator
from tests.services import RabbitMqServer, SqsServer, fresh_queues
from tests.services.sqs import CREDENTIALS, REGION

SENDING: Final = ("rabbitmq", "sqs", "sqs-fifo")
"""Whose dead letters anybody may write."""
ALL: Final = (*SENDING, "service-bus")
PATIENCE: Final = timedelta(seconds=20)
MINUTE: Final = timedelta(minutes=1)
FOREIGN: Final = b"<xml>not ours</xml>"


@dataclass
class Place:
    """A broker, and the open queue object of a test."""

    name: str
    connect: Callable[[], BackgroundJobQueue]
    bury_foreign: Callable[[], Awaitable[None]]
    """Put what no jobbus wrote among the dead letters of ``default``."""
    tool: Any
    """What reaches the broker beside jobbus."""
    queue: BackgroundJobQueue = field(init=False)

    @property
    def end(self) -> BrokerEnd:
        return BrokerEnd(self.queue, self.name, wait=timedelta(seconds=0.3))

    async def receive(self, number: int = 1, queue: str = "default") -> list[Delivery]:
        held: list[Delivery] = []
        while len(held) < number:
            left = number - len(held)
            some = await self.queue.receive(queue, limit=left, wait=PATIENCE, lease=MINUTE)
            assert some, f"received {len(held)} of {number}"
            held += some
        return held

    async def has_dead(self, number: int) -> None:
        """There are so many dead letters, as soon as the broker has told itself."""
        async with asyncio.timeout(PATIENCE.total_seconds()):
            while True:
                if (await self.queue.get_queue_depth("default")).dead == number:
                    return
                await asyncio.sleep(0.02)


def on(*names: str) -> pytest.MarkDecorator:
    """Run a test on each of these brokers."""
    return pytest.mark.parametrize("kind", names)


@pytest.fixture
def server(kind: str, request: pytest.FixtureRequest) -> Any:
    """What carries the broker; nothing where a test starts its own."""
    servers = {"rabbitmq": "rabbitmq_server", "sqs": "sqs_server", "sqs-fifo": "sqs_server"}
    return request.getfixturevalue(servers[kind]) if kind in servers else None


@pytest.fixture
async def broker(kind: str, server: Any, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Place]:
    """The broker, empty, with the queues ``default`` and ``mail``."""
    for variable, value in CREDENTIALS.items():
        monkeypatch.setenv(variable, value)
    makers: dict[str, Any] = {
        "rabbitmq": _rabbitmq,
        "service-bus": _service_bus,
        "service-bus-sessions": _service_bus,
    }
    async with AsyncExitStack() as stack:
        place = await stack.enter_async_context(makers.get(kind, _sqs)(kind, server))
        place.queue = place.connect()
        await place.queue.open()
        stack.push_async_callback(place.queue.close)
        yield place


@asynccontextmanager
async def _rabbitmq(name: str, server: RabbitMqServer) -> AsyncIterator[Place]:
    url, prefix = server.url, new_prefix()

    async def bury() -> None:
        async with channel_to(url) as channel:
            await channel.basic_publish(
                FOREIGN,
                routing_key=Topology(prefix).dead("default"),
                properties=spec.Basic.Properties(delivery_mode=2),
                mandatory=True,
            )

    queue = RabbitMqQueue(url, queue_prefix=prefix, queues=QUEUES)
    await queue.create()
    yield Place(name, queue.separate, bury, (url, prefix))
    await delete_all(url, prefix)


@asynccontextmanager
async def _sqs(name: str, server: SqsServer) -> AsyncIterator[Place]:
    fifo = name == "sqs-fifo"
    with fresh_queues(server, ["default", "mail"], fifo=fifo) as urls:

        async def bury() -> None:
            group = {"MessageGroupId": "x", "MessageDeduplicationId": "x"} if fifo else {}
            server.client.send_message(QueueUrl=urls["dlq"], MessageBody=FOREIGN.decode(), **group)

        queue = AwsSqsQueue(
            urls["default"], dead_letter_queue_url=urls["dlq"], region=REGION, fifo=fifo
        )
        yield Place(name, queue.separate, bury, (server.client, urls))


@asynccontextmanager
async def _service_bus(name: str, _: None) -> AsyncIterator[Place]:
    sessions = name == "service-bus-sessions"
    with Emulator() as emulator:
        for each in ("default", "mail"):
            emulator.create_queue(
                each, lock_duration=MINUTE, max_delivery_count=100, requires_session=sessions
            )

        def connect() -> AzureServiceBusQueue:
            return AzureServiceBusQueue(
                emulator.connection_string, sessions=sessions, clock=emulator.now
            )

        async def bury() -> None:
            client = ServiceBusClient.from_connection_string(emulator.connection_string)
            async with client:
                async with client.get_queue_sender("default") as sender:
                    await sender.send_messages(ServiceBusMessage(FOREIGN))
                async with client.get_queue_receiver("default") as receiver:
                    [found] = await receiver.receive_messages(1, max_wait_time=20)
                    await receiver.dead_letter_message(found, reason="strange")

        yield Place(name, connect, bury, emulator)
    gc.collect()  # the library leaves the sockets of connections to the garbage collector


def ids_of(held: Sequence[Delivery]) -> set[str]:
    return {one.job_id for one in held}
