"""Every spelling of a setting is that setting, and a typo is told."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from jobbus.errors import ConfigurationError
from jobbus.settings.names import ALIASES, OPTIONS, known_provider
from tests.settings.conftest import Load


@pytest.mark.parametrize(
    ("spelling", "provider"),
    [
        ("AwsSqs", "aws_sqs"),
        ("AWS_SQS", "aws_sqs"),
        ("aws-sqs", "aws_sqs"),
        ("awssqs", "aws_sqs"),
        ("sqs", "aws_sqs"),
        ("RabbitMq", "rabbitmq"),
        ("RABBIT_MQ", "rabbitmq"),
        ("AzureServiceBus", "azure_service_bus"),
        ("service-bus", "azure_service_bus"),
        ("Redis", "redis"),
        ("SQLite", "sqlite"),
        ("Memory", "memory"),
    ],
)
def test_a_provider_is_found_under_every_spelling(load: Load, spelling: str, provider: str) -> None:
    assert load({"provider": spelling}).provider == provider


@pytest.mark.parametrize("spelling", ["Postgres", "PostgreSQL", "POSTGRES"])
def test_postgres_is_found_under_every_spelling(load: Load, spelling: str) -> None:
    assert load({"provider": spelling, "postgres.url": "postgresql://"}).provider == "postgres"


@pytest.mark.parametrize(
    "variable",
    [
        "BACKGROUND_JOBS__MAX_CONCURRENT_JOBS",
        "BACKGROUND_JOBS__MAXCONCURRENTJOBS",
        "BACKGROUND_JOBS__MaxConcurrentJobs",
        "BackgroundJobs__MaxConcurrentJobs",
        "BACKGROUNDJOBS__MAXCONCURRENTJOBS",
        "JOBBUS__MAX_CONCURRENT_JOBS",
        "JOBBUS_MAX_CONCURRENT_JOBS",
        "jobbus__maxconcurrentjobs",
        "JOBBUS_CONCURRENCY",
    ],
)
def test_a_variable_is_found_under_every_spelling(load: Load, variable: str) -> None:
    settings = load(environ={variable: "7"})
    assert settings.max_concurrent_jobs == 7
    assert settings.sources["max_concurrent_jobs"] == f"environment {variable}"


@pytest.mark.parametrize(
    "variable",
    [
        "BACKGROUND_JOBS__AWSSQS__QUEUEURL",
        "BACKGROUND_JOBS__AWS_SQS__QUEUE_URL",
        "BACKGROUND_JOBS__AwsSqs__QueueUrl",
        "JOBBUS__SQS__QUEUE_URL",
        "JOBBUS_AWS_SQS_QUEUE_URL",
    ],
)
def test_a_provider_s_option_is_found_under_every_spelling(load: Load, variable: str) -> None:
    settings = load(environ={variable: "https://queue.example/jobs"})
    assert settings.aws_sqs.queue_url == "https://queue.example/jobs"
    assert settings.sources["aws_sqs.queue_url"] == f"environment {variable}"


@pytest.mark.parametrize(
    "overrides",
    [
        {"sqlite": {"path": "x.db"}},
        {"Sqlite": {"Path": "x.db"}},
        {"sqlite.path": "x.db"},
        {"sqlite__path": "x.db"},
        {"SQLite:Path": "x.db"},
        {"backend": "sqlite:///x.db"},
    ],
)
def test_a_grouped_override_is_found_under_every_spelling(
    load: Load, overrides: Mapping[str, object]
) -> None:
    settings = load(overrides)
    assert settings.sqlite.path == "x.db"
    assert settings.sources["sqlite.path"] == "explicit"


@pytest.mark.parametrize("variable", ["JOBBUS_SQLITE_PATH", "JOBBUS_SQLITE__PATH"])
def test_a_group_s_variable_needs_no_double_underscore(load: Load, variable: str) -> None:
    assert load(environ={variable: "x.db"}).sqlite.path == "x.db"


@pytest.mark.parametrize(
    ("name", "value", "key", "expected"),
    [
        ("PollingIntervalSeconds", 3, "poll_interval_seconds", 3),
        ("JobHistoryRetentionDays", 2, "job_history_retention_days", 2),
        ("FailedJobRetentionDays", 9, "failed_job_retention_days", 9),
        ("removeOnComplete", 10, "job_history_retention_count", 10),
        ("REMOVE_ON_FAIL", "50", "failed_job_retention_count", 50),
        ("removeOnComplete", True, "job_history_retention_count", 0),
        ("removeOnFail", False, "failed_job_retention_count", None),
        ("RetryBaseDelaySeconds", 4, "retry_base_delay_seconds", 4),
        ("RetryMaxDelaySeconds", 200, "retry_max_delay_seconds", 200),
        ("PauseOnBattery", True, "pause_on_battery", True),
        ("CpuThrottleThreshold", 70, "cpu_throttle_threshold", 70),
        ("MemoryThrottleThreshold", 70, "memory_throttle_threshold", 70),
        ("EnableNotifications", False, "event_log", "never"),
        ("enableNotifications", "true", "event_log", "watched"),
        ("maxConcurrentJobs", 10, "max_concurrent_jobs", 10),
        ("defaultTimeout", 300, "job_timeout_minutes", 5),
        ("retryDelay", 5000, "retry_base_delay_seconds", 5),
        ("progressUpdateInterval", 1000, "progress_update_interval_seconds", 1),
        ("cleanupInterval", 60000, "cleanup_interval_seconds", 60),
        ("maxWorkers", 4, "processes", 4),
        ("workerTimeout", "300000", "job_timeout_minutes", 5),
        ("maxAttempts", 5, "max_retries", 4),
        ("lease_seconds", 30, "visibility_timeout_seconds", 30),
    ],
)
def test_the_source_systems_own_names_and_units_are_understood(
    load: Load, name: str, value: object, key: str, expected: object
) -> None:
    assert getattr(load({name: value}), key) == expected


@pytest.mark.parametrize("name", ["IsEnabled", "restartWorkers"])
def test_a_switch_that_is_always_on_may_be_said_to_be_on_and_not_off(load: Load, name: str) -> None:
    assert load({name: True}) == load()
    with pytest.raises(ConfigurationError, match="can only be true"):
        load({name: False})


@pytest.mark.parametrize(
    ("environ", "meant"),
    [
        (
            {"BACKGROUND_JOBS__MAX_CONCURENT_JOBS": "4"},
            "environment BACKGROUND_JOBS__MAX_CONCURENT_JOBS is no setting of jobbus; "
            "did you mean BACKGROUND_JOBS__MAX_CONCURRENT_JOBS?",
        ),
        (
            {"BACKGROUND_JOBS__SQLITE__SINCHRONOUS": "FULL"},
            "did you mean BACKGROUND_JOBS__SQLITE__SYNCHRONOUS?",
        ),
        ({"BACKGROUND_JOBS__SQLLITE__PATH": "x"}, "did you mean BACKGROUND_JOBS__SQLITE__PATH?"),
        ({"BACKGROUND_JOBS__SQLITE_PATH": "x"}, "did you mean BACKGROUND_JOBS__SQLITE__PATH?"),
        ({"JOBBUS_MAX_CONCURENT_JOBS": "4"}, "did you mean BACKGROUND_JOBS__MAX_CONCURRENT_JOBS?"),
        ({"BACKGROUND_JOBS__ZZZZZZ": "4"}, "environment BACKGROUND_JOBS__ZZZZZZ is no setting"),
    ],
)
def test_an_unknown_variable_is_refused_with_the_name_that_was_meant(
    load: Load, environ: Mapping[str, str], meant: str
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load(environ=environ)
    assert meant in str(caught.value)


@pytest.mark.parametrize(
    ("name", "text", "meant"),
    [
        (
            "jobbus.toml",
            "max_retrys = 2",
            "'max_retrys' (from jobbus.toml) is no setting of jobbus; did you mean max_retries?",
        ),
        ("jobbus.toml", "[postgres]\npool_size = 2", "did you mean postgres.pool_max_size?"),
        ("jobbus.toml", "[sqllite]\npath = 'x'", "did you mean sqlite.path?"),
        ("jobbus.toml", "[sqllite]", "'sqllite' (from jobbus.toml) is no setting"),
        (
            "pyproject.toml",
            "[tool.jobbus]\npriority_ordr = 1",
            "(from pyproject.toml [tool.jobbus]) is no setting of jobbus; did you mean "
            "priority_order?",
        ),
        (
            "appsettings.json",
            '{"BackgroundJobs": {"MaxConcurentJobs": 3}}',
            "'MaxConcurentJobs' (from appsettings.json) is no setting of jobbus; did you mean "
            "MaxConcurrentJobs?",
        ),
    ],
)
def test_an_unknown_name_in_a_file_is_refused_with_the_name_that_was_meant(
    load: Load, name: str, text: str, meant: str
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load(files={name: text})
    assert meant in str(caught.value)


def test_the_model_s_own_bookkeeping_is_no_setting(load: Load) -> None:
    for name in ("origins", "backend_options", "surroundings"):
        with pytest.raises(ConfigurationError, match="is no setting"):
            load(files={"jobbus.toml": f"{name} = 1"})


def test_variables_of_other_programs_are_left_alone(load: Load) -> None:
    others = {"JOBBUS_TEST_REQUIRE": "all", "JOBBUS_TOKEN": "x", "JOBS__X": "1", "BACKGROUND": "1"}
    assert load(environ=others) == load()


def test_every_alias_names_a_setting_that_exists(load: Load) -> None:
    keys = set(load().sources)
    assert {alias.key for alias in ALIASES.values()} <= keys
    assert all(known_provider(provider) == provider for provider in OPTIONS)


def test_s1_s_own_retention_is_understood_in_the_environment_and_in_appsettings(load: Load) -> None:
    told = '{"BackgroundJobs": {"RemoveOnComplete": 10, "RemoveOnFail": 50}}'
    for settings in (
        load(files={"appsettings.json": told}),
        load(
            environ={
                "BACKGROUND_JOBS__REMOVEONCOMPLETE": "10",
                "BACKGROUND_JOBS__REMOVE_ON_FAIL": "50",
            }
        ),
    ):
        kept = (settings.job_history_retention_count, settings.failed_job_retention_count)
        assert kept == (10, 50)
        assert settings.job_history_retention_bytes is None


def test_a_stronger_place_can_take_a_limit_back(load: Load) -> None:
    files = {"jobbus.toml": "job_history_retention_count = 10"}
    environ = {"BACKGROUND_JOBS__REMOVE_ON_COMPLETE": "false"}
    assert load(files=files).job_history_retention_count == 10
    assert load(files=files, environ=environ).job_history_retention_count is None
