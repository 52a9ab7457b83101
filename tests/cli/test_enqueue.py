"""``jobbus enqueue``: from an argument, a file, standard input; now or later; and waited for."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from tests.cli.commands import Program, wait_for_line
from tests.cli.conftest import Backlog, Run


def test_the_id_is_printed_one_a_line_wherever_it_goes(run: Run, backlog: Backlog) -> None:
    done = run("enqueue", "email.send", '{"to": "ada"}', "--unregistered")
    assert done.code == 0
    (job_id,) = done.lines
    assert run("jobs", "show", job_id).json["payload"] == {"to": "ada"}
    as_json = run("enqueue", "email.send", "--unregistered", "-o", "json").json
    assert as_json["count"] == 1
    assert backlog.states(as_json["ids"]) == ["queued"]


def test_every_option_reaches_the_job(run: Run) -> None:
    (job_id,) = run(
        "enqueue", "email.send", "{}", "--unregistered", "--queue", "slow", "--priority", "high",
        "--in", "10m", "--key", "k1", "--max-attempts", "7", "--timeout", "90s", "--tag", "a",
        "--tag", "b", "--expires-in", "1h", "--group", "g1",
    ).lines  # fmt: skip
    shown = run("jobs", "show", job_id).json
    assert shown["state"] == "scheduled"
    assert (shown["queue"], shown["priority"], shown["unique_key"]) == ("slow", 8, "k1")
    assert (shown["max_attempts"], shown["timeout_seconds"]) == (7, 90)
    assert (shown["tags"], shown["group"]) == (["a", "b"], "g1")
    assert shown["created_at"] < shown["run_at"] < shown["expires_at"]


def test_a_job_is_enqueued_for_a_moment(run: Run) -> None:
    words = ("enqueue", "email.send", "--unregistered", "--at", "2040-01-01T00:00:00+01:00")
    (job_id,) = run(*words, "-p", "3").lines
    shown = run("jobs", "show", job_id).json
    assert (shown["run_at"], shown["priority"]) == ("2039-12-31T23:00:00.000Z", 3)


def test_a_payload_comes_from_a_file(run: Run, tmp_path: Path) -> None:
    (tmp_path / "payload.json").write_text('{"to":\n "ada"}\n')
    (job_id,) = run("enqueue", "email.send", "@payload.json", "--unregistered").lines
    assert run("jobs", "show", job_id).json["payload"] == {"to": "ada"}
    missing = run("enqueue", "email.send", "@nothing.json", "--unregistered")
    assert missing.code == 2
    assert "No such file" in missing.err


def test_a_key_that_is_held_gives_the_holder(run: Run, backlog: Backlog) -> None:
    words = ("enqueue", "email.send", "--unregistered", "--key", "k1")
    first, second = run(*words), run(*words)
    assert first.lines == second.lines
    assert "has this key already" in second.err
    assert backlog.count() == 1


def test_lines_of_standard_input_become_a_job_each(run: Run, backlog: Backlog) -> None:
    text = "".join(f'{{"number": {number}}}\n' for number in range(1_200)) + "\n"
    done = run("enqueue", "email.send", "-", "--unregistered", "--tag", "bulk", input=text)
    assert done.code == 0
    assert len(set(done.lines)) == 1_200
    assert "enqueued 1,200 jobs" in done.err
    shown = run("jobs", "show", done.lines[7]).json
    assert (shown["payload"], shown["tags"]) == ({"number": 7}, ["bulk"])


def test_ids_of_many_come_in_every_form(run: Run) -> None:
    words = ("enqueue", "email.send", "-", "--unregistered")
    assert run(*words, "-o", "json", input="{}\n{}\n").json["count"] == 2
    lines = run(*words, "-o", "ndjson", input="{}\n{}\n").lines
    assert [list(json.loads(line)) for line in lines] == [["id"], ["id"]]


@pytest.mark.parametrize(
    ("bad", "told"),
    [
        ("nonsense", "line 3: the payload is not JSON"),
        ('{"a": NaN}', "line 3: the payload is not JSON"),
        ("[" * 40 + "]" * 40, "line 3: the payload: nested deeper"),
        ('{"text": "' + "x" * 300_000 + '"}', "line 3"),
        ("x" * 1_200_000, "line 3: more than 1,048,576 bytes"),
    ],
    ids=["not JSON", "NaN", "too deep", "too large", "endless"],
)
def test_one_bad_line_and_nothing_is_enqueued(
    bad: str, told: str, run: Run, backlog: Backlog
) -> None:
    backlog.put("first")
    done = run("enqueue", "email.send", "-", "--unregistered", input=f"{{}}\n{{}}\n{bad}\n{{}}\n")
    assert done.code == 2
    assert told in done.err
    assert done.out == ""
    assert backlog.count() == 1


def test_a_key_cannot_be_for_many(run: Run) -> None:
    done = run("enqueue", "email.send", "-", "--unregistered", "--key", "k", input="{}\n")
    assert done.code == 2
    assert "--key" in done.err


def test_standard_input_that_is_a_terminal_is_refused(program: Program) -> None:
    shown = program.on_terminal("enqueue", "email.send", "-", "--unregistered")
    assert shown.code == 2
    assert "standard input is a terminal" in shown.out


def test_arguments_are_checked_against_the_application(
    run: Run, application: Path, backlog: Backlog
) -> None:
    done = run("enqueue", "greet", '{"nme": "Ada"}', "--app", "tasks:bus")
    assert done.code == 2
    assert "argument `name` is missing" in done.err
    assert "there is no argument `nme`" in done.err
    bulk = run("enqueue", "greet", "-", "-A", "tasks", input='{"name": "Ada"}\n{"name": 1}\n')
    assert bulk.code == 2
    assert "line 2" in bulk.err
    assert backlog.count() == 0
    assert run("enqueue", "greet", '{"name": "Ada"}', "--app", "tasks").code == 0


def test_an_application_next_door_is_offered_where_a_type_is_unknown(
    run: Run, application: Path
) -> None:
    done = run("enqueue", "greet", '{"name": "Ada"}')
    assert done.code == 2
    assert "--app tasks:bus" in done.err


def test_a_type_that_workers_announced_needs_no_application(run: Run, backlog: Backlog) -> None:
    backlog.put_done()
    assert run("enqueue", "report.fine", '{"number": 1}').code == 0
    typo = run("enqueue", "report.fien", '{"number": 1}')
    assert typo.code == 2
    assert "Did you mean 'report.fine'?" in typo.err


def test_waiting_streams_progress_and_ends_with_the_result(
    program: Program, application: Path
) -> None:
    worker = program.start("worker")
    wait_for_line(worker, "worker starts")
    done = program("enqueue", "steps", "--app", "tasks", "--wait", "-o", "json")
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(timeout=30) == 0
    worker.communicate()
    assert done.code == 0
    assert done.json["jobs"][0]["result"] == {"steps": 3}
    assert done.json["ids"] == [done.json["jobs"][0]["id"]]
    assert "stage step" in done.err


def test_waiting_for_a_job_that_fails_exits_1_and_says_what_to_do(
    program: Program, application: Path
) -> None:
    worker = program.start("worker")
    wait_for_line(worker, "worker starts")
    done = program("enqueue", "boom", '{"text": "no paper"}', "--app", "tasks", "--wait")
    many = program("enqueue", "boom", "-", "--app", "tasks", "--wait", input="{}\n{}\n")
    worker.send_signal(signal.SIGTERM)
    worker.communicate()
    assert done.code == 1
    (job_id,) = done.lines
    assert "ValueError: no paper" in done.err
    assert f"jobbus jobs show {job_id}" in done.err
    assert many.code == 1
    assert "2 of 2 jobs did not complete" in many.err


def test_no_worker_is_told_and_an_interrupt_leaves_the_job(
    program: Program, application: Path, backlog: Backlog
) -> None:
    waiting = program.start("enqueue", "greet", '{"name": "Ada"}', "--app", "tasks", "--wait")
    assert "no worker is running" in wait_for_line(waiting, "no worker")
    assert waiting.stdout is not None
    job_id = waiting.stdout.readline().strip()
    waiting.send_signal(signal.SIGINT)
    assert "may still run" in wait_for_line(waiting, "no longer waiting")
    assert waiting.wait(timeout=30) == 130
    waiting.communicate()
    assert backlog.states([job_id]) == ["queued"]
