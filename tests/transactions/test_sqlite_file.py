"""What jobbus asks of a SQLite file: safety by default, few commits, and clear words at the end."""

from __future__ import annotations

import asyncio
import sqlite3
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from jobbus import BackendFull, BackendUnavailable, ConfigurationError, InvalidJob, JobBus
from jobbus.backends import sqlite
from jobbus.backends.sql.filesystem import NETWORK, refuse_network
from jobbus.backends.sql.program import Call, Program, Rows
from jobbus.backends.sql.sqlite_engine import SqliteEngine
from jobbus.backends.sql.statements import Naming
from jobbus.backends.sqlite import SqliteQueue
from jobbus.ids import new_id
from jobbus.testing import message
from tests.flow.support import PLAIN, SECOND, all_ended, at_work, completed

MOUNTS = """\
/dev/vda1 / ext4 rw,relatime 0 0
tmpfs /run tmpfs rw 0 0
server:/export /srv/shared nfs4 rw,vers=4.2 0 0
//server/share /srv/shared/win\\040dows cifs rw 0 0
/dev/vdb1 /srv/shared/local\\040disk ext4 rw 0 0
"""


@pytest.fixture
def mounts(tmp_path: Path) -> Path:
    """A machine with several file systems, as the kernel lists them."""
    path = tmp_path / "mounts"
    path.write_text(MOUNTS)
    return path


@asynccontextmanager
async def opened(queue: SqliteQueue) -> AsyncIterator[JobBus]:
    async with JobBus(PLAIN, queue=queue) as bus:
        yield bus


async def pragma(bus: JobBus, name: str, *, write: bool) -> object:
    """What the writer's or the reader's own connection says."""

    def asked() -> Program[Rows]:
        return (yield Call("script", {}, f"PRAGMA {name}"))

    queue: Any = bus.queue
    rows = await queue._run(asked, write=write)
    return rows[0][0]


@pytest.mark.parametrize(
    ("place", "kind"),
    [("/srv/shared/jobs.db", "nfs4"), ("/srv/shared/win dows/deep/jobs.db", "cifs")],
)
def test_a_file_on_a_network_file_system_is_refused(mounts: Path, place: str, kind: str) -> None:
    with pytest.raises(ConfigurationError, match=rf"network file system \({kind}\)") as raised:
        refuse_network(Path(place), mounts)
    assert "ALLOW_NETWORK_FILESYSTEM" in str(raised.value)


@pytest.mark.parametrize(
    "place", ["/srv/jobs.db", "/run/jobs.db", "/srv/shared/local disk/jobs.db", "/srv/sharedx/j"]
)
def test_a_file_on_a_local_disk_is_fine_wherever_that_is_mounted(mounts: Path, place: str) -> None:
    refuse_network(Path(place), mounts)


def test_where_the_system_lists_no_mounts_nothing_is_refused(tmp_path: Path) -> None:
    refuse_network(Path("/srv/shared/jobs.db"), tmp_path / "nothing")


async def test_opening_on_a_network_file_system_makes_no_file_unless_it_is_allowed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = tmp_path / "mounts"
    place = tmp_path / "share"
    place.mkdir()
    listed.write_text(f"server:/export {place} nfs rw 0 0\n")
    monkeypatch.setattr(sqlite, "refuse_network", partial(refuse_network, mounts=listed))
    queue = SqliteQueue(place / "jobs.db")
    with pytest.raises(ConfigurationError, match="network file system"):
        await queue.open()
    assert not list(place.iterdir())
    assert "nfs" in NETWORK
    async with opened(SqliteQueue(place / "jobs.db", allow_network_filesystem=True)) as bus:
        assert await bus.count() == 0


