"""Fixtures: Redis, and the stores and flow fixtures that these tests share."""

from __future__ import annotations

import secrets
from collections.abc import Iterator

import pytest

from tests.flow.fixtures import beside_flow, bus, flow_database, home
from tests.flow.support import ALL
from tests.services import RedisServer
from tests.services.redis import client

__all__ = ["beside_flow", "bus", "flow_database", "home", "kind"]


@pytest.fixture(params=ALL)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def prefix(redis_default: RedisServer) -> Iterator[str]:
    """A prefix of one's own on that Redis; what is under it is removed at the end."""
    prefix = f"jobbus-test-{secrets.token_hex(6)}"
    yield prefix
    with client(redis_default.url) as asking:
        if keys := list(asking.scan_iter(f"{prefix}:*", count=1000)):
            asking.unlink(*keys)
