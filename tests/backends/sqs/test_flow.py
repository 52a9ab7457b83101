"""A bus and a worker on bare SQS: jobs run, fail, are tried again, end among the dead letters."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest

from jobbus import JobBus, JobContext, PermanentError, Snooze, Unsupported, load_settings
from jobbus.backends.aws_sqs import AwsSqsQueue
from jobbus.backends.aws_sqs.client import BotoSession
from jobbus.backends.aws_sqs.envelope import Envelope, encode
from jobbus.ids import new_id
from tests.flow.support import AT_ONCE, NOWHERE, PATIENCE, at_work, until
from tests.services import SqsServer, fresh_queues
from tests.services.sqs import REGION


@dataclass
class Home:
    """Queues on a server, and buses on them."""

    server: SqsServer
    urls: dict[str, str]
    session: BotoSession

    def bus(self, **settings: object) -> JobBus:
        queue = AwsSqsQueue(
            self.urls["default"],
            dead_letter_queue_url=self.urls["dlq"],
            region=REGION,
            _session=self.session,
        )
        return JobBus(load_settings(settings, environ={}, directory=NOWHERE), queue=queue)

    def count(self, name: str) -> dict[str, int]:
        names = ["", "NotVisible", "Delayed"]
        said = self.server.client.get_queue_attributes(
            QueueUrl=self.urls[name],
            AttributeNames=[f"ApproximateNumberOfMessages{each}" for each in names],
        )["Attributes"]
        return {
            each.casefold() or "ready": int(said[f"ApproximateNumberOfMessages{each}"])
            for each in names
        }

    def dead(self) -> list[dict[str, str]]:
        """The reasons of the dead letters."""
        got = self.server.client.receive_message(
            QueueUrl=self.urls["dlq"], MaxNumberOfMessages=10, MessageAttributeNames=["All"]
        )
        return [
            {name: value["StringValue"] for name, value in one["MessageAttributes"].items()}
            for one in got.get("Messages", ())
        ]


@pytest.fixture
def home(
    request: pytest.FixtureRequest, sqs_server: SqsServer, boto_session: BotoSession
) -> Iterator[Home]:
    fifo = getattr(request, "param", "standard") == "fifo"
    with fresh_queues(sqs_server, ["default", "mail"], fifo=fifo) as urls:
        yield Home(sqs_server, urls, boto_session)


@pytest.fixture
async def bus(home: Home) -> AsyncIterator[JobBus]:
    async with home.bus() as bus:
        yield bus


async def empty(home: Home, name: str = "default") -> None:
    await until(lambda: not any(home.count(name).values()), "an empty queue")


async def test_a_job_runs_and_its_message_is_gone(home: Home, bus: JobBus) -> None:
    ran: list[int] = []

    @bus.job
    async def note(number: int) -> int:
        ran.append(number)
        return number

    await bus.enqueue_many([note.message(number) for number in range(25)])
    async with at_work(bus):
        await until(lambda: sorted(ran) == list(range(25)))
        await empty(home)
    assert not home.dead()


async def test_a_failing_job_is_tried_as_often_as_it_may_and_then_set_aside(
    home: Home, bus: JobBus
) -> None:
    attempts: list[int] = []

    @bus.job(retry=AT_ONCE)
    async def fail(context: JobContext) -> None:
        attempts.append(context.attempt)
        raise ValueError("it broke")

    await fail.enqueue()
    async with at_work(bus):
        await until(lambda: home.count("dlq")["ready"] == 1)
        await empty(home)
    assert attempts == [1, 2, 3]
    [reasons] = home.dead()
    assert reasons["jobbus.problem"] == "ValueError"
    assert reasons["jobbus.failures"] == "2"


async def test_a_permanent_error_is_tried_once(home: Home, bus: JobBus) -> None:
    attempts: list[int] = []

    @bus.job(retry=AT_ONCE)
    async def fail() -> None:
        attempts.append(1)
        raise PermanentError("never")

    await fail.enqueue()
    async with at_work(bus):
        await until(lambda: home.count("dlq")["ready"] == 1)
    assert attempts == [1]


async def test_a_snooze_longer_than_sqs_delays_is_cut_and_the_worker_goes_on(
    home: Home, bus: JobBus
) -> None:
    ran: list[str] = []

    @bus.job
    async def snooze() -> None:
        raise Snooze(timedelta(hours=5))

    @bus.job
    async def note() -> None:
        ran.append("note")

    await snooze.enqueue()
    async with at_work(bus):
        await until(lambda: home.count("default")["delayed"] == 1)
        await note.enqueue()
        await until(lambda: ran)


async def test_a_job_that_outlasts_its_lease_is_not_run_twice(home: Home) -> None:
    async with home.bus(visibility_timeout_seconds=2) as bus:
        ran: list[int] = []

        @bus.job
        async def long() -> None:
            ran.append(1)
            await asyncio.sleep(3)  # longer than the lease, which is the point
            ran.append(2)

        await long.enqueue()
        async with at_work(bus):
            await until(lambda: 2 in ran)
            await empty(home)
        assert ran == [1, 2]


async def test_a_worker_that_stops_hands_its_jobs_back_without_holding_it_against_them(
    home: Home, bus: JobBus
) -> None:
    started = asyncio.Event()
    seen: list[tuple[int, int]] = []

    @bus.job(name="wait")
    async def wait() -> None:
        started.set()
        await asyncio.sleep(PATIENCE)

    await wait.enqueue()
    async with at_work(bus, drain_timeout=timedelta(0)):
        await asyncio.wait_for(started.wait(), PATIENCE)
    async with home.bus() as other:

        @other.job(name="wait")
        async def finish(context: JobContext) -> None:
            seen.append((context.attempt, context.failures))

        async with at_work(other):
            await until(lambda: seen)
    assert seen == [(2, 0)]


async def test_a_job_whose_processes_keep_dying_is_set_aside(home: Home, bus: JobBus) -> None:
    ran: list[int] = []

    @bus.job(name="deadly")
    async def deadly() -> None:
        ran.append(1)

    crashed = Envelope(message=deadly.message(), crashes=3)
    home.server.client.send_message(QueueUrl=home.urls["default"], MessageBody=encode(crashed))
    async with at_work(bus):
        await until(lambda: home.count("dlq")["ready"] == 1)
    assert not ran
    assert home.dead()[0]["jobbus.problem"] == "poison_crash"


async def test_a_worker_holds_one_job_at_a_time_of_those_whose_processes_died(
    home: Home, bus: JobBus
) -> None:
    started, ended = asyncio.Event(), asyncio.Event()

    @bus.job(name="suspect")
    async def suspect() -> None:
        started.set()
        await ended.wait()

    for _ in range(3):
        body = encode(Envelope(message=suspect.message(), crashes=1))
        home.server.client.send_message(QueueUrl=home.urls["default"], MessageBody=body)
    async with at_work(bus):
        await asyncio.wait_for(started.wait(), PATIENCE)
        expected = {"ready": 0, "notvisible": 1, "delayed": 2}
        await until(lambda: home.count("default") == expected)
        ended.set()


async def test_a_worker_serves_several_queues(home: Home, bus: JobBus) -> None:
    ran: list[str] = []

    @bus.job
    async def note(name: str) -> None:
        ran.append(name)

    @bus.job(queue="mail")
    async def mail(name: str) -> None:
        ran.append(name)

    async with at_work(bus):
        for index in range(3):
            await note.enqueue(f"note {index}")
            await mail.enqueue(f"mail {index}")
            await until(lambda: len(ran) == 2 * index + 2)  # noqa: B023  # awaited in this very round
    assert sorted(ran) == [f"{kind} {index}" for kind in ("mail", "note") for index in range(3)]


@pytest.mark.parametrize("home", ["fifo"], indirect=True)
async def test_a_retry_on_a_fifo_queue_does_not_let_its_group_overtake(
    home: Home, bus: JobBus
) -> None:
    ran: list[tuple[int, int]] = []

    @bus.job(retry=AT_ONCE)
    async def step(context: JobContext, number: int) -> None:
        ran.append((number, context.attempt))
        if ran == [(0, 1)]:
            raise ValueError("once")

    for number in range(3):
        await bus.enqueue(step.message(number), group="tenant-7")
    async with at_work(bus):
        await until(lambda: len(ran) == 4)
    assert ran == [(0, 1), (0, 2), (1, 1), (2, 1)]


async def ask_for_state(bus: JobBus) -> Any:
    return await bus.get(new_id())


async def ask_for_cancel(bus: JobBus) -> Any:
    return await bus.cancel(new_id())


@pytest.mark.parametrize("ask", [ask_for_state, ask_for_cancel])
async def test_what_only_a_ledger_knows_is_refused_with_a_remedy(bus: JobBus, ask: Any) -> None:
    with pytest.raises(Unsupported, match="ledger"):
        await ask(bus)


@pytest.mark.parametrize(
    "asked",
    [
        {"delay": timedelta(hours=2)},
        {"priority": 9},
        {"unique_key": "a"},
        {"depends_on": [new_id()]},
        {"expires_in": timedelta(hours=1)},
        {"group": "a"},
    ],
    ids=lambda asked: next(iter(asked)),
)
async def test_an_option_that_needs_a_ledger_is_refused_with_a_remedy(
    home: Home, bus: JobBus, asked: dict[str, Any]
) -> None:
    @bus.job
    async def note() -> None: ...

    with pytest.raises(Unsupported, match="ledger"):
        await bus.enqueue(note.message(), **asked)
    assert not any(home.count("default").values())
