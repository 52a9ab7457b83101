"""What SQS may do on a bad day, and that no job is lost, done twice under one lease, or hidden."""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest

from jobbus.backends.aws_sqs import AwsSqsQueue, client
from jobbus.backends.aws_sqs.client import BotoSession
from jobbus.errors import BackendError, BackendUnavailable, ConfigurationError
from jobbus.message import CountsAs, Delivery, LeaseState, Message
from jobbus.testing.make import back, dead, done, message, messages
from tests.emulators.sqs.server import BROKEN, LOST, THROTTLED, Failure, FakeSqs, fake_sqs

LEASE = timedelta(seconds=60)
PATIENCE = timedelta(seconds=10)


@pytest.fixture
def fake() -> Iterator[FakeSqs]:
    with fake_sqs("jobs", "jobs-dlq") as server:
        yield server


@pytest.fixture
async def queue(fake: FakeSqs, boto_session: BotoSession) -> AsyncIterator[AwsSqsQueue]:
    queue = AwsSqsQueue(
        fake.url("jobs"),
        dead_letter_queue_url=fake.url("jobs-dlq"),
        region="us-east-1",
        _session=boto_session,
    )
    await queue.open()
    yield queue
    await queue.close()


async def received(queue: AwsSqsQueue, number: int = 1) -> list[Delivery]:
    found: list[Delivery] = []
    async with asyncio.timeout(PATIENCE.total_seconds()):
        while len(found) < number:
            found += await queue.receive(
                "default", limit=number - len(found), wait=PATIENCE, lease=LEASE
            )
    return found


async def started(queue: AwsSqsQueue, *sent: Message) -> list[Delivery]:
    await queue.enqueue(sent)
    return await received(queue, len(sent))


async def until(probe: Callable[[], Any]) -> Any:
    async with asyncio.timeout(PATIENCE.total_seconds()):
        while True:
            if answer := probe():
                return answer
            await asyncio.sleep(0.01)


def bodies(fake: FakeSqs, name: str) -> list[dict[str, Any]]:
    return [json.loads(one.sent["MessageBody"]) for one in fake.queues[name]]


# leases: SQ-7


async def test_a_worker_whose_lease_is_over_asks_sqs_nothing(
    fake: FakeSqs, queue: AwsSqsQueue
) -> None:
    [late] = await started(queue, message())
    late.receipt.valid_until = time.monotonic()
    assert await queue.complete([done(late)]) == [late]
    assert await queue.abandon([back(late)]) == [late]
    assert await queue.dead_letter([dead(late)]) == [late]
    assert await queue.extend([late], LEASE) == [LeaseState.LOST]
    assert {operation for operation, _ in fake.calls} <= {
        "GetQueueAttributes",
        "SendMessageBatch",
        "ReceiveMessage",
    }
    assert len(fake.queues["jobs"]) == 1


async def test_a_lease_that_sqs_calls_stale_is_lost(fake: FakeSqs, queue: AwsSqsQueue) -> None:
    held = await started(queue, *messages(2))
    fake.entry_failures["ChangeMessageVisibilityBatch"] = {0: Failure("ReceiptHandleIsInvalid")}
    assert await queue.extend(held, LEASE) == [LeaseState.LOST, LeaseState.KEPT]
    assert await queue.complete([done(one) for one in held]) == [held[0]]


async def test_a_heartbeat_that_finds_a_settled_message_gone_does_not_make_it_lost(
    fake: FakeSqs, queue: AwsSqsQueue
) -> None:
    [held] = await started(queue, message())
    with fake.lock:  # the server is busy: the heartbeat's request comes, and waits
        extending = asyncio.create_task(queue.extend([held], LEASE))
        await asyncio.sleep(0)
        fake.queues["jobs"].clear()
        held.receipt.ended = "complete"
    assert await extending == [LeaseState.LOST]
    assert not await queue.complete([done(held)])


async def test_a_lease_is_not_extended_beyond_what_sqs_allows_in_all(
    fake: FakeSqs, queue: AwsSqsQueue
) -> None:
    [held] = await started(queue, message())
    held.receipt.taken_at -= timedelta(hours=11).total_seconds()
    assert await queue.extend([held], LEASE) == [LeaseState.LOST]
    assert not fake.calls_of("ChangeMessageVisibilityBatch")


async def test_an_answer_that_got_lost_leaves_a_message_that_comes_again_as_a_crash(
    fake: FakeSqs, queue: AwsSqsQueue
) -> None:
    await queue.enqueue([message()])
    fake.failures["ReceiveMessage"].append(LOST)
    with pytest.raises(BackendUnavailable):
        await queue.receive("default", limit=1, wait=PATIENCE, lease=LEASE)
    fake.show("jobs")
    [again] = await received(queue)
    assert (again.attempt, again.failures, again.crashes) == (2, 0, 1)


