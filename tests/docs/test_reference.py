"""The reference pages tell of what there is: all of it, and no more."""

from __future__ import annotations

import inspect
import re
import sqlite3
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from jobbus import errors
from jobbus.job import EventType, JobState
from jobbus.settings import load_settings, names
from tests.docs.command_line import SHARED, leaves
from tests.docs.pages import DOCS, ROOT, blocks, pages, plain, prose, table

REFERENCE = DOCS / "reference"
SOURCE = ROOT / "src/jobbus"
SETTINGS = table(REFERENCE / "settings.md", "All of them")
SQS_ADDRESSES = ("queue_url", "dead_letter_queue_url", "endpoint_url")
COMMANDS = {leaf.name: leaf for leaf in leaves()}
FILTERS = {"--type", "--queue", "--parent", "--tag", "--group", "--since", "--before"}


def defaults() -> list[tuple[str, str]]:
    settings = load_settings({}, environ={}, directory=Path("/"))
    return [(key, value) for key, value, _ in settings.table()]


def test_the_settings_and_their_defaults_are_those_of_the_model() -> None:
    assert [(plain(row[0]), plain(row[1])) for row in SETTINGS] == defaults()


@pytest.mark.parametrize("key", [key for key, _ in defaults()])
def test_a_setting_is_read_from_the_variable_that_is_printed(key: str) -> None:
    samples = {"mode": "polling", "provider": "memory", "app": "a:b", "profile": "server"}
    samples |= {"postgres.url": "postgresql:///x", "postgres.schema": "x", "ledger": "none"}
    samples |= {"idempotency_redis_url": "redis://x"}
    samples |= {"postgres.url": "postgresql:///x", "postgres.schema": "x"}
    samples |= {f"aws_sqs.{name}": "https://x/y" for name in SQS_ADDRESSES}
    values = dict(defaults())
    value = samples.get(key) or values[key] or "1"
    variable = names.environment_name(key)
    settings = load_settings({}, environ={variable: value}, directory=Path("/"))
    assert settings.sources[key] == f"environment {variable}"


@pytest.mark.parametrize(
    "key", [plain(row[0]) for row in SETTINGS if row[3].startswith("no effect")]
)
def test_a_setting_that_is_said_to_have_no_effect_is_read_nowhere(key: str) -> None:
    word = re.compile(rf"\.{key}\b")
    readers = [
        path.relative_to(SOURCE)
        for path in SOURCE.rglob("*.py")
        if "settings" not in path.parts and word.search(path.read_text(encoding="utf-8"))
    ]
    assert not readers


def test_every_error_and_its_exit_code_are_printed() -> None:
    own = {
        name: kind
        for name, kind in vars(errors).items()
        if inspect.isclass(kind) and issubclass(kind, errors.JobbusError)
    }
    page = (REFERENCE / "errors.md").read_text(encoding="utf-8")
    assert {name for name in own if not re.search(rf"\b{name}\b", page)} == set()
    printed = {plain(row[0]): int(row[1]) for row in table(REFERENCE / "errors.md", "Exit codes")}
    assert printed == {
        name: kind.exit_code for name, kind in own.items() if "exit_code" in vars(kind)
    }


def test_every_signal_is_printed() -> None:
    own = {kind.__name__ for kind in _below(errors.Signal)}
    assert {plain(row[0]) for row in table(REFERENCE / "errors.md", "Signals")} == own


def _below(kind: type[Any]) -> Iterator[type[Any]]:
    for each in kind.__subclasses__():
        if each.__module__ == errors.__name__:
            yield each
            yield from _below(each)


def test_every_state_and_event_is_printed() -> None:
    page = REFERENCE / "events-and-states.md"
    assert [plain(row[0]) for row in table(page, "States")] == list(JobState)
    assert [plain(row[0]) for row in table(page, "Events")] == list(EventType)


def test_the_printed_commands_are_those_of_the_command_line() -> None:
    printed = {_name(row[0]) for row in table(REFERENCE / "cli.md", "Commands")}
    assert printed == set(COMMANDS)


@pytest.mark.parametrize(
    "row", table(REFERENCE / "cli.md", "Commands"), ids=lambda row: _name(row[0])
)
def test_the_printed_options_are_those_of_the_command(row: list[str]) -> None:
    leaf = COMMANDS[_name(row[0])]
    printed = set(re.findall(r"--[\w-]+", row[1]))
    printed |= FILTERS if "*filters*" in row[1] else set()
    printed |= {"--state"} if "*states*" in row[1] else set()
    long = {option for option in leaf.options if option.startswith("--")}
    assert printed | SHARED >= long
    assert printed <= long
    assert leaf.takes_arguments == bool(re.search(r"[A-Z]{2}", row[0]))


def _name(cell: str) -> str:
    words = plain(cell).split()
    return " ".join(word for word in words if word.islower())


_AT_A_SHELL = re.compile(r"(?:^|\$ |\$\(|[&|;] |bin/)jobbus ([^|>#$)&;]*)")
_IN_PROSE = re.compile(r"`jobbus ([a-z][^`]*)`")


def commands_in(page: Path) -> Iterator[str]:
    """What stands behind ``jobbus`` wherever a page has somebody type it."""
    for block in blocks(page):
        if block.language in {"console", "sh"}:
            for line in block.text.replace("\\\n", " ").splitlines():
                if block.language == "sh" or line.startswith(("$ ", "# ")):
                    yield from _AT_A_SHELL.findall(line)
    yield from _IN_PROSE.findall("\n".join(prose(page)))


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_a_command_in_the_documentation_exists_with_its_options(page: Path) -> None:
    for line in commands_in(page):
        words = line.split()
        leaf = COMMANDS.get(" ".join(words[:2])) or COMMANDS.get(words[0])
        if leaf is None:
            assert any(name.startswith(f"{words[0]} ") for name in COMMANDS), line
            continue
        options = {word.partition("=")[0] for word in words if re.match(r"--?[a-z]", word)}
        assert options <= leaf.options | SHARED, line


def test_the_printed_tables_are_those_of_the_schema() -> None:
    assert _printed_tables() == _tables_of("sqlite")


def _printed_tables() -> Mapping[str, list[str]]:
    page = REFERENCE / "schema.md"
    names_ = [plain(row[0]) for row in table(page, "Tables")]
    return {
        name: [plain(each) for row in table(page, f"`{name}`") for each in row[0].split(", ")]
        for name in names_
    }


def _tables_of(dialect: str) -> Mapping[str, list[str]]:
    database = sqlite3.connect(":memory:")
    for path in sorted((ROOT / "migrations" / dialect).glob("*.up.sql")):
        database.executescript(path.read_text(encoding="utf-8"))
    found = {
        name: [row[1] for row in database.execute(f"PRAGMA table_info({name})")]
        for (name,) in database.execute(
            "SELECT name FROM sqlite_master WHERE type = 'table' AND name LIKE 'background%'"
        )
    }
    database.close()
    # The one table that is no migration's: it keeps account of them.
    return {**found, "background_job_migrations": ["version", "name", "checksum"]}


def test_both_dialects_have_the_same_tables_and_columns() -> None:
    text = "".join(
        path.read_text(encoding="utf-8")
        for path in sorted((ROOT / "migrations/postgres").glob("*.up.sql"))
    )
    found = {}
    for name, body in re.findall(r"CREATE TABLE (\w+) \((.*?)\n\)", text, re.DOTALL):
        found[name] = re.findall(r"^    ([a-z_]+) ", body, re.MULTILINE)
    assert found == {
        name: columns
        for name, columns in _tables_of("sqlite").items()
        if name != "background_job_migrations"
    }
