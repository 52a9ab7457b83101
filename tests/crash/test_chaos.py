"""Everything at once: workers killed and frozen at random, under load."""

from __future__ import annotations

import asyncio
import random
from dataclasses import replace
from typing import Final

import pytest

from jobbus.bus import JobBus
from jobbus.job import JobState
from tests.crash.place import Place, Process

pytestmark = [pytest.mark.crash, pytest.mark.slow, pytest.mark.timeout(120)]

WORKERS: Final = 3
FAULTS: Final = 12
LEASE: Final = 1.5
TRANSACTIONAL: Final = 150
PLAIN: Final = 250
FAILING: Final = 50


async def test_nothing_is_lost_and_nothing_is_done_twice_while_workers_die_at_random(
    place: Place,
) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    async with place.bus() as bus:
        await _enqueue(bus)
        await _torment(place, random.Random(seed))
        await place.look(bus)
        await place.until_done(bus)
        effects = set(await place.effects())
        jobs = await place.prove(bus)
    transactional = {job.id: job for job in jobs.values() if job.job_type == "transactional"}
    assert {job.state for job in jobs.values()} == {JobState.COMPLETED}
    assert effects == {(job.id, job.attempt) for job in transactional.values()}
    assert len(jobs) == TRANSACTIONAL + PLAIN + FAILING
    assert sum(job.crashes for job in jobs.values()) >= FAULTS, "the faults met nobody at work"


async def _enqueue(bus: JobBus) -> None:
    kinds = {"transactional": TRANSACTIONAL, "plain": PLAIN, "fails_once": FAILING}
    messages = []
    for name, number in kinds.items():
        payload = {"seconds": 0.15} if name == "plain" else {}
        for _ in range(number):
            message = await bus.message_for(name, payload)
            messages.append(replace(message, max_crashes=100))  # nobody here is poison
    random.shuffle(messages)
    await bus.enqueue_many(messages)


async def _torment(place: Place, chance: random.Random) -> None:
    """Kill and freeze; what was killed is replaced, and what was frozen thaws after its lease."""
    workers: list[Process] = [place.start(f"worker-{n}", lease=LEASE) for n in range(WORKERS)]
    frozen: list[Process] = []
    for number in range(FAULTS):
        await asyncio.sleep(chance.uniform(0.05, 0.4))
        victim = workers.pop(chance.randrange(len(workers)))
        if number % 4 == 3:
            victim.stop()
            frozen.append(victim)
        else:
            victim.kill()
        workers.append(place.start(f"next-{number}", lease=LEASE))
    for one in frozen:
        one.resume()
