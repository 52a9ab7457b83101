"""``jobbus worker``: which application, what it says, how it ends."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from tests.cli.commands import Program, Result, wait_for_line
from tests.cli.conftest import Backlog, Run


def logged(done: Result) -> list[dict[str, object]]:
    return [json.loads(line) for line in done.err.splitlines()]


def test_a_burst_runs_what_waits_and_ends(
    program: Program, application: Path, run: Run, backlog: Backlog
) -> None:
    (job_id,) = run("enqueue", "greet", '{"name": "Ada"}', "--app", "tasks").lines
    done = program("worker", "--burst")
    assert done.code == 0
    assert done.out == ""
    assert backlog.states([job_id]) == ["completed"]
    first = logged(done)[0]
    assert first["message"] == "worker starts"
    assert first["backend"] == "sqlite jobbus.db"
    assert first["app"] == "tasks:bus"
    assert first["job_types"] == "boom, endless, greet, steps"
    assert first["queues"] == "default"
    assert isinstance(first["pid"], int)


def test_a_banner_on_a_terminal(program: Program, application: Path) -> None:
    shown = program.on_terminal(
        "worker", "tasks:bus", "--burst", "--queues", "high:3,default", "-c", "4", "--no-color"
    )
    assert shown.code == 0
    for text in ("backend", "sqlite jobbus.db", "high:3, default:1", "greet", "pid"):
        assert text in shown.out
    assert "{" not in shown.out


@pytest.mark.parametrize(
    ("words", "environment"),
    [
        (["worker", "service.background:jobs"], {}),
        (["worker", "--app", "service.background:jobs"], {}),
        (["worker"], {"JOBBUS_APP": "service.background:jobs"}),
        (["worker"], {"BACKGROUND_JOBS__APP": "service.background:jobs"}),
    ],
)
def test_the_application_is_found_where_it_is_named(
    words: list[str], environment: dict[str, str], program: Program, application: Path
) -> None:
    package = program.directory / "service"
    package.mkdir()
    (package / "__init__.py").write_text("")
    text = application.read_text().replace("bus = ", "jobs = ").replace("@bus", "@jobs")
    (package / "background.py").write_text(text)
    done = program(*words, "--burst", **environment)
    assert done.code == 0
    assert logged(done)[0]["app"] == "service.background:jobs"


@pytest.mark.parametrize("file", ["jobbus.toml", "pyproject.toml"])
def test_the_application_is_found_in_a_file(file: str, program: Program, application: Path) -> None:
    application.rename(program.directory / "elsewhere.py")
    table = "[tool.jobbus]\n" if file == "pyproject.toml" else ""
    (program.directory / file).write_text(f'{table}app = "elsewhere"\n')
    done = program("worker", "--burst")
    assert done.code == 0
    assert logged(done)[0]["app"] == "elsewhere:bus"


def test_jobs_py_is_looked_at_when_there_is_no_tasks_py(
    program: Program, application: Path
) -> None:
    application.rename(program.directory / "jobs.py")
    assert logged(program("worker", "--burst"))[0]["app"] == "jobs:bus"


@pytest.mark.parametrize(
    ("code", "app", "told"),
    [
        (None, "missing:bus", "no module missing"),
        ("bus = 5", "tasks:bus", "it is a int"),
        ("from jobbus import JobBus\nmine = JobBus()", "tasks", "--app tasks:mine"),
        ("import nothing_of_this_name", "tasks", "ModuleNotFoundError"),
        ("1 +", "tasks", "SyntaxError"),
        ("raise SystemExit(7)", "tasks", "SystemExit"),
        ("\n\nboom()", "tasks", "line 3"),
        ("bus = 1", "ta sks", "app"),
    ],
)
def test_an_application_that_cannot_be_used_is_named(
    code: str | None, app: str, told: str, run: Run, tmp_path: Path
) -> None:
    if code is not None:
        (tmp_path / "tasks.py").write_text(code)
    # Through a command that shares the search with the worker, but sets no logging up for pytest.
    done = run("enqueue", "greet", "--app", app)
    assert done.code == 2
    assert told in done.err
    assert "Traceback" not in done.err
    assert not (tmp_path / "jobbus.db").exists()


def test_without_any_application_a_worker_says_how_to_name_one(program: Program) -> None:
    done = program("worker")
    assert done.code == 2
    assert "no application was found" in done.err
    assert "./tasks.py and ./jobs.py" in done.err
    assert not (program.directory / "jobbus.db").exists()


def test_the_backend_of_the_command_line_counts_for_the_application_too(
    program: Program, application: Path, run: Run
) -> None:
    text = application.read_text().replace("JobBus()", 'JobBus("sqlite:///other.db")')
    application.write_text(text)
    words = ("--app", "tasks", "--backend", "sqlite:///mine.db")
    (job_id,) = run("enqueue", "greet", '{"name": "Ada"}', *words).lines
    done = program("worker", *words, "--burst")
    assert logged(done)[0]["backend"] == "sqlite mine.db"
    assert not (program.directory / "other.db").exists()
    assert (
        run("jobs", "show", job_id, "--backend", "sqlite:///mine.db").json["state"] == "completed"
    )


def test_commands_on_a_store_find_the_backend_of_the_application(
    run: Run, application: Path
) -> None:
    text = application.read_text().replace("JobBus()", 'JobBus("sqlite:///other.db")')
    application.write_text(text)
    (job_id,) = run("enqueue", "greet", '{"name": "Ada"}', "--app", "tasks").lines
    assert Path("other.db").exists()
    assert run("jobs", "ls", "--app", "tasks", "-o", "id").lines == [job_id]
    Path("jobbus.toml").write_text('app = "tasks"\n')
    assert run("jobs", "ls", "-o", "id").lines == [job_id]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_running_jobs_finish(
    number: signal.Signals, program: Program, application: Path, run: Run, backlog: Backlog
) -> None:
    (job_id,) = run("enqueue", "steps", "--app", "tasks").lines
    worker = program.start("worker", "--log-level", "debug")
    wait_for_line(worker, "worker starts")
    waiting = program.start("enqueue", "steps", "--app", "tasks", "--wait")
    wait_for_line(waiting, "stage step")
    worker.send_signal(number)
    assert "finishing" in wait_for_line(worker, number.name)
    assert worker.wait(timeout=30) == 0
    worker.communicate()
    waiting.communicate(timeout=30)
    assert waiting.returncode == 0
    assert backlog.states([job_id]) == ["completed"]


def test_a_second_signal_hands_jobs_back_at_once(
    program: Program, application: Path, run: Run, backlog: Backlog
) -> None:
    worker = program.start("worker", "--log-level", "debug", "--drain-timeout", "1h")
    wait_for_line(worker, "worker starts")
    waiting = program.start("enqueue", "endless", "--app", "tasks", "--wait")
    wait_for_line(waiting, "running")
    worker.send_signal(signal.SIGTERM)
    assert "finishing 1 job" in wait_for_line(worker, "SIGTERM")
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(timeout=30) == 130
    worker.communicate()
    assert waiting.stdout is not None
    job_id = waiting.stdout.readline().strip()
    waiting.kill()
    waiting.communicate()
    assert backlog.states([job_id]) == ["queued"]
    assert run("jobs", "show", job_id).json["failures"] == 0


def test_several_processes_share_the_work_and_end_together(
    program: Program, application: Path, run: Run, backlog: Backlog
) -> None:
    text = '{"name": "Ada"}\n' * 20
    ids = run("enqueue", "greet", "-", "--app", "tasks", input=text).lines
    done = program("worker", "--processes", "2", "--burst")
    assert done.code == 0
    assert set(backlog.states(ids)) == {"completed"}
    started = [line for line in logged(done) if line["message"] == "worker starts"]
    assert len({line["pid"] for line in started}) == 2


def test_a_supervised_worker_that_cannot_run_ends_them_all(program: Program) -> None:
    done = program("worker", "--processes", "2", "--app", "missing")
    assert done.code != 0
    assert "no module missing" in done.err


def test_reload_restarts_the_worker_when_a_file_changes(
    program: Program, application: Path
) -> None:
    worker = program.start("worker", "--reload")
    wait_for_line(worker, "worker starts")
    application.write_text(application.read_text() + "\n# changed\n")
    wait_for_line(worker, "restarting the workers")
    wait_for_line(worker, "worker starts")
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(timeout=30) == 0
    worker.communicate()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--queues", "a b"], "queue"),
        (["--queues", "high:0"], "above 0"),
        (["--drain-timeout", "-1"], "negative"),
        (["--drain-timeout", "soon"], "span of time"),
        (["--log-level", "loud"], "loud"),
    ],
)
def test_wrong_options_end_the_worker_before_it_starts(
    words: list[str], told: str, program: Program, application: Path
) -> None:
    done = program("worker", *words)
    assert done.code == 2
    assert told in done.err
    assert "worker starts" not in done.err


def test_logs_have_the_jobs_name_and_never_its_payload(
    program: Program, application: Path, run: Run
) -> None:
    code = "\n\nimport logging\n\n@bus.job\nasync def chatty(text: str) -> None:\n"
    code += "    logging.getLogger('mine').warning('two\\nlines \\x1b[31m ' + 'x' * 5000)\n"
    application.write_text(application.read_text() + code)
    payload = '{"text": "canary-payload"}'
    (job_id,) = run("enqueue", "chatty", payload, "--app", "tasks").lines
    done = program("worker", "--burst", "--log-level", "debug")
    assert "canary" not in done.err
    (line,) = [line for line in logged(done) if line["logger"] == "mine"]
    assert (line["job_id"], line["job_type"], line["attempt"]) == (job_id, "chatty", 1)
    assert str(line["message"]).startswith("two\nlines")
    assert len(str(line["message"])) <= 2048
    assert "\x1b" not in done.err
