"""A store that is away: what needs it waits, nothing is lost, everything else goes on (D-10)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta

import pytest

from jobbus import BackendUnavailable, ConfigurationError, JobBus, JobState, Worker, load_settings
from jobbus.backends.memory import MemoryQueue
from jobbus.errors import BackendError
from jobbus.idempotency import Answer, KeyClaim, KeyEnd, KeyState
from jobbus.idempotency.memory import MemoryIdempotencyStore
from jobbus.idempotency.redis import RedisIdempotencyStore
from jobbus.message import Abandonment, Completion, CountsAs
from jobbus.middleware.idempotency_values import KeyEvent
from tests.flow.support import NOWHERE, PLAIN, at_work, completed, until
from tests.idempotency.support import BareBroker, Effects, SwitchedStore, key_of, snoozed
from tests.services import RedisServer
from tests.services.redis import reading_redis

LEASE = timedelta(seconds=60)


@asynccontextmanager
async def ledger_bus(store: SwitchedStore, **settings: object) -> AsyncIterator[JobBus]:
    chosen = load_settings(settings, environ={}, directory=NOWHERE) if settings else PLAIN
    async with JobBus(chosen, queue=MemoryQueue(), idempotency=store) as bus:
        yield bus


@asynccontextmanager
async def bare_bus(queue: BareBroker, store: SwitchedStore) -> AsyncIterator[JobBus]:
    async with JobBus(PLAIN, queue=queue, idempotency=store) as bus:
        yield bus


@pytest.fixture
def store() -> SwitchedStore:
    return SwitchedStore(MemoryIdempotencyStore())


async def test_keyed_jobs_wait_for_a_store_that_is_away_and_others_go_on(
    store: SwitchedStore,
) -> None:
    seen = []
    async with ledger_bus(store) as bus:

        @bus.job
        async def work(number: int) -> None:
            seen.append(number)

        store.switch.on = False
        async with at_work(bus) as worker:
            assert worker.degraded is None
            keyed = await work.options(idempotency_key="k").enqueue(1)
            job = await snoozed(bus, keyed)
            assert timedelta(seconds=4) < job.run_at - job.created_at
            await completed(bus, await work.enqueue(2))
            assert worker.degraded == "the idempotency store is away: jobs that need it wait"
            assert worker.guard is not None
            assert worker.guard.counts[KeyEvent.ERROR] == 1
            store.switch.on = True
            await until(lambda: worker.degraded is None, "the store's return")
            await bus.retry(keyed)
            await completed(bus, keyed)
    assert seen == [2, 1]


async def test_a_worker_starts_and_serves_while_redis_is_away_and_finds_it_when_it_is_back(
    owned_redis: RedisServer,
) -> None:
    assert owned_redis.process is not None
    owned_redis.process.start()
    redis = RedisIdempotencyStore(owned_redis.url, deadline=timedelta(seconds=2))
    owned_redis.process.crash()
    seen = []
    async with JobBus(PLAIN, queue=MemoryQueue(), idempotency=redis) as bus:

        @bus.job
        async def work(number: int) -> str:
            seen.append(number)
            return "done"

        async with at_work(bus) as worker:
            keyed = [await work.options(idempotency_key="k").enqueue(1) for _ in range(2)]
            for each in keyed:
                await snoozed(bus, each)
            await completed(bus, await work.enqueue(2))
            owned_redis.process.start()
            await until(lambda: worker.degraded is None, "Redis found again")
            for each in keyed:
                await bus.retry(each)
                await completed(bus, each)
    assert seen == [2, 1]


async def test_a_redis_that_stops_under_a_running_job_is_told_of_its_success_when_it_is_back(
    owned_redis: RedisServer,
) -> None:
    assert owned_redis.process is not None
    owned_redis.process.start()
    redis = RedisIdempotencyStore(owned_redis.url, deadline=timedelta(seconds=2))
    effects = Effects()
    async with JobBus(PLAIN, queue=MemoryQueue(), idempotency=redis) as bus:

        @bus.job
        async def work() -> str:
            effects.seen.append(1)
            effects.started.set()
            await effects.gate.wait()
            return "done"

        async with at_work(bus) as worker:
            keyed = work.options(idempotency_key="survives a restart")
            first = await keyed.enqueue()
            await effects.started.wait()
            owned_redis.process.crash()
            effects.gate.set()
            guard = worker.guard
            assert guard is not None
            await until(lambda: guard.counts[KeyEvent.ERROR], "that it was tried in vain")
            job = await bus.get(first)
            assert job is not None
            assert job.state is JobState.RUNNING, "never acknowledged before it is recorded (D-7)"
            owned_redis.process.start()
            await completed(bus, first)
            await until(lambda: worker.degraded is None, "Redis found again")
            await completed(bus, await keyed.enqueue())
    assert effects.seen == [1]


async def test_a_naturally_idempotent_job_runs_without_the_store_and_is_counted(
    store: SwitchedStore,
) -> None:
    seen = []
    async with ledger_bus(store) as bus:

        @bus.job(naturally_idempotent=True)
        async def put() -> None:
            seen.append(1)

        store.switch.on = False
        async with at_work(bus) as worker:
            await completed(bus, await put.options(idempotency_key="k").enqueue())
            assert worker.guard is not None
            assert worker.guard.counts[KeyEvent.UNGUARDED] == 1
    assert seen == [1]


async def test_a_setting_makes_naturally_idempotent_jobs_wait_too(store: SwitchedStore) -> None:
    seen = []
    async with ledger_bus(store, idempotency_on_unavailable="wait") as bus:

        @bus.job(naturally_idempotent=True)
        async def put() -> None:
            seen.append(1)

        store.switch.on = False
        async with at_work(bus):
            await snoozed(bus, await put.options(idempotency_key="k").enqueue())
    assert seen == []


async def test_enqueueing_never_depends_on_the_store(store: SwitchedStore) -> None:
    async with ledger_bus(store) as bus:

        @bus.job
        async def work() -> None: ...

        store.switch.on = False
        assert await work.options(idempotency_key="k").enqueue()


async def test_a_success_that_cannot_be_recorded_is_never_acknowledged(
    store: SwitchedStore,
) -> None:
    """D-10: it is tried until the lease is over, then left."""
    seen = []
    async with ledger_bus(store) as bus:

        @bus.job
        async def work() -> None:
            seen.append(1)
            store.switch.on = len(seen) > 1

        async with at_work(bus, lease=timedelta(seconds=1)) as worker:
            job_id = await work.options(idempotency_key="k").enqueue()
            job = await snoozed(bus, job_id)  # its lease had run out, and another attempt begun
            assert (len(seen), job.crashes) == (1, 1)
            store.switch.on = True
            await until(lambda: worker.degraded is None, "the store's return")
            await bus.retry(job_id)
            await completed(bus, job_id)
            record = await key_of(bus, "work", "k")
            assert record is not None
            assert (record.state, record.crashes) == (KeyState.COMPLETED, 1)


async def test_without_a_ledger_fetching_pauses_while_the_store_is_away(
    store: SwitchedStore,
) -> None:
    queue, seen = BareBroker(MemoryQueue()), []
    async with bare_bus(queue, store) as bus:

        @bus.job
        async def work(number: int) -> None:
            seen.append(number)

        store.switch.on = False
        async with at_work(bus) as worker:
            await work.enqueue(1)
            await until(lambda: worker.degraded is not None)
            asked = store.switch.asked.count("begin")
            for number in range(2, 22):
                await work.enqueue(number)
            await until(lambda: "look" in store.switch.asked, "a look for the store")
            # A wait at the queue that had begun before may have brought some, one for each slot.
            assert (await queue.get_queue_depth("default")).ready >= 16
            assert store.switch.asked.count("begin") == asked
            store.switch.on = True
            await until(lambda: len(seen) >= 16, "fetching goes on")
    waiting = [each for each in queue.settled if isinstance(each, Abandonment)]
    assert 1 <= len(waiting) <= 5
    assert {each.counts_as for each in waiting} == {CountsAs.SNOOZE}


async def test_without_a_ledger_every_job_goes_by_its_id_and_a_redelivery_does_nothing(
    store: SwitchedStore,
) -> None:
    """D-7: recorded, but never acknowledged; the broker hands it out once more."""
    queue, seen = BareBroker(MemoryQueue()), []
    async with bare_bus(queue, store) as bus:

        @bus.job
        async def work() -> str:
            seen.append(1)
            return "done"

        queue.refuse = True
        async with at_work(bus, lease=timedelta(seconds=1)):
            job_id = await work.enqueue()
            await until(lambda: queue.settled, "the settlement that gets lost")
            queue.refuse = False
            await until(lambda: len(queue.settled) == 2, "the second one")
    assert seen == [1]
    for each in queue.settled:
        assert isinstance(each, Completion)
        assert (each.delivery.job_id, each.result) == (job_id, b'"done"')


async def test_without_a_ledger_a_dead_letter_that_comes_back_by_hand_runs_again(
    store: SwitchedStore,
) -> None:
    queue, seen = BareBroker(MemoryQueue()), []
    async with bare_bus(queue, store) as bus:

        @bus.job(max_attempts=1)
        async def work() -> None:
            seen.append(1)
            if len(seen) == 1:
                raise ValueError("broken")

        async with at_work(bus):
            job_id = await work.enqueue()
            await until(lambda: queue.settled)
            await queue.inner.redrive([job_id])
            await until(lambda: len(queue.settled) == 2)
    assert isinstance(queue.settled[1], Completion)


async def test_a_key_that_could_not_be_one_goes_to_the_dead_letters(store: SwitchedStore) -> None:
    """Headers come from whoever may write to the broker."""
    async with ledger_bus(store) as bus:

        @bus.job
        async def work() -> None: ...

        message = replace(work.message(), headers={"idempotency-key": "x" * 1000})
        async with at_work(bus):
            await bus.queue.enqueue([message])
            job = await bus.wait(message.job_id, timeout=timedelta(seconds=15))
    assert job.problem is not None
    assert job.problem.kind == "invalid_idempotency_key"


async def test_a_worker_refuses_to_start_where_keys_would_be_forgotten_before_messages(
    store: SwitchedStore,
) -> None:
    """D-9."""
    queue = BareBroker(MemoryQueue(), retention=timedelta(days=14))
    week = load_settings({"idempotency_ttl_days": 7}, environ={}, directory=NOWHERE)
    async with JobBus(week, queue=queue, idempotency=store) as bus:
        with pytest.raises(ConfigurationError, match="IDEMPOTENCY_TTL_DAYS to 14 or more"):
            await Worker(bus).run()


@pytest.mark.parametrize("address", ["redis://127.0.0.1:1/0", "redis://:secret@127.0.0.1:1/0"])
async def test_a_redis_that_is_not_there_is_unavailable_and_no_secret_is_told(
    address: str,
) -> None:
    store = RedisIdempotencyStore(address, deadline=timedelta(seconds=1))
    await store.open()
    with pytest.raises(BackendUnavailable) as caught:
        await store.look(["key"])
    assert "secret" not in str(caught.value)
    await store.close()
    with pytest.raises(BackendUnavailable, match="closed"):
        await store.look(["key"])


@pytest.mark.parametrize("prefix", ["", "a b", "{a}", "a*", "x" * 65])
def test_a_prefix_that_could_touch_other_keys_is_refused(prefix: str) -> None:
    """S-5."""
    with pytest.raises(ConfigurationError):
        RedisIdempotencyStore("redis://localhost", prefix=prefix)


async def test_scripts_are_sent_again_to_a_redis_that_has_forgotten_them(
    owned_redis: RedisServer,
) -> None:
    assert owned_redis.process is not None
    owned_redis.process.start()
    store = RedisIdempotencyStore(owned_redis.url, prefix="scripts")
    await store.open()
    claims = [KeyClaim(key=f"{n}", owner="x", fingerprint="p") for n in range(3)]
    for _ in range(2):
        assert {r.answer for r in await store.begin(claims, LEASE)} == {Answer.ACQUIRED}
        assert store._client is not None
        await store._client.script_flush()
    await store.close()


async def test_every_script_keeps_to_one_slot_of_a_cluster(owned_redis: RedisServer) -> None:
    store = RedisIdempotencyStore(owned_redis.url, prefix="slots")
    names = [store._name(key) for key in ("a", "b {x}", "}")]
    for name in names:
        assert name.count("{") == name.count("}") == 1
        assert name.startswith("slots:idempotency:{")
        assert name.endswith("}")


async def test_a_full_redis_refuses_and_keeps_nothing_half(owned_redis: RedisServer) -> None:
    assert owned_redis.process is not None
    owned_redis.process.start()
    store = RedisIdempotencyStore(owned_redis.url, prefix="full")
    await store.open()
    client = store._client
    assert client is not None
    try:
        await client.config_set("maxmemory", "1")
        with pytest.raises(BackendError, match="no memory left"):
            await store.begin([KeyClaim(key="k", owner="x", fingerprint="p")], LEASE)
        assert await store.look(["k"]) == [None]
    finally:
        await client.config_set("maxmemory", "0")
        await store.close()


@pytest.mark.usefixtures("owned_redis")
async def test_nobody_is_told_of_forgetfulness_by_a_redis_that_is_still_reading_its_file() -> None:
    told = ""
    with reading_redis() as server:
        store = RedisIdempotencyStore(server.url)
        await store.open()
        async with asyncio.timeout(10):
            while "still reading" not in told:
                with pytest.raises(BackendUnavailable) as caught:
                    await store.concerns()
                told = str(caught.value)
        await store.close()


async def test_an_operator_is_told_of_a_redis_that_may_forget_keys(
    owned_redis: RedisServer,
) -> None:
    assert owned_redis.process is not None
    owned_redis.process.start()
    store = RedisIdempotencyStore(owned_redis.url)
    await store.open()
    client = store._client
    assert client is not None
    assert await store.concerns() == []
    try:
        await client.config_set("maxmemory-policy", "allkeys-lru")
        [told] = await store.concerns()
        assert "noeviction" in told
    finally:
        await client.config_set("maxmemory-policy", "noeviction")
        await store.close()


async def test_a_slot_takes_its_next_job_while_the_success_before_is_recorded(
    store: SwitchedStore,
) -> None:
    """And a worker that is stopped meanwhile leaves when the queue has heard of both (D-7)."""
    telling, go_on = asyncio.Event(), asyncio.Event()

    async def hold_up(verb: str) -> None:
        if verb == "complete":
            telling.set()
            await go_on.wait()

    store.switch.before = hold_up
    seen: list[int] = []
    async with ledger_bus(store) as bus:

        @bus.job
        async def work(number: int) -> None:
            seen.append(number)

        ids = [await work.options(idempotency_key=f"k{n}").enqueue(n) for n in range(3)]
        worker = Worker(bus, concurrency=1)
        working = asyncio.create_task(worker.run())
        await telling.wait()
        await until(lambda: seen == [0, 1, 2], "all handlers")
        jobs = [await bus.get(job_id) for job_id in ids]
        assert [job.state for job in jobs if job is not None] == [JobState.RUNNING] * 3
        worker.stop()
        assert not working.done()
        go_on.set()
        await working
        for job_id in ids:
            assert (await completed(bus, job_id)).attempt == 1


async def test_successes_of_one_moment_are_recorded_in_one_request(store: SwitchedStore) -> None:
    told: list[int] = []
    complete = store.inner.complete

    async def count(ends: Sequence[KeyEnd], **options: object) -> Sequence[Answer]:
        told.append(len(ends))
        return await complete(ends)

    store.inner.complete = count  # type: ignore[method-assign]  # counted on the way
    async with ledger_bus(store) as bus:

        @bus.job
        async def work(number: int) -> None: ...

        ids = [await work.options(idempotency_key=f"k{n}").enqueue(n) for n in range(10)]
        async with at_work(bus):
            for job_id in ids:
                await completed(bus, job_id)
    assert sum(told) == 10
    assert len(told) < 10


async def test_jobs_that_are_handed_back_leave_their_keys_free(store: SwitchedStore) -> None:
    """The next worker must not find them busy until a lease is over."""
    going, go_on = asyncio.Event(), asyncio.Event()
    async with ledger_bus(store) as bus:

        @bus.job
        async def work(number: int) -> None:
            if not number:
                going.set()
                await go_on.wait()

        ids = [await work.options(idempotency_key=f"k{n}").enqueue(n) for n in range(3)]
        worker = Worker(bus, concurrency=1)
        worker._pace.prefetch = lambda: 5  # type: ignore[method-assign]  # as for short jobs
        working = asyncio.create_task(worker.run())
        await going.wait()
        await until(lambda: store.switch.asked.count("begin"), "keys begun")
        worker.stop()
        go_on.set()
        await working
        async with at_work(bus):
            for job_id in ids:
                assert (await completed(bus, job_id)).snoozes == 0
