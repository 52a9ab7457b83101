"""A process dies at each step of a job's way: nothing is lost, and nobody else is blamed."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import pytest

from jobbus.bus import JobBus
from jobbus.ids import new_id
from jobbus.job import EventType, Job, JobState
from tests.crash.application import CHILDREN
from tests.crash.place import Place, Process, point

pytestmark = pytest.mark.crash

AT_ONCE: Final = 3
"""Victims alive at the same time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fate:
    """What a job came to in the end."""

    state: JobState = JobState.COMPLETED
    attempt: int = 1
    crashes: int = 0
    failures: int = 0

    @classmethod
    def of(cls, place: Place, job: Job) -> Fate:
        """Hand-outs that came back at once, because another queue had something first, aside."""
        released = sum(e.type is EventType.RELEASED for e in place.histories[job.id])
        return cls(
            state=job.state,
            attempt=job.attempt - released,
            crashes=job.crashes,
            failures=job.failures,
        )


STRAIGHT: Final = Fate()
ONCE_MORE: Final = Fate(attempt=2, crashes=1)


async def die(
    place: Place, bus: JobBus, job_type: str, points: Sequence[str], *, at_once: int = AT_ONCE
) -> dict[str, str]:
    """One job and one worker for each point, on queues of their own; the jobs by point."""
    jobs: dict[str, str] = {}
    turns = asyncio.Semaphore(at_once)

    async def meet(label: str) -> None:
        queue = queue_of(label)
        jobs[label] = await bus.enqueue(job_type, queue=queue)
        async with turns:
            victim = place.start(
                f"victim-{queue}", point=point(label), queues=[queue], concurrency=1
            )
            await victim.died()

    await asyncio.gather(*(meet(label) for label in points))
    return jobs


def queue_of(label: str) -> str:
    return label.replace("/", ".").replace(":", "-")


def fates(place: Place, jobs: Mapping[str, Job], ids: Mapping[str, str]) -> dict[str, Fate]:
    return {label: Fate.of(place, jobs[job_id]) for label, job_id in ids.items()}


async def survive(place: Place, bus: JobBus, points: Sequence[str]) -> dict[str, Job]:
    """Another worker comes, and does what the victims left; then all is proved."""
    await place.look(bus)
    await place.work_off(bus, [queue_of(label) for label in points])
    return await place.prove(bus)


def effects(place: Place, job_id: str) -> int:
    return len(place.records("effect", where=lambda record: record.job == job_id))


async def test_a_worker_that_dies_on_the_straight_path_costs_at_most_one_more_run(
    place: Place,
) -> None:
    expected = {
        "claim:before": (STRAIGHT, 1),
        "claim:after": (ONCE_MORE, 1),
        "handler:before_effect": (ONCE_MORE, 1),
        "handler:after_effect": (ONCE_MORE, 2),
        "complete:before": (ONCE_MORE, 2),
        "complete/complete:before": (ONCE_MORE, 2),
        "complete:after": (STRAIGHT, 1),
    }
    if place.on_sqlite:  # several statements in one transaction: none of them has happened
        expected |= {
            "claim/pick:after": (STRAIGHT, 1),
            "claim/open_claim:after": (STRAIGHT, 1),
            "claim/start:after": (STRAIGHT, 1),
            "complete/complete:after": (ONCE_MORE, 2),
            "complete/close_claims:after": (ONCE_MORE, 2),
        }
    else:  # one statement: it has happened, and nobody heard
        expected |= {
            "claim/claim:before": (STRAIGHT, 1),
            "claim/claim:after": (ONCE_MORE, 1),
            "complete/complete:after": (STRAIGHT, 1),
        }
    async with place.bus() as bus:
        ids = await die(place, bus, "plain", list(expected))
        jobs = await survive(place, bus, list(expected))
    found = fates(place, jobs, ids)
    assert {label: (found[label], effects(place, ids[label])) for label in expected} == expected


