"""Scenes with real processes for the bugs that take threads or transactions to be seen."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from jobbus.bus import JobBus
from tests.chaos.battlefield import battlefield
from tests.chaos.planting import Bug
from tests.crash.checker import violations
from tests.crash.place import Place, point

LEASE: Final = 1.5
"""Seconds."""
Stage = Callable[[Place, str], Awaitable[set[str]]]
"""Plays a scene in which workers have the bug of this name; says which invariants were broken."""


async def blocked_loop(place: Place, planted: str) -> set[str]:
    """A handler blocks its loop for longer than its lease, and another worker is there."""
    async with place.bus() as bus:
        await bus.enqueue("obstinate", {"gate": "open"})
        for number in range(2):
            place.start(f"worker-{number}", lease=LEASE, planted=planted, concurrency=1)
            # Its leases lapse while it cannot renew them: the other one begins the job again.
            await place.seen("started", number=number + 1)
        place.open_gate("open")
        await place.until_done(bus)
        return await _broken(place, bus)


async def late_transaction(place: Place, planted: str) -> set[str]:
    """A worker is frozen just before it completes its job in a transaction of the handler's."""
    return await _late(place, planted, "transactional", "complete_in:before")


async def late_completion(place: Place, planted: str) -> set[str]:
    """The same, where nothing but the completion is late."""
    return await _late(place, planted, "plain", "complete:before")


async def _late(place: Place, planted: str, job_type: str, label: str) -> set[str]:
    async with place.bus() as bus:
        await bus.enqueue(job_type)
        frozen = place.start(
            "frozen",
            point=point(label, with_signal=signal.SIGSTOP),
            lease=LEASE,
            planted=planted,
        )
        await place.seen("stopping")
        await place.work_off(bus)
        frozen.resume()
        frozen.terminate()
        assert await frozen.ended() == 0, frozen.log
        return await _broken(place, bus)


STAGES: Final[Mapping[str, Stage]] = {
    "the heartbeat shares the handlers' loop": blocked_loop,
    "a transaction commits without the lease": late_transaction,
    "on Redis a completion needs no lease": late_completion,
    "on Redis live leases are taken back": blocked_loop,
}
"""By the name of the bug that each is there for."""


def play(bug: Bug) -> set[str]:
    """The bug's scene, on a server of its own; the invariants that were broken."""
    with battlefield(bug.on) as ground:
        return asyncio.run(perform(bug, ground.place))


async def perform(bug: Bug, place: Place) -> set[str]:
    """The same, on a server that is there already."""
    return await STAGES[bug.name](place, bug.name)


async def _broken(place: Place, bus: JobBus) -> set[str]:
    evidence = await place.evidence(bus, effects=await place.effects())
    return {one.invariant for one in violations(evidence)}
