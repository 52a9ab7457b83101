"""Where settings are read from, which place wins, and how each value's place is told."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Mapping
from pathlib import Path

import pytest

from jobbus.errors import ConfigurationError
from jobbus.settings import (
    AwsSqsSettings,
    PostgresSettings,
    Settings,
    SqliteSettings,
    load_settings,
)
from tests.settings.conftest import Load

S2_SECTION = {
    "Mode": "MessageQueue",
    "Provider": "AwsSqs",
    "MaxConcurrentJobs": 10,
    "PollIntervalSeconds": 5,
    "JobTimeoutMinutes": 30,
    "VisibilityTimeoutSeconds": 1800,
    "MaxRetries": 3,
    "EnableIdempotency": True,
    "IdempotencyTtlDays": 7,
    "AwsSqs": {
        "QueueUrl": "https://sqs.us-west-2.example/123456789012/jobs",
        "DeadLetterQueueUrl": "https://sqs.us-west-2.example/123456789012/jobs-dlq",
        "Region": "us-west-2",
        "WaitTimeSeconds": 20,
        "MaxNumberOfMessages": 10,
        "UseFifoQueue": False,
    },
}


def test_with_nothing_set_the_jobs_are_in_a_file_in_the_working_directory(load: Load) -> None:
    settings = load()
    assert settings.provider == "sqlite"
    assert settings.sqlite == SqliteSettings(path="jobbus.db", synchronous="FULL")
    assert settings.postgres == PostgresSettings()
    assert set(settings.sources.values()) == {"default"}
    assert settings.notes == ()


def test_the_section_of_s2_loads_as_it_is(load: Load) -> None:
    text = json.dumps({"Logging": {"LogLevel": "Debug"}, "BackgroundJobs": S2_SECTION})
    settings = load(files={"appsettings.json": text})
    assert (settings.provider, settings.mode) == ("aws_sqs", "message_queue")
    assert settings.job_timeout.total_seconds() == settings.lease.total_seconds() == 1800
    assert settings.max_attempts == 4
    assert settings.aws_sqs == AwsSqsSettings(
        queue_url="https://sqs.us-west-2.example/123456789012/jobs",
        dead_letter_queue_url="https://sqs.us-west-2.example/123456789012/jobs-dlq",
        region="us-west-2",
        wait_time_seconds=20,
        max_number_of_messages=10,
        use_fifo_queue=False,
    )
    assert settings.sources["aws_sqs.region"] == "appsettings.json"
    assert any("visibility_timeout_seconds is 1800" in note for note in settings.notes)


PLACES = ("explicit", "environment", "jobbus.toml", "pyproject", "staged", "appsettings", "profile")


def everything_from(place: str) -> dict[str, Mapping[str, str]]:
    """Surroundings in which ``place`` and all weaker ones say max_concurrent_jobs, differently."""
    environ = {"DOTNET_ENVIRONMENT": "Production", "BACKGROUND_JOBS__PROFILE": "desktop"}
    files = {}
    given = PLACES[PLACES.index(place) :]
    if "environment" in given:
        environ["BACKGROUND_JOBS__MAX_CONCURRENT_JOBS"] = "20"
    if "jobbus.toml" in given:
        files["jobbus.toml"] = "max_concurrent_jobs = 30"
    if "pyproject" in given:
        files["pyproject.toml"] = "[tool.jobbus]\nmax-concurrent-jobs = 40"
    if "staged" in given:
        files["appsettings.Production.json"] = '{"BackgroundJobs": {"MaxConcurrentJobs": 50}}'
    if "appsettings" in given:
        files["appsettings.json"] = '{"BackgroundJobs": {"MaxConcurrentJobs": 60}}'
    return {"environ": environ, "files": files}


@pytest.mark.parametrize(
    ("place", "value", "source"),
    [
        ("explicit", 11, "explicit"),
        ("environment", 20, "environment BACKGROUND_JOBS__MAX_CONCURRENT_JOBS"),
        ("jobbus.toml", 30, "jobbus.toml"),
        ("pyproject", 40, "pyproject.toml [tool.jobbus]"),
        ("staged", 50, "appsettings.Production.json"),
        ("appsettings", 60, "appsettings.json"),
        ("profile", 2, "profile desktop"),
    ],
)
def test_the_stronger_place_wins_and_is_named(
    load: Load, place: str, value: int, source: str
) -> None:
    overrides = {"max_concurrent_jobs": 11} if place == "explicit" else {}
    settings = load(overrides, **everything_from(place))
    assert settings.max_concurrent_jobs == value
    assert settings.sources["max_concurrent_jobs"] == source


@pytest.mark.parametrize(
    "environ",
    [
        {"DOTNET_ENVIRONMENT": "Staging"},
        {"ASPNETCORE_ENVIRONMENT": "Staging"},
        {"DOTNET_ENVIRONMENT": "Staging", "ASPNETCORE_ENVIRONMENT": "Other"},
    ],
)
def test_the_stage_s_file_is_laid_over_the_common_one(
    load: Load, environ: Mapping[str, str]
) -> None:
    files = {
        "appsettings.json": '{"BackgroundJobs": {"MaxRetries": 1, "Sqlite": {"Path": "a.db"}}}',
        "appsettings.Staging.json": '{"backgroundJobs": {"Sqlite": {"Synchronous": "normal"}}}',
        "appsettings.Other.json": '{"BackgroundJobs": {"MaxRetries": 9}}',
    }
    settings = load(environ=environ, files=files)
    assert settings.max_retries == 1
    assert settings.sqlite == SqliteSettings(path="a.db", synchronous="NORMAL")
    assert settings.sources["sqlite.path"] == "appsettings.json"
    assert settings.sources["sqlite.synchronous"] == "appsettings.Staging.json"


def test_a_stage_s_name_cannot_lead_out_of_the_directory(load: Load, tmp_path: Path) -> None:
    (tmp_path / "appsettings.x").mkdir()
    outside = tmp_path / "outside.json"
    outside.write_text('{"BackgroundJobs": {"MaxRetries": 9}}')
    assert load(environ={"DOTNET_ENVIRONMENT": "x/../outside"}).max_retries is None


def test_a_dotnet_file_may_have_comments_trailing_commas_and_a_byte_order_mark(load: Load) -> None:
    text = """\ufeff{
      // where the jobs are: "not here"
      "BackgroundJobs": {
        "Sqlite": { "Path": "a//b /* c */,}.db", }, /* two
        lines */
        "MaxRetries": 2,
      },
    }"""
    settings = load(files={"appsettings.json": text})
    assert (settings.sqlite.path, settings.max_retries) == ("a//b /* c */,}.db", 2)


def test_an_option_s_parts_may_come_from_different_places(load: Load) -> None:
    settings = load(
        environ={"BACKGROUND_JOBS__AWSSQS__QUEUEURL": "https://stronger"},
        files={"jobbus.toml": "[aws_sqs]\nqueue_url = 'https://weaker'\nregion = 'us-west-2'"},
    )
    options = settings.aws_sqs
    assert (options.queue_url, options.region) == ("https://stronger", "us-west-2")
    assert settings.sources["aws_sqs.region"] == "jobbus.toml"


def test_options_without_known_words_are_found_under_every_spelling(load: Load) -> None:
    settings = load(
        environ={"BACKGROUND_JOBS__RABBITMQ__PREFETCHCOUNT": "20"},
        files={"jobbus.toml": "[rabbitmq]\nprefetch_count = 10\nexchange = 'jobs'"},
    )
    options = settings.provider_options("RabbitMq")
    assert options["prefetch_count"] == options["PrefetchCount"] == "20"
    assert "prefetch-count" in options
    assert "other" not in options
    assert len(options) == 2
    assert settings.provider_options("redis") == {}


@pytest.mark.parametrize("absent", ["", "   "])
def test_an_empty_variable_is_the_same_as_none(load: Load, absent: str) -> None:
    assert (
        load(environ={"BACKGROUND_JOBS__MAX_RETRIES": absent, "JOBBUS_BACKEND": absent}) == load()
    )


def test_none_and_null_are_the_same_as_not_given(load: Load) -> None:
    text = '{"BackgroundJobs": {"MaxRetries": null, "Sqlite": {"Path": null}}}'
    settings = load({"max_retries": None, "app": None}, files={"appsettings.json": text})
    assert settings == load(files={"appsettings.json": "{}"})


def test_two_spellings_in_one_place_may_agree(load: Load) -> None:
    twice = {"BACKGROUND_JOBS__PROVIDER": "AwsSqs", "JOBBUS__PROVIDER": "aws_sqs"}
    assert load(environ=twice).provider == "aws_sqs"


@pytest.mark.parametrize(
    "environ",
    [
        {"BACKGROUND_JOBS__MAX_RETRIES": "1", "JOBBUS__MAXRETRIES": "2"},
        {"BACKGROUND_JOBS__MAX_RETRIES": "1", "JOBBUS_MAX_ATTEMPTS": "3"},
        {"BACKGROUND_JOBS__PROVIDER": "redis", "JOBBUS_BACKEND": "sqlite:///x.db"},
        {"JOBBUS_BACKEND": "sqlite:///x.db", "JOBBUS_SQLITE_PATH": "y.db"},
    ],
)
def test_two_spellings_in_one_place_may_not_differ(load: Load, environ: Mapping[str, str]) -> None:
    with pytest.raises(ConfigurationError, match="is given twice, and differently") as caught:
        load(environ=environ)
    assert all(f"environment {name}" in str(caught.value) for name in environ)


@pytest.mark.parametrize(
    ("name", "text", "complaint"),
    [
        ("jobbus.toml", "max_retries =", "jobbus.toml is not valid TOML"),
        ("pyproject.toml", "[tool", "pyproject.toml is not valid TOML"),
        ("pyproject.toml", "tool.jobbus = 3", r"\[tool.jobbus\] must be a table of settings"),
        ("appsettings.json", "{", "appsettings.json is not valid JSON"),
        ("appsettings.json", "[]", "must hold a JSON object"),
        ("appsettings.json", '{"BackgroundJobs": 3}', "must be an object, not 3"),
    ],
)
def test_a_file_that_cannot_be_understood_is_named(
    load: Load, name: str, text: str, complaint: str
) -> None:
    with pytest.raises(ConfigurationError, match=complaint):
        load(files={name: text})


def test_a_file_that_cannot_be_read_is_named(load: Load, tmp_path: Path) -> None:
    (tmp_path / "jobbus.toml").mkdir()
    with pytest.raises(ConfigurationError, match=r"jobbus.toml cannot be read"):
        load()


def test_a_file_in_another_encoding_is_named(load: Load, tmp_path: Path) -> None:
    (tmp_path / "jobbus.toml").write_bytes(b"app = '\xff'")
    with pytest.raises(ConfigurationError, match=r"jobbus.toml cannot be read"):
        load()


def test_a_pyproject_without_our_table_says_nothing(load: Load) -> None:
    assert load(files={"pyproject.toml": "[project]\nname = 'x'\n[tool.ruff]\n"}) == load()


def test_settings_made_in_code_read_the_process_s_own_surroundings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in os.environ:
        if name.upper().startswith(("JOBBUS", "BACKGROUND_JOBS")):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BACKGROUND_JOBS__MAX_RETRIES", "8")
    (tmp_path / "jobbus.toml").write_text("processes = 2")
    settings = Settings(max_concurrent_jobs=3, sqlite=SqliteSettings(path="x.db"))
    assert (settings.max_concurrent_jobs, settings.max_retries, settings.processes) == (3, 8, 2)
    assert settings.sqlite.path == "x.db"
    assert settings == load_settings(
        {"max_concurrent_jobs": 3, "sqlite": SqliteSettings(path="x.db")}
    )


def test_settings_cannot_be_changed_and_travel_to_other_processes(load: Load) -> None:
    settings = load({"aws_sqs": {"region": "x"}, "max_retries": 2})
    with pytest.raises(ValueError, match="frozen"):
        settings.max_retries = 3
    with pytest.raises(AttributeError):
        settings.sqlite.path = "y.db"  # type: ignore[misc]
    again = pickle.loads(pickle.dumps(settings))  # noqa: S301 - our own bytes
    assert again == settings
    assert again.table() == settings.table()
