"""The suites, tested: a broken queue fails the case that names its fault, the honest one passes."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from typing import Any

import pytest

from jobbus.backends.memory import MemoryQueue
from jobbus.testing import QueueConformance, StoreConformance, VirtualClock, VirtualTime
from jobbus.testing.conformance.base import Suite
from jobbus.testing.saboteurs import PLANS, Plan
from jobbus.testing.wrapping import LedgerQueue


class QueueSuite(VirtualTime, QueueConformance):
    """Impatient: what a saboteur withholds never comes."""

    patience = timedelta(milliseconds=300)


class StoreSuite(VirtualTime, StoreConformance):
    """Impatient as well."""

    patience = timedelta(milliseconds=300)


SUITES: dict[str, type[Suite]] = {"queue": QueueSuite, "store": StoreSuite}


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


@pytest.fixture
async def honest(clock: VirtualClock) -> AsyncIterator[MemoryQueue]:
    queue = MemoryQueue(clock=clock)
    await queue.open()
    yield queue
    await queue.close()


async def judge(plan: Plan, queue: LedgerQueue, clock: VirtualClock) -> None:
    """Run the plan's case on a queue, as pytest would."""
    suite: Any = SUITES[plan.suite]()
    suite.clock = clock
    case: Callable[..., Awaitable[None]] = getattr(suite, plan.case)
    given: dict[str, Any] = {"queue": queue, "store": queue, "ends": queue, **plan.parameters}
    wanted = inspect.signature(case).parameters
    await case(**{name: value for name, value in given.items() if name in wanted})


@pytest.mark.parametrize("plan", PLANS, ids=lambda plan: plan.name)
async def test_a_saboteur_is_caught_by_the_case_that_names_its_fault(
    plan: Plan, honest: MemoryQueue, clock: VirtualClock
) -> None:
    with pytest.raises(AssertionError):
        await judge(plan, plan.saboteur(honest), clock)


@pytest.mark.parametrize("plan", PLANS, ids=lambda plan: plan.name)
async def test_the_honest_queue_passes_the_same_case(
    plan: Plan, honest: MemoryQueue, clock: VirtualClock
) -> None:
    await judge(plan, honest, clock)


def test_there_are_a_dozen_saboteurs_and_no_two_alike() -> None:
    assert len({plan.name for plan in PLANS}) == len(PLANS) >= 12
