"""Where idempotency keys are kept, by the settings; and whether for long enough."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from jobbus.backends.memory import CAPABILITIES, MemoryQueue
from jobbus.backends.redis import RedisQueue
from jobbus.backends.redis_store.keys import RedisKeys
from jobbus.backends.redis_store.options import RedisOptions
from jobbus.backends.sql.idempotency import SqlIdempotencyStore
from jobbus.errors import ConfigurationError
from jobbus.idempotency.memory import MemoryIdempotencyStore
from jobbus.idempotency.redis import RedisIdempotencyStore
from jobbus.settings import Settings, check_ttl, create_idempotency_store, load_settings
from jobbus.settings.addresses import LOCAL_REDIS
from jobbus.testing.broker import BareBroker
from jobbus.tracked import TrackedQueue

REDIS = "redis://:secret@127.0.0.1:6379/3"


class Bare:
    """A queue without a database of its own."""

    capabilities = replace(CAPABILITIES, ledger=False)


def settings(**given: object) -> Settings:
    return load_settings(given, environ={}, directory=Path("/"))


def chosen(queue: Any, **given: object) -> object:
    return create_idempotency_store(settings(**given), queue)


def chosen_in(environ: Mapping[str, str]) -> object:
    """For a queue that could keep keys itself."""
    found = load_settings(environ=environ, directory=Path("/"))
    return create_idempotency_store(found, MemoryQueue())


@pytest.fixture
def addresses(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every address of a Redis for keys, as stores are made for them."""
    seen: list[str] = []
    make = RedisIdempotencyStore.__init__

    def note(self: RedisIdempotencyStore, url: str, *rest: Any, **options: Any) -> None:
        seen.append(url)
        make(self, url, *rest, **options)

    monkeypatch.setattr(RedisIdempotencyStore, "__init__", note)
    return seen


def test_by_itself_a_sql_backend_keeps_keys_beside_its_jobs() -> None:
    assert isinstance(chosen(MemoryQueue()), SqlIdempotencyStore)


def test_by_itself_a_broker_with_a_ledger_keeps_keys_in_the_ledgers_database() -> None:
    tracked = TrackedQueue(BareBroker(MemoryQueue()), MemoryQueue())
    assert isinstance(chosen(tracked), SqlIdempotencyStore)


def test_by_itself_a_bare_broker_keeps_keys_in_memory() -> None:
    assert isinstance(chosen(Bare()), MemoryIdempotencyStore)


@pytest.mark.parametrize("queue", [MemoryQueue(), Bare()], ids=["sql", "bare"])
def test_an_address_of_redis_makes_it_redis(queue: Any) -> None:
    assert isinstance(chosen(queue, idempotency_redis_url=REDIS), RedisIdempotencyStore)
    # The provider's own address does as well.
    assert isinstance(chosen(queue, **{"redis.url": REDIS}), RedisIdempotencyStore)


USUAL = {"REDIS_HOST": "h", "REDIS_PORT": "7", "REDIS_PASSWORD": "p@", "REDIS_DB": "3"}
OWN = {"BACKGROUND_JOBS__REDIS__HOST": "own"}


@pytest.mark.parametrize(
    ("environ", "address"),
    [
        (USUAL, "redis://:p%40@h:7/3"),
        ({**USUAL, "REDIS_URL": "redis://cache"}, "redis://:p%40@h:7/3"),
        ({**USUAL, **OWN}, "redis://own:6379/0"),
        ({**USUAL, **OWN, "JOBBUS_IDEMPOTENCY_REDIS_URL": "redis://keys"}, "redis://keys"),
        (
            {"JOBBUS_PROVIDER": "redis", "JOBBUS_IDEMPOTENCY_REDIS_URL": "redis://keys"},
            "redis://keys",
        ),
        ({"JOBBUS_IDEMPOTENCY_STORE": "redis", "REDIS_URL": "redis://u"}, "redis://u"),
    ],
)
def test_the_keys_go_to_the_first_redis_that_is_said(
    addresses: list[str], environ: Mapping[str, str], address: str
) -> None:
    """The variables of S1 count last: they are often there for something else."""
    chosen_in(environ)
    assert addresses == [address]


@pytest.mark.parametrize(
    "environ",
    [
        {"REDIS_URL": "redis://cache"},
        {"REDIS_PASSWORD": "p", "REDIS_PORT": "tcp://10.0.0.7:6379"},
        {"REDIS_HOST": " "},
        {"REDIS_HOST": "h", "JOBBUS_IDEMPOTENCY_STORE": "sql"},
    ],
)
def test_other_variables_of_a_redis_leave_the_keys_beside_the_jobs(
    environ: Mapping[str, str],
) -> None:
    assert isinstance(chosen_in(environ), SqlIdempotencyStore)


