"""Fixtures: Redis, and the stores and flow fixtures that these tests share."""

from __future__ import annotations

import secrets
from collections.abc import Iterator

import pytest

from tests.flow.fixtures import beside_flow, bus, flow_database, home
from tests.flow.support import ALL
from tests.idempotency.redis_server import RedisPlace, client, default_redis, own_redis
from tests.services import Services

__all__ = ["beside_flow", "bus", "flow_database", "home", "kind"]


@pytest.fixture(params=ALL)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="session")
def redis_default(services: Services) -> Iterator[RedisPlace]:
    """The Redis that this machine offers."""
    with services.provide("redis", default_redis()) as server:
        yield server


@pytest.fixture(scope="session")
def owned_redis(services: Services) -> Iterator[RedisPlace]:
    """A Redis to take down; tests that do so need not bring it back."""
    with services.provide("redis-own", own_redis()) as server:
        yield server


@pytest.fixture
def prefix(redis_default: RedisPlace) -> Iterator[str]:
    """A prefix of one's own on that Redis; what is under it is removed at the end."""
    prefix = f"jobbus-test-{secrets.token_hex(6)}"
    yield prefix
    with client(redis_default.url) as asking:
        if keys := list(asking.scan_iter(f"{prefix}:*", count=1000)):
            asking.unlink(*keys)