async def test_a_failure_is_counted_once_wherever_the_worker_dies_while_it_reports_it(
    place: Place,
) -> None:
    inside = ["lock_jobs:after", "move:after", "tell:after", "close_claims:after"]
    unheard = Fate(attempt=3, crashes=1, failures=1)
    expected = {
        "abandon:before": unheard,
        **{f"abandon/{statement}": unheard for statement in inside},
        "abandon:after": Fate(attempt=2, failures=1),
    }
    async with place.bus() as bus:
        ids = await die(place, bus, "fails_once", list(expected))
        assert fates(place, await survive(place, bus, list(expected)), ids) == expected


async def test_a_dead_letter_is_written_once_wherever_the_worker_dies_while_it_writes_it(
    place: Place,
) -> None:
    inside = ["lock_jobs:after", "move:after", "tell:after", "close_claims:after"]
    unheard = Fate(state=JobState.FAILED, attempt=2, crashes=1, failures=1)
    expected = {
        "dead_letter:before": unheard,
        **{f"dead_letter/{statement}": unheard for statement in inside},
        "dead_letter:after": Fate(state=JobState.FAILED, failures=1),
    }
    async with place.bus() as bus:
        ids = await die(place, bus, "fails_for_good", list(expected))
        jobs = await survive(place, bus, list(expected))
    assert fates(place, jobs, ids) == expected
    problems = [jobs[job_id].problem for job_id in ids.values()]
    assert {problem.kind for problem in problems if problem} == {"PermanentError"}


RELEASING: Final = [
    "waiting_for:after",
    "lock_jobs:after",
    "resolve_edges:after",
    "still_waiting:after",
    "move:after",
]


async def test_a_dependent_runs_once_wherever_the_worker_dies_between_its_parent_and_it(
    place: Place,
) -> None:
    """The parent's end and the child's release are one transaction: both happen, or neither."""
    points = ["complete:before", "complete/complete:after", "complete:after"]
    points += [f"complete/{statement}" for statement in RELEASING]
    expected = {label: ONCE_MORE for label in points} | {"complete:after": STRAIGHT}
    async with place.bus() as bus:
        parents, children = {}, {}
        victims: list[Process] = []
        for label in points:
            queue = queue_of(label)
            parents[label] = await bus.enqueue("plain", queue=queue)
            children[label] = await bus.enqueue("plain", queue=queue, depends_on=[parents[label]])
        for label in points:
            victims.append(
                place.start(
                    f"victim-{queue_of(label)}", point=point(label), queues=[queue_of(label)]
                )
            )
            if len(victims) >= AT_ONCE:
                await victims[-AT_ONCE].died()
        await asyncio.gather(*(victim.died() for victim in victims))
        jobs = await survive(place, bus, points)
    assert fates(place, jobs, parents) == expected
    # It may have had the child in its hands already when it died.
    assert fates(place, jobs, children).pop("complete:after") in (STRAIGHT, ONCE_MORE)
    del children["complete:after"]
    assert fates(place, jobs, children) == dict.fromkeys(children, STRAIGHT)


async def test_a_dependent_that_came_late_is_released_by_whoever_comes_after_the_dead_worker(
    place: Place,
) -> None:
    """Nobody knew of the child when the parent was handed out: its release comes second."""
    points = ["complete:before", "complete/complete:before"]
    expected = {label: ONCE_MORE for label in points}
    released = [f"complete/{statement}" for statement in RELEASING] + ["complete:after"]
    expected |= {label: STRAIGHT for label in released}
    async with place.bus() as bus:
        # One by one: a worker that starts would release the children of the others' parents.
        ids = await die(place, bus, "late_parent", list(expected), at_once=1)
        jobs = await survive(place, bus, list(expected))
    assert fates(place, jobs, ids) == expected
    children = {label: _child_of(jobs, job_id) for label, job_id in ids.items()}
    # It may have had the child in its hands already when it died.
    assert fates(place, jobs, children).pop("complete:after") in (STRAIGHT, ONCE_MORE)
    del children["complete:after"]
    assert fates(place, jobs, children) == dict.fromkeys(children, STRAIGHT)


def _child_of(jobs: Mapping[str, Job], parent: str) -> str:
    (child,) = [job.id for job in jobs.values() if job.parent_id == parent]
    return child


