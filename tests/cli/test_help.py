"""``jobbus --help``: complete, quick, and loading nothing that commands need."""

from __future__ import annotations

import subprocess
import sys

import pytest
from typer.testing import CliRunner

from jobbus.cli.root import COMMANDS, app
from tests.cli.commands import Program
from tests.cli.conftest import Run

HEAVY = {
    "pydantic", "pydantic_core", "pydantic_settings", "sqlalchemy", "rich", "psycopg", "sqlite3",
    "asyncio", "opentelemetry", "jobbus.bus", "jobbus.settings", "jobbus.backends", "jobbus.worker",
}  # fmt: skip


def modules_after(program: Program, *words: str) -> set[str]:
    code = (
        "import sys\nfrom jobbus.cli import main\n"
        f"sys.argv = ['jobbus', *{list(words)!r}]\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "print('\\n'.join(sys.modules), file=sys.stderr)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=program.directory,
        env=program.surroundings(),
        check=True,
    )
    return set(done.stderr.split())


def test_help_loads_no_backend_and_no_library(program: Program) -> None:
    assert not HEAVY & modules_after(program, "--help")


def test_help_of_a_command_loads_no_backend(program: Program) -> None:
    loaded = modules_after(program, "jobs", "ls", "--help")
    assert not loaded & (HEAVY - {"pydantic", "pydantic_core", "asyncio"})


def test_help_lists_every_command_and_the_exit_codes(program: Program) -> None:
    done = program("--help")
    assert done.code == 0
    for name, entry in COMMANDS.items():
        assert f"  {name}" in done.out
        assert entry.help in done.out
    assert "130 interrupted" in done.out


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself(name: str, run: Run) -> None:
    done = run(name, "--help")
    assert done.code == 0
    assert done.out.startswith(f"Usage: jobbus {name}")


def test_every_command_on_a_store_takes_the_shared_options(run: Run) -> None:
    for words in (["jobs", "ls"], ["queues", "ls"], ["dlq", "ls"], ["enqueue"], ["doctor"]):
        out = run(*words, "--help").out
        for option in ("--backend", "--app", "--output", "--no-color", "--debug"):
            assert option in out, (words, option)


def test_an_unknown_command_is_answered_with_the_nearest(run: Run) -> None:
    done = run("jbos")
    assert done.code == 2
    assert "did you mean jobs?" in done.err
    nested = run("queues", "puase", "default")
    assert nested.code == 2
    assert "did you mean pause?" in nested.err


def test_an_unknown_option_names_the_possible_ones(run: Run) -> None:
    done = run("jobs", "ls", "--stat", "dead")
    assert done.code == 2
    assert "--state" in done.err
    assert "Traceback" not in done.err


@pytest.mark.parametrize(
    "words",
    [
        ["enqueue"],
        ["jobs", "show"],
        ["jobs", "ls", "--limit", "0"],
        ["jobs", "ls", "--limit", "201"],
        ["jobs", "ls", "--limit", "x"],
        ["jobs", "ls", "-o", "xml"],
        ["recover", "--minutes", "-1"],
        ["recover", "--minutes", "nan"],
        ["migrate", "up", "--to", "-1"],
        ["worker", "--processes", "0"],
        ["worker", "--concurrency", "0"],
        ["bench", "--jobs", "0"],
    ],
)
def test_wrong_arguments_are_usage_errors(words: list[str], run: Run) -> None:
    done = run(*words)
    assert done.code == 2
    assert done.err.startswith("error: ")
    assert "Traceback" not in done.err


def test_without_a_command_the_help_is_shown(run: Run) -> None:
    done = run()
    assert (done.code, done.err) == (0, "")
    assert "Usage: jobbus" in done.out
    assert "Usage: jobbus queues" in run("queues").out


def test_the_version_is_an_option_and_a_command(run: Run) -> None:
    import jobbus

    assert run("--version").out == f"jobbus {jobbus.__version__}\n"
    assert run("version").json["version"] == jobbus.__version__
    assert run("version", "-o", "id").lines == [jobbus.__version__]


def test_shared_options_count_before_and_after_the_command(run: Run) -> None:
    for words in (
        ["--backend", "memory", "jobs", "ls", "-o", "ndjson"],
        ["-o", "ndjson", "jobs", "ls", "--backend", "memory"],
        ["-o", "id", "--backend", "wrong", "jobs", "ls", "-o", "ndjson", "--backend", "memory"],
    ):
        done = run(*words)
        assert (done.code, done.out) == (0, "")


def test_completion_knows_the_commands() -> None:
    environment = {
        "_JOBBUS_COMPLETE": "complete_bash",
        "COMP_WORDS": "jobbus qu",
        "COMP_CWORD": "1",
    }
    done = CliRunner().invoke(app, [], env=environment)
    assert "queues" in done.output
