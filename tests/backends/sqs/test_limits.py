"""SQS's limits: held before anything is sent, and as wide as SQS allows."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from botocore.exceptions import ClientError
from hypothesis import given
from hypothesis import strategies as st

from jobbus.backends.aws_sqs import AwsSqsQueue
from jobbus.backends.aws_sqs.client import BotoSession, address_of, chunks, size_of
from jobbus.backends.aws_sqs.envelope import Envelope, decode, encode
from jobbus.backends.aws_sqs.limits import MAX_BYTES, MAX_PAYLOAD, RESERVE, check_queue_name
from jobbus.errors import ConfigurationError, InvalidJob, PayloadTooLarge, Unsupported
from jobbus.job import Problem
from jobbus.message import DeadLetter, Message
from jobbus.testing.make import back, dead, message, messages
from tests.emulators.sqs.server import FakeSqs, fake_sqs
from tests.services import SqsServer, fresh_queues
from tests.services.sqs import REGION

MINUTE = timedelta(minutes=1)
PATIENCE = timedelta(seconds=10)


@pytest.fixture
def fake() -> Iterator[FakeSqs]:
    with fake_sqs("jobs", "jobs-dlq", "jobs.fifo", "jobs-dlq.fifo") as server:
        yield server


def queue_on(fake: FakeSqs, session: BotoSession, suffix: str = "") -> AwsSqsQueue:
    return AwsSqsQueue(
        fake.url("jobs" + suffix),
        dead_letter_queue_url=fake.url("jobs-dlq" + suffix),
        region=REGION,
        _session=session,
    )


@pytest.fixture
async def queue(fake: FakeSqs, boto_session: BotoSession) -> AsyncIterator[AwsSqsQueue]:
    queue = queue_on(fake, boto_session)
    await queue.open()
    yield queue
    await queue.close()


@pytest.fixture
async def fifo(fake: FakeSqs, boto_session: BotoSession) -> AsyncIterator[AwsSqsQueue]:
    queue = queue_on(fake, boto_session, ".fifo")
    await queue.open()
    yield queue
    await queue.close()


# SQ-1 to SQ-4, SQ-6, SQ-8: before anything is sent


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        (message(delay=timedelta(seconds=901)), "at most 0:15:00.*LEDGER"),
        (message(run_at=datetime.now(UTC) + 2 * timedelta(hours=1)), "at most 900 s"),
        (message(priority=8), "priority 8.*LEDGER"),
        (message(unique_key="a"), "unique key.*LEDGER"),
        (message(expires_at=datetime.now(UTC) + MINUTE), "start deadline.*LEDGER"),
        (message(group="a"), "use a FIFO queue"),
        (message(queue="a.b"), "1 to 80 letters"),
    ],
)
async def test_what_sqs_cannot_do_is_refused_with_a_remedy(
    fake: FakeSqs, queue: AwsSqsQueue, wanted: Message, words: str
) -> None:
    with pytest.raises(Unsupported, match=words):
        await queue.enqueue([message(), wanted])
    assert not fake.calls_of("SendMessageBatch")


async def test_a_moment_without_a_time_zone_is_refused(queue: AwsSqsQueue) -> None:
    with pytest.raises(InvalidJob, match="time zone"):
        await queue.enqueue([message(run_at=datetime(2026, 1, 1))])


@pytest.mark.parametrize("group", ["", "a b", "ä", "x" * 129])
async def test_a_group_that_sqs_has_no_name_for_is_refused(fifo: AwsSqsQueue, group: str) -> None:
    with pytest.raises(InvalidJob, match="is no SQS group"):
        await fifo.enqueue([message(group=group)])


async def test_a_delay_is_never_shorter_than_asked(fake: FakeSqs, queue: AwsSqsQueue) -> None:
    await queue.enqueue([message(delay=timedelta(milliseconds=1100))])
    assert fake.entries_of("SendMessageBatch")[0]["DelaySeconds"] == 2


async def test_a_message_of_a_fifo_queue_is_identified_and_not_delayed(
    fake: FakeSqs, fifo: AwsSqsQueue
) -> None:
    grouped, alone = message(group="tenant-7"), message()
    await fifo.enqueue([grouped, alone])
    first, second = fake.entries_of("SendMessageBatch")
    assert (first["MessageGroupId"], second["MessageGroupId"]) == ("tenant-7", alone.job_id)
    assert first["MessageDeduplicationId"] == grouped.id
    assert "DelaySeconds" not in first


async def test_a_back_off_on_a_fifo_queue_hides_the_message_itself(
    fake: FakeSqs, fifo: AwsSqsQueue
) -> None:
    await fifo.enqueue([message(group="a")])
    [held] = await fifo.receive("default", limit=10, wait=PATIENCE, lease=MINUTE)
    with pytest.raises(Unsupported, match="at most 3600 s"):
        await fifo.abandon([back(held, timedelta(hours=2))])
    assert not await fifo.abandon([back(held, MINUTE)])
    assert len(fake.entries_of("SendMessageBatch")) == 1
    [hidden] = fake.entries_of("ChangeMessageVisibilityBatch")
    assert hidden["VisibilityTimeout"] == 60
    fake.show("jobs.fifo")
    [again] = await fifo.receive("default", limit=10, wait=PATIENCE, lease=MINUTE)
    assert (again.attempt, again.failures, again.crashes) == (2, 1, 0)


async def test_a_receive_asks_for_what_sqs_gives(
    fake: FakeSqs, queue: AwsSqsQueue, fifo: AwsSqsQueue
) -> None:
    await queue.enqueue([message()])
    await fifo.enqueue([message()])
    wait = timedelta(minutes=5)
    await queue.receive("default", limit=25, wait=wait, lease=timedelta(seconds=90))
    await fifo.receive("default", limit=25, wait=wait, lease=timedelta(seconds=30.5))
    first, second = fake.calls_of("ReceiveMessage")
    names = ("MaxNumberOfMessages", "WaitTimeSeconds", "VisibilityTimeout")
    assert [first[name] for name in names] == [10, 20, 90]
    assert [second[name] for name in names] == [1, 10, 31]


async def test_a_receive_that_does_not_wait_asks_several_times_at_once(
    fake: FakeSqs, queue: AwsSqsQueue
) -> None:
    await queue.enqueue(messages(45))
    held = await queue.receive("default", limit=33, wait=timedelta(0), lease=MINUTE)
    asked = [call["MaxNumberOfMessages"] for call in fake.calls_of("ReceiveMessage")]
    assert sorted(asked) == [6, 9, 9, 9]
    assert len(held) == 33


async def test_a_lease_of_more_than_twelve_hours_is_refused(queue: AwsSqsQueue) -> None:
    with pytest.raises(Unsupported, match="at most 43200 s"):
        await queue.receive("default", limit=1, wait=PATIENCE, lease=timedelta(hours=12, seconds=1))


async def test_a_message_too_large_for_its_queue_is_refused(
    fake: FakeSqs, boto_session: BotoSession
) -> None:
    fake.attributes["jobs"]["MaximumMessageSize"] = "4096"
    queue = queue_on(fake, boto_session)
    await queue.open()
    await queue.enqueue([message(payload=b"x" * 2500)])
    with pytest.raises(PayloadTooLarge, match="MaximumMessageSize of 4,096"):
        await queue.enqueue([message(), message(payload=b"x" * 3000)])
    await queue.close()
    assert len(fake.queues["jobs"]) == 1


async def test_headers_count_as_well(fake: FakeSqs, queue: AwsSqsQueue) -> None:
    full = message(payload=b"\xff" * MAX_PAYLOAD, metadata={"x": "y" * 60_000})
    with pytest.raises(PayloadTooLarge):
        await queue.enqueue([full])
    assert not fake.calls_of("SendMessageBatch")


async def test_the_reasons_of_a_dead_letter_are_cut_to_the_room_that_its_body_leaves(
    fake: FakeSqs, queue: AwsSqsQueue
) -> None:
    await queue.enqueue([message(payload=b"\xff" * MAX_PAYLOAD)])
    [held] = await queue.receive("default", limit=1, wait=PATIENCE, lease=MINUTE)
    reasons = Problem(kind="ValueError", message="\x00é\ud800" * 9000, traceback="x" * 90_000)
    assert not await queue.dead_letter([DeadLetter(delivery=held, problem=reasons)])
    [letter] = fake.queues["jobs-dlq"]
    assert size_of(letter.sent) <= MAX_BYTES
    attributes = letter.sent["MessageAttributes"]
    assert attributes["jobbus.problem"]["StringValue"] == "ValueError"
    text = attributes["jobbus.message"]["StringValue"]
    assert set(text) == {"é", "\ufffd"}
    assert len(text.encode()) > RESERVE / 2


def test_a_queue_may_not_be_of_one_type_in_the_settings_and_another_in_its_name() -> None:
    with pytest.raises(ConfigurationError, match=r"does not end in \.fifo"):
        AwsSqsQueue("https://sqs.us-west-2.amazonaws.com/1/jobs", fifo=True)


@pytest.mark.parametrize(
    ("queue_url", "region", "environ", "expected"),
    [
        ("https://sqs.eu-north-1.amazonaws.com/1/jobs", "eu-west-1", {}, "eu-west-1"),
        ("https://sqs.eu-north-1.amazonaws.com/1/jobs", None, {"AWS_REGION": "x"}, "eu-north-1"),
        ("https://sqs.cn-north-1.amazonaws.com.cn/1/jobs", None, {}, "cn-north-1"),
        ("https://vpce-1.sqs.eu-west-3.vpce.amazonaws.com/1/jobs", None, {}, "eu-west-3"),
        ("http://127.0.0.1:1/1/jobs", None, {"AWS_REGION": "eu-west-2"}, "eu-west-2"),
        ("http://127.0.0.1:1/1/jobs", None, {"AWS_DEFAULT_REGION": "eu-west-2"}, "eu-west-2"),
        ("http://127.0.0.1:1/1/jobs", None, {}, "us-west-2"),
    ],
)
def test_the_region_is_the_nearest_that_is_named(
    queue_url: str,
    region: str | None,
    environ: dict[str, str],
    expected: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AWS_CONFIG_FILE", "/dev/null")
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    boto = BotoSession().client(address_of(queue_url, region=region, endpoint_url=None, wait=20))
    assert boto.meta.region_name == expected
    boto.close()


def test_a_queue_of_aws_is_found_by_its_region_and_another_by_its_server() -> None:
    aws = address_of(
        "https://sqs.eu-west-1.amazonaws.com/1/x", region=None, endpoint_url=None, wait=20
    )
    other = address_of("http://stack:4566/1/x", region=None, endpoint_url=None, wait=20)
    assert (aws.endpoint_url, other.endpoint_url) == (None, "http://stack:4566")


@pytest.mark.parametrize("name", ["", "a b", "a.b", "a:b", "x" * 81, "x" * 76 + ".fifo"])
def test_names_that_sqs_does_not_have_are_refused(name: str) -> None:
    with pytest.raises(Unsupported, match="SQS has no queue named"):
        check_queue_name(name)


# what travels


@given(
    payload=st.binary(max_size=300) | st.text(max_size=100).map(lambda text: text.encode("utf-8")),
    headers=st.dictionaries(st.text(max_size=5), st.text(max_size=20), max_size=3),
    delay=st.integers(min_value=0, max_value=900),
)
def test_an_envelope_is_ascii_that_sqs_takes_and_comes_back_as_it_was(
    payload: bytes, headers: dict[str, str], delay: int
) -> None:
    sent = Envelope(message=message(payload=payload, headers=headers), delay=delay, failures=2)
    body = encode(sent)
    assert all(" " <= one <= "~" for one in body)
    assert decode(body) == sent


@given(st.binary(max_size=3000))
def test_a_payload_grows_by_a_third_at_most(payload: bytes) -> None:
    bare = len(encode(Envelope(message=message(payload=b""))))
    assert (
        len(encode(Envelope(message=message(payload=payload)))) <= bare + 8 + len(payload) * 4 / 3
    )


@given(st.lists(st.integers(min_value=1, max_value=MAX_BYTES), max_size=30))
def test_requests_hold_ten_messages_and_a_mebibyte_at_most(sizes: list[int]) -> None:
    entries = [{"MessageBody": "x" * size} for size in sizes]
    found = list(chunks(entries))
    assert [one for chunk in found for one in chunk] == entries
    for chunk in found:
        assert 1 <= len(chunk) <= 10
        assert sum(map(size_of, chunk)) <= MAX_BYTES


# and as wide: on a server that refuses what SQS refuses


def refused(call: Any, **parameters: Any) -> bool:
    try:
        call(**parameters)
    except ClientError:
        return True
    return False


async def test_a_strict_server_takes_all_that_is_declared_and_no_more(
    strict_sqs_server: SqsServer, boto_session: BotoSession
) -> None:
    sqs = strict_sqs_server.client
    with fresh_queues(strict_sqs_server, ["default"]) as urls:
        url = urls["default"]
        queue = AwsSqsQueue(
            url, dead_letter_queue_url=urls["dlq"], region=REGION, _session=boto_session
        )
        await queue.open()
        limits = queue.capabilities
        assert limits.max_delay is not None
        assert limits.max_lease is not None
        await queue.enqueue([message(delay=limits.max_delay)])
        assert refused(sqs.send_message, QueueUrl=url, MessageBody="x", DelaySeconds=901)
        await queue.enqueue([message(payload=b"\xff" * limits.max_payload), *messages(11)])
        body = "x" * (MAX_BYTES + 1)
        assert refused(sqs.send_message, QueueUrl=url, MessageBody=body)
        held = list(
            await queue.receive("default", limit=12, wait=timedelta(0), lease=limits.max_lease)
        )
        assert len(held) >= 10
        assert not await queue.dead_letter([dead(held.pop(0))])
        assert list(await queue.extend(held, timedelta(hours=10))) == ["kept"] * len(held)
        change = {"ReceiptHandle": held[0].receipt.handle, "VisibilityTimeout": 43_201}
        assert refused(sqs.change_message_visibility, QueueUrl=url, **change)
        assert refused(sqs.receive_message, QueueUrl=url, WaitTimeSeconds=21)
        assert refused(sqs.receive_message, QueueUrl=url, MaxNumberOfMessages=11)
        await queue.close()
