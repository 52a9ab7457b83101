"""``migrate``, ``doctor``, ``config``, ``recover``, ``bench`` and the small facts, on SQLite."""

from __future__ import annotations

import os
import re
import sqlite3
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from jobbus import JobBus
from jobbus.backends.sql.migrate import migrations
from jobbus.message import Capabilities
from tests.cli.commands import Program
from tests.cli.conftest import Backlog, Run


def checks(run: Run, *words: str) -> dict[str, dict[str, Any]]:
    return {each["check"]: each for each in run("doctor", *words).json["checks"]}


# migrate


KNOWN = migrations("sqlite")
UP = [f"{each.version:04d} {each.name} up" for each in KNOWN]
DOWN = [f"{each.version:04d} {each.name} down" for each in reversed(KNOWN)]


def test_the_schema_is_shown_without_being_made(run: Run) -> None:
    done = run("migrate", "status")
    assert done.code == 0
    assert done.json == {
        "migrations": [
            {"version": each.version, "name": each.name, "state": "pending"} for each in KNOWN
        ],
        "backend": "sqlite jobbus.db",
        "pending": len(KNOWN),
    }
    assert not Path("jobbus.db").exists()


def test_up_makes_the_schema_and_repeats_without_harm(run: Run) -> None:
    assert run("migrate", "up", "--dry-run").json == {"steps": UP, "dry_run": True}
    assert not Path("jobbus.db").exists()
    assert run("migrate", "up").json["steps"] == UP
    assert run("migrate", "up").json["steps"] == []
    assert run("migrate", "status").json["pending"] == 0
    assert "applied" in run("migrate", "status", "-o", "table").out


def test_down_counts_the_jobs_and_needs_a_yes(run: Run, backlog: Backlog) -> None:
    backlog.put(number=3)
    refused = run("migrate", "down", "--to", "0")
    assert refused.code == 2
    assert f"revert {len(KNOWN)} migrations of sqlite jobbus.db, deleting 3 jobs" in refused.err
    assert run("migrate", "down", "--dry-run", "--to", "0").json["steps"] == DOWN
    assert backlog.count() == 3
    assert run("migrate", "down", "--to", "0", "--yes").json["steps"] == DOWN
    assert run("migrate", "status").json["pending"] == len(KNOWN)
    assert run("migrate", "down", "--yes").json["steps"] == []


@pytest.mark.parametrize(
    ("words", "told"),
    [(["up", "--to", "7"], "no version 7"), (["up", "--to", "0"], "beyond version 0"),
     (["down", "--to", "7"], "no version 7")],
)  # fmt: skip
def test_versions_that_make_no_sense_are_refused(
    words: list[str], told: str, run: Run, backlog: Backlog
) -> None:
    backlog.put()
    done = run("migrate", *words)
    assert done.code == 2
    assert told in done.err
    assert backlog.count() == 1


