"""Everything at once: workers killed and frozen at random, under load."""

from __future__ import annotations

import asyncio
import random
import time
from dataclasses import replace
from typing import Final

import pytest

from jobbus.bus import JobBus
from jobbus.job import UNFINISHED, JobState
from jobbus.store import JobFilter
from tests.crash.place import Place, Process

pytestmark = [pytest.mark.crash, pytest.mark.slow, pytest.mark.timeout(120)]

WORKERS: Final = 3
FAULTS: Final = 12
LEASE: Final = 3.0
"""Seconds."""
BATCH: Final = {"plain": 20, "transactional": 14, "fails_once": 6}
"""What is enqueued between two faults, by job type."""


async def test_nothing_is_lost_and_nothing_is_done_twice_while_workers_die_at_random(
    place: Place,
) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    async with place.bus() as bus:
        frozen = await _torment(place, bus, random.Random(seed))
        await place.look(bus)
        await _thaw(place, bus, frozen)
        await place.until_done(bus)
        effects = await place.effects()
        jobs = await place.prove(bus, effects=effects)
    assert {job.state for job in jobs.values()} == {JobState.COMPLETED}
    assert len(jobs) == FAULTS * sum(BATCH.values())
    assert sum(job.crashes for job in jobs.values()) >= FAULTS / 2, "the faults met nobody at work"


async def _torment(place: Place, bus: JobBus, chance: random.Random) -> list[Process]:
    """Kill and freeze whoever is at work, and put another worker in its place."""
    workers = [place.start(f"worker-{number}", lease=LEASE) for number in range(WORKERS)]
    frozen: list[Process] = []
    for number in range(FAULTS):
        await _enqueue(bus, chance)
        at_work = {worker.name: worker for worker in workers}
        before = len(place.records("started"))
        found = await place.seen("started", number=before + 1)
        await asyncio.sleep(chance.uniform(0, 0.1))
        victim = at_work.get(found[-1].process)
        if victim is None:
            continue  # the last word of one that is gone
        workers.remove(victim)
        workers.append(place.start(f"next-{number}", lease=LEASE))
        if number % 4 == 3 and not place.on_sqlite:
            victim.stop()  # on SQLite it might hold the lock without which nobody can write
            frozen.append(victim)
        else:
            victim.kill()
    return frozen


async def _enqueue(bus: JobBus, chance: random.Random) -> None:
    payloads = {"plain": {"seconds": 0.1}}
    messages = [
        # Nobody here is poison, however often it is met.
        replace(await bus.message_for(name, payloads.get(name, {})), max_crashes=100)
        for name, number in BATCH.items()
        for _ in range(number)
    ]
    chance.shuffle(messages)
    await bus.enqueue_many(messages)


async def _thaw(place: Place, bus: JobBus, frozen: list[Process]) -> None:
    """Let them go on, when their leases have lapsed and all that they hold no lock on is done."""
    names = {process.name for process in frozen}
    held = {record.job for record in place.records("claimed", where=lambda r: r.process in names)}
    lapsed = time.monotonic() + LEASE

    async def nothing_else_left() -> bool:
        unfinished = {job.id async for job in bus.find_all(JobFilter(states=UNFINISHED))}
        return unfinished <= held and time.monotonic() > lapsed

    if frozen:
        await place.until("the other jobs to end", nothing_else_left)
    for process in frozen:
        process.resume()
    for process in frozen:
        process.terminate()
        assert await process.ended() == 0, process.log