@pytest.mark.parametrize(("asked", "level"), [(None, 2), ("NORMAL", 1), ("full", 2), ("EXTRA", 3)])
async def test_commits_are_as_durable_as_asked_and_fully_by_default(
    tmp_path: Path, asked: str | None, level: int
) -> None:
    path = tmp_path / "jobs.db"
    async with opened(SqliteQueue(path, synchronous=asked) if asked else SqliteQueue(path)) as bus:
        assert await pragma(bus, "synchronous", write=True) == level
        for write in (True, False):
            assert await pragma(bus, "journal_mode", write=write) == "wal"
            assert await pragma(bus, "busy_timeout", write=write) == 5000


def test_a_commit_that_a_crash_may_corrupt_is_not_to_be_had(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="FULL, NORMAL, EXTRA, not 'OFF'"):
        SqliteQueue(tmp_path / "jobs.db", synchronous="OFF")


@pytest.mark.parametrize("style", ["transaction", "transaction_sync"])
async def test_a_handlers_transaction_is_as_durable_as_all_others(
    tmp_path: Path, style: str
) -> None:
    queue = SqliteQueue(tmp_path / "jobs.db")
    async with opened(queue):
        if style == "transaction":
            async with queue.transaction() as connection:
                level = connection.execute("PRAGMA synchronous").fetchone()
        else:
            with queue.transaction_sync() as connection:
                level = connection.execute("PRAGMA synchronous").fetchone()
    assert level == (2,)


