"""Handlers in child processes that crash, run out of time or memory, and are stopped."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from jobbus.errors import (
    Cancelled,
    HandlerCrashed,
    Snooze,
)
from jobbus.worker.isolation import ChildPool
from tests.worker import child_handlers as handlers
from tests.worker.child_pool import (
    DESCRIPTORS,
    NEVER,
    SECOND,
    SOON,
    Held,
    Host,
    Run,
    gone,
    run,
)

pytestmark = [
    pytest.mark.crash,
    pytest.mark.skipif(sys.platform != "linux", reason="needs what Linux knows of processes"),
]


@pytest.fixture
async def pool() -> AsyncIterator[ChildPool]:
    async with ChildPool(2, term_grace=10 * SECOND, cancel_grace=10 * SECOND) as pool:
        yield pool


@pytest.fixture
async def impatient() -> AsyncIterator[ChildPool]:
    async with ChildPool(2, term_grace=SOON, cancel_grace=SOON) as pool:
        yield pool


# Crashes


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("7", "the handler's process exited with code 7"),
        ("0", "the handler's process exited with code 0"),
        ("kill", "the handler's process was killed by signal 9 (SIGKILL)"),
        ("segfault", "the handler's process was killed by signal 11 (SIGSEGV)"),
    ],
)
async def test_a_crash_is_told_with_how_it_came_and_the_slot_serves_on(
    pool: ChildPool, how: str, words: str
) -> None:
    with pytest.raises(HandlerCrashed) as caught:
        await run(pool, handlers.die, how=how)
    assert str(caught.value) == words
    assert pool.pids == []
    assert (await run(pool, handlers.add, a=1, b=1))["sum"] == 2


async def test_a_crash_leaves_the_siblings_job_unharmed(pool: ChildPool) -> None:
    sibling = Run(pool, handlers.finish_when_asked)
    pid = await sibling.begun()
    for how in ("kill", "segfault", "7"):
        with pytest.raises(HandlerCrashed):
            await run(pool, handlers.die, how=how)
    assert pool.pids == [pid]
    pool.request_cancel(sibling.context.job_id)
    assert json.loads(await sibling.task) == "finished all the same"


async def test_a_crash_takes_what_the_handler_started_along(
    pool: ChildPool, tmp_path: Path
) -> None:
    held = Held(tmp_path / "pipe")
    with pytest.raises(HandlerCrashed):
        await run(pool, handlers.leave_children_and_die, pipe=held.path)
    await held.let_go()


async def test_a_process_that_dies_idle_costs_no_job(pool: ChildPool) -> None:
    pid = (await run(pool, handlers.add, a=1, b=1))["pid"]
    os.kill(pid, signal.SIGKILL)
    result = await run(pool, handlers.add, a=2, b=2)
    assert result["sum"] == 4
    assert result["pid"] != pid


async def test_a_handler_over_its_memory_limit_crashes_with_that_reason(pool: ChildPool) -> None:
    assert await run(pool, handlers.hog, mib=8) == 8 * handlers.MIB
    with pytest.raises(HandlerCrashed, match=r"ran out of its memory limit of 64 MiB"):
        await run(pool, handlers.hog, mib=256)
    assert pool.pids == []
    assert await run(pool, handlers.hog, mib=8) == 8 * handlers.MIB


async def test_a_memory_limit_ends_with_its_job(pool: ChildPool) -> None:
    await run(pool, handlers.hog, mib=1)
    (pid,) = pool.pids
    result = await run(pool, handlers.hog_freely, mib=256)
    assert result == {"bytes": 256 * handlers.MIB, "pid": pid}


async def test_a_handler_that_closes_the_channel_has_crashed(pool: ChildPool) -> None:
    with pytest.raises(HandlerCrashed):
        await run(pool, handlers.close_everything)
    assert pool.pids == []


async def test_noise_in_the_channel_kills_the_process_and_nothing_else(pool: ChildPool) -> None:
    sibling = Run(pool, handlers.finish_when_asked)
    await sibling.begun()
    with pytest.raises(HandlerCrashed, match="does not understand"):
        await run(pool, handlers.write_into_the_channel)
    pool.request_cancel(sibling.context.job_id)
    assert json.loads(await sibling.task) == "finished all the same"


async def test_no_process_to_be_had_postpones_the_job(
    pool: ChildPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/nonexistent/python")
    with pytest.raises(Snooze, match="no process could be started"):
        await run(pool, handlers.add, a=1, b=1)


# Limits of time


@pytest.mark.parametrize("handler", [handlers.hang, handlers.hang_async], ids=["sync", "async"])
async def test_a_handler_over_its_time_is_stopped_after_tidying_up(
    pool: ChildPool, tmp_path: Path, handler: Any
) -> None:
    host = Host()
    with pytest.raises(TimeoutError, match=r"its timeout of 0:00:00\.2"):
        await run(pool, handler, host, limit=SOON, tidied=str(tmp_path / "tidied"))
    assert gone(int(host.reports[0].stage))
    assert (tmp_path / "tidied").read_text() == "tidied"


async def test_a_handler_that_ignores_sigterm_is_killed_after_the_grace(
    impatient: ChildPool,
) -> None:
    host = Host()
    with pytest.raises(TimeoutError):
        await run(impatient, handlers.ignore_sigterm, host, limit=SOON)
    assert gone(int(host.reports[0].stage))


async def test_a_handler_that_holds_the_interpreter_is_killed_after_the_grace(
    impatient: ChildPool,
) -> None:
    host = Host()
    with pytest.raises(TimeoutError):
        await run(impatient, handlers.hold_the_interpreter, host, limit=SOON)
    assert gone(int(host.reports[0].stage))


async def test_a_timeout_leaves_the_siblings_job_unharmed(impatient: ChildPool) -> None:
    sibling = Run(impatient, handlers.hang)
    pid = await sibling.begun()
    with pytest.raises(TimeoutError):
        await run(impatient, handlers.ignore_sigterm, limit=SOON)
    assert impatient.pids == [pid]
    assert not sibling.task.done()


async def test_time_runs_from_the_handlers_own_start(pool: ChildPool, tmp_path: Path) -> None:
    """A process that takes longer to start than the handler may run is no timeout."""
    result = await run(pool, handlers.add, limit=timedelta(milliseconds=30), a=1, b=1)
    assert result["sum"] == 2


# Being stopped


@pytest.mark.parametrize("handler", [handlers.hang, handlers.hang_async], ids=["sync", "async"])
async def test_cancelling_the_call_stops_the_process(
    pool: ChildPool, tmp_path: Path, handler: Any
) -> None:
    one = Run(pool, handler, tidied=str(tmp_path / "tidied"))
    pid = await one.begun()
    one.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await one.task
    assert gone(pid)
    assert pool.pids == []
    assert (tmp_path / "tidied").read_text() == "tidied"
    assert (await run(pool, handlers.add, a=1, b=1))["sum"] == 2


async def test_cancelling_the_call_leaves_no_grandchildren(
    impatient: ChildPool, tmp_path: Path
) -> None:
    held = Held(tmp_path / "pipe")
    one = Run(impatient, handlers.hang_with_children, pipe=held.path)
    await one.begun()
    one.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await one.task
    await held.let_go()


async def test_cancelling_the_call_twice_does_not_wait_for_the_grace() -> None:
    async with ChildPool(1, term_grace=NEVER) as pool:
        one = Run(pool, handlers.ignore_sigterm)
        await one.begun()
        one.task.cancel()
        await asyncio.sleep(0)
        one.task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await one.task
        assert (await run(pool, handlers.add, a=1, b=1))["sum"] == 2


async def test_a_handler_that_looks_stops_when_asked_and_its_process_serves_on(
    pool: ChildPool,
) -> None:
    one = Run(pool, handlers.stop_when_asked)
    pid = await one.begun()
    assert pool.request_cancel(one.context.job_id)
    with pytest.raises(Cancelled, match="asked to stop"):
        await one.task
    assert pool.pids == [pid]


async def test_an_async_handler_is_stopped_at_its_await(pool: ChildPool, tmp_path: Path) -> None:
    one = Run(pool, handlers.hang_async, tidied=str(tmp_path / "tidied"))
    pid = await one.begun()
    assert pool.request_cancel(one.context.job_id)
    with pytest.raises(Cancelled, match="asked to stop"):
        await one.task
    assert (tmp_path / "tidied").read_text() == "tidied"
    assert pool.pids == [pid]


async def test_a_handler_that_does_not_look_is_killed_after_the_grace(
    impatient: ChildPool,
) -> None:
    one = Run(impatient, handlers.ignore_sigterm)
    pid = await one.begun()
    assert impatient.request_cancel(one.context.job_id)
    with pytest.raises(Cancelled, match="was killed"):
        await one.task
    assert gone(pid)


async def test_a_handler_that_finishes_after_being_asked_to_stop_has_finished(
    pool: ChildPool,
) -> None:
    one = Run(pool, handlers.finish_when_asked)
    await one.begun()
    assert pool.request_cancel(one.context.job_id)
    assert pool.request_cancel(one.context.job_id)
    assert json.loads(await one.task) == "finished all the same"
    assert not pool.request_cancel(one.context.job_id)


async def test_a_job_cancelled_beforehand_starts_nothing(pool: ChildPool) -> None:
    host = Host()
    host.cancelled = True
    with pytest.raises(Cancelled):
        await run(pool, handlers.add, host, a=1, b=1)
    assert pool.pids == []


@pytest.mark.parametrize("handler", [handlers.hang, handlers.hang_async], ids=["sync", "async"])
async def test_a_job_cancelled_while_its_process_starts_never_runs(
    pool: ChildPool, handler: Any
) -> None:
    one = Run(pool, handler)
    while not pool.pids:  # noqa: ASYNC110 - what is waited for is the state of the process table
        await asyncio.sleep(0)
    assert pool.request_cancel(one.context.job_id)
    with pytest.raises(Cancelled):
        await one.task
    assert one.host.reports == []


async def test_closing_leaves_no_process_and_no_descriptor() -> None:
    before = sorted(os.listdir(DESCRIPTORS))
    pool = ChildPool(3, term_grace=SOON)
    busy, stubborn = Run(pool, handlers.hang), Run(pool, handlers.ignore_sigterm)
    pids = {await busy.begun(), await stubborn.begun()}
    pids.add((await run(pool, handlers.add, a=1, b=1))["pid"])
    assert len(pids) == 3
    await pool.close()
    assert all(gone(pid) for pid in pids)
    for one in (busy, stubborn):
        with pytest.raises(asyncio.CancelledError):
            await one.task
    await pool.close()
    assert sorted(os.listdir(DESCRIPTORS)) == before
    with pytest.raises(RuntimeError, match="closed"):
        await run(pool, handlers.add, a=1, b=1)
