"""The disk is full (F9): a named error, nothing half-written; with room again, work goes on."""

from __future__ import annotations

import asyncio
import json
import os
import random
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import psycopg
import pytest

from jobbus import JobBus, JobState, Worker, load_settings
from jobbus.backends.postgres import PostgresQueue
from jobbus.backends.sql.program import Call, Program
from jobbus.backends.sqlite import SqliteQueue
from jobbus.errors import BackendFull
from jobbus.message import Completion, Delivery, Message
from jobbus.store import JobFilter
from jobbus.testing import message
from tests.services import PostgresServer, with_database
from tests.services.programs import Account

pytestmark = pytest.mark.crash

BATCH: Final = 20
SIZE: Final = 50_000
"""Bytes of a payload that no database can compress."""
PLENTY: Final = 1_000_000
"""Pages."""
MOST: Final = 500
"""Batches that fit on no disk of these tests."""
SMALL: Final = "24m"
LARGE: Final = "96m"


async def limit_pages(queue: SqliteQueue, pages: int) -> int:
    """Limit the file, for as long as the writer's connection lives; return how many are in use."""

    def make() -> Program[int]:
        yield Call("script", {}, f"PRAGMA max_page_count = {pages}")
        rows = yield Call("script", {}, "PRAGMA page_count")
        return int(rows[0][0])

    return await queue._run(make, atomic=False)


def batch(job_type: str = "noting") -> list[Message]:
    return [
        message(job_type=job_type, payload=json.dumps(random.randbytes(SIZE // 2).hex()).encode())
        for _ in range(BATCH)
    ]


async def fill(queue: SqliteQueue | PostgresQueue) -> tuple[list[str], Sequence[Message]]:
    """Enqueue until nothing more goes in; what was accepted, and what was refused."""
    accepted: list[str] = []
    for _ in range(MOST):
        messages = batch()
        try:
            accepted += await queue.enqueue(messages)
        except BackendFull:
            return accepted, messages
    raise AssertionError("the disk never was full")


async def test_a_full_sqlite_file_refuses_whole_batches_and_takes_them_again_when_there_is_room(
    tmp_path: Path,
) -> None:
    """SL-8."""
    queue = SqliteQueue(tmp_path / "jobs.db")
    await queue.open()
    used = await limit_pages(queue, PLENTY)
    await limit_pages(queue, used + 1000)
    accepted, refused = await fill(queue)
    page = await queue.find(JobFilter(), limit=len(accepted) + BATCH)
    assert {job.id for job in page.jobs} == set(accepted)

    await limit_pages(queue, PLENTY)
    assert await queue.enqueue(refused) == [one.job_id for one in refused]
    await queue.close()


async def test_a_worker_lives_through_a_full_disk_and_ends_its_jobs_when_there_is_room(
    tmp_path: Path,
) -> None:
    """It keeps its outcomes, and reports them until its leases are over."""
    settings = load_settings({"backend": "memory"}, environ={}, directory=tmp_path)
    refused = asyncio.Event()
    runs: list[str] = []

    class Watching(SqliteQueue):
        async def complete(
            self, done: Sequence[Completion], *, connection: Any | None = None
        ) -> Sequence[Delivery]:
            try:
                return await super().complete(done, connection=connection)
            except BackendFull:
                refused.set()
                raise

    queue = Watching(tmp_path / "jobs.db")
    async with JobBus(settings, queue=queue) as bus:

        @bus.job
        async def filling() -> str:
            runs.append("once")
            # As if others had taken the rest of the disk meanwhile.
            await limit_pages(queue, 1)
            return "x" * 100_000

        job_id = await filling.enqueue()
        working = asyncio.create_task(Worker(bus, burst=True, lease=timedelta(seconds=60)).run())
        await asyncio.wait_for(refused.wait(), 30)
        await limit_pages(queue, PLENTY)
        await working
        job = await bus.get(job_id)
    assert job is not None
    assert (job.state, job.attempt, runs) == (JobState.COMPLETED, 1, ["once"])


class SmallDisk:
    """A file system of its own in memory; only the administrator may mount one."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.folder.mkdir()
        self._mount(f"size={SMALL},mode=1777")

    def enlarge(self) -> None:
        self._mount(f"remount,size={LARGE}")

    def remove(self) -> None:
        subprocess.run(["umount", "--lazy", self.folder], check=True)
        self.folder.rmdir()

    def _mount(self, options: str) -> None:
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(self.folder)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            self.folder.rmdir()
            pytest.skip(f"a small disk takes the right to mount one: {done.stderr.strip()}")


@pytest.fixture
def disk() -> Iterator[SmallDisk]:
    # Not pytest's own folder: the server's account has to reach it.
    made = SmallDisk(Path(tempfile.gettempdir()) / f"jobbus-test-disk-{os.getpid()}")
    yield made
    made.remove()


@pytest.fixture
def cramped_database(owned_postgres: PostgresServer, disk: SmallDisk) -> Iterator[str]:
    """A database on the small disk; the server's log is elsewhere, or it could not go on."""
    owned_postgres.start()
    space = disk.folder / "space"
    space.mkdir()
    account = Account.for_servers()
    if account is not None:
        os.chown(space, account.uid, account.gid)
    with psycopg.connect(owned_postgres.url, autocommit=True) as session:
        session.execute(f"CREATE TABLESPACE cramped LOCATION '{space}'")
        session.execute("CREATE DATABASE cramped TEMPLATE template0 TABLESPACE cramped")
        try:
            yield with_database(owned_postgres.url, "cramped")
        finally:
            session.execute("DROP DATABASE cramped WITH (FORCE)")
            session.execute("DROP TABLESPACE cramped")


async def test_a_full_postgres_refuses_whole_batches_and_takes_them_again_when_there_is_room(
    cramped_database: str, disk: SmallDisk
) -> None:
    queue = PostgresQueue(cramped_database)
    await queue.migrate()
    await queue.open()
    try:
        accepted, refused = await fill(queue)
        page = await queue.find(JobFilter(), limit=len(accepted) + BATCH)
        assert {job.id for job in page.jobs} == set(accepted)

        disk.enlarge()
        assert await queue.enqueue(refused) == [one.job_id for one in refused]
    finally:
        await queue.close()