@pytest.fixture
def on_connecting(
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[[Callable[[sqlite3.Connection], object]], None]:
    """Has something done to every connection that an engine makes."""
    connect = SqliteEngine._connect

    def prepare(act: Callable[[sqlite3.Connection], object]) -> None:
        def connect_and_act(engine: SqliteEngine) -> sqlite3.Connection:
            connection = connect(engine)
            act(connection)
            return connection

        monkeypatch.setattr(SqliteEngine, "_connect", connect_and_act)

    return prepare


Prepare = Callable[[Callable[[sqlite3.Connection], object]], None]


async def test_enqueues_that_come_together_share_a_commit(
    tmp_path: Path, on_connecting: Prepare
) -> None:
    said: Counter[str] = Counter()
    on_connecting(lambda one: one.set_trace_callback(lambda sql: said.update([sql])))
    async with opened(SqliteQueue(tmp_path / "jobs.db")) as bus:
        said.clear()
        ids = await asyncio.gather(
            *(bus.enqueue("work", {"n": n}, unregistered=True) for n in range(300))
        )
        assert 1 <= said["COMMIT"] <= 100
        assert len(set(ids)) == await bus.count() == 300


async def test_one_of_a_group_that_fails_takes_no_other_with_it(
    tmp_path: Path, on_connecting: Prepare
) -> None:
    said: Counter[str] = Counter()
    on_connecting(lambda one: one.set_trace_callback(lambda sql: said.update([sql])))
    async with opened(SqliteQueue(tmp_path / "jobs.db")) as bus:
        said.clear()
        hopeless = (new_id(),)
        asked = [
            bus.enqueue("work", unregistered=True, depends_on=() if n % 5 else hopeless)
            for n in range(100)
        ]
        outcomes = await asyncio.gather(*asked, return_exceptions=True)
        failed = [n for n, one in enumerate(outcomes) if isinstance(one, InvalidJob)]
        assert failed == list(range(0, 100, 5))
        assert said["COMMIT"] < 50
        assert {job.id async for job in bus.find_all()} == {
            one for one in outcomes if isinstance(one, str)
        }


async def fill(bus: JobBus) -> list[str]:
    """The ids of the jobs that still fitted."""
    kept: list[str] = []
    with pytest.raises(BackendFull, match="nothing was kept"):
        await _enqueue_for_ever(bus, kept)
    assert kept
    return kept


async def _enqueue_for_ever(bus: JobBus, kept: list[str]) -> None:
    for _ in range(1000):
        kept.append(await bus.enqueue("work", {"x": "y" * 2000}, unregistered=True))


async def test_a_full_disk_is_told_nothing_is_half_written_and_room_makes_it_work_again(
    tmp_path: Path, on_connecting: Prepare
) -> None:
    on_connecting(lambda one: one.execute("PRAGMA max_page_count = 120").fetchone())
    async with opened(SqliteQueue(tmp_path / "jobs.db")) as bus:
        kept = await fill(bus)
        assert {job.id async for job in bus.find_all()} == set(kept)

        batch = [message("work", payload=b'{"x": "%b"}' % (b"y" * 3000)) for _ in range(20)]
        with pytest.raises(BackendFull):
            await bus.enqueue_many(batch)
        together = [bus.enqueue("work", {"x": "y" * 3000}, unregistered=True) for _ in range(20)]
        refused = await asyncio.gather(*together, return_exceptions=True)
        kept += [one for one in refused if isinstance(one, str)]
        assert {type(one) for one in refused if not isinstance(one, str)} == {BackendFull}
        assert {job.id async for job in bus.find_all()} == set(kept)

        assert await bus.purge("default") == len(kept)
        again = await bus.enqueue("work", {"x": "y" * 2000}, unregistered=True)
        assert [job.id async for job in bus.find_all()] == [again]


async def test_jobs_that_were_accepted_still_run_once_a_full_disk_has_some_room(
    tmp_path: Path, on_connecting: Prepare
) -> None:
    on_connecting(lambda one: one.execute("PRAGMA max_page_count = 120").fetchone())
    async with opened(SqliteQueue(tmp_path / "jobs.db")) as bus:

        @bus.job
        async def work(x: str) -> None: ...

        ballast = [work.options(queue="ballast").message("y" * 2000) for _ in range(5)]
        await bus.enqueue_many(ballast)
        kept = await fill(bus)
        assert await bus.purge("ballast") == 5
        async with at_work(bus):
            await all_ended(bus, kept)
            await completed(bus, kept[-1])


async def test_a_lock_that_somebody_holds_too_long_is_told_and_nothing_is_lost(
    tmp_path: Path,
) -> None:
    path = tmp_path / "jobs.db"
    async with opened(SqliteQueue(path, busy_timeout=SECOND / 100)) as bus:
        await bus.enqueue("work", unregistered=True)
        stranger = sqlite3.connect(path, isolation_level=None)
        try:
            stranger.execute("BEGIN IMMEDIATE")
            with pytest.raises(BackendUnavailable, match="held the write lock for too long"):
                await bus.enqueue("work", unregistered=True)
            assert await bus.count() == 1, "reading goes on"
            stranger.execute("COMMIT")
        finally:
            stranger.close()
        await bus.enqueue("work", unregistered=True)
        assert await bus.count() == 2


async def test_a_folder_that_is_not_there_is_made(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "down" / "jobs.db"
    async with opened(SqliteQueue(path)) as bus:
        assert await bus.count() == 0
    assert path.exists()


async def test_a_file_that_is_no_database_is_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "letter.txt"
    path.write_text("Dear Ada,\n" * 200)
    queue = SqliteQueue(path)
    with pytest.raises(Exception, match="not a database"):
        await queue.open()
    assert path.read_text() == "Dear Ada,\n" * 200


async def test_who_begins_to_wait_hears_at_once_of_what_other_processes_have_committed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # By itself the reader looks so seldom here that nobody would wait for it.
    monkeypatch.setattr(SqliteEngine, "_glance", lambda engine: 3600.0)
    heard = asyncio.Event()
    loop = asyncio.get_running_loop()
    engine = SqliteEngine(str(tmp_path / "jobs.db"), naming=Naming())
    engine.on_change.append(lambda: loop.call_soon_threadsafe(heard.set))
    other = SqliteQueue(tmp_path / "jobs.db")
    await other.open()
    await asyncio.to_thread(engine.start)
    await other.enqueue([message()])
    with engine.listening():
        async with asyncio.timeout(60):
            await heard.wait()
    engine.on_change.clear()
    await asyncio.to_thread(engine.stop_unless_used)
    await other.close()
