"""The specification, on a real RabbitMQ, which by itself moves messages and remembers nothing."""

from __future__ import annotations

from datetime import timedelta

import pytest

from jobbus.backends.rabbitmq import RabbitMqQueue
from jobbus.testing import QueueConformance


class TestRabbitMqQueue(QueueConformance):
    """Without leases that expire: a message is held until its connection ends."""

    leases_expire = False
    short_delay = timedelta(milliseconds=200)

    @pytest.fixture
    def queue(self, rabbitmq_queue: RabbitMqQueue) -> RabbitMqQueue:
        return rabbitmq_queue
