"""Fixtures that the backends' tests share."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from typing import Any

import psycopg
import pytest

from jobbus.backends.postgres import PostgresQueue
from jobbus.backends.rabbitmq import RabbitMqQueue
from tests.backends.postgres_tables import empty_tables
from tests.backends.rabbitmq_broker import delete_all, empty, new_prefix
from tests.services import PostgresServer, RabbitMqServer, fresh_database

collect_ignore = [] if os.environ.get("JOBBUS_TEST_EVERY_REDIS") else ["test_every_redis.py"]


@pytest.fixture(scope="module")
def migrated_database(postgres_default: PostgresServer) -> Iterator[str]:
    """A database with the schema in it, for all tests of a module."""
    with fresh_database(postgres_default) as url:
        asyncio.run(PostgresQueue(url).migrate())
        yield url


@pytest.fixture(scope="module")
def bystander(migrated_database: str) -> Iterator[psycopg.Connection[Any]]:
    """A connection to the database beside the queue's own."""
    with psycopg.connect(migrated_database, autocommit=True) as connection:
        yield connection


@pytest.fixture
def empty_database(migrated_database: str, bystander: psycopg.Connection[Any]) -> str:
    """The database, with the schema and nothing in it."""
    empty_tables(bystander)
    return migrated_database


@pytest.fixture(scope="module")
def rabbitmq_prefix(rabbitmq_server: RabbitMqServer) -> Iterator[str]:
    """A prefix for all queues of a module, deleted with all that is under it."""
    prefix = new_prefix()
    yield prefix
    asyncio.run(delete_all(rabbitmq_server.url, prefix))


@pytest.fixture
async def rabbitmq_queue(
    rabbitmq_server: RabbitMqServer, rabbitmq_prefix: str
) -> AsyncIterator[RabbitMqQueue]:
    """A queue on the broker, open and empty."""
    queue = RabbitMqQueue(rabbitmq_server.url, queue_prefix=rabbitmq_prefix)
    await queue.open()
    await empty(rabbitmq_server.url, rabbitmq_prefix)
    yield queue
    await queue.close()