async def test_a_message_that_sqs_delivers_twice_is_settled_twice_without_complaint(
    fake: FakeSqs, queue: AwsSqsQueue
) -> None:
    [one] = await started(queue, message())
    fake.show("jobs")
    [other] = await received(queue)
    assert not await queue.complete([done(other)])
    assert not await queue.complete([done(one)])  # its receipt is stale, and SQS does not say so
    assert not fake.queues["jobs"]


# batches: SQ-8


@pytest.mark.parametrize(
    ("failure", "kind"), [(BROKEN, BackendUnavailable), (Failure("InvalidEntry"), BackendError)]
)
async def test_an_enqueue_that_fails_in_part_says_which_jobs_are_missing(
    fake: FakeSqs, queue: AwsSqsQueue, failure: Failure, kind: type[BackendError]
) -> None:
    batch = messages(3)
    fake.entry_failures["SendMessageBatch"] = {1: failure}
    with pytest.raises(kind, match=r"accepted 2 of 3 .* again: " + batch[1].job_id) as caught:
        await queue.enqueue(batch)
    assert type(caught.value) is kind
    assert batch[0].job_id not in str(caught.value)
    await queue.enqueue([batch[1]])
    assert {one["id"] for one in bodies(fake, "jobs")} == {one.job_id for one in batch}


async def test_a_completion_that_fails_in_part_is_repeated_in_that_part_only(
    fake: FakeSqs, queue: AwsSqsQueue
) -> None:
    held = await started(queue, *messages(3))
    fake.entry_failures["DeleteMessageBatch"] = {2: BROKEN}
    with pytest.raises(BackendUnavailable):
        await queue.complete([done(one) for one in held])
    assert not await queue.complete([done(one) for one in held])
    assert [len(call["Entries"]) for call in fake.calls_of("DeleteMessageBatch")] == [3, 1]
    assert not fake.queues["jobs"]


@pytest.mark.parametrize("verb", ["abandon", "dead_letter"])
async def test_what_goes_elsewhere_is_not_deleted_before_it_is_there(
    fake: FakeSqs, queue: AwsSqsQueue, verb: str
) -> None:
    [held] = await started(queue, message())
    fake.failures["SendMessageBatch"].append(BROKEN)
    with pytest.raises(BackendUnavailable):
        await settle(queue, verb, held)
    assert not fake.calls_of("DeleteMessageBatch")
    assert not await settle(queue, verb, held)
    assert len(fake.queues["jobs"]) + len(fake.queues["jobs-dlq"]) == 1


@pytest.mark.parametrize("verb", ["abandon", "dead_letter"])
async def test_what_has_gone_elsewhere_does_not_go_twice(
    fake: FakeSqs, queue: AwsSqsQueue, verb: str
) -> None:
    [held] = await started(queue, message())
    fake.failures["DeleteMessageBatch"].append(THROTTLED)
    with pytest.raises(BackendUnavailable):
        await settle(queue, verb, held)
    assert not await settle(queue, verb, held)
    assert len(fake.queues["jobs"]) + len(fake.queues["jobs-dlq"]) == 1


async def settle(queue: AwsSqsQueue, verb: str, held: Delivery) -> Any:
    if verb == "abandon":
        return await queue.abandon([back(held)])
    return await queue.dead_letter([dead(held)])


async def test_many_messages_travel_in_requests_that_sqs_takes(
    fake: FakeSqs, queue: AwsSqsQueue
) -> None:
    large = messages(3, payload=b"x" * 500_000)
    await queue.enqueue([*messages(25), *large])
    calls = fake.calls_of("SendMessageBatch")
    assert max(len(call["Entries"]) for call in calls) == 10
    for call in calls:
        assert sum(len(one["MessageBody"]) for one in call["Entries"]) <= 1_048_576
    assert len(fake.queues["jobs"]) == 28


async def test_on_a_fifo_queue_nothing_is_sent_after_a_failure(
    fake: FakeSqs, boto_session: BotoSession
) -> None:
    fake.queues["jobs.fifo"] = []
    queue = AwsSqsQueue(
        fake.url("jobs.fifo"),
        dead_letter_queue_url=fake.url("jobs-dlq"),
        region="us-east-1",
        _session=boto_session,
    )
    await queue.open()
    fake.failures["SendMessageBatch"].extend([None, BROKEN])
    with pytest.raises(BackendUnavailable, match="accepted 10 of 35"):
        await queue.enqueue(messages(35, group="a"))
    await queue.close()
    assert len(fake.calls_of("SendMessageBatch")) == 2


