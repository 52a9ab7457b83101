"""The policy around an attempt, on its own: no worker, no queue."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import pytest

from jobbus import Delivery, Handlers, Message, Problem
from jobbus.idempotency import Answer, KeyHold, KeyState
from jobbus.idempotency.memory import MemoryIdempotencyStore
from jobbus.ids import new_id
from jobbus.message import Abandonment, Completion, CountsAs, DeadLetter
from jobbus.middleware.idempotency import Idempotency
from jobbus.middleware.idempotency_keys import claim_for, fingerprint
from jobbus.middleware.idempotency_values import Ahead, KeyEvent, Settlement
from jobbus.worker.held import Held, Holdings
from jobbus.worker.keys import KeyKeeper
from tests.flow.support import until
from tests.idempotency.support import SwitchedStore

LEASE = timedelta(seconds=60)
JOB_TYPE = Handlers().job(name="work")(lambda: None)


@dataclass
class Holder:
    delivery: Delivery
    hold: KeyHold | None = None
    hold_until: float = 0.0
    hold_ending: bool = False
    ahead: Ahead | None = None
    finished: bool = False


def message(payload: bytes = b"{}", key: str = "k") -> Message:
    headers = {"idempotency-key": key}
    return Message(job_id=new_id(), job_type="work", payload=payload, headers=headers)


def holder(message_: Message | None = None) -> Holder:
    return Holder(Delivery(message=message_ or message(), receipt=None, attempt=1))


@pytest.fixture
def store() -> SwitchedStore:
    return SwitchedStore(MemoryIdempotencyStore())


@pytest.fixture
def guard(store: SwitchedStore) -> Idempotency:
    return Idempotency(store, lease=LEASE, trusted=LEASE / 2, ledger=True)


async def through(
    guard: Idempotency, mine: Holder, attempt: Callable[[], Awaitable[Settlement]]
) -> Settlement | None:
    """As a worker does it: the attempt, then the record of a success."""
    settlement = await guard.around(mine, JOB_TYPE, attempt)
    if isinstance(settlement, Completion) and guard.to_record(mine, settlement):
        return await guard.record(mine, settlement)
    return settlement


async def state_of(store: SwitchedStore) -> KeyState | None:
    [record] = await store.inner.look(["work/k"])
    return None if record is None else record.state


async def test_an_outcome_that_came_too_late_is_not_told(
    guard: Idempotency, store: SwitchedStore
) -> None:
    mine = holder()

    async def overtaken() -> Completion:
        memory: Any = store.inner
        memory._shared.keys["work/k"].lease_until = 0.0
        [reply] = await store.inner.begin([claim_for(message())], LEASE)
        assert reply.answer is Answer.STOLEN
        return Completion(delivery=mine.delivery, result=b"1")

    assert await through(guard, mine, overtaken) is None
    assert guard.counts[KeyEvent.FENCED] == 1
    assert await state_of(store) is KeyState.IN_PROGRESS


async def test_a_success_whose_key_was_forgotten_meanwhile_stands_and_is_counted(
    guard: Idempotency, store: SwitchedStore
) -> None:
    mine = holder()
    done = Completion(delivery=mine.delivery, result=b"1")

    async def forgotten() -> Completion:
        memory: Any = store.inner
        memory._shared.keys.clear()
        return done

    assert await through(guard, mine, forgotten) is done
    assert guard.counts[KeyEvent.GONE] == 1


async def test_the_store_is_told_before_the_outcome_is_handed_on(
    guard: Idempotency, store: SwitchedStore
) -> None:
    """D-7."""
    mine = holder()

    async def attempt() -> Completion:
        return Completion(delivery=mine.delivery, result=b"1")

    assert await through(guard, mine, attempt) is not None
    assert await state_of(store) is KeyState.COMPLETED


async def test_who_is_cancelled_while_it_asks_gives_back_what_it_gets(
    guard: Idempotency, store: SwitchedStore
) -> None:
    asked, go_on = asyncio.Event(), asyncio.Event()

    async def hold_up(verb: str) -> None:
        if verb == "begin":
            asked.set()
            await go_on.wait()

    store.switch.before = hold_up
    asking = asyncio.create_task(guard.around(holder(), JOB_TYPE, never))
    await asked.wait()
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    go_on.set()
    await until(lambda: "release" in store.switch.asked, "giving it back")
    await asyncio.sleep(0)
    assert await state_of(store) is KeyState.RELEASED


async def test_an_attempt_that_breaks_off_frees_its_key(
    guard: Idempotency, store: SwitchedStore
) -> None:
    async def broken() -> Completion:
        raise RuntimeError("a fault of jobbus's own")

    with pytest.raises(RuntimeError):
        await guard.around(holder(), JOB_TYPE, broken)
    await until(lambda: "release" in store.switch.asked)
    await asyncio.sleep(0)
    assert await state_of(store) is KeyState.RELEASED


async def test_a_busy_key_sends_the_job_back_for_no_longer_than_a_lease(
    guard: Idempotency, store: SwitchedStore
) -> None:
    await store.begin([claim_for(message())], timedelta(hours=5))

    back = await guard.around(holder(), JOB_TYPE, never)
    assert isinstance(back, Abandonment)
    assert back.counts_as is CountsAs.SNOOZE
    assert LEASE < back.delay < LEASE + timedelta(seconds=1)


async def test_poison_goes_to_the_dead_letters(guard: Idempotency, store: SwitchedStore) -> None:
    poisoned = replace(message(), max_crashes=0)
    await store.begin([claim_for(poisoned)], timedelta(0))

    dead = await guard.around(holder(poisoned), JOB_TYPE, never)
    assert isinstance(dead, DeadLetter)
    assert dead.problem.kind == "poison_crash"


async def test_a_problem_is_kept_without_its_traceback(
    guard: Idempotency, store: SwitchedStore
) -> None:
    mine = holder()
    problem = Problem(kind="ValueError", message="no", traceback="File secret.py")

    async def attempt() -> DeadLetter:
        return DeadLetter(delivery=mine.delivery, problem=problem)

    await guard.around(mine, JOB_TYPE, attempt)
    [record] = await store.look(["work/k"])
    assert record is not None
    assert record.data == b'{"kind": "ValueError", "message": "no"}'


async def test_many_slots_travel_in_few_requests(guard: Idempotency, store: SwitchedStore) -> None:
    async def one(number: int) -> None:
        mine = holder(message(key=f"k{number}"))

        async def attempt() -> Completion:
            return Completion(delivery=mine.delivery, result=b"1")

        assert await through(guard, mine, attempt) is not None

    await asyncio.gather(*(one(number) for number in range(100)))
    assert guard.counts[KeyEvent.MISS] == 100
    assert len(store.switch.asked) < 20


async def test_a_key_that_another_has_is_reported_lost_at_the_next_renewal(
    store: SwitchedStore,
) -> None:
    holdings, lost = Holdings(), list[Held]()
    kept, stolen, ending = (Held(holder(message()).delivery, 0.0) for _ in range(3))
    for one, key in ((kept, "a"), (stolen, "b"), (ending, "c")):
        claim = replace(claim_for(one.delivery.message), key=key)
        await store.begin([claim], timedelta(0) if one is stolen else LEASE)
        one.hold, one.hold_until = claim.held(1), 0.0
        holdings.add([one])
    await store.begin([replace(claim_for(message()), key="b")], LEASE)
    ending.hold_ending = True
    keeper = KeyKeeper(store, holdings, LEASE, lost.append)
    assert await keeper._renew_all()
    assert lost == [stolen]
    assert kept.hold_until > 0
    assert ending.hold_until == 0
    store.switch.on = False
    assert not await keeper._renew_all()


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        (b'{"a": 1, "b": [2]}', b'{"b":[2],"a":1}', True),
        (b'{"a": 1}', b'{"a": 2}', False),
        (b'{"a": [1, 2]}', b'{"a": [2, 1]}', False),
        (b"\xff not JSON", b"\xff not JSON", True),
        (b"\xff not JSON", b"\xff not  JSON", False),
        (b'{"a": 1, "a": 2}', b'{"a": 2}', False),
    ],
)
def test_a_fingerprint_tells_payloads_apart_by_what_they_say(
    first: bytes, second: bytes, same: bool
) -> None:
    assert (fingerprint(message(first)) == fingerprint(message(second))) == same


async def never() -> Completion:
    raise AssertionError("the handler must not run")


async def test_the_keys_of_one_delivery_are_begun_in_one_request(
    guard: Idempotency, store: SwitchedStore
) -> None:
    several = [holder(message(key=f"k{number}")) for number in range(50)]
    guard.begin_ahead(several)
    for one in several:

        async def attempt(one: Holder = one) -> Completion:
            return Completion(delivery=one.delivery)

        assert await through(guard, one, attempt) is not None
    assert store.switch.asked.count("begin") == 1
    assert guard.counts[KeyEvent.MISS] == 50


async def test_of_jobs_with_one_key_the_second_asks_when_its_turn_comes(
    guard: Idempotency, store: SwitchedStore
) -> None:
    first, second = holder(), holder()
    guard.begin_ahead([first, second])

    async def attempt() -> Completion:
        return Completion(delivery=first.delivery, result=b"1")

    assert await through(guard, first, attempt) is not None
    done = await through(guard, second, never)
    assert isinstance(done, Completion)
    assert (done.delivery, done.result) == (second.delivery, b"1")
    assert guard.counts[KeyEvent.HIT] == 1


async def test_a_key_that_was_busy_ahead_is_asked_for_again(
    guard: Idempotency, store: SwitchedStore
) -> None:
    [reply] = await store.inner.begin([claim := claim_for(message())], LEASE)
    mine = holder()
    guard.begin_ahead([mine])
    assert mine.ahead is not None
    await mine.ahead.told
    await store.inner.release([claim.held(reply.fence)])

    async def attempt() -> Completion:
        return Completion(delivery=mine.delivery)

    assert await through(guard, mine, attempt) is not None
    assert guard.counts[KeyEvent.IN_PROGRESS] == 0


async def test_the_key_of_a_suspect_is_not_begun_before_its_turn(
    guard: Idempotency, store: SwitchedStore
) -> None:
    """It may take the process with it, and the others' keys would be charged for that."""
    suspect = holder()
    suspect.delivery = replace(suspect.delivery, crashes=1)
    guard.begin_ahead([suspect])
    assert suspect.ahead is None
    assert "begin" not in store.switch.asked


