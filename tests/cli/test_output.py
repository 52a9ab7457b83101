"""Tables on a terminal, JSON elsewhere; colours where they are wanted; nothing else's codes."""

from __future__ import annotations

import json
import subprocess

import pytest

from tests.cli.commands import Program, command
from tests.cli.conftest import Backlog, Run

SUMMARY_KEYS = [
    "id", "type", "queue", "state", "priority", "attempt", "failures", "crashes", "snoozes",
    "max_attempts", "generation", "created_at", "run_at", "started_at", "finished_at", "expires_at",
    "timeout_seconds", "worker", "progress", "problem", "cancel_requested", "parent_id",
    "unique_key", "group", "tags",
]  # fmt: skip
DETAIL_KEYS = [
    *SUMMARY_KEYS, "payload", "payload_base64", "result", "result_base64", "headers", "metadata",
    "children", "history", "progress_history", "next",
]  # fmt: skip


def test_the_keys_of_a_job_are_stable(run: Run, backlog: Backlog) -> None:
    (job_id,) = backlog.put()
    listed = run("jobs", "ls").json
    assert list(listed) == ["jobs", "cursor"]
    assert list(listed["jobs"][0]) == SUMMARY_KEYS
    shown = run("jobs", "show", job_id).json
    assert list(shown) == DETAIL_KEYS
    assert list(shown["history"][0]) == [
        "at", "event", "from", "to", "attempt", "worker", "reason", "problem",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("words", "keys"),
    [
        (["queues", "ls"], ["queues"]),
        (["dlq", "ls"], ["jobs", "cursor"]),
        (["workers"], ["workers"]),
        (["types"], ["types"]),
        (["backends"], ["backends"]),
        (["config", "show"], ["settings", "notes"]),
        (["doctor"], ["checks", "ok"]),
        (["migrate", "status"], ["migrations", "backend", "pending"]),
        (["recover"], ["recovered"]),
        (["version"], ["version", "python", "platform", "sqlite", "psycopg"]),
    ],
)
def test_the_keys_of_every_document_are_stable(
    words: list[str], keys: list[str], run: Run, backlog: Backlog
) -> None:
    backlog.put()
    assert list(run(*words).json) == keys


def test_payloads_are_in_no_list(run: Run, backlog: Backlog) -> None:
    backlog.put(payload={"secret": "canary-in-payload"}, metadata={"note": "canary-in-metadata"})
    for form in ("table", "json", "ndjson", "id"):
        assert "canary" not in run("jobs", "ls", "-o", form).out
    (job,) = run("jobs", "ls").json["jobs"]
    assert run("jobs", "show", job["id"]).json["payload"] == {"secret": "canary-in-payload"}


def test_ndjson_is_a_document_a_line_and_id_an_id_a_line(run: Run, backlog: Backlog) -> None:
    ids = backlog.put(number=3)
    lines = run("jobs", "ls", "-o", "ndjson").lines
    assert [json.loads(line)["id"] for line in lines] == ids[::-1]
    assert run("jobs", "ls", "-o", "id").lines == ids[::-1]
    assert run("queues", "ls", "-o", "id").lines == ["default"]


def test_a_pipe_gets_json_and_a_terminal_gets_a_table(program: Program, backlog: Backlog) -> None:
    backlog.put()
    assert program("jobs", "ls").json["jobs"][0]["type"] == "email.send"
    shown = program.on_terminal("jobs", "ls", "--no-color")
    assert shown.code == 0
    assert shown.out.split()[:3] == ["ID", "TYPE", "QUEUE"]
    assert "email.send" in shown.out


def test_colours_follow_the_terminal_and_the_environment(
    program: Program, backlog: Backlog
) -> None:
    backlog.put()
    words = ("jobs", "ls", "-o", "table")
    assert "\x1b[" in program.on_terminal(*words).out
    assert "\x1b[" not in program.on_terminal(*words, NO_COLOR="1").out
    assert "\x1b[" in program(*words, FORCE_COLOR="1").out
    assert "\x1b[" not in program(*words, FORCE_COLOR="1", NO_COLOR="1").out


def test_json_is_indented_on_a_terminal_only(program: Program, backlog: Backlog) -> None:
    backlog.put()
    assert program("jobs", "ls").out.count("\n") == 1
    shown = program.on_terminal("jobs", "ls", "-o", "json").out
    assert shown.count("\n") > 10
    assert json.loads(shown)["cursor"] is None


def test_nothing_in_a_job_reaches_the_terminal_as_a_command(run: Run, backlog: Backlog) -> None:
    nasty = "\x1b]0;owned\x07\x1b[2J\u202e"
    (dead,) = backlog.put_dead(text=nasty)
    (job_id,) = backlog.put(payload={"text": nasty}, metadata={"note": nasty})
    for words in (
        ["jobs", "show", job_id], ["jobs", "show", dead], ["jobs", "ls"], ["dlq", "ls"],
        ["dlq", "show", dead],
    ):  # fmt: skip
        for form in ("table", "json", "ndjson"):
            out = run(*words, "-o", form, "--no-color").out
            assert out.replace("\n", "").isprintable(), (words, form)


def test_an_empty_list_says_where_it_looked(run: Run, backlog: Backlog) -> None:
    backlog.put()
    done = run("jobs", "ls", "-o", "table", "--state", "dead", "--type", "email.*")
    assert done.out == ""
    assert "no jobs in sqlite" in done.err
    assert "state failed/timed_out, type email.*" in done.err
    assert run("jobs", "ls", "--state", "dead").json == {"jobs": [], "cursor": None}


def test_a_reader_that_has_enough_is_no_error(program: Program, backlog: Backlog) -> None:
    backlog.put(number=200)
    listing = subprocess.Popen(
        command(["jobs", "ls", "--limit", "200", "-o", "ndjson"]),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=program.directory,
        env=program.surroundings(),
    )
    assert listing.stdout is not None
    assert listing.stderr is not None
    listing.stdout.readline()
    listing.stdout.close()
    errors = listing.stderr.read()
    listing.stderr.close()
    assert listing.wait(timeout=30) in (0, 141)
    assert errors == b""


def test_a_terminal_that_is_too_narrow_keeps_ids_whole(program: Program, backlog: Backlog) -> None:
    (job_id,) = backlog.put()
    shown = program.on_terminal("jobs", "ls", "--no-color", COLUMNS="60")
    assert job_id in shown.out
