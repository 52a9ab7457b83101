"""What nobody can read is set aside as it is, unrun; the worker and all other jobs go on."""

from __future__ import annotations

import asyncio
import base64
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import psycopg
import pytest

from jobbus.bus import JobBus
from jobbus.job import Job, JobState
from tests.crash.place import Place

pytestmark = pytest.mark.crash

PAYLOADS: Final[Mapping[str, bytes]] = {
    "nothing": b"",
    "bad UTF-8": b'{"gate": "\xff\xfe"}',
    "half a surrogate": b'{"gate": "\\ud800"}',
    "cut off": b'{"gate": "op',
    "no JSON": b"gate=open",
    "not an object": b'["open"]',
    "a bare number": b"1",
    "NaN": b'{"seconds": NaN}',
    "infinity": b'{"seconds": -Infinity}',
    "5,000 digits": b'{"seconds": ' + b"9" * 5000 + b"}",
    "a hundred thousand deep": b'{"gate": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "NUL bytes": b"\x00\x00\x00",
    "the same key twice": b'{"gate": "open", "gate": "shut"}',
    "a parameter that is not there": b'{"gaet": "open"}',
    "of the wrong type": b'{"seconds": "soon"}',
    "pickle": base64.b64decode("gASVBQAAAAAAAACMAWGULg=="),
    "gzip": b"\x1f\x8b\x08\x00\x00\x00\x00\x00",
    "UTF-16": '{"gate": ""}'.encode("utf-16"),
    "a megabyte of nothing": b" " * 2**20,
}
COLUMNS: Final[Mapping[str, tuple[str, str]]] = {
    "headers that are no JSON": ("headers", "{"),
    "headers that are a list": ("headers", "[1, 2]"),
    "headers of headers": ("headers", '{"a": {"b": 1}}'),
    "tags that are no JSON": ("tags", "red"),
    "tags that are a number": ("tags", "7"),
    "metadata that is no JSON": ("metadata", "'"),
    "metadata that is text": ("metadata", '"text"'),
    "metadata that is too deep": ("metadata", "[" * 100_000),
}


def _execute(place: Place, statement: str, parameters: list[Any]) -> None:
    """As somebody with a SQL prompt would."""
    if place.on_sqlite:
        with closing(sqlite3.connect(place.address)) as connection, connection:
            connection.execute(statement.replace("%s", "?"), parameters)
    else:
        with psycopg.connect(place.address) as session:
            session.execute(statement, parameters)


async def spoil(place: Place, job_id: str, column: str, value: object) -> None:
    statement = f"UPDATE background_jobs SET {column} = %s WHERE id = %s"  # noqa: S608
    await asyncio.to_thread(_execute, place, statement, [value, job_id])


def set_aside(place: Place, job: Job) -> bool:
    return (
        (job.state, job.attempt, job.crashes) == (JobState.FAILED, 1, 0)
        and job.problem is not None
        and not place.records("started", where=lambda record: record.job == job.id)
    )


async def _worked_off(place: Place, bus: JobBus) -> dict[str, Job]:
    """What a worker makes of what is there, which it has to survive."""
    worker = place.start("reader")
    await place.until_done(bus)
    worker.terminate()
    assert await worker.ended() == 0, worker.log
    return await place.look(bus)


async def test_payloads_that_nobody_can_read_are_set_aside_to_the_byte_and_never_run(
    place: Place,
) -> None:
    async with place.bus() as bus:
        ids = {what: await bus.enqueue("plain") for what in PAYLOADS}
        good = await place.enqueue(bus, 5)
        for what, payload in PAYLOADS.items():
            await spoil(place, ids[what], "payload", payload)
            place.agent.note("failing", ids[what])
        jobs = await _worked_off(place, bus)
        await place.prove(bus)
    assert [what for what, id in ids.items() if not set_aside(place, jobs[id])] == []
    assert {what: jobs[job_id].payload for what, job_id in ids.items()} == PAYLOADS
    assert {jobs[job_id].state for job_id in good} == {JobState.COMPLETED}


async def test_a_payload_may_be_text_in_a_database_that_knows_no_types(sqlite_place: Place) -> None:
    place = sqlite_place
    async with place.bus() as bus:
        good, bad = [await bus.enqueue("plain") for _ in range(2)]
        await spoil(place, good, "payload", '{"gate": ""}')
        await spoil(place, bad, "payload", "nonsense")
        jobs = await _worked_off(place, bus)
    assert jobs[good].state is JobState.COMPLETED
    assert set_aside(place, jobs[bad])


async def test_rows_with_broken_columns_are_set_aside_and_hold_up_nobody(place: Place) -> None:
    async with place.bus() as bus:
        ids = {what: await bus.enqueue("plain") for what in COLUMNS}
        good = await place.enqueue(bus, 5)
        for what, (column, value) in COLUMNS.items():
            await spoil(place, ids[what], column, value)
        jobs = await _worked_off(place, bus)
    assert [what for what, id in ids.items() if not set_aside(place, jobs[id])] == []
    assert {jobs[job_id].state for job_id in good} == {JobState.COMPLETED}


async def test_a_job_type_that_no_worker_knows_yet_waits_and_holds_up_nobody(place: Place) -> None:
    async with place.bus() as bus:
        unknown = [
            await bus.enqueue("of.tomorrow", unregistered=True, priority=10) for _ in range(5)
        ]
        good = await place.enqueue(bus, 5)
        worker = place.start("of-today", concurrency=1)
        await place.seen("effect", number=len(good))

        async def all_wait() -> bool:
            return {await bus.get_status(job_id) for job_id in unknown} == {JobState.RETRYING}

        await place.until("the unknown jobs to wait", all_wait)
        worker.terminate()
        assert await worker.ended() == 0, worker.log
        jobs = await place.look(bus)
    waiting = [jobs[job_id] for job_id in unknown]
    assert {(job.failures, job.crashes, job.snoozes) for job in waiting} == {(0, 0, 1)}
    assert all(job.run_at > datetime.now(UTC) + timedelta(seconds=10) for job in waiting)
    assert {jobs[job_id].state for job_id in good} == {JobState.COMPLETED}
