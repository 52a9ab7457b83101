"""The seeded loop itself: time is virtual, the dead stay dead, and chance is the seed's."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator

import pytest

from tests.simulation.loop import Group, SeededLoop

HOUR = 3600.0


@pytest.fixture
def loop() -> Iterator[SeededLoop]:
    made = SeededLoop(random.Random(1), lambda group: made.kill(group))
    yield made
    made.close()


def test_an_hour_passes_in_no_time(loop: SeededLoop) -> None:
    before = loop.time()
    loop.run_until_complete(asyncio.sleep(HOUR))
    assert HOUR <= loop.time() - before < HOUR + 1


def test_a_killed_process_runs_no_clean_up_and_nothing_after_it(loop: SeededLoop) -> None:
    told: list[str] = []

    async def victim() -> None:
        try:
            told.append("began")
            await asyncio.sleep(1)
            told.append("went on")
        finally:
            told.append("cleaned up")

    async def test() -> list[str]:
        group = Group("victim")
        loop.spawn(group, victim())
        await asyncio.sleep(0.5)
        loop.kill(group)
        await asyncio.sleep(HOUR)
        return list(told)

    assert loop.run_until_complete(test()) == ["began"]


def test_a_frozen_process_goes_on_where_it_was(loop: SeededLoop) -> None:
    async def sleeper(woken: list[float]) -> None:
        await asyncio.sleep(1)
        woken.append(loop.time())

    async def test() -> float:
        began, woken = loop.time(), list[float]()
        group = Group("sleeper")
        loop.spawn(group, sleeper(woken))
        await asyncio.sleep(0.5)
        group.frozen = True
        await asyncio.sleep(HOUR)
        assert not woken
        group.frozen = False
        await asyncio.sleep(1)
        return woken[0] - began

    assert loop.run_until_complete(test()) >= HOUR


def test_a_process_dies_after_as_many_steps_as_it_was_given(loop: SeededLoop) -> None:
    async def counting(steps: list[int]) -> None:
        for number in range(100):
            steps.append(number)
            await asyncio.sleep(0)

    async def test() -> list[int]:
        steps: list[int] = []
        group = Group("counting")
        group.fuse = 7
        loop.spawn(group, counting(steps))
        await asyncio.sleep(1)
        return steps

    assert loop.run_until_complete(test()) == list(range(7))


def test_processes_take_turns_in_an_order_that_the_seed_decides() -> None:
    def order(seed: int) -> str:
        loop = SeededLoop(random.Random(seed), lambda group: None)
        turns: list[str] = []

        async def taking_turns(name: str) -> None:
            for _ in range(20):
                turns.append(name)
                await asyncio.sleep(0)

        for name in "abc":
            loop.spawn(Group(name), taking_turns(name))
        loop.run_until_complete(asyncio.sleep(1))
        loop.close()
        return "".join(turns)

    assert order(1) == order(1)
    assert len({order(seed) for seed in range(5)}) == 5


def test_a_wait_for_what_never_comes_is_reported(loop: SeededLoop) -> None:
    async def for_ever() -> None:
        await asyncio.Event().wait()

    with pytest.raises(RuntimeError, match="nothing will ever happen"):
        loop.run_until_complete(for_ever())
