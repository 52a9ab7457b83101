"""The processes that handlers run in: how many, what they inherit, what ends them."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from jobbus.errors import PayloadError
from jobbus.worker.isolation import ChildPool, reference_for
from tests.worker import child_handlers as handlers
from tests.worker.child_pool import SECOND, Held, Host, Run, context, run

pytestmark = [
    pytest.mark.crash,
    pytest.mark.skipif(sys.platform != "linux", reason="needs what Linux knows of processes"),
]


@pytest.fixture
async def pool() -> AsyncIterator[ChildPool]:
    async with ChildPool(2, term_grace=10 * SECOND, cancel_grace=10 * SECOND) as pool:
        yield pool


async def test_processes_are_started_when_needed_and_reused(pool: ChildPool) -> None:
    assert pool.pids == []
    pids = {(await run(pool, handlers.add, a=1, b=1))["pid"] for _ in range(5)}
    assert [*pids] == pool.pids


async def test_as_many_handlers_run_at_once_as_the_pool_has_slots(pool: ChildPool) -> None:
    runs = [Run(pool, handlers.finish_when_asked) for _ in range(3)]
    assert len({await runs[0].begun(), await runs[1].begun()}) == 2
    assert not runs[2].host.reports
    assert len(pool.pids) == 2
    pool.request_cancel(runs[0].context.job_id)
    await runs[0].task
    await runs[2].begun()
    for one in runs[1:]:
        pool.request_cancel(one.context.job_id)
        await one.task


async def test_a_process_is_replaced_after_its_number_of_jobs(pool: ChildPool) -> None:
    pids = [await run(pool, handlers.add_twice_at_most) for _ in range(5)]
    assert pids[0] == pids[1] != pids[2] == pids[3] != pids[4]


async def test_metadata_that_is_no_json_is_a_payload_error_and_starts_nothing(
    pool: ChildPool,
) -> None:
    odd = context(metadata={"lock": threading.Lock()})
    with pytest.raises(PayloadError, match="not JSON"):
        await pool.run(handlers.add, odd, b"{}", timeout=None)
    assert pool.pids == []


async def test_what_a_thread_says_of_a_job_that_has_ended_is_not_taken_for_the_next(
    pool: ChildPool,
) -> None:
    host = Host()
    await run(pool, handlers.leave_a_thread)
    await run(pool, handlers.report_often, host, times=1)
    assert {one.stage for one in host.reports} <= {"counting"}


async def test_no_descriptor_of_the_workers_is_inherited(pool: ChildPool) -> None:
    with socket.socket() as broker:
        broker.set_inheritable(True)
        found = await run(pool, handlers.list_descriptors)
    kinds = sorted(where.partition(":")[0] for where in found["open"].values())
    assert kinds == ["anon_inode", "pipe", "socket"]  # Of the last two, one end each.
    assert found["in_programs"] == 4  # Three, and the one that lists them.


async def test_the_process_has_the_workers_path_and_environment_and_little_else(
    pool: ChildPool,
) -> None:
    seen = await run(pool, handlers.see_process)
    assert seen["path"] == list(reference_for(handlers.see_process).sys_path)
    assert seen["environment"] == {key: os.environ.get(key) for key in ("PYTHONPATH", "HOME")}
    assert seen["ours"] == [key for key in os.environ if key.startswith("JOBBUS_")]
    assert seen["group"]
    assert seen["stdin"] == ""
    heavy = {"sqlalchemy", "psycopg", "rich", "typer", "pytest"}
    assert not heavy & set(seen["modules"])


SCRIPT = """
import asyncio, os, signal, sys
from datetime import timedelta
from tests.worker import child_handlers as handlers
from tests.worker.child_pool import Run
from jobbus.worker.isolation import ChildPool

async def main():
    async with ChildPool(1, app=None, term_grace=timedelta(hours=1)) as pool:
        one = Run(pool, {handler}, **{arguments})
        pid = await one.begun()
        if {forks}:
            if os.fork() == 0:
                os.close(1)
                signal.alarm(30)
                signal.pause()
        print(pid, flush=True)
        await one.task

asyncio.run(main())
"""


@pytest.mark.parametrize("handler", ["ignore_sigterm", "hold_the_interpreter"])
async def test_the_workers_death_is_the_handlers(handler: str) -> None:
    await _kill_worker(SCRIPT.format(handler=f"handlers.{handler}", arguments={}, forks=False))


async def test_a_fork_that_outlives_its_worker_does_not_keep_the_handler_alive() -> None:
    await _kill_worker(SCRIPT.format(handler="handlers.ignore_sigterm", arguments={}, forks=True))


async def test_the_workers_death_is_the_end_of_what_the_handler_started(tmp_path: Path) -> None:
    held = Held(tmp_path / "pipe")
    handler, arguments = "handlers.hang_with_children", {"pipe": held.path}
    await _kill_worker(SCRIPT.format(handler=handler, arguments=arguments, forks=False))
    await held.let_go()


async def _kill_worker(script: str) -> None:
    worker = await asyncio.create_subprocess_exec(
        sys.executable, "-c", script, stdout=asyncio.subprocess.PIPE
    )
    assert worker.stdout is not None
    assert int(await worker.stdout.readline())
    worker.kill()
    # Ends when the last process that has inherited it does.
    assert await worker.stdout.read() == b""
    await worker.wait()
