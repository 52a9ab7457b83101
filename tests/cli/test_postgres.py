"""The commands that are different on Postgres, against a real server."""

from __future__ import annotations

import psycopg
import pytest

from jobbus.backends.sql.migrate import migrations
from tests.cli.conftest import Run

UP = [f"{each.version:04d} {each.name} up" for each in migrations("postgres")]


def tables(url: str) -> set[str]:
    with psycopg.connect(url) as connection:
        rows = connection.execute(
            "SELECT schemaname || '.' || tablename FROM pg_tables "
            "WHERE schemaname NOT IN ('pg_catalog', 'information_schema')"
        ).fetchall()
    return {name for (name,) in rows}


def test_the_schema_goes_up_and_down(run: Run, postgres_url: str) -> None:
    on = ("--backend", postgres_url)
    assert run("migrate", "status", *on).json["pending"] == len(UP)
    assert tables(postgres_url) == set()
    lacking = run("jobs", "ls", *on)
    assert lacking.code == 2
    assert "(SchemaMismatch)" in lacking.err
    assert "jobbus migrate up" in lacking.err
    assert run("migrate", "up", *on).json["steps"] == UP
    assert run("migrate", "up", *on).json["steps"] == []
    (job_id,) = run("enqueue", "email.send", "{}", "--unregistered", *on).lines
    assert run("jobs", "show", job_id, *on).json["state"] == "queued"
    refused = run("migrate", "down", "--to", "0", *on)
    assert refused.code == 2
    assert "deleting 1 job" in refused.err
    done = run("migrate", "down", "--to", "0", "--yes", *on)
    assert done.json["steps"][-1] == "0001 core down"
    assert "public.background_jobs" not in tables(postgres_url)


def test_the_printed_schema_is_the_one_that_is_applied(run: Run, postgres_url: str) -> None:
    script = run("migrate", "sql", "--dialect", "postgres").out
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute(script.encode())
    assert run("migrate", "status", "--backend", postgres_url).json["pending"] == 0
    assert run("jobs", "ls", "--backend", postgres_url).json["jobs"] == []


def test_a_newer_schema_is_refused(run: Run, postgres_url: str) -> None:
    on = ("--backend", postgres_url)
    run("migrate", "up", *on)
    with psycopg.connect(postgres_url) as connection:
        connection.execute("INSERT INTO background_job_migrations VALUES (999, 'later', 'x')")
    for words in (["enqueue", "x", "{}", "--unregistered"], ["jobs", "ls"], ["migrate", "up"]):
        done = run(*words, *on)
        assert done.code == 2
        assert "schema version 999" in done.err
    assert run("doctor", *on).code == 1
    found = run("migrate", "status", *on)
    assert found.code == 2
    assert found.json["migrations"][-1] == {
        "version": 999, "name": "", "state": "unknown to this jobbus",
    }  # fmt: skip


def test_the_doctor_looks_at_the_server(run: Run, postgres_url: str) -> None:
    on = ("--backend", postgres_url)
    lacking = run("doctor", *on)
    assert lacking.code == 1
    assert f"{len(UP)} migrations missing" in lacking.out
    done = run("doctor", "--create", *on)
    assert done.code == 0
    found = {each["check"]: each for each in done.json["checks"]}
    for check in ("schema", "version", "clock", "pooler", "leases"):
        assert found[check]["level"] == "ok", found[check]
    with psycopg.connect(postgres_url) as connection:
        connection.execute("ALTER TABLE background_jobs SET (autovacuum_enabled = false)")
    warned = {each["check"]: each for each in run("doctor", *on).json["checks"]}
    assert warned["autovacuum"]["level"] == "warning"
    assert "background_jobs" in warned["autovacuum"]["message"]


def test_the_doctor_sees_a_pooler(run: Run, postgres_url: str, pgbouncer_url: str) -> None:
    run("migrate", "up", "--backend", postgres_url)
    done = run("doctor", "--backend", pgbouncer_url)
    found = {each["check"]: each for each in done.json["checks"]}
    assert (done.code, found["pooler"]["level"]) == (0, "warning")


def test_bench_works_in_a_schema_of_its_own(
    run: Run, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("migrate", "up", "--backend", postgres_url)
    before = tables(postgres_url)
    done = run("bench", "--jobs", "40", "--samples", "3", "--backend", postgres_url)
    assert done.code == 0, done.err
    assert done.json["drain_per_second"] > 0
    assert tables(postgres_url) == before
    with psycopg.connect(postgres_url) as connection:
        (body,) = connection.execute(
            "SELECT prosrc FROM pg_proc WHERE proname = 'recover_stuck_background_jobs'"
        ).fetchall()
    assert "bench" not in body[0]


def test_a_job_is_looked_at_as_on_sqlite(run: Run, postgres_url: str) -> None:
    on = ("--backend", postgres_url)
    run("migrate", "up", *on)
    ids = run("enqueue", "a.b", "-", "--unregistered", *on, input="{}\n{}\n{}\n").lines
    assert run("jobs", "ls", "-o", "id", *on).lines == ids[::-1]
    assert run("jobs", "cancel", ids[0], *on).json["cancelled"] == 1
    assert run("jobs", "retry", ids[0], *on).json["retried"] == 1
    assert run("queues", "pause", "default", *on).code == 0
    assert run("queues", "purge", "default", "--yes", *on).json["purged"] == 3
    assert run("recover", *on).json == {"recovered": 0}
