"""Handlers that run too long: cancelled, asked, or killed; and counted, whatever they do then."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from datetime import timedelta
from pathlib import Path

import pytest

from jobbus import JobBus, JobContext, JobState
from jobbus.worker import worker as worker_module
from tests.flow import isolated
from tests.flow.support import AT_ONCE, LOOK, PATIENT_LOOKS, Home, at_work, completed, ended, until

SOON = 0.05
"""Seconds that a handler may run for, in tests where it runs longer."""


async def test_an_async_handler_that_runs_too_long_is_cancelled(bus: JobBus) -> None:
    cancelled = asyncio.Event()

    @bus.job(timeout=SOON, max_attempts=1)
    async def slow() -> None:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            cancelled.set()
            raise

    async with at_work(bus):
        job = await ended(bus, await slow.enqueue())
    assert cancelled.is_set()
    assert (job.state, job.failures) == (JobState.TIMED_OUT, 1)
    assert job.problem is not None
    assert job.problem.kind == "TimeoutError"
    assert "0.05 s" in job.problem.message
    assert (await bus.depth()).dead == 1


async def test_a_timeout_is_a_failure_like_others_and_is_tried_again(bus: JobBus) -> None:
    attempts: list[int] = []

    @bus.job(timeout=SOON, retry=AT_ONCE)
    async def slow_at_first(ctx: JobContext) -> None:
        attempts.append(ctx.attempt)
        if ctx.attempt == 1:
            await asyncio.sleep(3600)

    async with at_work(bus):
        job = await completed(bus, await slow_at_first.enqueue())
    assert (job.failures, attempts) == (1, [1, 2])


async def test_swallowing_the_cancellation_does_not_make_a_late_attempt_a_success(
    bus: JobBus,
) -> None:
    @bus.job(timeout=SOON, max_attempts=1)
    async def stubborn() -> str:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            await asyncio.sleep(0)
        return "as if nothing had happened"

    async with at_work(bus):
        job = await ended(bus, await stubborn.enqueue())
    assert (job.state, job.failures, job.result) == (JobState.TIMED_OUT, 1, None)


async def test_raising_something_else_when_cancelled_does_not_hide_the_timeout(
    bus: JobBus,
) -> None:
    @bus.job(timeout=SOON, max_attempts=1)
    async def confused() -> None:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError as error:
            raise ValueError("something else") from error

    async with at_work(bus):
        job = await ended(bus, await confused.enqueue())
    assert job.state is JobState.TIMED_OUT


async def test_a_sync_handler_that_runs_too_long_is_asked_to_stop(bus: JobBus) -> None:
    stopped = threading.Event()

    @bus.job(timeout=SOON, max_attempts=1)
    def patient(ctx: JobContext) -> None:
        for _ in range(PATIENT_LOOKS):
            if ctx.cancel_requested:
                break
            time.sleep(LOOK)
        stopped.set()
        ctx.raise_if_cancelled()

    async with at_work(bus):
        job = await ended(bus, await patient.enqueue())
    assert stopped.is_set()
    assert (job.state, job.failures) == (JobState.TIMED_OUT, 1)


async def test_a_handler_that_will_not_stop_loses_its_slot_and_the_worker_goes_on(
    bus: JobBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_module, "CANCEL_GRACE", timedelta(milliseconds=100))
    let_go = threading.Event()

    @bus.job(timeout=SOON, max_attempts=1)
    def deaf() -> None:
        let_go.wait(20)

    @bus.job
    async def next_in_line() -> None: ...

    try:
        async with at_work(bus, concurrency=1) as worker:
            job = await ended(bus, await deaf.enqueue())
            assert job.state is JobState.TIMED_OUT
            await completed(bus, await next_in_line.enqueue())
            assert worker.stuck == 1
            let_go.set()
    finally:
        let_go.set()
    assert (await ended(bus, job.id)).state is JobState.TIMED_OUT, "its late end changes nothing"


async def test_an_isolated_handler_that_runs_too_long_dies_with_its_process(
    bus: JobBus, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("asleep")
    asleep = bus.handlers.register(isolated.sleep_for_ever)
    async with at_work(bus):
        job = await ended(bus, await asleep.options(timeout=0.2).enqueue(str(folder)))
        [pid] = [int(one.name) for one in folder.iterdir()]
        await until(lambda: not Path(f"/proc/{pid}").exists(), "the end of the process")
    assert (job.state, job.failures, job.crashes) == (JobState.TIMED_OUT, 1, 0)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


async def test_a_jobs_own_timeout_stands_over_its_types(bus: JobBus) -> None:
    @bus.job(timeout=3600, max_attempts=1)
    async def long() -> None:
        await asyncio.sleep(3600)

    async with at_work(bus):
        job = await ended(bus, await long.options(timeout=SOON).enqueue())
    assert job.state is JobState.TIMED_OUT
    assert job.timeout == timedelta(seconds=SOON)


async def test_job_types_without_a_timeout_get_the_settings_one(home: Home) -> None:
    bus = home.bus(job_timeout_minutes=0.001)
    seen: list[timedelta | None] = []

    @bus.job(max_attempts=1)
    async def ask(ctx: JobContext) -> None:
        seen.append(ctx.timeout)
        await asyncio.sleep(3600)

    async with bus, at_work(bus):
        job = await ended(bus, await ask.enqueue())
    assert job.state is JobState.TIMED_OUT
    assert seen == [timedelta(milliseconds=60)]
