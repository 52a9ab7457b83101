"""Which backend the settings choose, and what is said when it cannot be had."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from datetime import timedelta
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from jobbus.errors import ConfigurationError, MissingDependency
from jobbus.message import Capabilities
from jobbus.settings import backends, check_lease, create_queue, installed_backends
from tests.settings.conftest import Load

WORKING = """
class Queue:
    def __init__(self, settings):
        self.settings = settings

    @classmethod
    def from_settings(cls, settings):
        return cls(settings)
"""
LATE = """
class Queue:
    @classmethod
    def from_settings(cls, settings):
        import boto9000
"""


@pytest.fixture
def offered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Installed entry points, by name, instead of this machine's."""
    entries = {
        "Memory": "made_up_memory:Queue",
        "Sqlite": "made_up_sqlite:Queue",
        "Postgres": "made_up_postgres:Queue",
        "Carrier-Pigeon": "made_up_pigeon:Queue",
    }
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(backends, "BUILT_IN", ())
    monkeypatch.setattr(
        backends,
        "entry_points",
        lambda *, group: [EntryPoint(name, value, group) for name, value in entries.items()],
    )
    for value in entries.values():
        module = value.partition(":")[0]
        (tmp_path / f"{module}.py").write_text(WORKING)
        monkeypatch.delitem(sys.modules, module, raising=False)
    return entries


def test_only_the_chosen_backend_is_imported(load: Load, offered: dict[str, str]) -> None:
    settings = load({"provider": "MEMORY"})
    queue = create_queue(settings)
    assert vars(queue) == {"settings": settings}
    assert "made_up_memory" in sys.modules
    assert not {"made_up_sqlite", "made_up_postgres", "made_up_pigeon"} & set(sys.modules)


@pytest.mark.parametrize("spelling", ["carrier_pigeon", "CarrierPigeon", "carrier-pigeon"])
def test_another_package_s_backend_is_chosen_by_its_name_and_keeps_its_options(
    load: Load, offered: dict[str, str], spelling: str
) -> None:
    settings = load({"provider": spelling, spelling: {"Loft": "roof"}, "mode": "Polling"})
    assert settings.provider == "carrier_pigeon"
    assert settings.provider_options(spelling)["loft"] == "roof"
    assert type(create_queue(settings)).__module__ == "made_up_pigeon"


def test_another_package_s_backend_is_chosen_by_its_address(
    load: Load, offered: dict[str, str]
) -> None:
    settings = load(environ={"JOBBUS_BACKEND": "carrier-pigeon://loft/7"})
    assert settings.provider == "carrier_pigeon"
    assert settings.provider_options("carrier_pigeon")["url"] == "carrier-pigeon://loft/7"


def test_a_checkout_that_nobody_installed_has_its_built_in_backends(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "made_up_built_in.py").write_text(WORKING)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(backends, "entry_points", lambda *, group: [])
    here = EntryPoint("Sqlite", "made_up_built_in:Queue", backends.GROUP)
    gone = EntryPoint("Postgres", "made_up_nowhere:Queue", backends.GROUP)
    monkeypatch.setattr(backends, "BUILT_IN", (here, gone))
    assert list(installed_backends()) == ["sqlite"]


