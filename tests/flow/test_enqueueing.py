"""The ways to ask for a job: by function, by name, by payload, in numbers."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import timedelta

import pytest

from jobbus import (
    ConfigurationError,
    EnqueueOptions,
    InvalidJob,
    JobBus,
    JobFilter,
    PayloadError,
    PayloadTooLarge,
    UnknownJobType,
)
from jobbus.ids import new_id
from tests.flow.support import Home, all_ended, at_work, completed, ended


@dataclass(frozen=True)
class ProcessRun:
    run: int
    layers: list[str]


async def test_a_payload_goes_to_the_handler_that_takes_it_with_options_as_a_value(
    bus: JobBus,
) -> None:
    @bus.job
    async def process_run(job: ProcessRun) -> int:
        return job.run

    options = EnqueueOptions(
        priority=10, delay=timedelta(milliseconds=30), message_group_id="tenant-123"
    )
    async with at_work(bus):
        job_id = await bus.enqueue(ProcessRun(7, ["roads"]), options)
        assert await process_run.result(job_id) == 7
    job = await completed(bus, job_id)
    assert (job.priority, job.group) == (10, "tenant-123")
    assert job.run_at - job.created_at >= timedelta(milliseconds=30)
    assert json.loads(job.payload) == {"run": 7, "layers": ["roads"]}


async def test_keywords_stand_over_the_options_value(bus: JobBus) -> None:
    @bus.job
    async def process_run(job: ProcessRun) -> None: ...

    job_id = await bus.enqueue(
        ProcessRun(1, []), EnqueueOptions(priority=2, tags=["kept"]), priority=9
    )
    job = await bus.get(job_id)
    assert job is not None
    assert (job.priority, job.tags) == (9, ("kept",))


async def test_a_payload_that_no_handler_takes_is_refused(bus: JobBus) -> None:
    with pytest.raises(UnknownJobType, match="no handler here takes a ProcessRun"):
        await bus.enqueue(ProcessRun(1, []))


async def test_a_payload_that_two_handlers_take_does_not_say_which(bus: JobBus) -> None:
    @bus.job
    async def one(job: ProcessRun) -> None: ...

    @bus.job
    async def two(job: ProcessRun) -> None: ...

    with pytest.raises(ConfigurationError, match="one, two"):
        await bus.enqueue(ProcessRun(1, []))


async def test_a_service_without_the_handler_enqueues_by_name_once_a_worker_announced_it(
    home: Home, bus: JobBus
) -> None:
    @bus.job(name="video.render", queue="media", priority=7, max_attempts=9, max_crashes=2)
    async def render(number: int) -> int:
        return number * 2

    async with home.bus() as producer:
        with pytest.raises(UnknownJobType, match=r"no job type 'video\.render' is registered"):
            await producer.enqueue("video.render", {"number": 4})
        async with at_work(bus):
            [known] = await producer.job_types()
            assert known.payload_schema["properties"]["number"]["type"] == "integer"
            with pytest.raises(UnknownJobType, match=r"Did you mean 'video\.render'\?"):
                await producer.enqueue("video.rendr", {"number": 4})
            job_id = await producer.enqueue("video.render", {"number": 4})
            assert await render.result(job_id) == 8
        job = await completed(producer, job_id)
    assert (job.queue, job.priority, job.max_attempts) == ("media", 7, 9)


async def test_a_job_type_that_is_still_to_come_can_be_enqueued_when_one_says_so(
    bus: JobBus,
) -> None:
    job_id = await bus.enqueue("of.tomorrow", {"number": 1}, unregistered=True, queue="later")
    job = await bus.get(job_id)
    assert job is not None
    assert (job.job_type, job.queue, job.max_attempts) == ("of.tomorrow", "later", 3)


async def test_a_wrong_argument_by_name_is_refused_where_the_handler_is_known(bus: JobBus) -> None:
    @bus.job
    async def render(number: int) -> None: ...

    for wrong in ({"number": "four"}, {}, {"number": 1, "colour": "red"}, [1]):
        with pytest.raises(PayloadError):
            await bus.enqueue("render", wrong)
    assert await bus.count() == 0


async def test_a_job_type_itself_is_not_a_payload(bus: JobBus) -> None:
    @bus.job
    async def work() -> None: ...

    with pytest.raises(InvalidJob, match=r"work\.enqueue"):
        await bus.enqueue(work)


@pytest.mark.parametrize(
    ("payload", "error"),
    [
        ({"x": object()}, PayloadError),
        ({"x": float("nan")}, PayloadError),
        ({"x": "y" * 300_000}, PayloadTooLarge),
        ({1: "keys are text"}, PayloadError),
    ],
)
async def test_what_cannot_be_json_is_refused_by_name_too(
    bus: JobBus, payload: object, error: type[Exception]
) -> None:
    with pytest.raises(error):
        await bus.enqueue("anything", payload, unregistered=True)
    assert await bus.count() == 0


async def test_a_nested_value_beyond_all_depth_is_refused(bus: JobBus) -> None:
    deep: object = 1
    for _ in range(40):
        deep = [deep]
    with pytest.raises(PayloadError, match="deeper than 32"):
        await bus.enqueue("anything", {"x": deep}, unregistered=True)


async def test_many_jobs_go_in_at_once_in_order_or_not_at_all(bus: JobBus) -> None:
    done: list[int] = []

    @bus.job
    async def work(number: int) -> None:
        done.append(number)

    messages = [work.message(number) for number in range(200)]
    broken = work.options(depends_on=[new_id()]).message(1)
    with pytest.raises(InvalidJob):
        await bus.enqueue_many([*messages, broken])
    assert await bus.count() == 0
    ids = await bus.enqueue_many(messages)
    assert ids == [one.job_id for one in messages]
    assert await bus.enqueue_many([]) == []
    async with at_work(bus, concurrency=1):
        await all_ended(bus, ids)
    assert done == list(range(200))


async def test_enqueueing_the_same_job_again_is_enqueueing_it_once(bus: JobBus) -> None:
    @bus.job
    async def work(number: int) -> int:
        return number

    name = new_id()
    once = work.options(job_id=name)
    async with at_work(bus):
        assert await once.enqueue(1) == name
        await completed(bus, name)
        assert await once.enqueue(2) == name
        assert await work.result(name) == 1
    assert await bus.count() == 1
    message = work.message(3)
    assert await bus.enqueue_many([message, message]) == [message.job_id] * 2
    assert await bus.count() == 2


async def test_a_message_takes_further_options_when_it_is_enqueued(bus: JobBus) -> None:
    @bus.job
    async def work() -> None: ...

    job_id = await bus.enqueue(work.options(tags=["a"]).message(), priority=8, metadata={"n": 1})
    job = await bus.get(job_id)
    assert job is not None
    assert (job.tags, job.priority, job.metadata) == (("a",), 8, {"n": 1})


async def test_nothing_is_lost_of_what_a_payload_may_hold(bus: JobBus) -> None:
    seen: list[object] = []

    @bus.job
    async def work(value: object) -> object:
        seen.append(value)
        return value

    value = {
        "text": 'Zoë \N{SNAKE} \x01 \u2028 "quoted" \\ :name %s %(x)s {} $1',
        "nul": "a\0b",
        "numbers": [0, -1, 1e-300, 1.5, 2**63, 10**40],
        "none": None,
        "empty": [{}, [], ""],
    }
    async with at_work(bus):
        job_id = await work.enqueue(value)
        assert await work.result(job_id) == value
    assert seen == [value]


async def test_what_the_filters_find_is_what_was_asked_for(bus: JobBus) -> None:
    @bus.job(name="mail.send", queue="mail")
    async def send() -> None: ...

    @bus.job(name="mail.bounce")
    async def bounce() -> None: ...

    @bus.job
    async def other() -> None: ...

    a = await send.options(tags=["eu"]).enqueue()
    b = await bounce.options(group="g").enqueue()
    c = await other.options(tags=["eu", "us"], delay=3600).enqueue()
    expected = {
        JobFilter(): [c, b, a],
        JobFilter(job_type="mail.*"): [b, a],
        JobFilter(job_type="mail.send"): [a],
        JobFilter(queue="mail"): [a],
        JobFilter(tag="eu"): [c, a],
        JobFilter(group="g"): [b],
        JobFilter(ids=(a, c)): [c, a],
        JobFilter(job_type="nothing.*"): [],
    }
    for where, ids in expected.items():
        assert [job.id for job in (await bus.find(where)).jobs] == ids
        assert await bus.count(where) == len(ids)
    first = await bus.find(limit=2)
    assert first.cursor is not None
    rest = await bus.find(limit=2, cursor=first.cursor)
    assert [job.id for job in (*first.jobs, *rest.jobs)] == [c, b, a]
    assert rest.cursor is None


async def test_the_job_of_a_dead_handler_can_be_looked_at_and_discarded(bus: JobBus) -> None:
    @bus.job(max_attempts=1)
    async def broken() -> None:
        raise OSError

    async with at_work(bus):
        job_id = (await ended(bus, await broken.enqueue())).id
    assert await bus.discard(job_id) == [job_id]
    assert await bus.get(job_id) is None
    assert await bus.history(job_id) == []
