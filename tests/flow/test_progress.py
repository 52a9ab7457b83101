"""How far jobs say they are: seen while they run, and kept with its history."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Sequence

import pytest

from jobbus import JobBus, JobContext, JobState, Progress
from jobbus.message import Delivery
from tests.flow.support import AT_ONCE, Home, at_work, completed, ended, eventually


@pytest.fixture
async def prompt_bus(home: Home) -> AsyncIterator[JobBus]:
    """A bus whose workers write progress as it comes."""
    async with home.bus(progress_update_interval_seconds=0.01) as bus:
        yield bus


def said(heard: list[Progress]) -> list[tuple[float, str, str]]:
    return [(one.percent, one.stage, one.message) for one in heard]


async def test_progress_is_seen_from_elsewhere_while_the_job_runs_and_kept_in_order(
    home: Home, prompt_bus: JobBus
) -> None:
    bus = prompt_bus
    proceed = asyncio.Semaphore(0)

    @bus.job
    async def work(ctx: JobContext) -> None:
        for percent, stage in ((10, "reading"), (55.5, "thinking"), (100, "writing")):
            ctx.progress(percent, stage, f"file {percent}")
            await proceed.acquire()

    expected = [(10.0, "reading", "file 10"), (55.5, "thinking", "file 55.5")]
    async with at_work(bus), home.bus() as other:
        job_id = await work.enqueue()
        for percent, stage, text in expected:

            async def heard(wanted: float = percent) -> Progress | None:
                job = await other.get(job_id)
                assert job is not None
                return job.progress if job.progress and job.progress.percent == wanted else None

            latest = await eventually(heard, f"{percent} %")
            assert latest is not None
            assert (latest.stage, latest.message) == (stage, text)
            assert latest.at is not None
            proceed.release()
        proceed.release()
        job = await completed(bus, job_id)
    assert said(list(await bus.progress_history(job_id))) == [
        *expected,
        (100, "writing", "file 100"),
    ]
    assert job.progress is not None
    assert job.progress.percent == 100


async def test_many_reports_are_written_as_few_and_the_last_is_among_them(bus: JobBus) -> None:
    @bus.job
    def chatter(ctx: JobContext) -> None:
        for number in range(1000):
            ctx.progress(number / 10, "counting", str(number))

    async with at_work(bus):
        job = await completed(bus, await chatter.enqueue())
    heard = list(await bus.progress_history(job.id))
    assert 1 <= len(heard) <= 10
    assert said(heard)[-1][1:] == ("counting", "999")
    assert heard[-1].percent == pytest.approx(99.9)
    assert job.progress is not None
    assert job.progress.message == "999"


async def test_the_last_word_of_a_job_that_fails_is_kept_too(bus: JobBus) -> None:
    @bus.job(retry=AT_ONCE, max_attempts=2)
    async def stumble(ctx: JobContext) -> None:
        ctx.progress(10 * ctx.attempt, "walking")
        raise OSError

    async with at_work(bus):
        job = await ended(bus, await stumble.enqueue())
    assert job.state is JobState.FAILED
    assert [one.percent for one in await bus.progress_history(job.id)] == [10, 20]
    assert job.progress is not None
    assert job.progress.percent == 20


@pytest.mark.parametrize("percent", [-0.1, 100.1, float("nan"), float("inf")])
async def test_what_is_no_percentage_is_refused_where_it_is_said(
    bus: JobBus, percent: float
) -> None:
    @bus.job(max_attempts=1)
    async def wrong(ctx: JobContext) -> None:
        ctx.progress(percent)

    async with at_work(bus):
        job = await ended(bus, await wrong.enqueue())
    assert job.problem is not None
    assert job.problem.kind == "ValueError"
    assert "0 to 100" in job.problem.message
    assert not await bus.progress_history(job.id)


async def test_progress_comes_from_any_thread_of_the_handler(prompt_bus: JobBus) -> None:
    bus = prompt_bus

    @bus.job
    def share(ctx: JobContext) -> None:
        helper = threading.Thread(target=ctx.progress, args=(40, "helping"))
        helper.start()
        helper.join()

    async with at_work(bus):
        job = await completed(bus, await share.enqueue())
    assert job.progress is not None
    assert (job.progress.percent, job.progress.stage) == (40, "helping")


async def test_a_last_word_that_is_still_being_written_is_not_overtaken_by_the_end(
    prompt_bus: JobBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    bus = prompt_bus
    writing = asyncio.Event()
    record = bus.store.record_progress

    async def slow(reports: Sequence[tuple[Delivery, Progress]]) -> None:
        writing.set()
        await asyncio.sleep(0.1)  # long enough for the end of the job, were it not to wait
        await record(reports)

    monkeypatch.setattr(bus.store, "record_progress", slow)

    @bus.job
    async def speak(ctx: JobContext) -> None:
        ctx.progress(70, "nearly")
        await writing.wait()

    async with at_work(bus):
        job = await completed(bus, await speak.enqueue())
    assert job.progress is not None
    assert job.progress.percent == 70


async def test_texts_that_no_database_keeps_do_not_break_the_job(bus: JobBus) -> None:
    @bus.job
    async def odd(ctx: JobContext) -> None:
        ctx.progress(5, "a\0b", "half \ud83d of a pair, and a whole \N{SNAKE}")

    async with at_work(bus):
        job = await completed(bus, await odd.enqueue())
    [heard] = await bus.progress_history(job.id)
    assert "\0" not in heard.stage
    assert heard.message.endswith("\N{SNAKE}")