# accounts of attempts


@pytest.mark.parametrize(
    ("counts_as", "expected"),
    [
        (CountsAs.FAILURE, (2, 1, 0)),
        (CountsAs.CRASH, (2, 0, 1)),
        (CountsAs.SNOOZE, (2, 0, 0)),
        (CountsAs.RELEASE, (2, 0, 0)),
    ],
)
async def test_a_copy_carries_the_accounts_of_the_job(
    queue: AwsSqsQueue, counts_as: CountsAs, expected: tuple[int, int, int]
) -> None:
    [held] = await started(queue, message())
    await queue.abandon([back(held, counts_as=counts_as)])
    [again] = await received(queue)
    assert (again.attempt, again.failures, again.crashes) == expected
    assert again.enqueued_at == held.enqueued_at
    assert again.message.prior_attempts == 1


async def test_a_dead_letter_keeps_its_reasons_beside_a_message_that_could_run_again(
    fake: FakeSqs, queue: AwsSqsQueue
) -> None:
    [held] = await started(queue, message(payload=b'{"a":1}'))
    await queue.dead_letter([dead(held, timed_out=True)])
    [letter] = fake.queues["jobs-dlq"]
    said = {name: one["StringValue"] for name, one in letter.sent["MessageAttributes"].items()}
    assert said["jobbus.problem"] == "ValueError"
    assert said["jobbus.message"] == "it broke"
    assert said["jobbus.timed_out"] == "True"
    assert said["jobbus.job_id"] == held.job_id
    fake.put("jobs", {"MessageBody": letter.sent["MessageBody"]})
    [moved_back] = await received(queue)
    assert moved_back.message.payload == b'{"a":1}'
    assert moved_back.attempt > held.attempt
    assert (moved_back.failures, moved_back.crashes) == (0, 0)


# polls that nobody awaits any more


async def test_a_receive_adopts_the_poll_of_one_that_was_cancelled(
    fake: FakeSqs, queue: AwsSqsQueue
) -> None:
    first = asyncio.create_task(queue.receive("default", limit=1, wait=PATIENCE, lease=LEASE))
    await until(lambda: fake.calls_of("ReceiveMessage"))
    first.cancel()
    await asyncio.wait([first])
    assert not await queue.receive("default", limit=5, wait=timedelta(0), lease=LEASE)
    second = asyncio.create_task(queue.receive("default", limit=5, wait=PATIENCE, lease=LEASE))
    await asyncio.sleep(0)
    await queue.enqueue([message()])
    [held] = await second
    assert held.attempt == 1
    assert len(fake.calls_of("ReceiveMessage")) == 1


@pytest.mark.parametrize("end", ["cancelled", "closed"])
async def test_what_a_poll_brings_that_nobody_awaits_is_put_back_untouched(
    fake: FakeSqs, queue: AwsSqsQueue, end: str
) -> None:
    poll = asyncio.create_task(queue.receive("default", limit=1, wait=PATIENCE, lease=LEASE))
    await until(lambda: fake.calls_of("ReceiveMessage"))
    if end == "cancelled":
        poll.cancel()
    else:
        await queue.close()
    await asyncio.wait([poll])
    fake.put("jobs", {"MessageBody": json.dumps(BODY)})
    await until(lambda: fake.calls_of("DeleteMessageBatch"))
    [put_back] = await until(lambda: fake.queues["jobs"])
    assert json.loads(put_back.sent["MessageBody"])["payload"] == BODY["payload"]
    assert put_back.visible_at <= time.time()
    await queue.open()
    [held] = await received(queue)
    assert (held.attempt, held.crashes) == (1, 0)


BODY = {"v": 1, "id": message().job_id, "type": "example.work", "payload": "{}"}


# bytes that anybody may have written: D-17


@pytest.mark.parametrize(
    "body",
    [
        "hello",
        "[]",
        "[" * 100_000,
        json.dumps({**BODY, "v": 2}),
        json.dumps({**BODY, "id": "1"}),
        json.dumps({**BODY, "type": "a b"}),
        json.dumps({**BODY, "payload": 7}),
        json.dumps({**BODY, "payload64": "!"}),
        json.dumps({**BODY, "headers": {"a": 1}}),
        json.dumps({**BODY, "timeout": -1}),
        json.dumps({**BODY, "prior": True}),
        json.dumps({**BODY, "first_sent": 10**30}),
        json.dumps({**BODY, "max_attempts": 0}),
        json.dumps(BODY)[:-1] + ',"metadata":{"x":NaN}}',
    ],
    # Numbered, since each process makes an id of its own and a test keeps its name.
    ids=itertools.count(),
)
async def test_what_cannot_be_read_goes_to_the_dead_letters_verbatim(
    fake: FakeSqs, queue: AwsSqsQueue, body: str
) -> None:
    fake.put("jobs", {"MessageBody": body})
    [held] = await started(queue, message())
    assert [one.sent["MessageBody"] for one in fake.queues["jobs-dlq"]] == [body]
    [letter] = fake.queues["jobs-dlq"]
    attributes = letter.sent["MessageAttributes"]
    assert attributes["jobbus.problem"]["StringValue"] == "undecodable"
    assert not await queue.complete([done(held)])
    assert not fake.queues["jobs"]


