"""Attempts that fail, and what becomes of their jobs: tried again, put off, or given up."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from jobbus import (
    Cancelled,
    EventType,
    Job,
    JobBus,
    JobState,
    PermanentError,
    RateLimited,
    Reject,
    Retry,
    RetryPolicy,
    Snooze,
)
from jobbus.backends.memory import MemoryQueue
from jobbus.message import Abandonment, DeadLetter
from jobbus.retry import PRESETS
from jobbus.testing import VirtualClock, message
from jobbus.worker.attempt import unknown_type
from tests.flow import isolated
from tests.flow.support import AT_ONCE, PLAIN, Home, at_work, completed, ended, in_state, story

A_MINUTE = timedelta(minutes=1)


def counts(job: Job) -> tuple[int, int, int]:
    return job.failures, job.crashes, job.snoozes


async def test_a_job_that_fails_twice_is_tried_three_times(bus: JobBus) -> None:
    seen: list[int] = []

    @bus.job(retry=AT_ONCE)
    async def third_time() -> str:
        seen.append(len(seen))
        if len(seen) < 3:
            raise ConnectionError("the line is busy")
        return "well"

    async with at_work(bus):
        job = await completed(bus, await third_time.enqueue())
    assert counts(job) == (2, 0, 0)
    assert job.attempt == 3
    told = await bus.history(job.id)
    assert await story(bus, job.id) == [
        EventType.CREATED,
        *(EventType.STARTED, EventType.RETRY_SCHEDULED, EventType.RELEASED_TO_QUEUE) * 2,
        EventType.STARTED,
        EventType.COMPLETED,
    ]
    assert [e.attempt for e in told if e.type is EventType.RETRY_SCHEDULED] == [1, 2]
    assert {e.reason for e in told if e.type is EventType.RETRY_SCHEDULED} == {"the line is busy"}


async def test_a_job_that_always_fails_goes_to_the_dead_letters_with_its_last_error(
    bus: JobBus,
) -> None:
    @bus.job(retry=AT_ONCE)
    def broken(ctx_free: int) -> None:
        raise KeyError(f"no {ctx_free}")

    async with at_work(bus):
        job = await ended(bus, await broken.enqueue(5))
    assert job.state is JobState.FAILED
    assert counts(job) == (3, 0, 0)
    assert job.problem is not None
    assert (job.problem.kind, job.problem.message) == ("KeyError", "'no 5'")
    assert "in broken" in (job.problem.traceback or "")
    assert (await bus.depth()).dead == 1


async def test_a_jobs_own_number_of_attempts_stands_over_its_types(bus: JobBus) -> None:
    @bus.job(retry=AT_ONCE, max_attempts=5)
    async def broken() -> None:
        raise OSError

    async with at_work(bus):
        usual = await ended(bus, await broken.enqueue())
        modest = await ended(bus, await broken.options(max_attempts=2).enqueue())
    assert (usual.failures, modest.failures) == (5, 2)


@pytest.mark.parametrize(
    ("preset", "shortest", "longest"),
    [("default", 2.5, 5), ("bull", 1, 2), ("cleancue", 5, 5), ("reporadar", 0.5, 1)],
)
async def test_a_retry_waits_as_long_as_its_preset_says(
    bus: JobBus, preset: str, shortest: float, longest: float
) -> None:
    @bus.job(retry=preset)
    async def broken() -> None:
        raise OSError

    async with at_work(bus):
        job = await in_state(bus, await broken.enqueue(), JobState.RETRYING)
    [event] = [e for e in await bus.history(job.id) if e.type is EventType.RETRY_SCHEDULED]
    assert job.started_at is not None
    # Decided after the start and before it was told.
    assert (job.run_at - job.started_at).total_seconds() >= shortest - 0.001
    assert (job.run_at - event.at).total_seconds() <= longest + 0.001


async def test_a_preset_says_how_often_too(bus: JobBus) -> None:
    made = {name: bus.job(name=name, retry=name)(len_of) for name in PRESETS}
    assert {name: job_type.max_attempts for name, job_type in made.items()} == {
        name: policy.max_attempts for name, policy in PRESETS.items()
    }


def len_of(text: str) -> int:
    return len(text)


@pytest.mark.parametrize("error", [PermanentError("never"), Reject("not mine"), LookupError("x")])
async def test_an_error_that_is_permanent_ends_the_job_at_once(
    bus: JobBus, error: Exception
) -> None:
    policy = replace(AT_ONCE, permanent=(LookupError,))

    @bus.job(retry=policy)
    async def refuse() -> None:
        raise error

    async with at_work(bus):
        job = await ended(bus, await refuse.enqueue())
    assert (job.state, job.attempt, job.failures) == (JobState.FAILED, 1, 1)
    assert job.problem is not None
    assert job.problem.kind == type(error).__name__


def once(bus: JobBus, signal: Exception) -> Callable[[], object]:
    """A job type whose first attempt raises ``signal``."""
    seen: list[None] = []

    @bus.job(retry=AT_ONCE, max_attempts=2)
    async def moody() -> None:
        seen.append(None)
        if len(seen) == 1:
            raise signal

    return moody.message


async def test_a_snooze_is_no_failure(bus: JobBus) -> None:
    again = once(bus, Snooze(timedelta(milliseconds=20), "the shop is closed"))
    async with at_work(bus):
        job = await completed(bus, await bus.enqueue(again()))
    assert counts(job) == (0, 0, 1)
    [event] = [e for e in await bus.history(job.id) if e.type is EventType.SNOOZED]
    assert event.reason == "the shop is closed"


async def test_a_rate_limit_is_waited_out_and_is_no_failure(bus: JobBus) -> None:
    again = once(bus, RateLimited(A_MINUTE))
    async with at_work(bus):
        job = await in_state(bus, await bus.enqueue(again()), JobState.RETRYING)
        assert counts(job) == (0, 0, 1)
        assert A_MINUTE * 0.9 < job.run_at - datetime.now(UTC) <= A_MINUTE * 1.1
        assert await bus.retry(job.id) == [job.id]
        assert counts(await completed(bus, job.id)) == (0, 0, 1)


async def test_a_handler_may_say_when_to_try_again_and_pays_with_an_attempt(bus: JobBus) -> None:
    again = once(bus, Retry("not there yet", after=A_MINUTE))
    async with at_work(bus):
        job = await in_state(bus, await bus.enqueue(again()), JobState.RETRYING)
        assert counts(job) == (1, 0, 0)
        assert A_MINUTE * 0.9 < job.run_at - datetime.now(UTC) <= A_MINUTE
        await bus.retry(job.id)
        assert counts(await completed(bus, job.id)) == (1, 0, 0)


async def test_a_retry_without_a_time_waits_as_the_policy_says_and_has_an_end(bus: JobBus) -> None:
    @bus.job(retry=AT_ONCE)
    async def never() -> None:
        raise Retry("later")

    async with at_work(bus):
        job = await ended(bus, await never.enqueue())
    assert (job.state, counts(job)) == (JobState.FAILED, (3, 0, 0))


async def test_a_handler_may_cancel_its_own_job(bus: JobBus) -> None:
    again = once(bus, Cancelled("nobody wants it"))
    async with at_work(bus):
        job = await ended(bus, await bus.enqueue(again()))
    assert (job.state, counts(job)) == (JobState.CANCELLED, (0, 0, 0))
    assert (await bus.history(job.id))[-1].reason == "nobody wants it"


@pytest.mark.parametrize(
    "payload", [b"\xff\xfe", b'{"number": ', b'{"number": NaN}', b'["no object"]', b"", b"{}"]
)
async def test_a_payload_that_cannot_be_read_reaches_the_dead_letters_and_no_handler(
    bus: JobBus, payload: bytes
) -> None:
    seen: list[int] = []

    @bus.job
    async def count(number: int) -> None:
        seen.append(number)

    async with at_work(bus):
        await bus.open()
        [poison] = await bus.queue.enqueue([message("count", payload=payload)])
        job = await ended(bus, poison)
        await completed(bus, await count.enqueue(1))
    assert (job.state, job.attempt) == (JobState.FAILED, 1)
    assert job.payload == payload
    assert job.problem is not None
    assert job.problem.kind == "PayloadError"
    assert seen == [1]


async def test_a_job_of_an_unknown_type_waits_for_a_worker_that_has_its_handler(
    home: Home, bus: JobBus
) -> None:
    async with at_work(bus):
        job_id = await bus.enqueue("of.tomorrow", {"number": 3}, unregistered=True)
        waiting = await in_state(bus, job_id, JobState.RETRYING)
    assert counts(waiting) == (0, 0, 1)
    assert timedelta(seconds=25) < waiting.run_at - datetime.now(UTC) <= timedelta(seconds=30)
    assert waiting.problem is not None
    assert waiting.problem.kind == "unknown_type"

    async with home.bus() as newer:

        @newer.job(name="of.tomorrow")
        async def tomorrow(number: int) -> int:
            return number

        async with at_work(newer):
            await newer.retry(job_id)
            assert await tomorrow.result(job_id) == 3


async def test_after_a_day_an_unknown_type_is_given_up() -> None:
    clock = VirtualClock(datetime.now(UTC) - timedelta(hours=25))
    bus = JobBus(PLAIN, queue=MemoryQueue(clock=clock))
    async with bus, at_work(bus):
        job = await ended(bus, await bus.enqueue("of.yesterday", unregistered=True))
    assert job.state is JobState.FAILED
    assert job.problem is not None
    assert job.problem.kind == "unknown_type"


async def test_the_wait_for_an_unknown_type_doubles_up_to_an_hour(bus: JobBus) -> None:
    await bus.queue.enqueue([message("of.tomorrow")])
    [held] = await bus.queue.receive("default", limit=1, wait=A_MINUTE, lease=A_MINUTE)
    outcomes = [unknown_type(replace(held, attempt=n)) for n in (1, 2, 3, 8, 40)]
    delays = [one.delay for one in outcomes if isinstance(one, Abandonment)]
    assert delays == [timedelta(seconds=s) for s in (30, 60, 120, 3600, 3600)]
    aged = replace(held, enqueued_at=datetime.now(UTC) - timedelta(hours=25))
    assert isinstance(unknown_type(aged), DeadLetter)


async def test_a_handler_that_kills_its_process_costs_only_its_own_job(bus: JobBus) -> None:
    vanish = bus.handlers.register(isolated.vanish)
    beside = bus.handlers.register(isolated.name_process)
    async with at_work(bus, concurrency=2):
        killer, peer = await vanish.enqueue(), await beside.enqueue()
        job = await ended(bus, killer)
        await completed(bus, peer)
    assert (job.state, counts(job)) == (JobState.FAILED, (0, 2, 0))
    assert job.problem is not None
    assert job.problem.kind == "poison_crash"
    assert (await story(bus, killer)).count("crashed") == 1


async def test_a_dead_letter_can_be_run_again_and_keeps_its_history(bus: JobBus) -> None:
    broken = [True]

    @bus.job(retry=RetryPolicy(max_attempts=1))
    async def mended() -> str:
        if broken:
            raise OSError("still broken")
        return "fine"

    async with at_work(bus):
        job_id = await mended.enqueue()
        assert (await ended(bus, job_id)).state is JobState.FAILED
        broken.clear()
        assert await bus.redrive(job_id) == [job_id]
        job = await completed(bus, job_id)
    assert (job.generation, job.attempt, counts(job)) == (2, 2, (0, 0, 0))
    assert await story(bus, job_id) == [
        "created", "started", "failed", "redriven", "started", "completed",
    ]  # fmt: skip
