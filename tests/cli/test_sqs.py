"""``jobbus doctor`` and ``jobbus enqueue`` on a broker without a ledger."""

from __future__ import annotations

import secrets
from collections.abc import Iterator

import pytest

from tests.cli.conftest import Run
from tests.services import SqsServer
from tests.services.sqs import CREDENTIALS, REGION


@pytest.fixture
def name(sqs_server: SqsServer, run: Run, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The name of a queue that is not there yet, which the settings choose."""
    name = f"test-{secrets.token_hex(6)}"
    url = f"{sqs_server.endpoint}/000000000000/{name}"
    for key, value in CREDENTIALS.items():
        monkeypatch.setenv(key, value)
    monkeypatch.setenv("AWS_REGION", REGION)
    monkeypatch.setenv("BACKGROUND_JOBS__PROVIDER", "AwsSqs")
    monkeypatch.setenv("BACKGROUND_JOBS__AWSSQS__QUEUEURL", url)
    yield name
    for made in sqs_server.client.list_queues(QueueNamePrefix=name).get("QueueUrls", ()):
        sqs_server.client.delete_queue(QueueUrl=made)


def test_the_doctor_makes_the_queues_that_are_missing_when_asked(
    sqs_server: SqsServer, run: Run, name: str
) -> None:
    [missing] = _broker(run("doctor").json["checks"])
    assert missing["level"] == "failed"
    assert "jobbus doctor --create" in missing["message"]
    assert not sqs_server.client.list_queues(QueueNamePrefix=name).get("QueueUrls")
    made = run("doctor", "--create")
    assert made.code == 0
    [fine, told] = _broker(made.json["checks"])
    assert fine["message"].endswith("answers")
    assert told["message"] == f"made dead-letter queue {name}-dlq, queue {name}"
    [_, again] = _broker(run("doctor").json["checks"])
    assert again["message"] == "all that is needed is there"


def test_the_doctor_tells_what_will_surprise_somebody(
    sqs_server: SqsServer, run: Run, name: str
) -> None:
    assert run("doctor", "--create").code == 0
    url = sqs_server.client.get_queue_url(QueueName=f"{name}-dlq")["QueueUrl"]
    short = {"MessageRetentionPeriod": "3600"}
    sqs_server.client.set_queue_attributes(QueueUrl=url, Attributes=short)
    done = run("doctor")
    assert done.code == 0
    [_, _, doubt] = _broker(done.json["checks"])
    assert doubt["level"] == "warning"
    assert "14 days" in doubt["message"]


def test_a_job_is_enqueued_by_name(sqs_server: SqsServer, run: Run, name: str) -> None:
    assert run("doctor", "--create").code == 0
    assert run("enqueue", "email.send", '{"to": 7}').code == 0
    url = sqs_server.client.get_queue_url(QueueName=name)["QueueUrl"]
    [message] = sqs_server.client.receive_message(QueueUrl=url)["Messages"]
    assert '"type":"email.send"' in message["Body"]


def _broker(checks: list[dict[str, str]]) -> list[dict[str, str]]:
    return [each for each in checks if each["check"] in ("broker", "queues")]
