"""What is held against a queue's capabilities before anything runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from jobbus import JobBus, RetryPolicy, Unsupported, Worker
from jobbus.backends.memory import MemoryQueue
from jobbus.message import OnFailure
from jobbus.requirements import check_messages, longest_back_off
from jobbus.testing.broker import CAPABILITIES, BareBroker
from jobbus.testing.make import after, message

HOUR = timedelta(hours=1)


def bare_bus() -> JobBus:
    return JobBus("memory://", queue=BareBroker(MemoryQueue()))


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"priority": 8}, "has priority 8"),
        ({"expires_in": HOUR}, "start deadline"),
        ({"retry": RetryPolicy(base=HOUR, cap=HOUR)}, "backs off for up to 1:00:00"),
    ],
    ids=["priority", "deadline", "back-off"],
)
@pytest.mark.parametrize(
    "start", [JobBus.open, lambda bus: Worker(bus).run()], ids=["bus", "worker"]
)
async def test_a_job_type_that_the_queue_cannot_serve_is_refused_at_start_up(
    options: dict[str, Any], reason: str, start: Callable[[JobBus], Any]
) -> None:
    bus = bare_bus()

    @bus.job(name="mail.send", **options)
    async def work() -> None: ...

    with pytest.raises(Unsupported, match="BACKGROUND_JOBS__LEDGER") as refused:
        await start(bus)
    assert "mail.send" in str(refused.value)
    assert reason in str(refused.value)


async def test_a_job_type_that_asks_for_nothing_special_starts_on_a_bare_broker() -> None:
    bus = bare_bus()

    @bus.job
    async def work() -> None: ...

    async with bus:
        await work.enqueue()


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        ({"priority": 1}, "priority"),
        ({"group": "tenant"}, "group"),
        ({"depends_on": after(message(), on_failure=OnFailure.RUN)}, "depends on"),
        ({"unique_key": "one"}, "unique key"),
        ({"expires_at": datetime.now(UTC)}, "start deadline"),
        ({"delay": HOUR}, "due in"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_message_that_asks_for_too_much_is_refused_with_the_remedy(
    asked: dict[str, Any], reason: str
) -> None:
    with pytest.raises(Unsupported, match=reason) as refused:
        check_messages([message(), message(**asked)], CAPABILITIES)
    assert "BACKGROUND_JOBS__LEDGER" in str(refused.value)
    check_messages([message(**asked)], replace(CAPABILITIES, ledger=True))


async def test_a_bare_broker_cannot_join_a_transaction_and_says_what_would_help() -> None:
    bus = bare_bus()
    with pytest.raises(Unsupported, match="BACKGROUND_JOBS__LEDGER"):
        await bus.enqueue_many([message()], connection=object())


def test_the_longest_back_off_is_that_of_the_last_try() -> None:
    policy = RetryPolicy(max_attempts=4, base=timedelta(seconds=10), cap=HOUR)
    assert longest_back_off(policy) == timedelta(seconds=40)
    assert longest_back_off(RetryPolicy(max_attempts=1)) == timedelta(0)
