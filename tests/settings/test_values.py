"""What values mean, which are refused, and in which words."""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from jobbus.errors import ConfigurationError
from jobbus.retry import PRESETS, Backoff
from jobbus.settings import load_settings
from jobbus.settings.names import ALIASES
from tests.settings.conftest import Load


@pytest.mark.parametrize(
    ("environ", "sentence"),
    [
        (
            {"BACKGROUND_JOBS__MAX_CONCURRENT_JOBS": "ten"},
            "MAX_CONCURRENT_JOBS must be a whole number of at least 1, not 'ten' "
            "(from environment BACKGROUND_JOBS__MAX_CONCURRENT_JOBS)",
        ),
        (
            {"BACKGROUND_JOBS__SQLITE__SYNCHRONOUS": "OFF"},
            "SQLITE__SYNCHRONOUS must be one of FULL, NORMAL, not 'OFF' "
            "(from environment BACKGROUND_JOBS__SQLITE__SYNCHRONOUS)",
        ),
        ({"JOBBUS__ENABLEIDEMPOTENCY": "perhaps"}, "must be true or false, not 'perhaps'"),
        ({"JOBBUS__MODE": "Pulling"}, "MODE must be one of polling, message_queue, not 'Pulling'"),
        ({"JOBBUS__DEFAULTTIMEOUT": "soon"}, "must be a number, not 'soon'"),
    ],
)
def test_a_wrong_value_in_the_environment_is_told_in_the_environment_s_words(
    load: Load, environ: Mapping[str, str], sentence: str
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load(environ=environ)
    assert sentence in str(caught.value)


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        ({"max_concurrent_jobs": 0}, "max_concurrent_jobs must be a whole number of at least 1"),
        ({"max_concurrent_jobs": True}, "must be a whole number of at least 1, not True"),
        ({"max_concurrent_jobs": 2.5}, "must be a whole number of at least 1, not 2.5"),
        ({"processes": 2000}, "must be a whole number from 1 to 1024, not 2000"),
        ({"poll_interval_seconds": -1}, "must be a number from 0.01 to 3600, not -1"),
        ({"job_timeout_minutes": "nan"}, "must be a number from 0.001 to 43200, not 'nan'"),
        ({"job_timeout_minutes": float("inf")}, "not inf"),
        ({"job_timeout_minutes": 0}, "not 0"),
        ({"visibility_timeout_seconds": 10**9}, "must be a number from 0.1 to 43200"),
        ({"max_retries": -1}, "must be a whole number from 0 to 10000, not -1"),
        ({"maxAttempts": True}, "'maxAttempts' (given explicitly) must be a number, not True"),
        ({"max_payload_bytes": 2_000_000}, "must be a whole number from 1 to 1048576"),
        (
            {"job_history_retention_count": -1},
            "job_history_retention_count must be a whole number of at least 0, not -1",
        ),
        ({"failed_job_retention_bytes": "1 GB"}, "a whole number of at least 0, not '1 GB'"),
        ({"removeOnComplete": 2.5}, "must be a whole number of at least 0, not 2.5"),
        ({"queues": ""}, "queues must be one or more names with commas in between"),
        ({"queues": "a b"}, "queues must be names of 1 to 64 letters, digits"),
        ({"queues": 5}, "queues must be one or more names with commas in between, not 5"),
        ({"priority_order": "random"}, "must be one of higher_first, lower_first, not 'random'"),
        ({"profile": "phone"}, "must be one of desktop, embedded, server, not 'phone'"),
        ({"retry_preset": "celery"}, "must be one of default, aura, bull"),
        ({"event_log": "sometimes"}, "must be one of watched, always, never"),
        ({"app": "shop.jobs:bus()"}, "must be a module and an attribute such as shop.jobs:bus"),
        ({"sqlite": {"path": ""}}, "sqlite.path must be the path of a file"),
        ({"sqlite": {"path": ":memory:"}}, "set provider to memory"),
        ({"sqlite.path": "a\0b"}, "must be the path of a file"),
        ({"postgres.pool_max_size": 0}, "must be a whole number from 1 to 1000, not 0"),
        ({"postgres.pooler": "session"}, "must be one of auto, none, transaction"),
        ({"postgres.schema": "Jobs"}, "postgres.schema must be 1 to 41 lower-case letters"),
        ({"sqlite": "x.db"}, "did you mean sqlite.path?"),
    ],
)
def test_a_wrong_value_is_told_with_what_would_be_right(
    load: Load, overrides: Mapping[str, object], sentence: str
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load(overrides)
    assert sentence in str(caught.value)


@pytest.mark.parametrize(
    "prefix", ["", "1a", "a-b", "a;drop table x", "A", "a" * 42, "a\n", "ä", 'a"b']
)
def test_a_table_prefix_can_only_be_a_plain_identifier(load: Load, prefix: str) -> None:
    with pytest.raises(ConfigurationError, match=r"table_prefix must be 1 to 41 lower-case"):
        load({"table_prefix": prefix})


@pytest.mark.parametrize("prefix", ["a", "_", "background_job", "a" + "1" * 40])
@pytest.mark.parametrize("key", ["table_prefix", "postgres.table_prefix", "Sqlite.TablePrefix"])
def test_a_plain_identifier_is_a_table_prefix(load: Load, prefix: str, key: str) -> None:
    assert load({key: prefix}).table_prefix == prefix


def test_every_wrong_value_is_told_at_once(load: Load) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load({"max_retries": -1}, {"JOBBUS_PROCESSES": "x"}, {"jobbus.toml": "queues = []"})
    told = str(caught.value).splitlines()
    assert len(told) == 3
    assert "(from jobbus.toml)" in told[0] + told[1] + told[2]


@pytest.mark.parametrize(
    ("queues", "expected"),
    [
        ("default", ("default",)),
        ("high, low,,high", ("high", "low")),
        (["a.b", "c:d"], ("a.b", "c:d")),
    ],
)
def test_queues_are_a_list_or_text_with_commas(
    load: Load, queues: object, expected: tuple[str, ...]
) -> None:
    assert load({"queues": queues}).queues == expected


def test_times_are_told_in_their_own_type(load: Load) -> None:
    settings = load()
    assert settings.job_timeout == timedelta(seconds=300)
    assert settings.lease == timedelta(seconds=60)
    assert settings.poll_interval == timedelta(seconds=5)
    assert settings.drain_timeout == timedelta(seconds=25)
    assert settings.idempotency_ttl == timedelta(days=7)
    assert load({"job_timeout_minutes": "0.5"}).job_timeout == timedelta(seconds=30)


@pytest.mark.parametrize(
    ("overrides", "attempts"),
    [
        ({}, 3),
        ({"max_retries": 0}, 1),
        ({"max_retries": 3}, 4),
        ({"retry_preset": "honua"}, 4),
        ({"retry_preset": "None"}, 1),
        ({"retry_preset": "honua", "max_retries": 1}, 2),
    ],
)
def test_retries_are_one_less_than_attempts(
    load: Load, overrides: Mapping[str, object], attempts: int
) -> None:
    settings = load(overrides)
    assert settings.max_attempts == settings.retry_policy.max_attempts == attempts


def test_a_preset_gives_what_is_not_set_beside_it(load: Load) -> None:
    policy = load({"retry_preset": "CleanCue", "retry_max_delay_seconds": 60}).retry_policy
    assert (policy.backoff, policy.base) == (Backoff.FIXED, timedelta(seconds=5))
    assert policy.cap == timedelta(seconds=60)
    assert load().retry_policy == PRESETS["default"]


def test_a_base_delay_above_the_longest_is_a_contradiction(load: Load) -> None:
    with pytest.raises(ConfigurationError, match="retry_base_delay_seconds is 400"):
        load({"retry_base_delay_seconds": 400})


@pytest.mark.parametrize(("profile", "jobs"), [("desktop", 2), ("Embedded", 5), ("SERVER", 10)])
def test_a_profile_only_bundles_defaults(load: Load, profile: str, jobs: int) -> None:
    assert load({"profile": profile}).max_concurrent_jobs == jobs
    stronger = load({"profile": profile}, files={"jobbus.toml": "max_concurrent_jobs = 3"})
    assert stronger.max_concurrent_jobs == 3
    assert stronger.sources["max_concurrent_jobs"] == "jobbus.toml"


def test_what_a_setting_does_not_do_yet_is_noted(load: Load) -> None:
    settings = load({"profile": "desktop"})
    assert settings.pause_on_battery
    assert settings.notes == (
        "pause_on_battery (from profile desktop) has no effect in this version: "
        "workers do not watch the power supply",
    )
    assert load({"pause_on_battery": False}).notes == ()


@pytest.mark.parametrize(("seconds", "noted"), [(60, 0), (900, 0), (901, 1), (1800, 1)])
def test_a_long_lease_is_accepted_with_a_note(load: Load, seconds: int, noted: int) -> None:
    settings = load({"VisibilityTimeoutSeconds": seconds})
    assert settings.lease == timedelta(seconds=seconds)
    assert len(settings.notes) == noted


def test_a_limit_of_ended_jobs_is_noted_where_a_bare_broker_keeps_none(load: Load) -> None:
    given = {"provider": "rabbitmq", "removeOnComplete": 10}
    assert load(given).notes == (
        "job_history_retention_count (given explicitly) has no effect: rabbitmq keeps no ended "
        "jobs; set ledger to a database that does",
    )
    assert load({**given, "ledger": "sqlite:///jobs.db"}).notes == ()
    assert load({"removeOnComplete": 10}).notes == ()


SECRET = "hunter2"
ADDRESSES = [
    f"postgresql://me:{SECRET}@db.example:5432/jobs",
    f"postgres://me:{SECRET}@x/{SECRET}@db.example/jobs",
    f"postgresql+psycopg://db.example/jobs?user=me&password={SECRET}",
    f"host=db.example user=me password={SECRET} dbname=jobs",
    f"host=db.example password='a {SECRET}'",
    f"Host=db.example;Username=me;Password=a {SECRET};Database=jobs",
]


@pytest.mark.parametrize("address", ADDRESSES)
def test_passwords_are_masked_wherever_settings_are_shown(load: Load, address: str) -> None:
    settings = load({"postgres.url": address})
    assert settings.postgres.url is not None
    assert SECRET in settings.postgres.url
    assert SECRET not in repr(settings) + str(settings) + repr(settings.table())
    assert ("postgres.url", "explicit") in [(key, source) for key, _, source in settings.table()]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("rabbitmq.url", f"amqp://me:{SECRET}@broker"),
        ("redis.url", f"redis://:{SECRET}@cache:6379/0"),
        ("redis.password", SECRET),
        ("azure_service_bus.shared_access_key", SECRET),
        (
            "azure_service_bus.connection_string",
            f"Endpoint=sb://x.example/;SharedAccessKeyName=root;SharedAccessKey={SECRET}",
        ),
        (
            "azure_service_bus.connection_string",
            "Endpoint=sb://x.example/;SharedAccessSignature=SharedAccessSignature sr=x&sig="
            f"{SECRET}&se=1",
        ),
    ],
)
def test_secrets_of_any_provider_are_masked(load: Load, key: str, value: str) -> None:
    settings = load({key: value})
    provider = key.partition(".")[0]
    assert value in settings.provider_options(provider).values()
    shown = repr(settings) + repr(settings.table()) + repr(settings.provider_options(provider))
    assert SECRET not in shown


