"""Jobs that share a key, under a worker: their work is done once."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from jobbus import IdempotencyMismatch, JobBus, JobContext, JobState, PermanentError
from jobbus.idempotency import KeyState
from jobbus.middleware.idempotency_values import KeyEvent, KeyNotice
from tests.flow.support import (
    AT_ONCE,
    Home,
    all_ended,
    at_work,
    completed,
    ended,
    in_state,
    until,
)
from tests.idempotency.support import Effects, SwitchedStore, key_of, snoozed


async def test_of_two_jobs_with_one_key_at_once_one_works_and_both_have_its_result(
    bus: JobBus,
) -> None:
    effects = Effects()

    @bus.job
    async def charge(order: int) -> str:
        effects.seen.append(order)
        effects.started.set()
        await effects.gate.wait()
        return f"receipt {len(effects.seen)}"

    async with at_work(bus):
        keyed = charge.options(idempotency_key="order-1")
        first = await keyed.enqueue(1)
        await effects.started.wait()
        second = await keyed.enqueue(1)
        await snoozed(bus, second)
        effects.gate.set()
        await completed(bus, first)
        await bus.retry(second)
        await completed(bus, second)
    assert effects.seen == [1]
    assert await charge.result(second) == await charge.result(first) == "receipt 1"


async def test_many_late_jobs_with_a_key_do_nothing_and_have_the_result_of_the_first(
    bus: JobBus,
) -> None:
    effects = Effects()

    @bus.job
    async def charge(order: int) -> int:
        effects.seen.append(order)
        return 100 + order

    async with at_work(bus) as worker:
        keyed = charge.options(idempotency_key="order-7")
        await completed(bus, await keyed.enqueue(7))
        late = await bus.enqueue_many([keyed.message(7) for _ in range(30)])
        await all_ended(bus, late)
        assert worker.guard is not None
        assert worker.guard.counts == {KeyEvent.MISS: 1, KeyEvent.HIT: 30}
    assert effects.seen == [7]
    assert {await charge.result(each) for each in late} == {107}


async def test_a_key_is_one_job_types_own(bus: JobBus) -> None:
    seen = Counter[str]()

    @bus.job
    async def charge() -> None:
        seen["charge"] += 1

    @bus.job
    async def mail() -> None:
        seen["mail"] += 1

    async with at_work(bus):
        for kind in (charge, mail, charge, mail):
            await completed(bus, await kind.options(idempotency_key="order-1").enqueue())
    assert seen == {"charge": 1, "mail": 1}


async def test_the_key_travels_to_the_handler_and_stands_in_the_ledger(bus: JobBus) -> None:
    seen = []

    @bus.job
    async def charge(ctx: JobContext) -> None:
        seen.append(ctx.idempotency_key)

    async with at_work(bus):
        job_id = await charge.options(idempotency_key="Bestellung 1 €").enqueue()
        job = await completed(bus, job_id)
    assert seen == ["Bestellung 1 €"]
    assert job.headers["idempotency-key"] == "Bestellung 1 €"


async def test_the_order_of_a_payloads_names_does_not_make_it_another(bus: JobBus) -> None:
    seen = []

    @bus.job
    async def charge(order: int, cents: int) -> None:
        seen.append((order, cents))

    async with at_work(bus):
        first = charge.options(idempotency_key="k").message_from(b'{"order": 1, "cents": 2}')
        second = charge.options(idempotency_key="k").message_from(b'{"cents":2,"order":1}')
        for message in (first, second):
            await completed(bus, await bus.enqueue(message))
    assert seen == [(1, 2)]


async def test_a_key_used_for_another_payload_is_refused_at_enqueue_once_that_is_known(
    bus: JobBus,
) -> None:
    @bus.job
    async def charge(order: int) -> None: ...

    keyed = charge.options(idempotency_key="k")
    async with at_work(bus):
        await completed(bus, await keyed.enqueue(1))
    before = await bus.count()
    with pytest.raises(IdempotencyMismatch, match="'k' was used for a job of type charge"):
        await keyed.enqueue(2)
    with pytest.raises(IdempotencyMismatch):
        await bus.enqueue_many(
            [charge.options(idempotency_key="new").message(number) for number in (1, 2)]
        )
    assert await bus.count() == before


async def test_a_key_used_for_another_payload_that_was_not_known_goes_to_the_dead_letters(
    bus: JobBus,
) -> None:
    seen = []

    @bus.job
    async def charge(order: int) -> None:
        seen.append(order)

    keyed = charge.options(idempotency_key="k")
    first, second = [await keyed.enqueue(order) for order in (1, 2)]
    async with at_work(bus, concurrency=1):
        await completed(bus, first)
        job = await ended(bus, second)
    assert job.state is JobState.FAILED
    assert job.problem is not None
    assert job.problem.kind == "idempotency_mismatch"
    assert seen == [1]


async def test_an_attempt_that_failed_frees_the_key_for_the_next(bus: JobBus) -> None:
    """D-6."""
    seen = []

    @bus.job(retry=AT_ONCE)
    async def charge() -> int:
        seen.append(1)
        if len(seen) == 1:
            raise ConnectionError("try again")
        return len(seen)

    async with at_work(bus):
        await completed(bus, await charge.options(idempotency_key="k").enqueue())
    record = await key_of(bus, "charge", "k")
    assert record is not None
    assert (record.state, record.fence, record.data) == (KeyState.COMPLETED, 2, b"2")


async def test_work_that_failed_for_good_fails_for_all_that_share_its_key_until_redriven(
    bus: JobBus,
) -> None:
    seen = []

    @bus.job
    async def charge() -> str:
        seen.append(1)
        if len(seen) == 1:
            raise PermanentError("the card is refused")
        return "paid"

    keyed = charge.options(idempotency_key="k")
    async with at_work(bus):
        first = await ended(bus, await keyed.enqueue())
        second = await ended(bus, await keyed.enqueue())
        assert len(seen) == 1
        for job in (first, second):
            assert job.state is JobState.FAILED
            assert job.problem is not None
            assert (job.problem.kind, job.problem.message) == (
                "PermanentError",
                "the card is refused",
            )
        assert await bus.redrive(first.id) == [first.id]
        await completed(bus, first.id)
    assert await charge.result(first.id) == "paid"


async def test_a_cancelled_job_frees_its_key(bus: JobBus) -> None:
    effects = Effects()

    @bus.job
    async def charge() -> None:
        effects.started.set()
        await effects.gate.wait()

    async with at_work(bus):
        job_id = await charge.options(idempotency_key="k").enqueue()
        await effects.started.wait()
        await bus.cancel(job_id)
        await in_state(bus, job_id, JobState.CANCELLED)
    record = await key_of(bus, "charge", "k")
    assert record is not None
    assert record.state is KeyState.RELEASED


async def test_a_large_result_is_fetched_from_the_job_that_has_it(bus: JobBus) -> None:
    """D-8: beside the key at most 32 KiB are kept."""

    @bus.job
    async def render() -> str:
        return "x" * 40_000

    keyed = render.options(idempotency_key="k")
    async with at_work(bus):
        await completed(bus, await keyed.enqueue())
        second = await keyed.enqueue()
        await completed(bus, second)
        assert await render.result(second) == "x" * 40_000
    record = await key_of(bus, "render", "k")
    assert record is not None
    assert record.data is None


async def test_a_job_without_a_key_never_asks_the_store(home: Home) -> None:
    async with home.bus() as plain:
        spy = SwitchedStore(await plain.idempotency_store())
        bus = JobBus(plain.settings, queue=plain.queue, idempotency=spy)

        @bus.job
        async def work() -> None: ...

        async with at_work(bus):
            ids = await bus.enqueue_many([work.message() for _ in range(5)])
            await all_ended(bus, ids)
        assert spy.switch.asked == []


async def test_with_idempotency_switched_off_keys_mean_nothing(home: Home) -> None:
    seen = []
    async with home.bus(enable_idempotency=False) as bus:

        @bus.job
        async def work(number: int) -> None:
            seen.append(number)

        async with at_work(bus) as worker:
            assert worker.guard is None
            for number in (1, 2):
                await completed(bus, await work.options(idempotency_key="k").enqueue(number))
    assert seen == [1, 2]


async def test_observers_hear_of_every_key_with_the_names_that_may_label_a_metric(
    bus: JobBus,
) -> None:
    told: list[KeyNotice] = []

    @bus.job(queue="bills")
    async def charge() -> None: ...

    def broken(notice: KeyNotice) -> None:
        raise RuntimeError("an observer has no say")

    async with at_work(bus) as worker:
        worker.key_observers += [broken, told.append]
        keyed = charge.options(idempotency_key="k")
        for _ in range(2):
            await completed(bus, await keyed.enqueue())
        await until(lambda: len(told) == 2)
    assert told == [
        KeyNotice(event=event, job_type="charge", queue="bills")
        for event in (KeyEvent.MISS, KeyEvent.HIT)
    ]


async def test_a_shutdown_frees_the_keys_of_what_it_hands_back(bus: JobBus) -> None:
    effects = Effects()

    @bus.job
    async def charge() -> None:
        effects.started.set()
        await effects.gate.wait()

    async with at_work(bus) as worker:
        job_id = await charge.options(idempotency_key="k").enqueue()
        await effects.started.wait()
        worker.stop()
        worker.stop()
        await in_state(bus, job_id, JobState.QUEUED)
    await asyncio.sleep(0)
    record = await key_of(bus, "charge", "k")
    assert record is not None
    assert (record.state, record.crashes) == (KeyState.RELEASED, 0)