async def test_spawning_again_after_a_death_spawns_the_same_children(place: Place) -> None:
    inside = ["enqueue:after", "take_group:after", "mark_dependents:after", "add_edges:after"]
    points = ["enqueue:before", *(f"enqueue/{statement}" for statement in inside), "enqueue:after"]
    async with place.bus() as bus:
        ids = await die(place, bus, "spawner", points)
        jobs = await survive(place, bus, points)
    assert fates(place, jobs, ids) == {label: ONCE_MORE for label in points}
    for job_id in ids.values():
        children = [job for job in jobs.values() if job.parent_id == job_id]
        assert [Fate.of(place, child) for child in children] == [STRAIGHT] * CHILDREN


async def test_an_effect_in_the_jobs_own_transaction_happens_once_wherever_the_worker_dies(
    place: Place,
) -> None:
    expected = {
        "complete_in:before": ONCE_MORE,
        "complete_in:after": ONCE_MORE,
        "commit:before": ONCE_MORE,
        "commit:after": STRAIGHT,
        "complete:before": STRAIGHT,
        "complete:after": STRAIGHT,
    }
    async with place.bus() as bus:
        ids = await die(place, bus, "transactional", list(expected))
        await place.look(bus)
        await place.work_off(bus, [queue_of(label) for label in expected])
        jobs = await place.prove(bus, effects=await place.effects())
    assert fates(place, jobs, ids) == expected


async def test_a_death_in_the_heartbeat_is_a_death_like_any_other(place: Place) -> None:
    points = ["extend:before", "extend:after"]
    async with place.bus() as bus:
        turns = {}
        for label in points:
            turns[label] = await bus.enqueue("plain", {"gate": "open"}, queue=queue_of(label))
        victims = [
            place.start(f"victim-{queue_of(label)}", point=point(label), lease=1.5,
                        queues=[queue_of(label)])
            for label in points
        ]  # fmt: skip
        await asyncio.gather(*(victim.died() for victim in victims))
        place.open_gate("open")
        jobs = await survive(place, bus, points)
    assert fates(place, jobs, turns) == {label: ONCE_MORE for label in points}


async def test_a_worker_that_dies_while_it_takes_back_a_dead_ones_job_leaves_it_to_the_next(
    place: Place,
) -> None:
    points = [
        "lapsed:after",
        "lock_free_jobs:after",
        "close_claims:after",
        "move:after",
        "tell:after",
    ]
    async with place.bus() as bus:
        job_id = await bus.enqueue("plain")
        await place.start("first", point=point("claim:after")).died()
        for label in [*(f"tend/{statement}" for statement in points), "tend:after"]:
            await place.start(f"then-{queue_of(label)}", point=point(label)).died()
        await place.work_off(bus)
        jobs = await place.prove(bus)
    assert Fate.of(place, jobs[job_id]) == ONCE_MORE


@pytest.mark.parametrize("in_transaction", [False, True], ids=["alone", "with_rows_of_its_own"])
async def test_a_producer_that_dies_has_enqueued_all_or_nothing_and_may_repeat_itself(
    place: Place, in_transaction: bool
) -> None:
    expected = {"enqueue:before": False, "enqueue:after": True}
    if place.on_sqlite:
        expected["enqueue/enqueue:after"] = False
    if in_transaction:
        # What it enqueued is there when its own rows are, and its commit decides on both.
        expected = {"enqueue:after": False, "commit:before": False, "commit:after": True}
    async with place.bus() as bus:
        for label, accepted in expected.items():
            ids = [new_id() for _ in range(5)]
            asked: dict[str, Any] = {"role": "produce", "produce": ids}
            asked["in_transaction"] = in_transaction
            await place.start(f"first-{queue_of(label)}", point=point(label), **asked).died()
            there = [await bus.get(job_id) is not None for job_id in ids]
            assert there == [accepted] * len(ids), label
            rows = [job_id for job_id, _ in await place.effects() or () if job_id in ids]
            assert sorted(rows) == (sorted(ids) if in_transaction and accepted else []), label
            again = place.start(f"again-{queue_of(label)}", **asked, queues=["default"])
            assert await again.ended() == 0, again.log
        await place.work_off(bus)
        jobs = await place.prove(bus)
    assert len(jobs) == 5 * len(expected)
    assert {Fate.of(place, job) for job in jobs.values()} == {STRAIGHT}
