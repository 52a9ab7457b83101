"""The policies in deploy/ allow what is done, and nothing more."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from jobbus.backends.aws_sqs import AwsSqsQueue
from jobbus.backends.aws_sqs.client import BotoSession
from jobbus.testing.make import back, dead, done, message, messages
from tests.emulators.sqs.server import FakeSqs, fake_sqs

POLICIES = Path(__file__).parents[3] / "deploy" / "aws-sqs"
MINUTE = timedelta(minutes=1)


def allowed(name: str) -> set[str]:
    policy = json.loads((POLICIES / f"{name}-policy.json").read_text())
    [statement] = policy["Statement"]
    assert not any("*" in action for action in statement["Action"])
    assert all(one.startswith("arn:aws:sqs:") for one in statement["Resource"])
    return {action.removeprefix("sqs:") for action in statement["Action"]}


async def produce(queue: AwsSqsQueue) -> None:
    await queue.enqueue([*messages(4), message(queue="mail")])


async def work(queue: AwsSqsQueue) -> None:
    await produce(queue)
    held = await queue.receive("default", limit=4, wait=MINUTE, lease=MINUTE)
    await queue.extend(held, MINUTE)
    await queue.complete([done(held[0])])
    await queue.abandon([back(held[1])])
    await queue.dead_letter([dead(held[2])])
    await queue.get_queue_depth("default")


def called(fake: FakeSqs) -> set[str]:
    return {operation.removesuffix("Batch") for operation, _ in fake.calls}


@pytest.mark.parametrize(("policy", "act"), [("producer", produce), ("worker", work)])
async def test_a_policy_allows_what_its_holder_does_and_nothing_more(
    policy: str, act: Any, boto_session: BotoSession
) -> None:
    with fake_sqs("jobs", "jobs-mail", "jobs-dlq") as fake:
        queue = AwsSqsQueue(
            fake.url("jobs"),
            dead_letter_queue_url=fake.url("jobs-dlq"),
            region="us-west-2",
            _session=boto_session,
        )
        await queue.open()
        await act(queue)
        await queue.close()
        # The permission for a batch is that for a single message.
        assert called(fake) == allowed(policy)