def test_two_packages_may_not_offer_one_name(load: Load, offered: dict[str, str]) -> None:
    offered["SQLITE"] = "elsewhere:Queue"
    with pytest.raises(ConfigurationError, match="two installed packages offer"):
        create_queue(load())


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (
            {"provider": "kafka"},
            "provider cannot be this: no backend named 'kafka'; installed are carrier_pigeon, "
            "memory, postgres, sqlite (given explicitly)",
        ),
        ({"provider": "SqlLite"}, "Did you mean 'sqlite'?"),
        ({"provider": "carier-pigeon"}, "Did you mean 'carrier_pigeon'?"),
        ({"backend": "kafka://broker"}, "no backend named 'kafka'; installed are carrier_pigeon"),
        ({"backend": "kafka"}, "no backend named 'kafka'"),
    ],
)
def test_an_unknown_provider_is_refused_with_those_installed(
    load: Load, offered: dict[str, str], overrides: Mapping[str, object], sentence: str
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load(overrides)
    assert sentence in str(caught.value)


@pytest.mark.parametrize("provider", ["redis", "aws_sqs", "rabbitmq", "azure_service_bus"])
def test_a_provider_that_is_not_shipped_is_told_apart_from_a_typo(
    load: Load, offered: dict[str, str], provider: str
) -> None:
    settings = load(environ={"BACKGROUND_JOBS__PROVIDER": provider})
    with pytest.raises(ConfigurationError) as caught:
        create_queue(settings)
    assert str(caught.value) == (
        f"this version of jobbus has no {provider} backend (provider from environment "
        "BACKGROUND_JOBS__PROVIDER); installed are carrier_pigeon, memory, postgres, sqlite: "
        "set provider to one of them"
    )


@pytest.mark.parametrize("source", ["import boto9000", LATE])
@pytest.mark.parametrize(
    ("provider", "command"),
    [
        ("postgres", 'pip install "jobbus[postgres]"'),
        ("carrier_pigeon", "pip install boto9000"),
    ],
)
def test_a_missing_client_library_is_told_with_the_command_that_helps(
    load: Load,
    offered: dict[str, str],
    tmp_path: Path,
    source: str,
    provider: str,
    command: str,
) -> None:
    for name in ("made_up_postgres", "made_up_pigeon"):
        (tmp_path / f"{name}.py").write_text(source)
    settings = load({"provider": provider, "postgres.url": "postgresql://"})
    with pytest.raises(MissingDependency) as caught:
        create_queue(settings)
    assert str(caught.value).endswith(f": {command}")
    assert isinstance(caught.value.__cause__, ImportError)


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ("Other = 1", "names no class with a classmethod from_settings"),
        ("class Queue: pass", "names no class with a classmethod from_settings"),
        ("from made_up_sqlite import nothing", "cannot be imported"),
    ],
)
def test_a_backend_that_is_broken_is_not_called_missing(
    load: Load, offered: dict[str, str], tmp_path: Path, source: str, sentence: str
) -> None:
    (tmp_path / "made_up_sqlite.py").write_text(source)
    with pytest.raises(ConfigurationError, match=sentence) as caught:
        create_queue(load())
    assert not isinstance(caught.value, MissingDependency)


def test_an_error_of_the_backend_s_own_is_not_disguised(
    load: Load, offered: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "made_up_sqlite.py").write_text(
        "class Queue:\n    @classmethod\n    def from_settings(cls, settings): settings.nonsense"
    )
    with pytest.raises(AttributeError, match="nonsense"):
        create_queue(load())


URL = "postgresql://db.example/jobs"


