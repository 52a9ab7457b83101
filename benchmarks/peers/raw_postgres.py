"""The raw psycopg loop at its best, keeping the same record of every job that jobbus keeps.

Batches of 500, claim and completion overlapped on two connections, results as one JSON document, a
flag column under the partial index, fillfactor 60.
"""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import psycopg

from benchmarks.case import PAYLOAD, WARM_UP, Case, Stopwatch, latency_answer, rate_answer, tell

BATCH = 500
TABLE = """
CREATE TABLE raw_jobs (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    ready boolean NOT NULL DEFAULT true,
    status smallint NOT NULL DEFAULT 0,
    attempt integer NOT NULL DEFAULT 0,
    worker integer,
    created_at timestamptz NOT NULL DEFAULT now(),
    started_at timestamptz,
    finished_at timestamptz,
    payload text NOT NULL,
    result text
) WITH (fillfactor = 60);
CREATE INDEX raw_jobs_ready ON raw_jobs (id) WHERE ready;
"""
CLAIM = """
WITH picked AS MATERIALIZED (
    SELECT id FROM raw_jobs WHERE ready ORDER BY id LIMIT %s FOR UPDATE SKIP LOCKED)
UPDATE raw_jobs j SET ready = false, status = 1, attempt = attempt + 1, worker = 1,
    started_at = clock_timestamp()
FROM picked WHERE j.id = picked.id RETURNING j.id, j.payload
"""
COMPLETE = """
UPDATE raw_jobs j SET status = 2, finished_at = clock_timestamp(), result = d.result
FROM jsonb_to_recordset(%s::jsonb) AS d(id bigint, result text)
WHERE j.id = d.id AND j.status = 1
"""
FINISHED = """
INSERT INTO raw_jobs (ready, status, attempt, worker, started_at, finished_at, payload, result)
SELECT false, 2, 1, 1, now(), now(), %s, '1' FROM generate_series(1, 1000000)
"""
INSERT_ONE = "INSERT INTO raw_jobs (payload) VALUES (%s)"
INSERT_MANY = "INSERT INTO raw_jobs (payload) SELECT unnest(%s::text[])"


async def connect(url: str) -> psycopg.AsyncConnection[Any]:
    connection = await psycopg.AsyncConnection.connect(url, autocommit=True)
    connection.prepare_threshold = 1
    return connection


async def prepare(case: Case) -> psycopg.AsyncConnection[Any]:
    connection = await connect(case.url)
    await connection.execute(TABLE)
    return connection


async def enqueue(case: Case) -> None:
    connection = await prepare(case)
    payload = json.dumps(PAYLOAD)
    watch = Stopwatch(case)
    with watch.running():
        for _ in range(case.jobs):
            await connection.execute(INSERT_ONE, [payload])
    tell(rate_answer(watch))


async def bulk(case: Case) -> None:
    connection = await prepare(case)
    payload = json.dumps(PAYLOAD)
    watch = Stopwatch(case)
    with watch.running():
        for _ in range(case.jobs // 1000):
            await connection.execute(INSERT_MANY, [[payload] * 1000])
    tell(rate_answer(watch))


async def finished(case: Case) -> None:
    """The drain beside a million rows of jobs that have ended."""
    claims = await prepare(case)
    await claims.execute(FINISHED, [json.dumps(PAYLOAD)])
    await claims.execute("VACUUM ANALYZE raw_jobs")
    await _drain(case, claims)


async def drain(case: Case) -> None:
    await _drain(case, await prepare(case))


async def _drain(case: Case, claims: psycopg.AsyncConnection[Any]) -> None:
    payload = json.dumps(PAYLOAD)
    for _ in range(case.jobs // 1000):
        await claims.execute(INSERT_MANY, [[payload] * 1000])
    settles = await connect(case.url)

    async def handler(payload: dict[str, Any]) -> int:
        return 1

    async def settle(done: list[dict[str, Any]]) -> None:
        await settles.execute(COMPLETE, [json.dumps(done)])

    watch = Stopwatch(case)
    with watch.running():
        settling: asyncio.Task[None] | None = None
        while True:
            cursor = await claims.execute(CLAIM, [BATCH], binary=True)
            rows = await cursor.fetchall()
            done = [{"id": id, "result": str(await handler(json.loads(p)))} for id, p in rows]
            if settling is not None:
                await settling
            if not done:
                break
            settling = asyncio.create_task(settle(done))
    tell(rate_answer(watch))


async def latency(case: Case) -> None:
    """Pick-up through LISTEN and NOTIFY: from just before the insert to the handler."""
    worker = await prepare(case)
    producer = await connect(case.url)
    listener = await connect(case.url)
    await listener.execute("LISTEN raw_jobs")
    bell = asyncio.Event()
    seconds: list[float] = []
    sent = 0.0
    picked = asyncio.Event()

    async def listen() -> None:
        async for _ in listener.notifies():
            bell.set()

    async def work() -> None:
        while True:
            await bell.wait()
            bell.clear()
            cursor = await worker.execute(CLAIM, [10], binary=True)
            rows = await cursor.fetchall()
            if rows:
                seconds.append(time.perf_counter() - sent)
                picked.set()
                done = [{"id": id, "result": "1"} for id, _ in rows]
                await worker.execute(COMPLETE, [json.dumps(done)])

    tasks = [asyncio.create_task(listen()), asyncio.create_task(work())]
    for _ in range(case.jobs + WARM_UP):
        await asyncio.sleep(0.01)
        picked.clear()
        sent = time.perf_counter()
        await producer.execute(INSERT_ONE, [json.dumps(PAYLOAD)])
        await producer.execute("NOTIFY raw_jobs")
        await picked.wait()
    for task in tasks:
        task.cancel()
    tell(latency_answer(seconds))
