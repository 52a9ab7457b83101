"""The network before Postgres misbehaves (F5, F6): nothing is applied twice, nothing is lost."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Final
from urllib.parse import urlsplit

import pytest

from jobbus.job import JobState
from tests.crash.checker import EVERYBODY
from tests.crash.place import Place
from tests.services.addresses import with_place
from tests.services.proxy import Proxy, proxy_before

pytestmark = pytest.mark.crash

LEASE: Final = 3.0
"""Seconds."""
JOBS: Final = 60


@pytest.fixture
def proxy(postgres_place: Place) -> Iterator[Proxy]:
    parts = urlsplit(postgres_place.address)
    with proxy_before(parts.hostname or "127.0.0.1", parts.port or 5432) as made:
        made.on_cut = lambda: postgres_place.note("cut", process=EVERYBODY)
        yield made


def behind(place: Place, proxy: Proxy) -> str:
    return with_place(place.address, "127.0.0.1", proxy.port)


@pytest.mark.parametrize(
    ("pattern", "forward"),
    [
        pytest.param(b"COMMIT", True, id="a commit without its reply"),
        pytest.param(b"COMMIT", False, id="a commit that never arrives"),
        pytest.param(b"lease_until", True, id="a claim without its reply"),
    ],
)
async def test_a_call_that_is_cut_is_applied_once_or_not_at_all(
    postgres_place: Place, proxy: Proxy, pattern: bytes, forward: bool
) -> None:
    place = postgres_place
    async with place.bus() as bus:
        worker = place.start("worker", address=behind(place, proxy), lease=LEASE)
        await place.enqueue(bus, 1)
        await place.seen("settled")
        proxy.cut_at(pattern, forward=forward, times=2)
        for job_type in ("transactional", "fails_once", "plain"):
            await bus.enqueue_many(
                [await bus.message_for(job_type, {}, max_attempts=10) for _ in range(JOBS // 3)]
            )
        await place.until_done(bus)
        worker.terminate()
        assert await worker.ended() == 0, worker.log
        jobs = await place.prove(bus, effects=await place.effects())
    assert proxy.cuts >= 1, "the pattern never passed"
    assert {job.state for job in jobs.values()} == {JobState.COMPLETED}


async def test_a_worker_works_on_when_all_its_connections_were_reset(
    postgres_place: Place, proxy: Proxy
) -> None:
    place = postgres_place
    async with place.bus() as bus:
        worker = place.start("worker", address=behind(place, proxy), lease=LEASE)
        await place.seen("ready")
        for _ in range(3):
            await place.enqueue(bus, JOBS // 3, seconds=0.05)
            await place.seen("started", number=1)
            await asyncio.to_thread(proxy.cut_all)
        await place.until_done(bus)
        worker.terminate()
        assert await worker.ended() == 0, worker.log
        jobs = await place.prove(bus)
    assert {job.state for job in jobs.values()} == {JobState.COMPLETED}


async def test_a_worker_behind_a_black_hole_gives_its_jobs_up_and_comes_back(
    postgres_place: Place, proxy: Proxy
) -> None:
    """It can neither renew nor report: it stops by itself before somebody else begins (D-4)."""
    place = postgres_place
    async with place.bus() as bus:
        job_id = await bus.enqueue("plain", {"gate": "open"})
        lost = place.start("lost", address=behind(place, proxy), lease=LEASE, concurrency=1)
        await place.seen("renewed")
        place.note("cut", process=EVERYBODY)
        proxy.swallow()
        await place.seen("interrupted")
        beside = place.start("beside", lease=LEASE, queues=["default"])
        await place.seen("started", number=2)
        beside.stop()  # so that what comes now is the other's to do
        proxy.flow()
        beside.resume()
        place.open_gate("open")
        await place.until_done(bus)
        jobs = await place.prove(bus)
        lost.terminate()
        assert await lost.ended(60) == 0, lost.log
    assert jobs[job_id].state is JobState.COMPLETED
