"""The specification of a store of idempotency keys: the state table, and what holds beside it."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta

from jobbus.idempotency.store import Answer, IdempotencyStore, KeyEnd, KeyHold
from jobbus.testing.conformance.idempotency_suite import LONG, OVER, IdempotencySuite
from jobbus.testing.conformance.idempotency_table import HoldCases

HOSTILE = (
    "a'; DROP TABLE background_job_idempotency; --",
    "{}*?[]",
    "with space",
    "with\ttab",
    "Ünïcödé 👩‍🚀",
    "%s %(name)s :name ? $1",
    "x" * 265,
    "a",
    "A",
)


class StoreCases(IdempotencySuite):
    """What holds beside the table: batches, names, time to live, redrives."""

    async def test_a_batch_is_answered_in_order_whatever_becomes_of_each(
        self, store: IdempotencyStore
    ) -> None:
        done = await self.held(store, self.claim("done"))
        await self.complete(store, done)
        await self.held(store, self.claim("busy"))
        keys = ["new", "done", "busy", "other"]
        replies = await store.begin([self.claim(key) for key in keys], LONG)
        assert [each.answer for each in replies] == [
            Answer.ACQUIRED,
            Answer.DONE,
            Answer.BUSY,
            Answer.ACQUIRED,
        ]

    async def test_a_key_may_stand_in_one_batch_several_times(
        self, store: IdempotencyStore
    ) -> None:
        claims = [self.claim() for _ in range(3)]
        replies = await store.begin([*claims, claims[0]], LONG)
        assert [each.answer for each in replies] == [
            Answer.ACQUIRED,
            Answer.BUSY,
            Answer.BUSY,
            Answer.ACQUIRED,
        ]
        ends = [KeyEnd(hold=each.held(1), data=each.owner.encode()) for each in claims]
        assert await store.complete(ends) == [Answer.OK, Answer.FENCED, Answer.FENCED]
        [record] = await store.look(["key"])
        assert record is not None
        assert record.data == claims[0].owner.encode()

    async def test_renewals_and_releases_of_one_key_by_several_owners_do_not_mix(
        self, store: IdempotencyStore
    ) -> None:
        holds = [await self.held(store, lease=OVER) for _ in range(2)]
        assert await store.renew(holds, LONG) == [Answer.LOST, Answer.OK]
        assert await store.release(holds) == [Answer.FENCED, Answer.OK]

    async def test_an_empty_batch_is_no_request(self, store: IdempotencyStore) -> None:
        verbs: Sequence[Callable[[], Awaitable[Sequence[object]]]] = (
            lambda: store.begin([], LONG),
            lambda: store.renew([], LONG),
            lambda: store.complete([]),
            lambda: store.fail([]),
            lambda: store.release([]),
            lambda: store.look([]),
        )
        for verb in verbs:
            assert list(await verb()) == []
        await store.reopen([])

    async def test_a_large_batch_is_one_request_too(self, store: IdempotencyStore) -> None:
        claims = [self.claim(f"key {number}") for number in range(500)]
        replies = await store.begin(claims, LONG)
        assert {each.answer for each in replies} == {Answer.ACQUIRED}
        ends = [
            KeyEnd(hold=one.held(1), data=str(number).encode()) for number, one in enumerate(claims)
        ]
        assert set(await store.complete(ends)) == {Answer.OK}
        found = await store.look([one.key for one in claims])
        assert [each and each.data for each in found] == [end.data for end in ends]

    async def test_keys_of_any_text_are_told_apart(self, store: IdempotencyStore) -> None:
        for key in HOSTILE:
            hold = await self.held(store, self.claim(key, fingerprint=key[:32]))
            assert await self.complete(store, hold, key.encode()) is Answer.OK
        found = await store.look(HOSTILE)
        assert [each and each.data for each in found] == [key.encode() for key in HOSTILE]

    async def test_looking_changes_nothing_and_knows_only_what_there_is(
        self, store: IdempotencyStore
    ) -> None:
        hold = await self.held(store, lease=OVER)
        before = await store.look(["key", "unknown"])
        assert before[1] is None
        assert await store.look(["key", "unknown"]) == before
        assert await self.renew(store, hold) is Answer.OK

    async def test_a_failed_key_that_is_reopened_is_worked_under_again(
        self, store: IdempotencyStore
    ) -> None:
        await self.fail(store, await self.held(store))
        await store.reopen(["key", "unknown"])
        reply = await self.begin(store, self.claim())
        assert (reply.answer, reply.fence) == (Answer.ACQUIRED, 2)
        assert await store.look(["unknown"]) == [None]

    async def test_poison_that_is_reopened_has_its_crashes_forgiven(
        self, store: IdempotencyStore
    ) -> None:
        await self.held(store, lease=OVER)
        await self.begin(store, self.claim(max_crashes=0))
        await store.reopen(["key"])
        reply = await self.begin(store, self.claim(max_crashes=0))
        assert (reply.answer, reply.fence) == (Answer.ACQUIRED, 3)

    async def test_reopening_leaves_alone_what_is_done_and_what_is_at_work(
        self, store: IdempotencyStore
    ) -> None:
        done = await self.held(store, self.claim("done"))
        await self.complete(store, done)
        await self.held(store, self.claim("at work"))
        await store.reopen(["done", "at work"])
        replies = await store.begin([self.claim("done"), self.claim("at work")], LONG)
        assert [each.answer for each in replies] == [Answer.DONE, Answer.BUSY]

    async def test_every_change_sets_the_time_to_live_anew(self, store: IdempotencyStore) -> None:
        """D-5."""
        brief, lasting = (self.with_ttl(store, timedelta(hours=hours)) for hours in (1, 3))
        half = timedelta(hours=2)

        async def lengthens(key: str, change: Callable[[KeyHold], Awaitable[object]]) -> None:
            hold = await self.held(brief, self.claim(key), OVER)
            assert await self.left(store, key) < half
            await change(hold)
            assert await self.left(store, key) > half, key

        await lengthens("steal", lambda hold: self.begin(lasting, self.claim("steal")))
        await lengthens("renew", lambda hold: lasting.renew([hold], LONG))
        await lengthens("complete", lambda hold: lasting.complete([KeyEnd(hold=hold)]))
        await lengthens("fail", lambda hold: lasting.fail([KeyEnd(hold=hold)]))
        await lengthens("release", lambda hold: lasting.release([hold]))
        await lengthens("reopen", lambda hold: lasting.reopen(["reopen"]))

    async def test_a_key_whose_time_is_over_is_absent_and_can_be_pruned(
        self, store: IdempotencyStore
    ) -> None:
        gone = self.with_ttl(store, timedelta(milliseconds=1))
        await gone.complete([KeyEnd(hold=await self.held(gone))])
        kept = await self.held(store, self.claim("kept"))
        await self.wait_a_moment(store)
        assert await store.look(["key"]) == [None]
        reply = await self.begin(store, self.claim(fingerprint="another payload"))
        assert (reply.answer, reply.fence) == (Answer.ACQUIRED, 1)
        await gone.renew([self.claim().held(1)], LONG)
        await self.held(gone, self.claim("pruned"))
        await self.wait_a_moment(store)
        await store.prune()
        assert await store.look(["pruned"]) == [None]
        assert await store.prune() == 0
        assert await self.renew(store, kept) is Answer.OK

    @abstractmethod
    async def wait_a_moment(self, store: IdempotencyStore) -> None:
        """Return when some milliseconds have passed on the store's clock."""

    async def test_a_separate_store_sees_the_same_keys(self, store: IdempotencyStore) -> None:
        hold = await self.held(store)
        other = store.separate()
        await other.open()
        try:
            assert await other.renew([hold], LONG) == [Answer.OK]
        finally:
            await other.close()
        assert await self.complete(store, hold) is Answer.OK


class IdempotencyConformance(HoldCases, StoreCases):
    """Everything that an :class:`~jobbus.idempotency.IdempotencyStore` promises, as sentences.

    ::

        class TestMine(IdempotencyConformance):
            @pytest.fixture
            async def store(self) -> AsyncIterator[MyStore]: ...

    Besides the fixture, an open and empty store, a subclass says how to come by another time to
    live (``with_ttl``), how much of one is left (``left``), and how a moment passes.
    """
