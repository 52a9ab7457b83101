"""Random sequences of requests: every store answers as the table says, whatever came before."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar, TypeVar

import psycopg
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test

from jobbus.backends.postgres import PostgresQueue
from jobbus.backends.sqlite import SqliteQueue
from jobbus.idempotency import Answer, IdempotencyStore, KeyClaim, KeyEnd, KeyHold, KeyState
from jobbus.idempotency.memory import MemoryIdempotencyStore
from jobbus.idempotency.redis import RedisIdempotencyStore
from tests.services import RedisServer

T = TypeVar("T")
LIVE, OVER = timedelta(hours=1), timedelta(0)
KEYS = st.sampled_from(["a", "b"])
OWNERS = st.sampled_from(["x", "y", "z"])
PRINTS = st.sampled_from(["one", "one", "one", "two"])
LEASES = st.sampled_from([LIVE, OVER, OVER])
MAX_CRASHES = 2


@dataclass
class Row:
    """One key as the table has it. A lease is live for ever, or over at once."""

    fingerprint: str
    owner: str
    live: bool
    state: KeyState = KeyState.IN_PROGRESS
    fence: int = 1
    crashes: int = 0
    data: bytes | None = None


class Table:
    """The state table, written down once more: nothing of this is any store's code."""

    def __init__(self, *, recreates: bool) -> None:
        self.recreates = recreates
        self.rows: dict[str, Row] = {}

    def begin(self, claim: KeyClaim, live: bool) -> tuple[Answer, int]:
        row = self.rows.get(claim.key)
        if row is None:
            self.rows[claim.key] = Row(claim.fingerprint, claim.owner, live)
            return Answer.ACQUIRED, 1
        if row.fingerprint != claim.fingerprint:
            return Answer.MISMATCH, row.fence
        if row.state in (KeyState.COMPLETED, KeyState.FAILED):
            return Answer.DONE, row.fence
        if row.state is KeyState.IN_PROGRESS and row.owner == claim.owner:
            row.live |= live
            return Answer.ACQUIRED, row.fence
        if row.state is KeyState.IN_PROGRESS and row.live:
            return Answer.BUSY, row.fence
        stolen = row.state is KeyState.IN_PROGRESS
        row.state, row.owner, row.live = KeyState.IN_PROGRESS, claim.owner, live
        row.fence += 1
        row.crashes += stolen
        if stolen and row.crashes > MAX_CRASHES:
            row.owner, row.live = "", False
            return Answer.POISON, row.fence
        return (Answer.STOLEN if stolen else Answer.ACQUIRED), row.fence

    def renew(self, hold: KeyHold, live: bool) -> Answer:
        row = self.rows.get(hold.key)
        if row is None or not self._holds(row, hold):
            return Answer.LOST
        row.live |= live
        return Answer.OK

    def end(self, end: KeyEnd, state: KeyState) -> Answer:
        hold = end.hold
        row = self.rows.get(hold.key)
        if row is None:
            if state is KeyState.COMPLETED and self.recreates:
                self.rows[hold.key] = Row(
                    hold.fingerprint, hold.owner, False, state, hold.fence, 0, end.data
                )
            return Answer.GONE
        if row.fingerprint != hold.fingerprint:
            return Answer.MISMATCH
        if row.state is state and (row.owner, row.fence) == (hold.owner, hold.fence):
            return Answer.OK
        if not self._holds(row, hold):
            return Answer.FENCED
        row.state, row.data = state, end.data
        return Answer.OK

    def release(self, hold: KeyHold) -> Answer:
        row = self.rows.get(hold.key)
        if row is None:
            return Answer.GONE
        if self._holds(row, hold):
            row.state, row.owner, row.live = KeyState.RELEASED, "", False
            return Answer.OK
        repeated = row.state is KeyState.RELEASED and row.fence == hold.fence
        return Answer.OK if repeated else Answer.FENCED

    def reopen(self, key: str) -> None:
        row = self.rows.get(key)
        if row is None:
            return
        abandoned = row.state is KeyState.IN_PROGRESS and not row.live
        if row.state is KeyState.FAILED or abandoned:
            row.state, row.owner, row.live = KeyState.RELEASED, "", False
            row.crashes, row.data = 0, None

    @staticmethod
    def _holds(row: Row, hold: KeyHold) -> bool:
        held = (row.owner, row.fence) == (hold.owner, hold.fence)
        return held and row.state is KeyState.IN_PROGRESS


@dataclass
class Place:
    """A store with its own event loop, emptied for each sequence."""

    store: IdempotencyStore
    run: Callable[[Coroutine[Any, Any, Any]], Any]
    empty: Callable[[], Any]
    recreates: bool = False


