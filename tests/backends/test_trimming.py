"""On SQL, a large table is trimmed too, and is measured only when that is worth it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from jobbus.backends.memory import MemoryQueue
from jobbus.backends.postgres import PostgresQueue
from jobbus.backends.sql import trimming
from jobbus.backends.sql.base import SqlQueue
from jobbus.backends.sql.program import Call, Program
from jobbus.backends.sql.tally import Limits
from jobbus.ids import new_id
from jobbus.job import DEAD, TERMINAL
from jobbus.message import Message
from jobbus.store import JobFilter
from jobbus.testing import VirtualClock
from jobbus.testing.make import after, dead, done, message, messages

HALF_A_MINUTE = timedelta(seconds=30)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nine jobs are many, and measuring may take all the time."""
    monkeypatch.setattr(trimming, "SMALL", 8)
    monkeypatch.setattr(trimming, "SHARE", 0)


@pytest.fixture
def walked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many jobs each page had that was walked."""
    lengths: list[int] = []
    page = trimming.Trimming._page

    async def told(self: Any, name: str, asked: Any, limits: Limits) -> Any:
        rows = await page(self, name, asked, limits)
        if name == "tally":
            lengths.extend(row[2] for row in rows if row[4] is not None)
        return rows

    monkeypatch.setattr(trimming.Trimming, "_page", told)
    return lengths


class Stage:
    """A queue whose jobs end half a minute after each other."""

    def __init__(self, queue: SqlQueue, pass_time: Callable[[], object]) -> None:
        self.queue = queue
        self._pass_time = pass_time

    async def end(self, batch: list[Message], *, failed: bool = False) -> list[str]:
        """Run these; return their ids."""
        for one in batch:
            self._pass_time()
            await self.queue.enqueue([one])
            [held] = await self.queue.receive(
                one.queue, limit=1, wait=timedelta(0), lease=timedelta(hours=2)
            )
            if failed:
                await self.queue.dead_letter([dead(held)])
            else:
                await self.queue.complete([done(held)])
        return [one.job_id for one in batch]

    async def left(self) -> set[str]:
        return {job.id for job in (await self.queue.find(JobFilter(), limit=1000)).jobs}

    async def trim(self, **keep: Any) -> int:
        """Until there is nothing to do by now; how many were deleted."""
        removed = 0
        while page := await self.queue.trim(**keep):
            removed += page
        return removed


@pytest.fixture(params=["memory", pytest.param("postgres", marks=pytest.mark.services)])
def made(request: pytest.FixtureRequest) -> Stage:
    if request.param == "memory":
        clock = VirtualClock()
        return Stage(MemoryQueue(clock=clock), lambda: clock.advance(HALF_A_MINUTE))
    url = request.getfixturevalue("empty_database")
    bystander: psycopg.Connection[Any] = request.getfixturevalue("bystander")
    return Stage(PostgresQueue(url), lambda: grow_older(bystander))


@pytest.fixture
async def stage(made: Stage) -> AsyncIterator[Stage]:
    await made.queue.open()
    yield made
    await made.queue.close()


def grow_older(bystander: psycopg.Connection[Any]) -> None:
    """Everything that there is began and ended half a minute earlier."""
    bystander.execute(
        "UPDATE background_jobs SET created_at = created_at - interval '30 s', "
        "finished_at = finished_at - interval '30 s'"
    )


async def test_a_large_table_keeps_the_newest_of_each_queue(stage: Stage) -> None:
    here = await stage.end(messages(25))
    there = await stage.end(messages(15, queue="video"))
    assert await stage.trim(keep_count=10, limit=4) == 20
    assert await stage.left() == {*here[15:], *there[5:]}


async def test_a_large_table_keeps_the_newest_bytes(stage: Stage) -> None:
    ids = await stage.end(messages(30, payload=b"x" * 1000))
    assert await stage.trim(keep_bytes=12_000) == 18
    assert await stage.left() == set(ids[18:])


async def test_the_newest_in_a_large_table_is_what_ended_last(stage: Stage) -> None:
    old = Message(job_id=new_id(), job_type="example.work", payload=b"{}", queue="slow")
    await stage.queue.enqueue([old])
    await stage.end(messages(20, queue="slow-not"))
    [held] = await stage.queue.receive("slow", limit=1, wait=timedelta(0), lease=timedelta(hours=2))
    await stage.end(messages(12, queue="slow"))
    await stage.queue.complete([done(held)])
    await stage.trim(keep_count=9)
    assert old.job_id in await stage.left()
    assert len(await stage.left()) == 18


async def test_many_dead_letters_are_trimmed_too_and_apart(stage: Stage) -> None:
    failed = await stage.end(messages(20), failed=True)
    completed = await stage.end(messages(12))
    assert await stage.trim(keep_count=9, states=DEAD) == 11
    assert await stage.trim(keep_count=10, states=TERMINAL - DEAD) == 2
    assert await stage.left() == {*failed[11:], *completed[2:]}


async def test_few_dead_letters_are_trimmed_without_a_walk_through_the_rest(
    stage: Stage, walked: list[int]
) -> None:
    failed = await stage.end(messages(4), failed=True)
    await stage.end(messages(20))
    assert await stage.trim(keep_count=1, states=DEAD) == 3
    assert failed[3] in await stage.left()
    assert walked == []


async def test_where_nothing_came_a_large_table_is_not_measured_again(
    stage: Stage, walked: list[int]
) -> None:
    await stage.end(messages(20))
    assert await stage.trim(keep_count=20) == 0
    assert sum(walked) == 20
    walked.clear()
    assert await stage.trim(keep_count=20) == 0
    assert sum(walked) == 0


async def test_a_large_table_is_measured_again_when_enough_came(
    stage: Stage, walked: list[int]
) -> None:
    ids = await stage.end(messages(20))
    assert await stage.trim(keep_count=22) == 0
    for _ in range(2):
        walked.clear()
        ids += await stage.end(messages(1))
        assert await stage.trim(keep_count=22) == 0
        assert sum(walked) == 1  # what came
    ids += await stage.end(messages(1))
    assert await stage.trim(keep_count=22) == 1
    assert await stage.left() == set(ids[1:])


async def test_jobs_that_had_not_ended_when_it_was_measured_may_have_ended_since(
    stage: Stage,
) -> None:
    waiting = messages(3)
    ids = await stage.end(messages(20))
    await stage.queue.enqueue(waiting)
    assert await stage.trim(keep_count=22) == 0
    for _ in waiting:
        [held] = await stage.queue.receive(
            "default", limit=1, wait=timedelta(0), lease=timedelta(hours=2)
        )
        await stage.queue.complete([done(held)])
    assert await stage.trim(keep_count=22) == 1
    assert await stage.left() == {*ids[1:], *(one.job_id for one in waiting)}


async def test_measuring_takes_no_more_than_its_share_of_the_time(
    stage: Stage, walked: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    await stage.end(messages(20))
    assert await stage.trim(keep_count=20) == 0
    walked.clear()
    await stage.end(messages(5))
    monkeypatch.setattr(trimming, "SHARE", 10**9)
    assert await stage.trim(keep_count=20) == 0
    assert walked == []
    monkeypatch.setattr(trimming, "SHARE", 0)
    assert await stage.trim(keep_count=20) == 5


async def test_the_share_of_the_time_is_that_of_all_workers_together(
    stage: Stage, walked: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def very_many(self: Any) -> int:
        return 10**9

    await stage.end(messages(20))
    monkeypatch.setattr(trimming.Trimming, "_workers", very_many)
    assert await stage.trim(keep_count=20) == 0
    walked.clear()
    await stage.end(messages(5))
    monkeypatch.setattr(trimming, "SHARE", 1)
    assert await stage.trim(keep_count=20) == 0
    assert walked == []


async def test_processes_that_receive_are_the_workers_that_share_the_time(stage: Stage) -> None:
    await stage.end(messages(1))
    assert await stage.queue._trimming._workers() == 1
    another = stage.queue.separate()
    assert isinstance(another, SqlQueue)
    await another.open()
    await another.receive("default", limit=1, wait=timedelta(0), lease=timedelta(hours=2))
    assert await stage.queue._trimming._workers() == 2
    await another.close()


async def test_at_the_latest_a_large_table_is_measured_each_hour(
    stage: Stage, walked: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    await stage.end(messages(20))
    assert await stage.trim(keep_count=100) == 0
    walked.clear()
    monkeypatch.setattr(trimming, "LONGEST", 0.0)
    assert await stage.queue.trim(keep_count=100) == 0
    assert sum(walked) == 20


async def test_a_redrive_between_finding_and_deleting_wins(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = await stage.end(messages(20), failed=True)
    page = trimming.Trimming._page

    async def meanwhile(self: Any, name: str, asked: Any, limits: Limits) -> Any:
        rows = await page(self, name, asked, limits)
        if name == "beyond":
            await stage.queue.redrive([failed[3]])
        return rows

    monkeypatch.setattr(trimming.Trimming, "_page", meanwhile)
    assert await stage.queue.trim(keep_count=9, limit=5, states=DEAD) == 4
    assert failed[3] in await stage.left()


async def test_a_redrive_between_measuring_and_deleting_wins(stage: Stage) -> None:
    failed = await stage.end(messages(20), failed=True)
    assert await stage.queue.trim(keep_count=9, limit=5, states=DEAD) == 5
    await stage.queue.redrive([failed[7]])
    assert await stage.trim(keep_count=9, states=DEAD) == 5
    assert await stage.left() == {failed[7], *failed[11:]}


@pytest.mark.parametrize("others", [0, 20])
async def test_a_job_stays_until_those_who_wait_for_it_were_told_of_its_end(
    stage: Stage, others: int
) -> None:
    parent = message()
    child = message(queue="children", depends_on=after(parent))
    await stage.queue.enqueue([parent, child])
    [held] = await stage.queue.receive(
        "default", limit=1, wait=timedelta(0), lease=timedelta(hours=2)
    )
    await stage.queue.complete([done(held)])
    await stage.end(messages(others))
    await stage.queue._run(untold)
    await stage.trim(keep_count=0)
    await stage.queue.prune(finished_before=datetime(2999, 1, 1, tzinfo=UTC))
    assert await stage.left() == {parent.job_id, child.job_id}
    await stage.queue.recover()
    assert await stage.trim(keep_count=0) == 1
    [held] = await stage.queue.receive(
        "children", limit=1, wait=timedelta(0), lease=timedelta(hours=2)
    )
    assert held.job_id == child.job_id


def untold() -> Program[None]:
    """As if the process had died between the end of the parent and the news of it."""
    yield Call("untold", {}, "UPDATE background_job_dependencies SET resolved = (1 = 0)")
    blocked = (
        "UPDATE background_jobs SET ready = (1 = 0), state = 'blocked' WHERE queue = 'children'"
    )
    yield Call("blocked", {}, blocked)
