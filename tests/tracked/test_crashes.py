"""A worker is killed between ledger and broker: nothing is lost, nothing runs once too often."""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from pathlib import Path
from typing import Final

import pytest

from jobbus.backends.postgres import PostgresQueue
from jobbus.job import JobState
from jobbus.testing.make import message
from tests.flow.support import PATIENCE, ROOT
from tests.tracked.victim import JOB_TYPE, queue_in

pytestmark = [pytest.mark.crash, pytest.mark.asyncio]

EXPECTED: Final = {
    "handed over, not sent": (1, 1, 0),
    "sent, not marked": (1, 1, 0),
    "received, not started": (1, 1, 0),
    "started, not run": (1, 2, 1),
    "run, not recorded": (2, 2, 1),
    "recorded, not acknowledged": (1, 1, 0),
    "acknowledged": (1, 1, 0),
}
"""Where the worker dies; how often its job runs, its attempts and its crashes in the end."""
AT_ONCE: Final = 3


@pytest.fixture
async def ledger(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where the jobs are remembered, ready for use."""
    if request.param == "sqlite":
        return str(tmp_path / "jobs.db")
    url: str = request.getfixturevalue("postgres_url")
    await PostgresQueue(url).migrate()
    return url


async def victim(*arguments: str) -> int:
    """Run the program to its end; its exit status."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.tracked.victim", *arguments), cwd=ROOT
    )
    try:
        return await asyncio.wait_for(process.wait(), 4 * PATIENCE)
    finally:
        if process.returncode is None:
            process.kill()


@pytest.mark.parametrize(
    "ledger", ["sqlite", pytest.param("postgres", marks=pytest.mark.services)], indirect=True
)
async def test_a_worker_that_is_killed_anywhere_costs_at_most_one_more_run(
    ledger: str, tmp_path: Path
) -> None:
    """D-7 and D-16: the record first, then the broker; and the gate before every run."""
    jobs = {point: message(JOB_TYPE, queue=point.replace(" ", "").replace(",", "-"))
            for point in EXPECTED}  # fmt: skip
    queue = queue_in(tmp_path, ledger, mortal=False)
    await queue.open()
    await queue.enqueue(list(jobs.values()))
    turns = asyncio.Semaphore(AT_ONCE)

    async def die(point: str) -> int:
        async with turns:
            return await victim(str(tmp_path), ledger, jobs[point].queue, point)

    assert await asyncio.gather(*map(die, EXPECTED)) == [-9] * len(EXPECTED)
    queues = ",".join(job.queue for job in jobs.values())
    assert await victim(str(tmp_path), ledger, queues) == 0
    runs = Counter(line.split()[0] for line in (tmp_path / "effects").read_text().splitlines())
    found = {}
    for point, sent in jobs.items():
        job = await queue.get(sent.job_id)
        assert job is not None
        assert job.state is JobState.COMPLETED, point
        found[point] = (runs[job.id], job.attempt, job.crashes)
    await queue.close()
    assert found == EXPECTED