class Machine(RuleBasedStateMachine):
    """Store and table side by side."""

    place: ClassVar[Place]

    def __init__(self) -> None:
        super().__init__()
        self.place.empty()
        self.table = Table(recreates=self.place.recreates)
        self.fences = {"a": 0, "b": 0}

    @rule(key=KEYS, owner=OWNERS, fingerprint=PRINTS, lease=LEASES)
    def begin(self, key: str, owner: str, fingerprint: str, lease: timedelta) -> None:
        claim = KeyClaim(key=key, owner=owner, fingerprint=fingerprint, max_crashes=MAX_CRASHES)
        [reply] = self.place.run(self.place.store.begin([claim], lease))
        assert (reply.answer, reply.fence) == self.table.begin(claim, lease == LIVE)
        if reply.answer is Answer.DONE:
            assert reply.record.data == self.table.rows[key].data
            assert reply.record.state is self.table.rows[key].state

    @rule(key=KEYS, owner=OWNERS, back=st.integers(0, 2), lease=LEASES)
    def renew(self, key: str, owner: str, back: int, lease: timedelta) -> None:
        hold = self._hold(key, owner, back)
        [answer] = self.place.run(self.place.store.renew([hold], lease))
        assert answer is self.table.renew(hold, lease == LIVE)

    @rule(
        key=KEYS,
        owner=OWNERS,
        back=st.integers(0, 1),
        fingerprint=PRINTS,
        data=st.sampled_from([b"1", b"", None]),
        state=st.sampled_from([KeyState.COMPLETED, KeyState.FAILED]),
    )
    def end(
        self,
        key: str,
        owner: str,
        back: int,
        fingerprint: str,
        data: bytes | None,
        state: KeyState,
    ) -> None:
        end = KeyEnd(hold=self._hold(key, owner, back, fingerprint), data=data)
        store = self.place.store
        verb = store.complete if state is KeyState.COMPLETED else store.fail
        [answer] = self.place.run(verb([end]))
        assert answer is self.table.end(end, state)

    @rule(key=KEYS, owner=OWNERS, back=st.integers(0, 1))
    def release(self, key: str, owner: str, back: int) -> None:
        hold = self._hold(key, owner, back)
        [answer] = self.place.run(self.place.store.release([hold]))
        assert answer is self.table.release(hold)

    @rule(key=KEYS)
    def reopen(self, key: str) -> None:
        self.place.run(self.place.store.reopen([key]))
        self.table.reopen(key)

    @rule(keys=st.permutations(["a", "b"]))
    def look(self, keys: list[str]) -> None:
        for key, record in zip(keys, self.place.run(self.place.store.look(keys)), strict=True):
            row = self.table.rows.get(key)
            assert (record is None) == (row is None)
            if record is not None and row is not None:
                assert record.fence >= self.fences[key], "a fence only grows"
                self.fences[key] = record.fence
                told = (record.state, record.fence, record.crashes, record.data)
                assert told == (row.state, row.fence, row.crashes, row.data)

    def _hold(self, key: str, owner: str, back: int, fingerprint: str = "one") -> KeyHold:
        """A hold by that owner: the present one, or one of some fences ago."""
        row = self.table.rows.get(key)
        fence = 1 if row is None else max(1, row.fence - back)
        return KeyHold(key=key, owner=owner, fence=fence, fingerprint=fingerprint)


def check(place: Place, *, examples: int) -> None:
    machine = type("MachineHere", (Machine,), {"place": place})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=25,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


@pytest.fixture
def loop() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as runner:
        yield runner


def test_memory_answers_as_the_table(loop: asyncio.Runner) -> None:
    store = MemoryIdempotencyStore()
    check(Place(store, loop.run, store._shared.keys.clear), examples=60)


def test_sqlite_answers_as_the_table(loop: asyncio.Runner) -> None:
    with TemporaryDirectory() as folder:
        queue = SqliteQueue(Path(folder) / "jobs.db", synchronous="NORMAL")
        loop.run(queue.open())

        def empty() -> None:
            with queue.transaction_sync() as connection:
                connection.execute("DELETE FROM background_job_idempotency")

        check(Place(queue.idempotency_store(LIVE), loop.run, empty), examples=20)
        loop.run(queue.close())


def test_postgres_answers_as_the_table(
    loop: asyncio.Runner, flow_database: str, beside_flow: psycopg.Connection[Any]
) -> None:
    queue = PostgresQueue(flow_database)
    loop.run(queue.open())
    place = Place(
        queue.idempotency_store(LIVE),
        loop.run,
        lambda: beside_flow.execute("DELETE FROM background_job_idempotency"),
    )
    check(place, examples=15)
    loop.run(queue.close())


def test_redis_answers_as_the_table(
    loop: asyncio.Runner, redis_default: RedisServer, prefix: str
) -> None:
    store = RedisIdempotencyStore(redis_default.url, LIVE, prefix=prefix)
    loop.run(store.open())

    async def forget() -> None:
        assert store._client is not None
        await store._client.unlink(store._name("a"), store._name("b"))

    # Only Redis records a success of which it had forgotten the beginning.
    check(Place(store, loop.run, lambda: loop.run(forget()), recreates=True), examples=30)
    loop.run(store.close())
