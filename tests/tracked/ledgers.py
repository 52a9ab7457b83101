"""The ledgers with which a broker is held to the specification, for suites to stand on.

A suite's module brings the fixture ``queue``, made of an empty broker and of the fixture ``ledger``
that these classes bring.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import psycopg
import pytest

from jobbus.backends.postgres import PostgresQueue
from jobbus.backends.sqlite import SqliteQueue
from jobbus.job import JobState
from jobbus.message import Abandonment, CountsAs
from jobbus.queue import BackgroundJobQueue
from jobbus.services.relay import relay_once
from jobbus.store import JobStore
from jobbus.testing import VirtualClock, VirtualTime
from jobbus.testing.conformance.accounting import CrashCases
from jobbus.testing.conformance.leases import LeaseCases
from jobbus.testing.conformance.settling import SettlingCases
from jobbus.testing.make import message
from jobbus.tracked import TrackedQueue

EVERY_LEDGER: Final = bool(os.environ.get("JOBBUS_TEST_EVERY_LEDGER"))
"""Whether the whole specification runs on every broker and ledger, which takes minutes."""
QUEUES: Final = ("default", "mail", "video", "children", "elsewhere", "nowhere", "post")
"""Every queue that the specification names, for brokers on which somebody makes or deletes them."""


@asynccontextmanager
async def opened(
    broker: BackgroundJobQueue, ledger: BackgroundJobQueue
) -> AsyncIterator[TrackedQueue]:
    """The two as one queue, open."""
    queue = TrackedQueue(broker, ledger)
    await queue.open()
    try:
        yield queue
    finally:
        await queue.close()


class BrokerCases(SettlingCases, LeaseCases, CrashCases):
    """The part of the specification that a broker could spoil most: every day, on every broker."""

    @pytest.fixture
    def store(self, queue: BackgroundJobQueue) -> JobStore:
        return self.store_of(queue)

    async def test_a_ticket_that_was_handed_back_starts_its_job_as_the_first_attempt(
        self, queue: TrackedQueue
    ) -> None:
        """As workers do with those of a paused queue. Some brokers count it."""
        sent = message()
        await queue.enqueue([sent])
        await relay_once(queue, queue.relay(window=1))
        [ticket] = await queue.broker.receive(
            sent.queue, limit=1, wait=self.patience, lease=timedelta(seconds=60)
        )
        back = Abandonment(delivery=ticket, counts_as=CountsAs.RELEASE)
        assert not await queue.broker.abandon([back])
        held = await self.receive_one(queue)
        assert (held.job_id, held.attempt) == (sent.job_id, 1)


class WithSqliteLedger(VirtualTime):
    """A fresh file for every case. The ledger's clock decides; the broker's need not agree."""

    ready_state = JobState.CREATED
    silence = timedelta(milliseconds=30)
    path: Path

    @pytest.fixture
    def ledger(self, tmp_path: Path) -> SqliteQueue:
        self.path = tmp_path / "jobs.db"
        self.clock = VirtualClock()
        return SqliteQueue(self.path, clock=self.clock, synchronous="NORMAL")

    @asynccontextmanager
    async def transaction(self, queue: BackgroundJobQueue) -> AsyncIterator[Any]:
        connection = await asyncio.to_thread(
            sqlite3.connect, self.path, isolation_level=None, check_same_thread=False
        )
        try:
            connection.execute("BEGIN IMMEDIATE")
            yield connection
            connection.execute("COMMIT")
        finally:
            connection.close()


class WithPostgresLedger:
    """One database for all cases, emptied for each."""

    ready_state = JobState.CREATED
    silence = timedelta(milliseconds=30)
    short_delay = timedelta(milliseconds=100)
    url: str

    @pytest.fixture
    def ledger(self, empty_database: str) -> PostgresQueue:
        self.url = empty_database
        return PostgresQueue(empty_database)

    @asynccontextmanager
    async def transaction(self, queue: BackgroundJobQueue) -> AsyncIterator[Any]:
        async with await psycopg.AsyncConnection.connect(self.url) as connection:
            yield connection
