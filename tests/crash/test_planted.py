"""Planted bugs that only real threads and transactions can show, each of which must be named."""

from __future__ import annotations

import signal
from typing import Final

import pytest

from jobbus.bus import JobBus
from tests.chaos.planted import BUGS, Bug
from tests.crash.checker import violations
from tests.crash.place import Place, point

pytestmark = pytest.mark.crash

LEASE: Final = 1.5
"""Seconds."""
STAGED: Final = {
    "the heartbeat shares the handlers' loop",
    "a transaction commits without the lease",
}


def test_every_bug_is_either_simulated_or_staged_here() -> None:
    assert {bug.name for bug in BUGS.values() if not bug.simulated} == STAGED
    assert len(BUGS) >= 12


async def test_a_heartbeat_on_the_handlers_loop_is_reported(place: Place) -> None:
    bug = BUGS["the heartbeat shares the handlers' loop"]
    async with place.bus() as bus:
        await bus.enqueue("obstinate", {"gate": "open"})
        for number in range(2):
            place.start(f"worker-{number}", lease=LEASE, planted=bug.name, concurrency=1)
            # It blocks its loop, and so its leases lapse: the other one begins the job again.
            await place.seen("started", number=number + 1)
        place.open_gate("open")
        await place.until_done(bus)
        await is_caught(place, bus, bug)


async def test_a_heartbeat_on_its_own_thread_keeps_the_lease(place: Place) -> None:
    """The same without the bug, so that it is the bug that was caught."""
    async with place.bus() as bus:
        await bus.enqueue("obstinate", {"gate": "open"})
        place.start("worker", lease=LEASE, concurrency=1)
        await place.seen("renewed", number=4)  # longer than the first term
        place.open_gate("open")
        await place.until_done(bus)
        jobs = await place.prove(bus)
    assert [job.attempt for job in jobs.values()] == [1]


async def test_a_transaction_that_commits_without_the_lease_is_reported(
    postgres_place: Place,
) -> None:
    place = postgres_place
    bug = BUGS["a transaction commits without the lease"]
    async with place.bus() as bus:
        await bus.enqueue("transactional")
        frozen = place.start(
            "frozen",
            point=point("complete_in:before", with_signal=signal.SIGSTOP),
            lease=LEASE,
            planted=bug.name,
        )
        await place.seen("stopping")
        await place.work_off(bus)
        frozen.resume()
        frozen.terminate()
        assert await frozen.ended() == 0, frozen.log
        await is_caught(place, bus, bug)


async def is_caught(place: Place, bus: JobBus, bug: Bug) -> None:
    """Whether the checker names it."""
    evidence = await place.evidence(bus, effects=await place.effects())
    found = {one.invariant for one in violations(evidence)}
    assert found & bug.caught_by, f"{bug.name}: the checker says {sorted(found)}"