@pytest.mark.parametrize(
    ("overrides", "provider", "source"),
    [
        ({}, "sqlite", "default"),
        ({"mode": "Polling"}, "sqlite", "mode Polling"),
        ({"mode": "Polling", "postgres.url": URL}, "postgres", "postgres.url"),
        ({"mode": "polling", "provider": "sqlite", "postgres.url": URL}, "sqlite", "explicit"),
        ({"postgres.url": URL}, "postgres", "postgres.url"),
        ({"mode": "message-queue", "provider": "Redis"}, "redis", "explicit"),
        ({"mode": "MESSAGEQUEUE", "provider": "AzureServiceBus"}, "azure_service_bus", "explicit"),
    ],
)
def test_the_mode_and_the_addresses_choose_a_provider(
    load: Load, overrides: Mapping[str, object], provider: str, source: str
) -> None:
    settings = load(overrides)
    assert (settings.provider, settings.sources["provider"]) == (provider, source)


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (
            {"mode": "Polling", "provider": "AwsSqs"},
            "mode Polling needs a SQL provider, and provider is aws_sqs (mode given explicitly, "
            "provider given explicitly): set provider to sqlite or postgres, or set mode to "
            "MessageQueue",
        ),
        ({"mode": "Polling", "provider": "memory"}, "or leave mode out"),
        (
            {"mode": "MessageQueue"},
            "mode MessageQueue needs a broker provider, and provider is sqlite (mode given "
            "explicitly, provider by default): set provider to one of redis, aws_sqs, rabbitmq, "
            "azure_service_bus, or set mode to Polling",
        ),
        ({"mode": "MessageQueue", "postgres.url": URL}, "needs a broker provider"),
        ({"mode": "MessageQueue", "provider": "postgres", "postgres.url": URL}, "needs a broker"),
        ({"provider": "postgres"}, "set BACKGROUND_JOBS__POSTGRES__URL to postgresql://"),
    ],
)
def test_a_contradiction_is_refused_with_what_to_change(
    load: Load, overrides: Mapping[str, object], sentence: str
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load(overrides)
    assert sentence in str(caught.value)


def test_a_database_url_of_the_application_is_not_read(load: Load) -> None:
    assert load(environ={"DATABASE_URL": URL}) == load()
    with pytest.raises(ConfigurationError, match="DATABASE_URL is not read"):
        load(environ={"DATABASE_URL": URL, "JOBBUS_BACKEND": "postgres"})


def test_naming_a_backend_sets_aside_the_mode_of_a_weaker_place(load: Load) -> None:
    files = {"jobbus.toml": "mode = 'MessageQueue'\nprovider = 'aws_sqs'"}
    settings = load({"backend": "sqlite:///debug.db"}, files=files)
    assert (settings.provider, settings.mode) == ("sqlite", None)
    with pytest.raises(ConfigurationError, match="needs a broker provider"):
        load({"backend": "sqlite:///debug.db", "mode": "MessageQueue"}, files=files)


@pytest.mark.parametrize(
    ("address", "provider", "path"),
    [
        ("sqlite:///relative/jobs.db", "sqlite", "relative/jobs.db"),
        ("sqlite:////srv/jobs.db", "sqlite", "/srv/jobs.db"),
        ("sqlite:///C:/jobs.db", "sqlite", "C:/jobs.db"),
        ("sqlite:///with%20space.db", "sqlite", "with space.db"),
        ("sqlite+pysqlite:///jobs.db", "sqlite", "jobs.db"),
        ("sqlite://", "sqlite", "jobbus.db"),
        ("SQLite", "sqlite", "jobbus.db"),
        ("memory://", "memory", "jobbus.db"),
    ],
)
def test_an_address_sets_provider_and_place_at_once(
    load: Load, address: str, provider: str, path: str
) -> None:
    settings = load(environ={"JOBBUS_BACKEND": address})
    assert (settings.provider, settings.sqlite.path) == (provider, path)
    assert settings.sources["provider"] == "environment JOBBUS_BACKEND"


def test_a_sqlite_address_may_carry_the_group_s_other_settings(load: Load) -> None:
    sqlite = load({"backend": "sqlite:///x.db?Synchronous=normal&busy_timeout_seconds=9"}).sqlite
    assert (sqlite.path, sqlite.synchronous, sqlite.busy_timeout_seconds) == ("x.db", "NORMAL", 9)
    with pytest.raises(ConfigurationError, match=r"did you mean sqlite\.synchronous\?"):
        load({"backend": "sqlite:///x.db?synchronos=normal"})


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("postgres://me@h:5433/jobs", "postgresql://me@h:5433/jobs"),
        ("postgresql://h/jobs?sslmode=require", "postgresql://h/jobs?sslmode=require"),
        ("postgresql+psycopg://me:p%40ss@h/jobs", "postgresql://me:p%40ss@h/jobs"),
        ("postgres://", "postgresql://"),
    ],
)
def test_a_postgres_address_sets_provider_and_url_at_once(
    load: Load, address: str, expected: str
) -> None:
    settings = load(environ={"JOBBUS_BACKEND": address})
    assert (settings.provider, settings.postgres.url) == ("postgres", expected)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (
            "Host=localhost;Database=honua_test;Username=postgres;Password=p@ss w/rd",
            "postgresql://postgres:p%40ss%20w%2Frd@localhost/honua_test",
        ),
        (
            "Server=h;Port=5433;User Id=me;SSL Mode=VerifyFull;",
            "postgresql://me@h:5433/?sslmode=verify-full",
        ),
        ("host=h dbname=jobs user=me", "postgresql://me@h/jobs"),
        (r"dbname='my jobs' password='it\'s' user=me", "postgresql://me:it%27s@/my%20jobs"),
        ("host=/run/pg dbname=jobs", "postgresql:///jobs?host=%2Frun%2Fpg"),
    ],
)
@pytest.mark.parametrize("key", ["postgres.url", "postgres.dsn", "Postgres.ConnectionString"])
def test_a_connection_string_is_as_good_as_a_url(
    load: Load, key: str, given: str, expected: str
) -> None:
    assert load({key: given}).postgres.url == expected


