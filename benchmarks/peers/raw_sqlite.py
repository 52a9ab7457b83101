"""The raw sqlite3 loop at its best: batches of 100, completion and claim in one transaction."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import time
from typing import Any

from benchmarks.case import PAYLOAD, WARM_UP, Case, Stopwatch, latency_answer, rate_answer, tell

BATCH = 100
TABLE = """
CREATE TABLE raw_jobs (
    id INTEGER PRIMARY KEY, ready INTEGER NOT NULL DEFAULT 1, status INTEGER NOT NULL DEFAULT 0,
    attempt INTEGER NOT NULL DEFAULT 0, worker INTEGER, created_at INTEGER, started_at INTEGER,
    finished_at INTEGER, payload TEXT NOT NULL, result TEXT);
CREATE INDEX raw_jobs_ready ON raw_jobs (id) WHERE ready = 1;
"""
INSERT = "INSERT INTO raw_jobs (payload, created_at) VALUES (?, ?)"
PICK = "SELECT id, payload FROM raw_jobs WHERE ready = 1 ORDER BY id LIMIT ?"
START = """UPDATE raw_jobs SET ready = 0, status = 1, attempt = attempt + 1, worker = 1,
    started_at = ? WHERE id = ?"""
COMPLETE = "UPDATE raw_jobs SET status = 2, finished_at = ?, result = ? WHERE id = ? AND status = 1"


def connect(case: Case) -> sqlite3.Connection:
    connection = sqlite3.connect(case.url.removeprefix("sqlite:///"), isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    return connection


def prepare(case: Case) -> sqlite3.Connection:
    connection = connect(case)
    connection.executescript(TABLE)
    return connection


def now() -> int:
    return time.time_ns() // 1_000_000


def fill(connection: sqlite3.Connection, jobs: int) -> None:
    payload = json.dumps(PAYLOAD)
    for _ in range(jobs // 1000):
        connection.execute("BEGIN IMMEDIATE")
        connection.executemany(INSERT, [(payload, now())] * 1000)
        connection.execute("COMMIT")


async def enqueue(case: Case) -> None:
    connection = prepare(case)
    payload = json.dumps(PAYLOAD)
    watch = Stopwatch(case)
    with watch.running():
        for _ in range(case.jobs):
            connection.execute(INSERT, (payload, now()))
    tell(rate_answer(watch))


async def bulk(case: Case) -> None:
    connection = prepare(case)
    watch = Stopwatch(case)
    with watch.running():
        fill(connection, case.jobs)
    tell(rate_answer(watch))


async def drain(case: Case) -> None:
    connection = prepare(case)
    fill(connection, case.jobs)

    async def handler(payload: dict[str, Any]) -> int:
        return 1

    done: list[tuple[int, str, int]] = []
    watch = Stopwatch(case)
    with watch.running():
        while True:
            connection.execute("BEGIN IMMEDIATE")
            connection.executemany(COMPLETE, done)
            rows = connection.execute(PICK, (BATCH,)).fetchall()
            connection.executemany(START, [(now(), id) for id, _ in rows])
            connection.execute("COMMIT")
            done = [(now(), str(await handler(json.loads(p))), id) for id, p in rows]
            if not rows:
                break
    tell(rate_answer(watch))


async def latency(case: Case) -> None:
    """Pick-up by looking at ``data_version`` every 2 ms, the producer on its own connection."""
    worker, producer = prepare(case), connect(case)
    payload, seconds = json.dumps(PAYLOAD), []
    version = worker.execute("PRAGMA data_version").fetchone()
    for _ in range(case.jobs + WARM_UP):
        await asyncio.sleep(0.01)
        sent = time.perf_counter()
        producer.execute(INSERT, (payload, now()))
        while worker.execute("PRAGMA data_version").fetchone() == version:
            time.sleep(0.002)  # noqa: ASYNC251  # a bare loop: nothing else runs here
        worker.execute("BEGIN IMMEDIATE")
        rows = worker.execute(PICK, (10,)).fetchall()
        worker.executemany(START, [(now(), id) for id, _ in rows])
        worker.execute("COMMIT")
        seconds.append(time.perf_counter() - sent)
        worker.executemany(COMPLETE, [(now(), "1", id) for id, _ in rows])
        version = worker.execute("PRAGMA data_version").fetchone()
    tell(latency_answer(seconds))