@pytest.mark.parametrize("answered", [False, True], ids=["before the answer", "after it"])
async def test_a_job_that_does_not_run_after_all_gives_its_key_back(
    guard: Idempotency, store: SwitchedStore, answered: bool
) -> None:
    mine = holder()
    guard.begin_ahead([mine])
    if answered:
        assert mine.ahead is not None
        await mine.ahead.told
        assert await state_of(store) is KeyState.IN_PROGRESS
    mine.finished = True
    await guard.let_go(mine)
    assert await state_of(store) is KeyState.RELEASED


async def test_a_key_that_could_not_be_renewed_in_time_is_begun_again_by_the_same_owner(
    guard: Idempotency, store: SwitchedStore
) -> None:
    mine = holder()
    guard.begin_ahead([mine])
    assert mine.ahead is not None
    await mine.ahead.told
    mine.hold_until = 0.0

    async def attempt() -> Completion:
        return Completion(delivery=mine.delivery)

    assert await through(guard, mine, attempt) is not None
    assert store.switch.asked.count("begin") == 2
    assert await state_of(store) is KeyState.COMPLETED


async def test_a_store_that_is_away_when_asked_ahead_sends_the_jobs_back(
    guard: Idempotency, store: SwitchedStore
) -> None:
    mine = holder()
    store.switch.on = False
    guard.begin_ahead([mine])
    back = await through(guard, mine, never)
    assert isinstance(back, Abandonment)
    assert back.problem is not None
    assert back.problem.kind == "idempotency_store_unavailable"
    assert guard.counts[KeyEvent.ERROR] == 1