@pytest.mark.parametrize(
    ("address", "sentence"),
    [
        ("sqlite://jobs.db", "three slashes before a relative path"),
        ("memory://somewhere", "a memory backend has no address"),
        ("sqlite:///:memory:", "set provider to memory"),
        ("what is this?", "must be a provider's name or an address"),
    ],
)
def test_an_address_that_cannot_be_right_is_refused(
    load: Load, address: str, sentence: str
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load(environ={"JOBBUS_BACKEND": address})
    assert sentence in str(caught.value)
    assert "environment JOBBUS_BACKEND" in str(caught.value)


@pytest.mark.parametrize(
    ("address", "provider"),
    [("redis://c:6379/0", "redis"), ("rediss://c", "redis"), ("amqps://b/v", "rabbitmq")],
)
def test_a_broker_s_address_is_kept_for_its_backend(
    load: Load, address: str, provider: str
) -> None:
    settings = load({"backend": address})
    assert settings.provider == provider
    assert settings.provider_options(provider)["url"] == address


def capabilities(*, extends: bool, longest: timedelta | None = None) -> Capabilities:
    return Capabilities(
        durable=True,
        ledger=False,
        deduplicates=False,
        ordered_groups=False,
        priorities=False,
        dependencies=False,
        unique_keys=False,
        expiry=False,
        transactional=False,
        extends_leases=extends,
        exact_counts=False,
        max_lease=longest,
    )


def test_a_queue_that_extends_leases_suits_any_job_timeout(load: Load) -> None:
    settings = load({"job_timeout_minutes": 600, "visibility_timeout_seconds": 30})
    assert check_lease(settings, capabilities(extends=True)) == []


def test_a_queue_that_cannot_extend_needs_a_lease_as_long_as_the_job_timeout(load: Load) -> None:
    fixed = capabilities(extends=False)
    enough = load({"JobTimeoutMinutes": 30, "VisibilityTimeoutSeconds": 1800})
    assert check_lease(enough, fixed) == []
    [problem] = check_lease(load({"JobTimeoutMinutes": 30}), fixed)
    assert "set VISIBILITY_TIMEOUT_SECONDS to 1800 or more" in problem
    assert "or JOB_TIMEOUT_MINUTES to 1 or less" in problem


def test_a_lease_longer_than_the_queue_grants_is_a_problem(load: Load) -> None:
    [problem] = check_lease(
        load({"visibility_timeout_seconds": 1800}),
        capabilities(extends=True, longest=timedelta(minutes=5)),
    )
    assert "leases for at most 300: lower it" in problem
