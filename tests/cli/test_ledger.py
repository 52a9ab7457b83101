"""The command line on a broker with a ledger: all that works on a database works on it."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobbus.settings import backends
from tests.cli.conftest import Run
from tests.tracked.post_office import ENTRY

ON = ("--backend", "PostOffice", "--ledger", "sqlite:///jobs.db")


@pytest.fixture(autouse=True)
def post_office(monkeypatch: pytest.MonkeyPatch) -> None:
    """A broker is installed."""
    monkeypatch.setattr(backends, "BUILT_IN", (*backends.BUILT_IN, ENTRY))


def enqueued(run: Run, *options: str, name: str = "greet") -> str:
    words = ("enqueue", name, '{"name": "Ann"}', "--unregistered")
    (job_id,) = run(*words, *options, *ON).lines
    return job_id


def test_jobs_run_and_are_remembered(run: Run, application: Path) -> None:
    job_id = enqueued(run)
    assert run("jobs", "show", job_id, *ON).json["state"] == "created"
    assert run("worker", "tasks:bus", "--burst", *ON).code == 0
    shown = run("jobs", "show", job_id, *ON).json
    assert (shown["state"], shown["result"]) == ("completed", "Hello, Ann!")


def test_a_relay_by_hand_sends_what_may_run(run: Run) -> None:
    job_id = enqueued(run)
    enqueued(run, "--in", "2h")
    assert run("relay", "--once", *ON).code == 0
    assert run("jobs", "show", job_id, *ON).json["state"] == "queued"
    [listed] = run("queues", "ls", *ON).json["queues"]
    counts = {state: number for state, number in listed["counts"].items() if number}
    assert (listed["name"], counts) == ("default", {"queued": 1, "scheduled": 1})
    assert run("workers", *ON).json["workers"] == [], "who only relays is no worker"


def test_a_relay_needs_a_broker_and_a_ledger(run: Run) -> None:
    enqueue = ("enqueue", "greet", "{}", "--unregistered", "--backend", "sqlite:///jobs.db")
    assert run(*enqueue).code == 0
    refused = run("relay", "--once", "--backend", "sqlite:///jobs.db")
    assert refused.code == 2
    assert "nothing to relay" in refused.err
    assert "--ledger" in refused.err


def test_dead_letters_are_the_ledgers(run: Run, application: Path) -> None:
    job_id = enqueued(run, name="boom")
    assert run("worker", "tasks:bus", "--burst", *ON).code == 0
    assert [job["id"] for job in run("dlq", "ls", *ON).json["jobs"]] == [job_id]
    assert run("dlq", "redrive", job_id, *ON).code == 0
    assert run("jobs", "show", job_id, *ON).json["state"] == "queued"
    assert run("recover", *ON).json == {"recovered": 0}


def test_the_schema_is_the_ledgers(run: Run) -> None:
    assert run("migrate", "status", *ON).json["backend"] == "sqlite jobs.db"
    assert run("migrate", "up", *ON).code == 0
    assert "CREATE TABLE background_jobs" in run("migrate", "sql", *ON[:2], *ON[2:]).out


def test_the_doctor_looks_at_both(run: Run) -> None:
    checks = {one["check"]: one for one in run("doctor", "--create", *ON).json["checks"]}
    assert checks["broker"]["message"] == "post_office answers"
    assert checks["backend"]["message"] == "sqlite jobs.db answers"
    assert checks["workers"]["level"] == "ok"


def test_a_bare_broker_says_what_would_help(run: Run) -> None:
    refused = run("jobs", "ls", *ON[:2])
    assert refused.code == 2
    assert "BACKGROUND_JOBS__LEDGER" in refused.err
    refused = run("enqueue", "greet", "{}", "--unregistered", "--key", "one", *ON[:2])
    assert refused.code == 2
    assert "BACKGROUND_JOBS__LEDGER" in refused.err


def test_backends_are_listed_with_what_a_ledger_makes_of_them(run: Run) -> None:
    listed = {one["name"]: one for one in run("backends").json["backends"]}
    office = listed["post_office"]
    assert (office["capabilities"]["ledger"], office["with_ledger"]["ledger"]) == (False, True)
    assert office["with_ledger"] == listed["sqlite"]["capabilities"]
    assert listed["sqlite"]["with_ledger"] is None
    table = run("backends", "--output", "table").out
    assert "POST_OFFICE + LEDGER" in table
