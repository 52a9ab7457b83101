"""Those who watch: observers of a worker, callbacks of a processor, middleware around handlers."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import pytest

from jobbus import (
    BaseJobProcessor,
    Cancelled,
    JobBus,
    JobContext,
    JobProcessor,
    JobState,
    PermanentError,
    Progress,
    Snooze,
)
from jobbus.middleware import CallNext
from jobbus.worker import AttemptReport
from tests.flow import isolated
from tests.flow.support import (
    AT_ONCE,
    SECOND,
    Home,
    at_work,
    completed,
    ended,
    eventually,
    until,
)


@dataclass(frozen=True)
class Mail:
    to: str
    text: str = ""


class Said(list[tuple[str, JobState | None, object]]):
    """What callbacks were told, and in which state they found their job."""

    async def note(self, bus: JobBus, context: JobContext, what: str, value: object) -> None:
        job = await bus.get(context.job_id)
        self.append((what, job.state if job else None, value))


class SendMailProcessor(BaseJobProcessor[Mail, str]):
    retry = AT_ONCE
    max_attempts = 2

    def __init__(self, bus: JobBus, said: Said) -> None:
        self._bus = bus
        self._said = said

    async def process(self, payload: Mail, context: JobContext) -> str:
        self.update_progress(context, 30, "sending", payload.to)
        if payload.to == "nobody":
            raise LookupError("there is nobody of that name")
        return f"sent to {payload.to}"

    async def on_progress(self, context: JobContext, progress: Progress) -> None:
        await self._said.note(self._bus, context, "progress", progress.percent)

    async def on_complete(self, context: JobContext, result: str) -> None:
        await self._said.note(self._bus, context, "complete", result)

    async def on_error(self, context: JobContext, error: BaseException) -> None:
        await self._said.note(self._bus, context, "error", str(error))


async def test_a_worker_reports_what_every_attempt_came_to(bus: JobBus) -> None:
    reports: list[AttemptReport] = []
    signals: list[BaseException | None] = [
        OSError("hiccup"), Snooze(0 * SECOND), None, PermanentError("no"), Cancelled("stop"),
    ]  # fmt: skip

    @bus.job(retry=AT_ONCE)
    async def moody() -> None:
        signal = signals.pop(0)
        if signal is not None:
            raise signal

    async with at_work(bus, concurrency=1) as worker:
        worker.observers.append(reports.append)
        for _ in range(3):
            await ended(bus, await moody.enqueue())
        await until(lambda: len(reports) == 5)
    assert [one.outcome for one in reports] == [
        "retried", "snoozed", "completed", "dead", "cancelled",
    ]  # fmt: skip
    assert [one.problem.kind if one.problem else None for one in reports] == [
        "OSError", "Snooze", None, "PermanentError", None,
    ]  # fmt: skip
    assert [one.delivery.attempt for one in reports] == [1, 2, 3, 1, 1]
    assert all(0 <= one.duration < 5 for one in reports)


async def test_an_observer_that_fails_does_not_harm_the_work(
    bus: JobBus, caplog: pytest.LogCaptureFixture
) -> None:
    @bus.job
    async def work() -> None: ...

    def broken(report: AttemptReport) -> None:
        raise ZeroDivisionError("in the observer")

    async with at_work(bus, concurrency=1) as worker:
        worker.observers.append(broken)
        for _ in range(2):
            await completed(bus, await work.enqueue())
    assert "in the observer" in caplog.text


async def test_a_processors_callbacks_are_called_after_the_outcome_was_recorded(
    home: Home,
) -> None:
    said = Said()
    async with home.bus(progress_update_interval_seconds=0.01) as bus:
        job_type = bus.register(SendMailProcessor(bus, said))
        assert job_type.name == "send_mail"
        async with at_work(bus):
            job_id = await bus.enqueue(Mail("ada", "hello"))
            assert await job_type.result(job_id) == "sent to ada"
            await until(lambda: len(said) == 2)
            assert ("complete", JobState.COMPLETED, "sent to ada") in said
            assert [(what, value) for what, _, value in said if what == "progress"] == [
                ("progress", 30)
            ]


async def test_a_processor_hears_of_every_attempt_that_failed(bus: JobBus) -> None:
    said = Said()
    bus.register(SendMailProcessor(bus, said))
    async with at_work(bus):
        job = await ended(bus, await bus.enqueue(Mail("nobody")))
        errors = await eventually(lambda: _errors(said, 2))
    assert job.state is JobState.FAILED
    assert {value for _, _, value in errors} == {"there is nobody of that name"}
    assert errors[-1][1] is JobState.FAILED
    assert errors[0][1] is not None
    assert errors[0][1] is not JobState.COMPLETED


async def _errors(said: Said, number: int) -> list[tuple[str, JobState | None, object]]:
    errors = [one for one in said if one[0] == "error"]
    return errors if len(errors) == number else []


async def test_a_processor_may_be_synchronous_and_has_the_name_it_is_given(bus: JobBus) -> None:
    told: list[object] = []

    class Doubler(JobProcessor[dict[str, int], dict[str, int]]):
        def process(self, payload: dict[str, int], context: JobContext) -> dict[str, int]:
            return {name: 2 * value for name, value in payload.items()}

        def on_complete(self, context: JobContext, result: dict[str, int]) -> None:
            told.append(result)

    job_type = bus.register_processor("maths.double", Doubler())
    async with at_work(bus):
        job_id = await bus.enqueue("maths.double", {"a": 1, "b": 4})
        assert await job_type.result(job_id) == {"a": 2, "b": 8}
        await until(lambda: told)
    assert told == [{"a": 2, "b": 8}]


async def test_a_callback_that_fails_changes_nothing_about_the_job(
    bus: JobBus, caplog: pytest.LogCaptureFixture
) -> None:
    class Clumsy(JobProcessor[Mail, str]):
        async def process(self, payload: Mail, context: JobContext) -> str:
            return "fine"

        async def on_complete(self, context: JobContext, result: str) -> None:
            raise ZeroDivisionError("in the callback")

    clumsy = bus.register(Clumsy())
    async with at_work(bus):
        job_id = await clumsy.enqueue(Mail("ada"))
        await completed(bus, job_id)
        await until(lambda: "in the callback" in caplog.text)
        await completed(bus, await clumsy.enqueue(Mail("bob")))
    assert (await completed(bus, job_id)).attempt == 1


@pytest.fixture
def trail() -> list[str]:
    return []


@pytest.fixture
def layered(home: Home, trail: list[str]) -> JobBus:
    async def outer(context: JobContext, call_next: CallNext) -> Any:
        trail.append(f"outer before {context.job_type}")
        try:
            return await call_next()
        except ValueError as error:
            trail.append(f"outer saw {error}")
            raise
        finally:
            trail.append("outer after")

    async def inner(context: JobContext, call_next: CallNext) -> Any:
        trail.append("inner before")
        result = await call_next()
        trail.append(f"inner after {result!r}")
        return result

    return home.bus(middleware=[outer, inner])


async def test_middleware_wraps_handlers_the_first_one_outermost(
    layered: JobBus, trail: list[str]
) -> None:
    @layered.job
    async def asynchronous() -> str:
        trail.append("handler")
        return "a"

    @layered.job
    def synchronous() -> str:
        trail.append("handler")
        return "s"

    async with layered as bus, at_work(bus):
        for job_type in (asynchronous, synchronous):
            assert await job_type.result(await job_type.enqueue())
    assert trail == [
        "outer before asynchronous", "inner before", "handler", "inner after 'a'", "outer after",
        "outer before synchronous", "inner before", "handler", "inner after 's'", "outer after",
    ]  # fmt: skip


async def test_middleware_sees_a_handlers_error_and_the_job_fails_with_it(
    layered: JobBus, trail: list[str]
) -> None:
    @layered.job(max_attempts=1)
    async def broken() -> None:
        raise ValueError("wrong")

    async with layered as bus, at_work(bus):
        job = await ended(bus, await broken.enqueue())
    assert trail == ["outer before broken", "inner before", "outer saw wrong", "outer after"]
    assert job.problem is not None
    assert job.problem.message == "wrong"


async def test_middleware_stands_around_isolated_handlers_too(
    layered: JobBus, trail: list[str]
) -> None:
    job_type = layered.handlers.register(isolated.name_process)
    async with layered as bus, at_work(bus):
        await completed(bus, await job_type.enqueue())
    assert trail[:2] == ["outer before name_process", "inner before"]
    assert trail[-1] == "outer after"


async def test_middleware_may_fail_a_job_or_answer_in_the_handlers_place(home: Home) -> None:
    ran: list[str] = []

    async def guard(context: JobContext, call_next: CallNext) -> Any:
        if "forbidden" in context.tags:
            raise PermanentError("not for you")
        if "known" in context.tags:
            return "from the cache"
        return await call_next()

    bus = home.bus(middleware=[guard])

    @bus.job
    async def work() -> str:
        ran.append("work")
        return "worked out"

    async with bus, at_work(bus):
        forbidden = await ended(bus, await work.options(tags=["forbidden"]).enqueue())
        known = await work.result(await work.options(tags=["known"]).enqueue())
        usual = await work.result(await work.enqueue())
    assert (forbidden.state, forbidden.attempt) == (JobState.FAILED, 1)
    assert (known, usual, ran) == ("from the cache", "worked out", ["work"])


async def test_middleware_does_not_hide_a_timeout(home: Home) -> None:
    async def swallow(context: JobContext, call_next: CallNext) -> Any:
        try:
            return await call_next()
        except asyncio.CancelledError:
            return "never mind"

    bus = home.bus(middleware=[swallow])

    @bus.job(timeout=0.05, max_attempts=1)
    async def slow() -> None:
        await asyncio.sleep(3600)

    async with bus, at_work(bus):
        assert (await ended(bus, await slow.enqueue())).state is JobState.TIMED_OUT
