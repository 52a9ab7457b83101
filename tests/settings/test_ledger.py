"""The setting that gives a broker a ledger."""

from __future__ import annotations

import pytest

from jobbus.backends.sqlite import SqliteQueue
from jobbus.errors import ConfigurationError
from jobbus.settings import backends, create_queue
from jobbus.tracked import TrackedQueue
from tests.settings.conftest import Load
from tests.tracked.post_office import ENTRY, PostOffice

ADDRESS = "postgresql://me:topsecret@host/jobs"


@pytest.fixture(autouse=True)
def post_office(monkeypatch: pytest.MonkeyPatch) -> None:
    """A broker is installed."""
    monkeypatch.setattr(backends, "BUILT_IN", (*backends.BUILT_IN, ENTRY))


def test_a_broker_with_a_ledger_is_one_queue_that_remembers(load: Load) -> None:
    queue = create_queue(load({"provider": "PostOffice", "ledger": "sqlite:///jobs.db"}))
    assert isinstance(queue, TrackedQueue)
    assert isinstance(queue.broker, PostOffice)
    assert isinstance(queue.ledger, SqliteQueue)
    assert queue.ledger.location == "jobs.db"
    assert queue.capabilities == queue.ledger.capabilities


@pytest.mark.parametrize("word", [None, "none", "None", ""])
def test_without_a_ledger_a_broker_is_bare(load: Load, word: str | None) -> None:
    settings = load({"provider": "PostOffice", "ledger": word})
    assert settings.ledger_settings is None
    assert isinstance(create_queue(settings), PostOffice)


def test_none_sets_a_weaker_places_ledger_aside(load: Load) -> None:
    environ = {"BACKGROUND_JOBS__LEDGER": "none"}
    files = {"jobbus.toml": 'provider = "post_office"\nledger = "sqlite:///jobs.db"\n'}
    assert load(environ=environ, files=files).ledger is None


@pytest.mark.parametrize(
    ("address", "url"),
    [
        (ADDRESS, ADDRESS),
        ("postgres://host/jobs", "postgresql://host/jobs"),
        ("Host=host;Database=jobs;Username=me", "postgresql://me@host/jobs"),
    ],
)
def test_a_ledger_in_postgres_goes_by_the_settings_of_postgres(
    load: Load, address: str, url: str
) -> None:
    environ = {
        "BACKGROUND_JOBS__PROVIDER": "PostOffice",
        "BACKGROUND_JOBS__LEDGER": address,
        "BACKGROUND_JOBS__POSTGRES__SCHEMA": "jobs",
    }
    found = load(environ=environ).ledger_settings
    assert found is not None
    assert (found.provider, found.ledger) == ("postgres", None)
    assert (found.postgres.url, found.postgres.schema) == (url, "jobs")


@pytest.mark.parametrize(
    "address", ["jobs.db", "redis://host/0", "memory://", "sqlite://jobs.db", "sqlite"]
)
def test_what_cannot_be_a_ledger_is_refused(load: Load, address: str) -> None:
    with pytest.raises(ConfigurationError, match=r"ledger .*sqlite:///jobs\.db|three slashes"):
        load({"provider": "PostOffice", "ledger": address})


@pytest.mark.parametrize("provider", ["memory", "sqlite"])
def test_a_backend_that_remembers_by_itself_takes_no_ledger(load: Load, provider: str) -> None:
    environ = {"BACKGROUND_JOBS__LEDGER": "sqlite:///jobs.db"}
    with pytest.raises(ConfigurationError, match=f"{provider}.*remembers its jobs itself"):
        load({"provider": provider}, environ=environ)


def test_the_ledgers_password_is_shown_nowhere(load: Load) -> None:
    settings = load({"provider": "PostOffice", "ledger": ADDRESS})
    assert "topsecret" not in repr(settings)
    assert "topsecret" not in str(settings.table())
    assert ("ledger", "postgresql://me:***@host/jobs", "explicit") in settings.table()


def test_workers_need_not_relay(load: Load) -> None:
    given = {"provider": "PostOffice", "ledger": "sqlite:///jobs.db"}
    queue = create_queue(load({**given, "relay_in_workers": "false"}))
    assert isinstance(queue, TrackedQueue)
    assert not queue.separate()._relays
