"""Bad input, each with its named error, its exit code, and nothing written; by the real program."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from tests.cli.commands import Program, Result
from tests.cli.conftest import Backlog, Run


def refused(done: Result, name: str, code: int, *told: str) -> None:
    assert done.code == code, done.err
    assert f"({name})" in done.err.splitlines()[0]
    assert done.out == ""
    assert "Traceback" not in done.err
    for text in told:
        assert text in done.err


@pytest.mark.parametrize(
    ("payload", "name", "told"),
    [
        ("Ada", "PayloadError", "not JSON"),
        ("{'a': 1}", "PayloadError", "not JSON"),
        ('{"a": NaN}', "PayloadError", "not JSON"),
        ('{"a": Infinity}', "PayloadError", "not JSON"),
        ('{"a": 1, "a": 2}', "PayloadError", "twice"),
        ("[" * 40 + "]" * 40, "PayloadError", "deeper than 32"),
    ],
    ids=["no JSON", "Python", "NaN", "Infinity", "key twice", "too deep"],
)
def test_a_payload_that_cannot_be(
    payload: str, name: str, told: str, program: Program, tmp_path: Path
) -> None:
    refused(program("enqueue", "email.send", payload, "--unregistered"), name, 2, told)
    assert not (tmp_path / "jobbus.db").exists()


@pytest.mark.parametrize("size", [300_000, 1_100_000])
def test_a_payload_that_is_too_large(size: int, program: Program, tmp_path: Path) -> None:
    (tmp_path / "large.json").write_text('{"text": "' + "x" * size + '"}')
    done = program("enqueue", "email.send", "@large.json", "--unregistered")
    refused(done, "PayloadTooLarge", 2, "the limit is")
    assert not (tmp_path / "jobbus.db").exists()


def test_a_job_type_that_is_registered_elsewhere(
    program: Program, tmp_path: Path, backlog: Backlog
) -> None:
    backlog.put_done()
    before = backlog.count()
    refused(
        program("enqueue", "email.send", "{}"), "UnknownJobType", 2, "email.send", "--unregistered"
    )
    assert backlog.count() == before


@pytest.mark.parametrize(
    ("words", "name", "told"),
    [
        (["--in", "-5m"], "InvalidJob", "cannot be negative"),
        (["--expires-in", "-1"], "InvalidJob", "cannot be negative"),
        (["--in", "soon"], "BadUsage", "span of time"),
        (["--at", "2030-01-01T00:00:00"], "BadUsage", "time zone"),
        (["--priority", "11"], "InvalidJob", "1 to 10"),
        (["--priority", "urgent"], "InvalidJob", "low, normal, high"),
        (["--timeout", "0"], "InvalidJob", "more than 0"),
        (["--max-attempts", "0"], "BadUsage", "--max-attempts"),
        (["--queue", "a b"], "InvalidJob", "queue"),
        (["--tag", "x" * 65], "InvalidJob", "tag"),
        (["--key", "k" * 201], "InvalidJob", "unique_key"),
        (["--in", "2h", "--expires-in", "0.000001ms"], "InvalidJob", "expire"),
    ],
)
def test_options_that_cannot_be(
    words: list[str], name: str, told: str, run: Run, tmp_path: Path
) -> None:
    done = run("enqueue", "email.send", "{}", "--unregistered", *words)
    refused(done, name, 2, told)
    assert not (tmp_path / "jobbus.db").exists()


def test_a_name_that_no_job_type_can_have(program: Program) -> None:
    done = program("enqueue", "a b\x1b[31m", "{}", "--unregistered")
    refused(done, "InvalidJob", 2, "job type")
    assert "\x1b" not in done.err


@pytest.mark.parametrize(
    ("environment", "told"),
    [
        ({"BACKGROUND_JOBS__MAX_CONCURRENT_JOBS": "many"}, "MAX_CONCURRENT_JOBS"),
        ({"BACKGROUND_JOBS__MAX_CONCURENT_JOBS": "5"}, "did you mean"),
        ({"BACKGROUND_JOBS__PROVIDER": "Postgress"}, "Did you mean 'postgres'"),
        ({"BACKGROUND_JOBS__MODE": "Polling", "BACKGROUND_JOBS__PROVIDER": "memory"}, "mode"),
        ({"JOBBUS_BACKEND": "redis://localhost"}, "redis"),
    ],
)
def test_settings_that_cannot_be(
    environment: dict[str, str], told: str, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    for words in (["enqueue", "email.send", "{}", "--unregistered"], ["jobs", "ls"]):
        refused(run(*words), "ConfigurationError", 2, told)
    assert not Path("jobbus.db").exists()


def test_an_unknown_setting_value_as_the_program_sees_it(program: Program, tmp_path: Path) -> None:
    done = program("jobs", "ls", BACKGROUND_JOBS__POLL_INTERVAL_SECONDS="often")
    refused(done, "ConfigurationError", 2, "POLL_INTERVAL_SECONDS", "'often'")
    assert not (tmp_path / "jobbus.db").exists()


@pytest.mark.parametrize(
    "words",
    [["enqueue", "email.send", "{}", "--unregistered"], ["jobs", "ls"], ["migrate", "up"],
     ["worker", "--app", "tasks"]],
    ids=lambda words: words[0],
)  # fmt: skip
def test_a_postgres_that_cannot_be_reached(
    words: list[str], program: Program, application: Path
) -> None:
    done = program(*words, "--backend", "postgresql://u:s3cret@127.0.0.1:1/nothing")
    assert done.code == 3
    assert "(BackendUnavailable)" in done.err
    assert "s3cret" not in done.err
    assert "Traceback" not in done.err


@pytest.mark.parametrize(
    "words",
    [["enqueue", "email.send", "{}", "--unregistered"], ["jobs", "ls"], ["migrate", "up"],
     ["migrate", "status"], ["worker", "--app", "tasks"]],
    ids=lambda words: " ".join(words[:2]),
)  # fmt: skip
def test_a_database_that_is_newer_than_the_code(
    words: list[str],
    run: Run,
    program: Program,
    application: Path,
    backlog: Backlog,
    tmp_path: Path,
) -> None:
    backlog.put()
    with closing(sqlite3.connect(tmp_path / "jobbus.db")) as database:
        database.execute("INSERT INTO background_job_migrations VALUES (999, 'later', 'x')")
        database.commit()
        done = program(*words) if words[0] == "worker" else run(*words)
        assert done.code == 2
        assert "(SchemaMismatch)" in done.err
        assert "999" in done.err
        assert database.execute("SELECT count(*) FROM background_jobs").fetchall() == [(1,)]


def test_a_file_that_is_no_database(program: Program, tmp_path: Path) -> None:
    (tmp_path / "jobbus.db").write_bytes(b"this is no database" * 100)
    done = program("enqueue", "email.send", "{}", "--unregistered")
    assert done.code == 3
    assert "Traceback" not in done.err
    assert (tmp_path / "jobbus.db").read_bytes() == b"this is no database" * 100


def test_debug_shows_the_traceback(program: Program) -> None:
    done = program("--debug", "enqueue", "email.send", "Ada", "--unregistered")
    assert done.code == 2
    assert "Traceback" in done.err
    assert "(PayloadError)" in done.err
