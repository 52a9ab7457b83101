"""Handlers in child processes, as long as nothing dies: results, errors, what they say."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest
import pytest_asyncio

from jobbus.context import JobContext
from jobbus.errors import (
    Cancelled,
    InvalidJob,
    PayloadError,
    PayloadTooLarge,
    PermanentError,
    RateLimited,
    Reject,
    Retry,
    Snooze,
)
from jobbus.ids import new_id
from jobbus.job import Progress
from jobbus.worker.isolation import ChildPool, HandlerError
from tests.worker import child_handlers as handlers
from tests.worker.child_pool import (
    SECOND,
    Host,
    context,
    run,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def pool() -> AsyncIterator[ChildPool]:
    """One for all tests here, none of which may harm its processes."""
    async with ChildPool(2, term_grace=10 * SECOND, cancel_grace=10 * SECOND) as pool:
        yield pool


async def test_a_handler_runs_in_another_process_and_its_result_comes_back(pool: ChildPool) -> None:
    result = await run(pool, handlers.add, a=2, b=3)
    assert result["sum"] == 5
    assert result["pid"] != os.getpid()


async def test_an_async_handler_runs_there_too(pool: ChildPool) -> None:
    result = await run(pool, handlers.add_async, a=2, b=3)
    assert result["sum"] == 5
    assert result["pid"] != os.getpid()


async def test_the_context_arrives_as_it_is(pool: ChildPool) -> None:
    about: dict[str, Any] = {
        "queue": "video",
        "attempt": 7,
        "failures": 2,
        "max_attempts": 5,
        "headers": {"traceparent": "00-1-2-03"},
        "tags": ["a", "b"],
        "metadata": {"tenant": {"id": 7, "name": "Zoë"}},
        "parent_id": new_id(),
    }
    told = context(**{**about, "tags": ("a", "b")}, timeout=timedelta(seconds=1.5))
    seen = json.loads(await pool.run(handlers.see_context, told, b"{}", timeout=None))
    assert seen == {**about, "job_type": "test", "timeout": 1.5}


# Errors


@pytest.mark.parametrize("handler", [handlers.fail, handlers.fail_async], ids=["sync", "async"])
async def test_an_error_comes_back_as_data_with_the_handlers_traceback(
    pool: ChildPool, handler: Any
) -> None:
    with pytest.raises(HandlerError) as caught:
        await run(pool, handler, name="value")
    problem = caught.value.problem
    assert (problem.kind, problem.message) == ("ValueError", "no such thing")
    assert problem.traceback is not None
    assert "raise make_error(name)" in problem.traceback
    assert "jobbus/worker" not in problem.traceback
    assert caught.value.was(KeyError, ValueError)
    assert not caught.value.was(KeyError, OSError)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("retry", Retry("busy", after=timedelta(seconds=7))),
        ("retry-whenever", Retry("busy")),
        ("snooze", Snooze(timedelta(milliseconds=1500), "too early")),
        ("rate", RateLimited(timedelta(seconds=30), "slow down")),
        ("permanent", PermanentError("never")),
        ("reject", Reject("nonsense")),
        ("cancelled", Cancelled("stopped")),
        ("timeout", TimeoutError("upstream was slow")),
    ],
)
async def test_a_signal_arrives_as_that_signal(
    pool: ChildPool, name: str, expected: Exception
) -> None:
    with pytest.raises(type(expected)) as caught:
        await run(pool, handlers.fail, name=name)
    assert type(caught.value) is type(expected)
    assert str(caught.value) == str(expected)
    assert vars(caught.value) == vars(expected)
    assert isinstance(caught.value.__cause__, HandlerError)


async def test_an_applications_own_kind_of_signal_steers_like_its_base(pool: ChildPool) -> None:
    with pytest.raises(PermanentError, match="empty") as caught:
        await run(pool, handlers.fail, name="credit")
    cause = caught.value.__cause__
    assert isinstance(cause, HandlerError)
    assert cause.kind == "OutOfCredit"
    assert cause.was(handlers.OutOfCredit)


@pytest.mark.parametrize(
    ("name", "kind", "text"),
    [
        ("odd", "Odd", "lambda"),
        ("mute", "Mute", "the text of this Mute raises RuntimeError"),
        ("impostor", "PermanentError", "trust me"),
        ("exit", "SystemExit", "3"),
        ("interrupt", "KeyboardInterrupt", ""),
        ("group", "ExceptionGroup", "several"),
        ("circle", "ValueError", "circle"),
        ("hollow", "Snooze", ""),
        ("surrogate", "ValueError", "\ud800"),
    ],
)
@pytest.mark.parametrize("handler", [handlers.fail, handlers.fail_async], ids=["sync", "async"])
async def test_the_strangest_errors_arrive_and_the_process_serves_on(
    pool: ChildPool, handler: Any, name: str, kind: str, text: str
) -> None:
    with pytest.raises(HandlerError) as caught:
        await run(pool, handler, name=name)
    assert type(caught.value) is HandlerError
    assert caught.value.kind == kind
    assert text in caught.value.message
    pids = pool.pids
    assert (await run(pool, handlers.add, a=1, b=1))["pid"] in pids


async def test_an_error_that_the_policy_calls_permanent_is(pool: ChildPool) -> None:
    with pytest.raises(PermanentError, match="ValueError: no such thing") as caught:
        await run(pool, handlers.fail_for_good, name="value")
    assert isinstance(caught.value.__cause__, HandlerError)
    with pytest.raises(HandlerError):
        await run(pool, handlers.fail_for_good, name="group")


async def test_an_endless_error_message_is_cut(pool: ChildPool) -> None:
    with pytest.raises(HandlerError) as caught:
        await run(pool, handlers.fail, name="huge")
    assert len(caught.value.message) == 4096
    assert caught.value.traceback is not None
    assert len(caught.value.traceback) <= 16 * 1024


async def test_a_payload_that_is_no_json_is_a_payload_error(pool: ChildPool) -> None:
    with pytest.raises(PayloadError):
        await pool.run(handlers.add, context(), b"\xff", timeout=None)


async def test_a_result_that_is_too_large_is_refused_and_the_process_serves_on(
    pool: ChildPool,
) -> None:
    pids = pool.pids
    assert len(await run(pool, handlers.return_bytes, size=1024 * 1024 - 2)) == 1024 * 1024 - 2
    with pytest.raises(PayloadTooLarge):
        await run(pool, handlers.return_bytes, size=1024 * 1024)
    assert pool.pids == pids


# What handlers say while they run


async def test_progress_arrives_the_last_of_it_always(pool: ChildPool) -> None:
    host = Host()
    await run(pool, handlers.report_often, host, times=20_000)
    percents = [one.percent for one in host.reports]
    assert percents == sorted(percents)
    assert len(percents) < 2000
    assert host.reports[-1] == Progress(percent=100, stage="counting", message="number 19999")


async def test_endless_progress_and_log_texts_are_cut(
    pool: ChildPool, caplog: pytest.LogCaptureFixture
) -> None:
    host = Host()
    await run(pool, handlers.say_too_much, host)
    assert [len(one.message) for one in host.reports] == [4096]
    assert [len(one.getMessage()) for one in caplog.records if one.name == "app"] == [64 * 1024]


@pytest.mark.parametrize("handler", [handlers.spawn, handlers.spawn_async], ids=["sync", "async"])
async def test_spawned_messages_arrive_whole_and_their_ids_come_back(
    pool: ChildPool, handler: Any
) -> None:
    host = Host()
    told = context(host)
    ids = json.loads(await pool.run(handler, told, b"{}", timeout=None))
    twin = context(host, job_id=told.job_id)
    assert host.spawned == twin._adopt(handlers.offspring(), None)
    assert ids == [one.job_id for one in host.spawned]


async def test_a_refused_spawn_raises_in_the_handler_what_the_worker_said(pool: ChildPool) -> None:
    host = Host()
    host.refusal = InvalidJob("no queue of that name")
    assert await run(pool, handlers.spawn_refused, host) == ["InvalidJob", "no queue of that name"]


async def test_transactions_are_refused_with_what_to_do_instead(pool: ChildPool) -> None:
    said = await run(pool, handlers.use_transactions)
    assert len(said) == 2
    assert all('isolation="thread"' in text for text in said)


async def test_prints_come_out_and_do_not_disturb_the_channel(
    capfd: pytest.CaptureFixture[str],
) -> None:
    async with ChildPool(1) as pool:
        assert await run(pool, handlers.print_a_lot) == "printed"
    out, err = capfd.readouterr()
    assert "to stdout\n" in out
    assert "to stderr\n" in err


async def test_log_records_reach_the_workers_loggers_within_the_jobs_context(
    pool: ChildPool, caplog: pytest.LogCaptureFixture
) -> None:
    jobs: list[str] = []

    def note_job(record: logging.LogRecord) -> bool:
        jobs.append(JobContext.current().job_id)
        return True

    caplog.set_level(logging.INFO)
    told = context()
    caplog.handler.addFilter(note_job)
    try:
        await pool.run(handlers.log_something, told, b"{}", timeout=None)
    finally:
        caplog.handler.removeFilter(note_job)  # the handler serves all tests of the session
    first, second = (one for one in caplog.records if one.name == "app.video")
    assert (first.levelname, first.getMessage()) == ("INFO", "rendering frame 100%")
    assert first.funcName == "log_something"
    assert second.levelname == "ERROR"
    assert "ValueError: out of frames" in second.getMessage()
    assert jobs == [told.job_id] * 2
