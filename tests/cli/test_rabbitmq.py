"""``doctor`` and ``backends`` on a broker."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from tests.backends.rabbitmq_broker import delete_all, new_prefix
from tests.cli.conftest import Run
from tests.services import RabbitMqServer


@pytest.fixture
def prefix(rabbitmq_server: RabbitMqServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    prefix = new_prefix()
    monkeypatch.setenv("BACKGROUND_JOBS__PROVIDER", "RabbitMq")
    monkeypatch.setenv("BACKGROUND_JOBS__RABBITMQ__URL", rabbitmq_server.url)
    monkeypatch.setenv("BACKGROUND_JOBS__RABBITMQ__QUEUE_PREFIX", prefix)
    monkeypatch.setenv("BACKGROUND_JOBS__RABBITMQ__CREATE_TOPOLOGY", "never")
    yield prefix
    asyncio.run(delete_all(rabbitmq_server.url, prefix))


def checks(run: Run, *words: str) -> dict[str, dict[str, Any]]:
    return {each["check"]: each for each in run("doctor", *words).json["checks"]}


def test_the_doctor_makes_the_queues_of_a_broker_when_asked(run: Run, prefix: str) -> None:
    refused = run("enqueue", "example.work", "--unregistered")
    assert refused.code == 2
    assert "jobbus doctor --create" in refused.err
    found = checks(run)
    assert found["queues"]["level"] == "warning"
    assert f"{prefix}.queue.default" in found["queues"]["message"]
    assert found["queues"]["fix"] == "`jobbus doctor --create`"
    made = checks(run, "--create")
    assert made["queues"] == {
        "check": "queues",
        "level": "ok",
        "message": f"made {prefix}.queue.default",
        "fix": "",
    }
    assert checks(run)["queues"]["level"] == "ok"
    assert run("enqueue", "example.work", "--unregistered").code == 0


def test_the_doctor_tells_a_broker_that_refuses_us_from_one_that_is_not_there(
    run: Run, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BACKGROUND_JOBS__RABBITMQ__URL", "amqp://guest:canary@127.0.0.1:1/")
    absent = run("doctor")
    assert absent.code == 1
    assert "cannot be reached" in absent.out
    assert "canary" not in absent.out


def test_backends_tells_what_rabbitmq_can_do_without_connecting(run: Run) -> None:
    found = {each["name"]: each for each in run("backends").json["backends"]}
    assert found["rabbitmq"]["capabilities"]["ledger"] is False
    assert found["rabbitmq"]["problem"] is None
