"""A place to crash in, on each database that is worth it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.crash.place import Place, opened
from tests.services import RedisServer, own_prefix


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.services)])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    """On SQLite, and on Postgres."""
    address = str(tmp_path / "jobs.db")
    if request.param == "postgres":
        address = request.getfixturevalue("postgres_url")
    yield from _kept(address, tmp_path)


@pytest.fixture
def sqlite_place(tmp_path: Path) -> Iterator[Place]:
    yield from _kept(str(tmp_path / "jobs.db"), tmp_path)


@pytest.fixture
def postgres_place(postgres_url: str, tmp_path: Path) -> Iterator[Place]:
    yield from _kept(postgres_url, tmp_path)


@pytest.fixture
def crashing_place(owned_postgres_url: str, tmp_path: Path) -> Iterator[Place]:
    """On a Postgres that the test may crash."""
    yield from _kept(owned_postgres_url, tmp_path)


@pytest.fixture
def redis_place(owned_redis: RedisServer, tmp_path: Path) -> Iterator[Place]:
    """On a Redis that writes every change to disk before it answers, and that a test may kill."""
    with own_prefix(owned_redis) as prefix:
        yield from _kept(f"{owned_redis.url}#{prefix}", tmp_path)


def _kept(address: str, folder: Path) -> Iterator[Place]:
    place = opened(address, folder)
    try:
        yield place
    finally:
        place.close()