@pytest.mark.parametrize(
    ("overrides", "environ"),
    [
        ({"postgres.url": f"mysql://me:{SECRET}@x/y"}, {}),
        ({"postgres.url": f"me:{SECRET}@db.example/jobs"}, {}),
        ({"postgres.url": f"password={SECRET} oops {SECRET}"}, {}),
        ({"provider": f"postgresql://me:{SECRET}@x/y"}, {}),
        ({"provider": "mysql", "backend": f"mysql://me:{SECRET}@x/y"}, {}),
        ({}, {"JOBBUS_BACKEND": f"mysql://me:{SECRET}@x/y"}),
        ({}, {"JOBBUS_BACKEND": f"me:{SECRET}@x/y"}),
        ({}, {"JOBBUS_BACKEND": f"sqlite://me:{SECRET}@x/y"}),
        ({"postgres": {"url": f"postgresql://me:{SECRET}@x/y", "pool_max_size": 0}}, {}),
        ({"postgres.url": [f"postgresql://me:{SECRET}@x/y"]}, {}),
    ],
)
def test_no_complaint_and_no_traceback_repeats_a_password(
    load: Load, overrides: Mapping[str, object], environ: Mapping[str, str]
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load(overrides, environ)
    assert SECRET not in "".join(traceback.format_exception(caught.value))


KEYS = ["backend", *ALIASES, *load_settings(environ={}, directory=Path("nowhere")).sources]
VALUES = st.one_of(
    st.text(max_size=30),
    st.integers(),
    st.just(10**400),
    st.floats(),
    st.booleans(),
    st.none(),
    st.lists(st.text(max_size=5), max_size=3),
    st.dictionaries(st.text(max_size=5), st.integers(), max_size=2),
    st.sampled_from(["postgres://", "a=b;c=d", "x='", "://", "sqlite:///?a=b", "=", ";"]),
)


@given(st.dictionaries(st.one_of(st.sampled_from(KEYS), st.text()), VALUES))
@hypothesis_settings(max_examples=150, deadline=None)
def test_whatever_is_given_there_are_settings_or_one_named_error(values: dict[str, object]) -> None:
    with contextlib.suppress(ConfigurationError):
        settings = load_settings(values, environ={}, directory=Path("nowhere"))
        assert all(isinstance(cell, str) for row in settings.table() for cell in row)