@pytest.mark.parametrize("wanted", ["auto", "redis"])
@pytest.mark.parametrize(
    "url", ["redis://h:7/3", "redis+sentinel://a:26379,b:26379/main"], ids=["alone", "sentinel"]
)
def test_the_redis_of_the_jobs_keeps_their_keys_on_its_own_connection(
    url: str, wanted: str
) -> None:
    queue = RedisQueue(url)
    given = {"provider": "redis", "redis.url": url, "idempotency_store": wanted}
    assert isinstance(chosen(queue, **given), RedisKeys)


def test_a_redis_for_the_backend_and_one_for_the_keys_agree_on_where_it_is_by_itself() -> None:
    assert RedisOptions().url == LOCAL_REDIS


def test_what_is_asked_for_by_name_stands_over_an_address() -> None:
    given = {"idempotency_redis_url": REDIS}
    memory = chosen(MemoryQueue(), idempotency_store="memory", **given)
    assert isinstance(memory, MemoryIdempotencyStore)
    assert isinstance(chosen(MemoryQueue(), idempotency_store="sql", **given), SqlIdempotencyStore)


def test_redis_without_an_address_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="IDEMPOTENCY_REDIS_URL"):
        chosen(Bare(), idempotency_store="redis")


async def test_a_broker_may_have_its_keys_in_a_database_apart(tmp_path: Path) -> None:
    store = chosen(Bare(), idempotency_store="sql", **{"sqlite.path": str(tmp_path / "keys.db")})
    assert isinstance(store, SqlIdempotencyStore)
    await store.open()
    assert await store.look(["key"]) == [None]
    await store.close()
    assert (tmp_path / "keys.db").exists()


def test_a_database_apart_must_be_named() -> None:
    with pytest.raises(ConfigurationError, match="POSTGRES__URL"):
        chosen(Bare(), idempotency_store="sql")


def test_the_address_is_shown_without_its_password() -> None:
    told = settings(idempotency_redis_url=REDIS)
    assert "secret" not in repr(told)
    assert "secret" not in repr(told.table())


def test_what_is_no_address_of_redis_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="redis://127"):
        settings(idempotency_redis_url="http://:secret@host")


WEEK = {"idempotency_ttl_days": 7}


@pytest.mark.parametrize(
    ("given", "declared", "fits"),
    [
        ({}, {"retention": timedelta(days=14)}, True),
        (WEEK, {"retention": timedelta(days=14)}, False),
        (WEEK, {"retention": timedelta(days=7)}, True),
        (WEEK, {"retention": timedelta(days=7), "max_delay": timedelta(days=1)}, False),
        (WEEK, {}, True),
        (WEEK, {"retention": timedelta(days=14), "ledger": True}, True),
        ({"idempotency_ttl_days": 14}, {"retention": timedelta(days=14)}, True),
        ({"idempotency_allow_short_ttl": True, **WEEK}, {"retention": timedelta(days=14)}, True),
        ({"idempotency_ttl_days": 0.001}, {"ledger": True}, False),
        ({"enable_idempotency": False, **WEEK}, {"retention": timedelta(days=14)}, True),
    ],
)
def test_keys_must_outlive_leases_and_the_messages_of_a_bare_broker(
    given: dict[str, object], declared: dict[str, Any], fits: bool
) -> None:
    """D-9."""
    problems = check_ttl(settings(**given), replace(Bare.capabilities, **declared))
    assert (problems == []) == fits


@pytest.mark.parametrize(
    ("given", "days"), [({}, 15), (WEEK, 7), ({"idempotency_allow_short_ttl": True}, 7)]
)
def test_where_nobody_says_how_long_keys_outlive_the_brokers_messages(
    given: dict[str, object], days: int
) -> None:
    queue = Bare()
    queue.capabilities = replace(
        Bare.capabilities, retention=timedelta(days=14), max_delay=timedelta(days=1)
    )
    store = chosen(queue, **given)
    assert isinstance(store, MemoryIdempotencyStore)
    assert store._ttl == timedelta(days=days)


def test_the_days_that_a_refusal_asks_for_are_enough() -> None:
    declared = replace(
        Bare.capabilities, retention=timedelta(days=14), max_delay=timedelta(seconds=900)
    )
    [told] = check_ttl(settings(**WEEK), declared)
    assert "IDEMPOTENCY_TTL_DAYS to 15 or more" in told
    assert not check_ttl(settings(idempotency_ttl_days=15), declared)
