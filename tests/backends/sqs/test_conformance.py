"""The specification, on standard and on FIFO queues of a look-alike of SQS."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import ClassVar

import pytest

from jobbus.backends.aws_sqs import AwsSqsQueue
from jobbus.backends.aws_sqs.client import BotoSession
from jobbus.testing import QueueConformance
from tests.services import SqsServer, fresh_queues
from tests.services.sqs import REGION

NAMES = ("default", "mail", "video")


class OnSqs:
    """Queues of its own for each case. SQS counts time in whole seconds."""

    fifo: ClassVar[bool] = False
    short_lease = timedelta(seconds=1)
    short_delay = timedelta(seconds=1)
    tick = timedelta(milliseconds=50)

    @pytest.fixture
    async def queue(
        self, sqs_server: SqsServer, boto_session: BotoSession
    ) -> AsyncIterator[AwsSqsQueue]:
        with fresh_queues(sqs_server, NAMES, fifo=self.fifo) as urls:
            queue = AwsSqsQueue(
                urls["default"],
                dead_letter_queue_url=urls["dlq"],
                region=REGION,
                _session=boto_session,
            )
            await queue.open()
            yield queue
            await queue.close()


class TestStandardQueue(OnSqs, QueueConformance):
    """No order, no groups, delays up to a quarter of an hour."""


class TestFifoQueue(OnSqs, QueueConformance):
    """Groups, and no delays."""

    fifo = True
