"""How the databases find their way: past any number of finished jobs, at the same cost."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import psycopg
import pytest

from jobbus import JobBus
from jobbus.backends.postgres import PostgresQueue
from jobbus.backends.sql.document import batch_document
from jobbus.backends.sql.statements import Naming, load, to_pyformat
from jobbus.backends.sqlite import SqliteQueue
from jobbus.ids import new_id
from tests.flow.support import PLAIN, all_ended, at_work, eventually
from tests.services import PostgresServer, fresh_database

FINISHED: Final = 50_000
READY: Final = 200
BIG_TABLE: Final = "background_jobs"
COLUMNS: Final = (
    "id, queue, job_type, state, initial_state, priority, ready, max_attempts, max_crashes, "
    "created_at, run_at, started_at, finished_at, payload"
)
FINISH: Final = f"""
INSERT INTO background_jobs ({COLUMNS})
SELECT gen_random_uuid(), 'default', 'work', 'completed', 'queued', 5, false, 3, 3,
       now(), now(), now(), now(), convert_to('{{}}', 'UTF8')
FROM generate_series(1, {FINISHED})"""  # noqa: S608
FINISH_ON_SQLITE: Final = f"""
WITH RECURSIVE numbers(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < {FINISHED})
INSERT INTO background_jobs ({COLUMNS})
SELECT printf('%08x-0000-7000-8000-000000000000', n), 'default', 'work', 'completed', 'queued', 5,
       0, 3, 3, 1, 1, 1, 1, '{{}}' FROM numbers"""  # noqa: S608
NOW: Final = 1_900_000_000_000
SOME: Final = [new_id(), new_id()]
BATCH: Final = [{"id": job_id, "attempt": 1, "claim": 1, "result": b"1"} for job_id in SOME]

STATEMENTS: Final[Mapping[str, Mapping[str, Any]]] = {
    "claim": {"queue": "default", "limit": 10, "worker": 1, "lease_ms": 60_000},
    "complete": {"batch": batch_document(BATCH), "closed": "[1]"},
    "held": {"ids": f'["{SOME[0]}"]'},
    "lock_jobs": {"ids": f'["{SOME[0]}", "{SOME[1]}"]'},
    "look": {},
    "promote": {},
    "overdue": {},
    "depth": {"queue": "default"},
    "get": {"id": SOME[0]},
    "workers": {},
    "holders": {"locks": '["work/key"]'},
}
"""What workers and the bus run all the time, with parameters that are typical."""
ON_SQLITE: Final[Mapping[str, Mapping[str, Any]]] = {
    "pick": {"queue": "default", "limit": 10},
    "start": {"id": SOME[0], "claim": 1, "worker": 1},
    "complete": {"id": SOME[0], "attempt": 1, "claim": 1, "result": b"1"},
    "held": {"ids": f'["{SOME[0]}"]'},
    "look": {},
    "promote": {},
    "overdue": {},
    "depth": {"queue": "default"},
    "get": {"id": SOME[0]},
    "workers": {},
}


@pytest.fixture(scope="module")
def aged_postgres(postgres_default: PostgresServer) -> Iterator[psycopg.Connection[Any]]:
    """A database with many finished jobs and some ready ones."""
    with fresh_database(postgres_default) as url:
        asyncio.run(_fill(JobBus(PLAIN, queue=PostgresQueue(url)), migrate=True))
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(FINISH.encode())
            connection.execute("ANALYZE background_jobs")
            yield connection


@pytest.fixture(scope="module")
def aged_sqlite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[sqlite3.Connection]:
    path = tmp_path_factory.mktemp("aged") / "jobs.db"
    asyncio.run(_fill(JobBus(PLAIN, queue=SqliteQueue(path, synchronous="NORMAL"))))
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(FINISH_ON_SQLITE)
        connection.commit()
        yield connection


async def _fill(bus: JobBus, *, migrate: bool = False) -> None:
    if migrate:
        await bus.queue.migrate()  # type: ignore[attr-defined]
    async with bus:
        messages = [
            await bus.message_for("work", {}, unregistered=True, priority=1 + n % 10)
            for n in range(READY)
        ]
        await bus.enqueue_many(messages)


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for part in plan.get("Plans", []):
        yield from nodes(part)


@pytest.mark.services
@pytest.mark.parametrize("name", STATEMENTS)
def test_postgres_reads_no_finished_job_to_do_its_everyday_work(
    aged_postgres: psycopg.Connection[Any], name: str
) -> None:
    sql = to_pyformat(load("postgres", Naming())[name])
    row = aged_postgres.execute(
        f"EXPLAIN (FORMAT JSON) {sql}".encode(), STATEMENTS[name]
    ).fetchone()
    assert row is not None
    on_jobs = [n for n in nodes(row[0][0]["Plan"]) if n.get("Relation Name") == BIG_TABLE]
    scans = [n for n in on_jobs if n["Node Type"] == "Seq Scan"]
    assert not scans, f"{name} reads the whole table: {scans}"
    if name == "claim":
        assert "background_jobs_ready" in {n.get("Index Name") for n in on_jobs}


@pytest.mark.services
def test_a_claim_on_postgres_touches_few_pages_whatever_has_finished(
    aged_postgres: psycopg.Connection[Any],
) -> None:
    sql = to_pyformat(load("postgres", Naming())["claim"])
    with aged_postgres.transaction(force_rollback=True):
        row = aged_postgres.execute(
            f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {sql}".encode(), STATEMENTS["claim"]
        ).fetchone()
    assert row is not None
    plan = row[0][0]["Plan"]
    assert plan["Actual Rows"] == 10
    pages = plan["Shared Hit Blocks"] + plan["Shared Read Blocks"]
    (size,) = aged_postgres.execute(
        "SELECT pg_relation_size('background_jobs') / current_setting('block_size')::int"
    ).fetchone() or (0,)
    assert pages < 500 < size, f"{pages} of {size} pages"


@pytest.mark.parametrize("name", ON_SQLITE)
def test_sqlite_reads_no_finished_job_to_do_its_everyday_work(
    aged_sqlite: sqlite3.Connection, name: str
) -> None:
    sql = load("sqlite", Naming())[name]
    steps = [
        step
        for (*_, step) in aged_sqlite.execute(
            f"EXPLAIN QUERY PLAN {sql}", {"now": NOW, **ON_SQLITE[name]}
        )
    ]
    whole = [step for step in steps if step.startswith("SCAN") and _reads_jobs(step)]
    assert not [step for step in whole if " USING " not in step], f"{name}: {steps}"
    if name == "pick":
        assert any("USING INDEX background_jobs_ready (queue=?" in step for step in steps), steps
        assert not any("TEMP B-TREE" in step for step in steps), "the index gives the order"


def _reads_jobs(step: str) -> bool:
    return step.split()[1] in (BIG_TABLE, "j")


@pytest.mark.services
def test_completing_a_job_on_postgres_touches_no_index(postgres_url: str) -> None:
    """The update may stay on its page, and does where there is room: Postgres calls that HOT."""
    number = 5  # few enough for all versions of their rows to fit on one page

    async def work_off() -> None:
        queue = PostgresQueue(postgres_url)
        await queue.migrate()
        bus = JobBus(PLAIN, queue=queue)

        @bus.job
        async def work(number: int) -> int:
            return number

        async with bus, at_work(bus):
            await all_ended(bus, await bus.enqueue_many([work.message(n) for n in range(number)]))

    async def counted() -> tuple[int, int] | None:
        """Servers gather the statistics of a session when it has ended, a little later."""
        row = connection.execute(
            "SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables"
            " WHERE relname = 'background_jobs'"
        ).fetchone()
        return row if row and row[0] >= 2 * number else None

    asyncio.run(work_off())
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        numbers = asyncio.run(eventually(counted, "two updates for each job"))
    assert numbers == (2 * number, number), "a claim each, and a completion that is HOT"


def test_sqlite_times_are_those_of_this_host(aged_sqlite: sqlite3.Connection) -> None:
    newest = aged_sqlite.execute("SELECT max(created_at) FROM background_jobs").fetchone()[0]
    assert abs(newest / 1000 - datetime.now(UTC).timestamp()) < 300
    assert Path(aged_sqlite.execute("PRAGMA database_list").fetchone()[2]).name == "jobs.db"


@pytest.mark.services
@pytest.mark.parametrize("statement", ["claim", "hand_over"])
def test_jobs_are_taken_in_the_index_order_though_none_was_ready_when_statistics_were_made(
    postgres_default: PostgresServer, statement: str
) -> None:
    """Else the first burst after a quiet night would go through all ready jobs for each claim."""
    with fresh_database(postgres_default) as url:
        asyncio.run(PostgresQueue(url).migrate())
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(FINISH.encode())
            connection.execute("VACUUM ANALYZE background_jobs")
            connection.execute(FINISH.replace("false", "true").replace(str(FINISHED), "3000"))
            asked = {**STATEMENTS["claim"], "limit": 500}
            text = to_pyformat(load("postgres", Naming())[statement])
            lines = [row[0] for row in connection.execute(f"EXPLAIN {text}".encode(), asked)]
    plan = "\n".join(lines)
    assert plan.count("using background_jobs_ready") == 1, plan
    assert "Sort" not in plan, plan
