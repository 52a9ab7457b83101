"""What a message carries arrives as it was sent, byte for byte."""

from __future__ import annotations

import pytest

from jobbus.errors import PayloadTooLarge, Unsupported
from jobbus.queue import BackgroundJobQueue
from jobbus.testing.conformance.base import Suite
from jobbus.testing.make import back, message

PAYLOADS = {
    "empty": b"",
    "json": b'{"id": 7, "name": "\\u00e9"}',
    "a NUL": b"\x00",
    "every byte": bytes(range(256)),
    "not UTF-8": b"\xff\xfe\xc3\x28",
    "a lone surrogate": b'"\xed\xa0\x80"',
    "emoji": "🛠️ 👩‍🚀 done".encode(),
    "line ends": b"one\r\ntwo\rthree\n\n",
    "quotes": b"'; drop table jobs; -- \\x00 \"",
    "large": bytes(range(256)) * 1024,
}


class PayloadCases(Suite):
    """No payload is looked into, and none is changed."""

    @pytest.mark.parametrize("kind", sorted(PAYLOADS))
    async def test_a_payload_survives_verbatim(self, queue: BackgroundJobQueue, kind: str) -> None:
        payload = PAYLOADS[kind]
        if len(payload) > queue.capabilities.max_payload:
            pytest.skip("larger than this queue declares to take")
        delivery = await self.started(queue, message(payload=payload))
        assert delivery.message.payload == payload

    async def test_a_payload_survives_a_retry(self, queue: BackgroundJobQueue) -> None:
        held = await self.started(queue, message(payload=PAYLOADS["every byte"]))
        await queue.abandon([back(held)])
        assert (await self.receive_one(queue)).message.payload == PAYLOADS["every byte"]

    async def test_a_payload_of_the_largest_size_declared_is_taken(
        self, queue: BackgroundJobQueue
    ) -> None:
        size = queue.capabilities.max_payload
        delivery = await self.started(queue, message(payload=b"\xee" * size))
        assert len(delivery.message.payload) == size

    async def test_a_payload_that_is_larger_is_refused_by_name(
        self, queue: BackgroundJobQueue
    ) -> None:
        too_large = message(payload=b" " * (queue.capabilities.max_payload + 1))
        with pytest.raises((PayloadTooLarge, Unsupported)):
            await queue.enqueue([too_large])
        await self.nothing_comes(queue)

    async def test_headers_survive(self, queue: BackgroundJobQueue) -> None:
        headers = {"traceparent": "00-4bf9-00f0-01", "tenant": "Ærø Øl", "empty": "", "x": '"\n'}
        delivery = await self.started(queue, message(headers=headers))
        assert dict(delivery.message.headers) == headers

    async def test_tags_survive_in_order(self, queue: BackgroundJobQueue) -> None:
        delivery = await self.started(queue, message(tags=("nightly", "a b", "ünï")))
        assert delivery.message.tags == ("nightly", "a b", "ünï")

    async def test_metadata_survives(self, queue: BackgroundJobQueue) -> None:
        metadata = {"text": "é", "list": [1, 2.5, None, True], "nested": {"deep": {"er": []}}}
        delivery = await self.started(queue, message(metadata=metadata))
        assert dict(delivery.message.metadata) == metadata

    async def test_the_job_type_and_the_parent_survive(self, queue: BackgroundJobQueue) -> None:
        parent = message()
        child = message("a.Long_name:with-all.9", parent_id=parent.job_id)
        delivery = await self.started(queue, child)
        assert delivery.message.job_type == "a.Long_name:with-all.9"
        assert delivery.message.parent_id == parent.job_id
