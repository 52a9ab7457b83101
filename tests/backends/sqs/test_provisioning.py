"""``create`` makes what is missing, ``warnings`` tells what is doubtful; both on a look-alike."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from jobbus.backends.aws_sqs import AwsSqsQueue
from jobbus.backends.aws_sqs.client import BotoSession
from jobbus.errors import ConfigurationError
from tests.services import SqsServer
from tests.services.sqs import REGION


@dataclass
class Account:
    """An account without queues."""

    server: SqsServer
    session: BotoSession
    prefix: str

    def queue(self, name: str = "jobs", *, account: str = "000000000000") -> AwsSqsQueue:
        return AwsSqsQueue(
            f"{self.server.endpoint}/{account}/{self.prefix}-{name}",
            region=REGION,
            queues=("default", "mail"),
            _session=self.session,
        )

    def attributes(self, name: str) -> dict[str, str]:
        url = self.server.client.get_queue_url(QueueName=f"{self.prefix}-{name}")["QueueUrl"]
        found: dict[str, str] = self.server.client.get_queue_attributes(
            QueueUrl=url, AttributeNames=["All"]
        )["Attributes"]
        return found

    def change(self, name: str, **attributes: str) -> None:
        url = self.server.client.get_queue_url(QueueName=f"{self.prefix}-{name}")["QueueUrl"]
        self.server.client.set_queue_attributes(QueueUrl=url, Attributes=attributes)


@pytest.fixture
def account(sqs_server: SqsServer, boto_session: BotoSession) -> Iterator[Account]:
    account = Account(sqs_server, boto_session, f"test-{secrets.token_hex(6)}")
    yield account
    found = sqs_server.client.list_queues(QueueNamePrefix=account.prefix)
    for url in found.get("QueueUrls", ()):
        sqs_server.client.delete_queue(QueueUrl=url)


async def test_what_is_missing_is_made_once_and_then_works(account: Account) -> None:
    queue, name = account.queue(), f"{account.prefix}-jobs"
    assert await queue.create() == [
        f"dead-letter queue {name}-dlq",
        f"queue {name}",
        f"queue {name}-mail",
    ]
    assert await queue.create() == []
    assert await queue.warnings() == []
    await queue.open()
    await queue.close()
    policy = json.loads(account.attributes("jobs-mail")["RedrivePolicy"])
    assert policy["deadLetterTargetArn"].endswith(f":{name}-dlq")
    assert int(policy["maxReceiveCount"]) == 26  # SQ-13


async def test_fifo_queues_are_made_as_such(account: Account) -> None:
    queue = account.queue("jobs.fifo")
    assert await queue.create() == [
        f"dead-letter queue {account.prefix}-jobs-dlq.fifo",
        f"queue {account.prefix}-jobs.fifo",
        f"queue {account.prefix}-jobs-mail.fifo",
    ]
    assert account.attributes("jobs-dlq.fifo")["FifoQueue"] == "true"


async def test_a_queue_without_a_redrive_policy_gets_one_and_keeps_the_rest(
    account: Account,
) -> None:
    queue = account.queue()
    account.server.client.create_queue(
        QueueName=f"{account.prefix}-jobs", Attributes={"VisibilityTimeout": "77"}
    )
    assert f"redrive policy of {account.prefix}-jobs" in await queue.create()
    assert account.attributes("jobs")["VisibilityTimeout"] == "77"
    await queue.open()
    await queue.close()


async def test_what_will_surprise_somebody_is_told_with_its_remedy(account: Account) -> None:
    queue = account.queue()
    await queue.create()
    policy = json.loads(account.attributes("jobs")["RedrivePolicy"])
    account.change("jobs", RedrivePolicy=json.dumps({**policy, "maxReceiveCount": "3"}))
    account.change("jobs-mail", MaximumMessageSize="2048")
    account.change("jobs-dlq", MessageRetentionPeriod="345600")
    told = "\n".join(await queue.warnings())
    assert "gives up after 3 receives" in told
    assert "set maxReceiveCount to 26 or more" in told
    assert "takes messages of 2,048 bytes at most" in told
    assert f"{account.prefix}-jobs-dlq keeps messages no longer" in told  # SQ-12


async def test_queues_are_not_made_in_another_account_than_the_settings_name(
    account: Account,
) -> None:
    queue = account.queue(account="111111111111")
    with pytest.raises(ConfigurationError, match="use credentials of that account"):
        await queue.create()
