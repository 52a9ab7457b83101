"""The specification, on a real RabbitMQ, which by itself moves messages and remembers nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from datetime import timedelta

import pytest

from jobbus.backends.rabbitmq import RabbitMqQueue
from jobbus.testing import QueueConformance
from tests.backends.rabbitmq_broker import empty, own_prefix
from tests.services import RabbitMqServer


@pytest.fixture(scope="module")
def prefix(rabbitmq_server: RabbitMqServer) -> Iterator[str]:
    with own_prefix(rabbitmq_server.url) as prefix:
        yield prefix


class TestRabbitMqQueue(QueueConformance):
    """Without leases that expire: a message is held until its connection ends."""

    leases_expire = False
    short_delay = timedelta(milliseconds=200)

    @pytest.fixture
    async def queue(
        self, rabbitmq_server: RabbitMqServer, prefix: str
    ) -> AsyncIterator[RabbitMqQueue]:
        queue = RabbitMqQueue(rabbitmq_server.url, queue_prefix=prefix)
        await queue.open()
        await empty(rabbitmq_server.url, prefix)
        yield queue
        await queue.close()
