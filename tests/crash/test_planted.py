"""Planted bugs that only real threads and transactions can show, each of which must be named."""

from __future__ import annotations

import asyncio

import pytest

from tests.chaos.planted import BUGS
from tests.chaos.stages import LEASE, STAGES, perform
from tests.crash.place import Place

pytestmark = pytest.mark.crash


def test_every_bug_is_either_simulated_or_has_a_stage() -> None:
    assert {bug.name for bug in BUGS.values() if not bug.simulated} == set(STAGES)
    assert len(BUGS) >= 12


@pytest.mark.services
@pytest.mark.parametrize("name", STAGES, ids=lambda name: name.replace(" ", "_"))
def test_a_bug_that_takes_real_processes_is_reported(
    request: pytest.FixtureRequest, name: str
) -> None:
    place: Place = request.getfixturevalue(f"{BUGS[name].on}_place")
    found = asyncio.run(perform(BUGS[name], place))
    assert found & BUGS[name].caught_by, f"the checker says {sorted(found)}"


async def test_a_heartbeat_on_its_own_thread_keeps_the_lease(sqlite_place: Place) -> None:
    """The same scene without the bug, so that it is the bug that was caught."""
    place = sqlite_place
    async with place.bus() as bus:
        await bus.enqueue("obstinate", {"gate": "open"})
        place.start("worker", lease=LEASE, concurrency=1)
        await place.seen("renewed", number=4)  # longer than the first term
        place.open_gate("open")
        await place.until_done(bus)
        jobs = await place.prove(bus)
    assert [job.attempt for job in jobs.values()] == [1]