# what SQS says


@pytest.mark.parametrize("failure", [THROTTLED, BROKEN], ids=lambda failure: failure.code)
async def test_what_may_pass_is_unavailable_and_is_not_tried_again_behind_ones_back(
    fake: FakeSqs, queue: AwsSqsQueue, failure: Failure
) -> None:
    fake.failures["ReceiveMessage"].append(failure)
    with pytest.raises(BackendUnavailable, match=failure.code):
        await queue.receive("default", limit=1, wait=PATIENCE, lease=LEASE)
    assert len(fake.calls_of("ReceiveMessage")) == 1


async def test_a_refusal_of_access_names_the_permissions(fake: FakeSqs, queue: AwsSqsQueue) -> None:
    fake.failures["SendMessageBatch"].append(Failure("AccessDeniedException"))
    with pytest.raises(BackendError, match=r"permissions in deploy/aws-sqs"):
        await queue.enqueue([message()])


async def test_a_server_that_does_not_answer_is_given_up(
    fake: FakeSqs, queue: AwsSqsQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "DEADLINE", 0.1)
    with fake.lock, pytest.raises(BackendUnavailable, match="no answer within"):
        await queue.enqueue([message()])


async def test_a_server_that_is_not_there_is_unavailable(
    fake: FakeSqs, boto_session: BotoSession
) -> None:
    queue = AwsSqsQueue("http://127.0.0.1:9/0/jobs", region="us-east-1", _session=boto_session)
    with pytest.raises(BackendUnavailable):
        await queue.open()


async def test_a_queue_that_does_not_exist_is_told_when_opening(
    fake: FakeSqs, boto_session: BotoSession
) -> None:
    queue = AwsSqsQueue(fake.url("jbos"), region="us-east-1", _session=boto_session)
    with pytest.raises(ConfigurationError, match="jobbus doctor --create"):
        await queue.open()


async def test_a_queue_without_a_place_for_dead_letters_is_not_opened(
    fake: FakeSqs, boto_session: BotoSession
) -> None:
    queue = AwsSqsQueue(fake.url("jobs"), region="us-east-1", _session=boto_session)
    with pytest.raises(ConfigurationError, match="DEADLETTERQUEUEURL"):
        await queue.open()


async def test_the_target_of_the_redrive_policy_takes_the_dead_letters(
    fake: FakeSqs, boto_session: BotoSession
) -> None:
    policy = {"deadLetterTargetArn": "arn:aws:sqs:us-east-1:000000000000:jobs-dlq"}
    fake.attributes["jobs"]["RedrivePolicy"] = json.dumps(policy)
    queue = AwsSqsQueue(fake.url("jobs"), region="us-east-1", _session=boto_session)
    await queue.open()
    [held] = await started(queue, message())
    await queue.dead_letter([dead(held)])
    await queue.close()
    assert len(fake.queues["jobs-dlq"]) == 1


async def test_queues_without_a_policy_of_their_own_share_the_dead_letters_of_the_default(
    fake: FakeSqs, boto_session: BotoSession
) -> None:
    policy = {"deadLetterTargetArn": "arn:aws:sqs:us-east-1:000000000000:jobs-dlq"}
    fake.attributes["jobs"]["RedrivePolicy"] = json.dumps(policy)
    fake.queues["jobs-mail"] = []
    queue = AwsSqsQueue(fake.url("jobs"), region="us-east-1", _session=boto_session)
    await queue.open()
    await queue.enqueue([message(queue="mail")])
    [held] = await queue.receive("mail", limit=1, wait=PATIENCE, lease=LEASE)
    assert not await queue.dead_letter([dead(held)])
    await queue.close()
    assert len(fake.queues["jobs-dlq"]) == 1


async def test_counts_are_what_sqs_says_and_no_more(queue: AwsSqsQueue) -> None:
    depth = await queue.get_queue_depth("default")
    assert (depth.ready, depth.leased, depth.dead) == (7, 0, 7)
    assert depth.oldest_age is None