def test_the_whole_schema_is_printed_without_connecting(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = run("migrate", "sql").out
    with closing(sqlite3.connect(":memory:")) as database:
        database.executescript(mine)
        assert database.execute("SELECT count(*) FROM background_jobs").fetchall() == [(0,)]
    assert "FOR UPDATE SKIP LOCKED" not in mine
    address = "postgresql://nobody@192.0.2.1/nowhere"
    monkeypatch.setenv("BACKGROUND_JOBS__POSTGRES__SCHEMA", "work")
    theirs = run("migrate", "sql", "--backend", address).out
    assert 'CREATE TABLE "work".background_jobs' in theirs
    assert run("migrate", "sql", "--dialect", "sqlite").out == mine
    assert run("migrate", "sql", "--backend", "memory").code == 2
    assert not Path("jobbus.db").exists()


def test_a_backend_without_a_schema_says_so(run: Run) -> None:
    done = run("migrate", "status", "--backend", "memory")
    assert done.code == 2
    assert "(Unsupported)" in done.err


# doctor


def test_the_doctor_makes_nothing_unless_asked(run: Run) -> None:
    found = checks(run)
    assert found["backend"]["level"] == "warning"
    assert not Path("jobbus.db").exists()
    done = run("doctor", "--create")
    assert (done.code, done.json["ok"]) == (0, True)
    assert Path("jobbus.db").exists()


def test_a_healthy_backend_is_all_fine(run: Run, backlog: Backlog) -> None:
    backlog.put_done()
    found = checks(run)
    assert {name for name, each in found.items() if each["level"] != "ok"} == set()
    assert {"settings", "lease", "schema", "disk", "journal", "integrity", "leases"} <= set(found)
    shown = run("doctor", "-o", "table").out
    assert shown.startswith("✓ settings")


def test_the_doctor_sees_what_waits_for_nobody(run: Run, backlog: Backlog) -> None:
    backlog.put_dead()
    forget_workers()
    backlog.put("video.render", number=2)
    backlog.do(lambda bus: bus.pause("default", reason="deploy"))
    found = checks(run)
    assert "video.render (2)" in found["job types"]["message"]
    assert found["workers"]["level"] == "warning"
    assert found["dead letters"]["message"] == "1 job"
    assert "deploy" in found["queues"]["message"]
    assert run("doctor").code == 0
    assert "! dead letters" in run("doctor", "-o", "table").out


def test_the_doctor_sees_jobs_in_dead_hands(run: Run, backlog: Backlog) -> None:
    leave_in_dead_hands(backlog)
    assert checks(run)["leases"]["level"] == "warning"


def test_wrong_settings_fail_the_doctor(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BACKGROUND_JOBS__MAX_CONCURRENT_JOBS", "many")
    done = run("doctor")
    assert (done.code, done.json["ok"]) == (1, False)
    assert done.json["checks"][0]["level"] == "failed"


def test_a_lease_shorter_than_a_job_fails_where_it_cannot_be_extended(
    run: Run, backlog: Backlog, monkeypatch: pytest.MonkeyPatch
) -> None:
    from jobbus.cli import checks as module

    backlog.put()
    names = Capabilities.__dataclass_fields__
    values: dict[str, Any] = {name: True for name in names if not name.startswith("max_")}
    fixed = Capabilities(**{**values, "extends_leases": False})

    class Fixed:
        capabilities = fixed

    monkeypatch.setenv("BACKGROUND_JOBS__JOB_TIMEOUT_MINUTES", "30")
    monkeypatch.setattr("jobbus.settings.create_queue", lambda settings: Fixed())
    findings = list(module._lease(JobBus().settings, Fixed()))
    assert [finding.level for finding in findings] == ["failed"]
    assert "VISIBILITY_TIMEOUT_SECONDS" in findings[0].message


def test_a_broken_file_fails_the_doctor(run: Run, backlog: Backlog) -> None:
    backlog.put(number=50)
    path = Path("jobbus.db")
    with closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    data = bytearray(path.read_bytes())
    for start in range(8 * 4096, len(data), 4096):
        data[start : start + 64] = os.urandom(64)
    path.write_bytes(bytes(data))
    done = run("doctor")
    assert done.code == 1
    assert done.json["ok"] is False


def test_an_application_that_is_broken_fails_only_where_it_was_named(
    run: Run, tmp_path: Path
) -> None:
    (tmp_path / "tasks.py").write_text("1 +")
    assert checks(run)["application"]["level"] == "warning"
    assert checks(run, "--app", "tasks")["application"]["level"] == "failed"


# config


def test_settings_are_shown_with_their_sources_and_without_secrets(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BACKGROUND_JOBS__POSTGRES__URL", "postgresql://u:s3cret@h/db")
    monkeypatch.setenv("BACKGROUND_JOBS__MAX_CONCURRENT_JOBS", "4")
    for words in (["config", "show"], ["config", "show", "--sources"]):
        for form in ("json", "table"):
            assert "s3cret" not in run(*words, "-o", form).out
    found = {each["key"]: each for each in run("config", "show", "--sources").json["settings"]}
    assert found["max_concurrent_jobs"]["value"] == "4"
    source = "environment BACKGROUND_JOBS__MAX_CONCURRENT_JOBS"
    assert found["max_concurrent_jobs"]["source"] == source
    assert found["poll_interval_seconds"]["source"] == "default"
    assert source in run("config", "show", "--sources", "-o", "table").out
    assert "source" not in run("config", "show").json["settings"][0]


def test_settings_that_do_nothing_are_noted(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BACKGROUND_JOBS__PAUSE_ON_BATTERY", "true")
    assert "pause_on_battery" in run("config", "show").json["notes"][0]
    assert "note: pause_on_battery" in run("config", "show", "-o", "table").err


# recover, workers, types, backends


def leave_in_dead_hands(backlog: Backlog) -> str:
    """A job whose worker went away without a word, and whose lease has run out."""

    async def work(bus: JobBus) -> str:
        (job_id,) = await bus.enqueue_many([await bus.message_for("x", {}, unregistered=True)])
        await bus.queue.receive("default", limit=1, wait=timedelta(0), lease=timedelta(seconds=1))
        return job_id

    job_id = backlog.do(work)
    forget_workers()
    return job_id


def forget_workers() -> None:
    """Make it long ago that a worker was seen."""
    with closing(sqlite3.connect("jobbus.db")) as database:
        database.execute("UPDATE background_job_claims SET lease_until = 1")
        database.execute("UPDATE background_job_workers SET seen_at = 1")
        database.commit()


def test_jobs_of_dead_workers_are_taken_back(run: Run, backlog: Backlog) -> None:
    job_id = leave_in_dead_hands(backlog)
    assert run("recover").json == {"recovered": 1}
    assert run("recover", "--minutes", "60").json == {"recovered": 0}
    assert run("jobs", "show", job_id).json["crashes"] == 1
    assert run("recover", "-o", "table").err == "took 0 jobs back\n"


def test_workers_and_job_types_are_listed(run: Run, backlog: Backlog) -> None:
    assert run("workers").code == 3
    backlog.put_done()
    (worker,) = run("workers").json["workers"]
    assert worker["pid"] == os.getpid()
    assert list(worker) == ["name", "host", "pid", "started_at", "seen_at", "running", "alive"]
    (known,) = run("types").json["types"]
    assert (known["name"], known["queue"]) == ("report.fine", "default")
    assert "number: integer" in run("types", "-o", "table").out
    assert run("types", "-o", "id").lines == ["report.fine"]


def test_backends_are_what_their_code_declares(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from jobbus.backends.memory import MemoryQueue
    from jobbus.backends.sqlite import SqliteQueue

    monkeypatch.setenv(
        "BACKGROUND_JOBS__PROVIDER", "nonsense"
    )  # is none of this command's business
    found = {each["name"]: each for each in run("backends").json["backends"]}
    assert {"memory", "sqlite", "postgres"} <= set(found)
    for name, queue in (("memory", MemoryQueue()), ("sqlite", SqliteQueue("x.db"))):
        for word, value in found[name]["capabilities"].items():
            if not word.endswith("_seconds"):
                assert value == getattr(queue.capabilities, word)
    table = run("backends", "-o", "table").lines
    alone = [name.upper() for name in sorted(found)]
    tracked = [f"{name.upper()} + LEDGER" for name in sorted(found) if found[name]["with_ledger"]]
    assert re.split(r"  +", table[0].strip()) == ["CAPABILITY", *alone, *tracked]
    durable = ["yes" if found[name]["capabilities"]["durable"] else "no" for name in sorted(found)]
    assert ["durable", *durable, *("yes" for _ in tracked)] in [line.split() for line in table]
    assert not Path("x.db").exists()


# bench


def test_bench_measures_and_leaves_nothing_behind(run: Run, backlog: Backlog) -> None:
    backlog.put()
    done = run("bench", "--jobs", "50", "--samples", "5")
    assert done.code == 0
    found = done.json
    for key in ("enqueue_per_second", "bulk_per_second", "drain_per_second"):
        assert found[key] > 0
    assert found["pickup_ms"]["p50"] <= found["pickup_ms"]["p95"] <= found["pickup_ms"]["p99"]
    assert found["pickup_samples"] == 5
    assert found["backend"] == "sqlite"
    assert [path.name for path in Path().iterdir() if "bench" in path.name] == []
    assert backlog.count() == 1
    shown = run("bench", "--jobs", "20", "--samples", "2", "-o", "table", "--backend", "memory")
    assert "pick-up p99" in shown.out


def test_the_demo_is_a_command(program: Program) -> None:
    assert "[PATH]" in program("demo", "--help").out
