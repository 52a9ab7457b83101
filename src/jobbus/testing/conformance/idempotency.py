"""The state table of idempotency keys, row by row. No case waits: a lease of zero is over at once.

The rules D-1, D-5 and D-6 that cases name are those of the delivery specification.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from typing import ClassVar

import pytest

from jobbus.idempotency.store import (
    Answer,
    IdempotencyStore,
    KeyClaim,
    KeyEnd,
    KeyHold,
    KeyState,
    Reply,
)
from jobbus.ids import new_id

LONG = timedelta(hours=1)
OVER = timedelta(0)
"""A lease that has run out when it begins."""
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


class IdempotencySuite:
    """Helpers, and a knob. Subclasses provide the fixture ``store``, open and empty."""

    ttl: ClassVar[timedelta] = timedelta(days=7)
    """The time to live of the fixture's store."""

    pytestmark = pytest.mark.asyncio

    @abstractmethod
    def with_ttl(self, store: IdempotencyStore, ttl: timedelta) -> IdempotencyStore:
        """The same keys on the same connections, with another time to live."""

    @abstractmethod
    async def left(self, store: IdempotencyStore, key: str) -> timedelta:
        """How much of a key's time to live is left, by the store's clock."""

    def claim(
        self, key: str = "key", *, fingerprint: str = "payload", max_crashes: int = 3
    ) -> KeyClaim:
        """A claim by a new owner."""
        owner = new_id().replace("-", "")
        return KeyClaim(
            key=key,
            owner=owner,
            fingerprint=fingerprint,
            job_id=new_id(),
            max_crashes=max_crashes,
        )

    async def begin(
        self, store: IdempotencyStore, claim: KeyClaim, lease: timedelta = LONG
    ) -> Reply:
        [reply] = await store.begin([claim], lease)
        return reply

    async def held(
        self, store: IdempotencyStore, claim: KeyClaim | None = None, lease: timedelta = LONG
    ) -> KeyHold:
        """A key in somebody's hands."""
        asked = claim or self.claim()
        reply = await self.begin(store, asked, lease)
        assert reply.answer in (Answer.ACQUIRED, Answer.STOLEN)
        return asked.held(reply.fence)

    async def complete(
        self, store: IdempotencyStore, hold: KeyHold, data: bytes | None = b'"done"'
    ) -> Answer:
        [answer] = await store.complete([KeyEnd(hold=hold, data=data)])
        return answer

    async def fail(self, store: IdempotencyStore, hold: KeyHold, data: bytes = b"{}") -> Answer:
        [answer] = await store.fail([KeyEnd(hold=hold, data=data)])
        return answer

    async def release(self, store: IdempotencyStore, hold: KeyHold) -> Answer:
        [answer] = await store.release([hold])
        return answer

    async def renew(
        self, store: IdempotencyStore, hold: KeyHold, lease: timedelta = LONG
    ) -> Answer:
        [answer] = await store.renew([hold], lease)
        return answer


class BeginCases(IdempotencySuite):
    """The event *begin* in every state."""

    async def test_an_absent_key_is_acquired_with_the_first_fence(
        self, store: IdempotencyStore
    ) -> None:
        reply = await self.begin(store, self.claim())
        assert (reply.answer, reply.fence) == (Answer.ACQUIRED, 1)
        [record] = await store.look(["key"])
        assert record is not None
        assert (record.state, record.crashes) == (KeyState.IN_PROGRESS, 0)

    async def test_beginning_again_as_the_same_owner_is_beginning_once(
        self, store: IdempotencyStore
    ) -> None:
        claim = self.claim()
        first = await self.begin(store, claim)
        again = await self.begin(store, claim)
        assert (again.answer, again.fence) == (Answer.ACQUIRED, first.fence)

    async def test_beginning_again_renews_a_lease_that_was_over(
        self, store: IdempotencyStore
    ) -> None:
        claim = self.claim()
        await self.begin(store, claim, OVER)
        await self.begin(store, claim, LONG)
        assert (await self.begin(store, self.claim())).answer is Answer.BUSY

    async def test_beginning_again_never_shortens_the_lease(self, store: IdempotencyStore) -> None:
        claim = self.claim()
        await self.begin(store, claim, LONG)
        await self.begin(store, claim, OVER)
        assert (await self.begin(store, self.claim())).answer is Answer.BUSY

    async def test_a_key_under_a_lease_is_busy_for_others_and_says_for_how_long(
        self, store: IdempotencyStore
    ) -> None:
        await self.held(store)
        reply = await self.begin(store, self.claim())
        assert reply.answer is Answer.BUSY
        assert LONG / 2 < reply.wait <= LONG

    async def test_a_lapsed_lease_is_stolen_which_counts_as_a_crash_and_raises_the_fence(
        self, store: IdempotencyStore
    ) -> None:
        await self.held(store, lease=OVER)
        reply = await self.begin(store, self.claim())
        assert (reply.answer, reply.fence) == (Answer.STOLEN, 2)
        [record] = await store.look(["key"])
        assert record is not None
        assert record.crashes == 1

    async def test_a_stolen_key_is_busy_for_others(self, store: IdempotencyStore) -> None:
        await self.held(store, lease=OVER)
        await self.held(store)
        assert (await self.begin(store, self.claim())).answer is Answer.BUSY

    async def test_the_thief_may_ask_again(self, store: IdempotencyStore) -> None:
        await self.held(store, lease=OVER)
        thief = self.claim()
        stolen = await self.begin(store, thief)
        again = await self.begin(store, thief)
        assert (again.answer, again.fence) == (Answer.ACQUIRED, stolen.fence)

    async def test_one_crash_more_than_allowed_is_poison(self, store: IdempotencyStore) -> None:
        answers = [
            (await self.begin(store, self.claim(max_crashes=2), OVER)).answer for _ in range(4)
        ]
        assert answers == [Answer.ACQUIRED, Answer.STOLEN, Answer.STOLEN, Answer.POISON]

    async def test_poison_stays_poison_for_everyone_who_asks_and_asks_again(
        self, store: IdempotencyStore
    ) -> None:
        await self.held(store, lease=OVER)
        claim = self.claim(max_crashes=0)
        assert (await self.begin(store, claim)).answer is Answer.POISON
        assert (await self.begin(store, claim)).answer is Answer.POISON
        assert (await self.begin(store, self.claim(max_crashes=0))).answer is Answer.POISON

    async def test_poison_fences_the_owner_that_was_thought_dead(
        self, store: IdempotencyStore
    ) -> None:
        late = await self.held(store, lease=OVER)
        await self.begin(store, self.claim(max_crashes=0))
        assert await self.complete(store, late) is Answer.FENCED
        assert await self.renew(store, late) is Answer.LOST

    async def test_a_released_key_is_acquired_with_a_higher_fence_and_its_crashes(
        self, store: IdempotencyStore
    ) -> None:
        """D-6: an attempt that ended in an error forgets nothing of those before it."""
        await self.held(store, lease=OVER)
        await self.release(store, await self.held(store))
        reply = await self.begin(store, self.claim())
        assert (reply.answer, reply.fence) == (Answer.ACQUIRED, 3)
        [record] = await store.look(["key"])
        assert record is not None
        assert record.crashes == 1

    @pytest.mark.parametrize("data", [b'{"a": 1}', b"null", b"", b"\x00\xff", None])
    async def test_a_completed_key_is_done_and_brings_its_result(
        self, store: IdempotencyStore, data: bytes | None
    ) -> None:
        hold = await self.held(store)
        await self.complete(store, hold, data)
        for claim in (self.claim(), self.claim()):
            reply = await self.begin(store, claim)
            assert (reply.answer, reply.fence) == (Answer.DONE, hold.fence)
            assert reply.record is not None
            assert reply.record.state is KeyState.COMPLETED
            assert reply.record.data == data
            assert reply.record.job_id == hold.job_id

    async def test_a_key_that_failed_for_good_is_done_and_brings_its_problem(
        self, store: IdempotencyStore
    ) -> None:
        await self.fail(store, await self.held(store), b'{"kind": "ValueError"}')
        reply = await self.begin(store, self.claim())
        assert reply.answer is Answer.DONE
        assert reply.record is not None
        assert reply.record.state is KeyState.FAILED
        assert reply.record.data == b'{"kind": "ValueError"}'

    @pytest.mark.parametrize("state", list(KeyState))
    @pytest.mark.parametrize("lease", [LONG, OVER])
    async def test_another_payload_under_a_known_key_is_a_mismatch_and_changes_nothing(
        self, store: IdempotencyStore, state: KeyState, lease: timedelta
    ) -> None:
        await self._brought_to(store, state, lease)
        before = await store.look(["key"])
        reply = await self.begin(store, self.claim(fingerprint="another payload"))
        assert reply.answer is Answer.MISMATCH
        assert await store.look(["key"]) == before

    async def _brought_to(
        self, store: IdempotencyStore, state: KeyState, lease: timedelta = LONG
    ) -> KeyHold:
        hold = await self.held(store, lease=lease)
        match state:
            case KeyState.RELEASED:
                await self.release(store, hold)
            case KeyState.COMPLETED:
                await self.complete(store, hold)
            case KeyState.FAILED:
                await self.fail(store, hold)
        return hold


class HoldCases(BeginCases):
    """The events of who holds a key: *renew*, *complete*, *fail*, *release*."""

    async def test_a_renewed_key_stays_its_owners(self, store: IdempotencyStore) -> None:
        hold = await self.held(store, lease=OVER)
        assert await self.renew(store, hold) is Answer.OK
        assert (await self.begin(store, self.claim())).answer is Answer.BUSY

    async def test_renewing_never_shortens_the_lease(self, store: IdempotencyStore) -> None:
        hold = await self.held(store)
        assert await self.renew(store, hold, OVER) is Answer.OK
        assert (await self.begin(store, self.claim())).answer is Answer.BUSY

    async def test_a_lapsed_lease_that_nobody_took_may_still_complete(
        self, store: IdempotencyStore
    ) -> None:
        """D-1: the compare-and-set decides, not the clock."""
        hold = await self.held(store, lease=OVER)
        assert await self.complete(store, hold) is Answer.OK

    async def test_renewing_what_was_stolen_is_lost(self, store: IdempotencyStore) -> None:
        late = await self.held(store, lease=OVER)
        thief = await self.held(store)
        assert await self.renew(store, late) is Answer.LOST
        assert await self.renew(store, thief) is Answer.OK

    @pytest.mark.parametrize("state", sorted(set(KeyState) - {KeyState.IN_PROGRESS}))
    async def test_renewing_what_is_not_in_progress_is_lost(
        self, store: IdempotencyStore, state: KeyState
    ) -> None:
        hold = await self._brought_to(store, state)
        assert await self.renew(store, hold) is Answer.LOST

    async def test_renewing_an_absent_key_is_lost(self, store: IdempotencyStore) -> None:
        assert await self.renew(store, self.claim().held(1)) is Answer.LOST

    async def test_completing_twice_under_one_hold_is_completing_once(
        self, store: IdempotencyStore
    ) -> None:
        hold = await self.held(store)
        assert await self.complete(store, hold, b"1") is Answer.OK
        assert await self.complete(store, hold, b"2") is Answer.OK
        [record] = await store.look(["key"])
        assert record is not None
        assert record.data == b"1"

    async def test_who_was_stolen_from_is_fenced_and_the_thief_completes(
        self, store: IdempotencyStore
    ) -> None:
        late = await self.held(store, lease=OVER)
        thief = await self.held(store)
        assert await self.complete(store, late, b"late") is Answer.FENCED
        assert await self.complete(store, thief, b"1") is Answer.OK
        assert await self.complete(store, late, b"late") is Answer.FENCED
        [record] = await store.look(["key"])
        assert record is not None
        assert record.data == b"1"

    async def test_an_old_fence_of_the_same_owner_is_fenced(self, store: IdempotencyStore) -> None:
        claim = self.claim()
        old = await self.held(store, claim)
        await self.release(store, old)
        new = await self.held(store, claim)
        assert new.fence > old.fence
        assert await self.complete(store, old) is Answer.FENCED
        assert await self.renew(store, old) is Answer.LOST
        assert await self.release(store, old) is Answer.FENCED
        assert await self.complete(store, new) is Answer.OK

    async def test_a_released_key_cannot_be_completed(self, store: IdempotencyStore) -> None:
        hold = await self.held(store)
        await self.release(store, hold)
        assert await self.complete(store, hold) is Answer.FENCED
        assert await self.fail(store, hold) is Answer.FENCED

    async def test_success_and_failure_do_not_overwrite_each_other(
        self, store: IdempotencyStore
    ) -> None:
        good, bad = self.claim("good"), self.claim("bad")
        done, failed = await self.held(store, good), await self.held(store, bad)
        await self.complete(store, done)
        await self.fail(store, failed)
        assert await self.fail(store, done) is Answer.FENCED
        assert await self.complete(store, failed) is Answer.FENCED
        states = [each.state for each in await store.look(["good", "bad"]) if each is not None]
        assert states == [KeyState.COMPLETED, KeyState.FAILED]

    async def test_failing_twice_is_failing_once(self, store: IdempotencyStore) -> None:
        hold = await self.held(store)
        assert await self.fail(store, hold) is Answer.OK
        assert await self.fail(store, hold) is Answer.OK

    async def test_who_was_stolen_from_can_neither_fail_nor_release(
        self, store: IdempotencyStore
    ) -> None:
        late = await self.held(store, lease=OVER)
        await self.held(store)
        assert await self.fail(store, late) is Answer.FENCED
        assert await self.release(store, late) is Answer.FENCED
        assert (await self.begin(store, self.claim())).answer is Answer.BUSY

    async def test_completing_with_another_payload_is_a_mismatch(
        self, store: IdempotencyStore
    ) -> None:
        claim = self.claim()
        hold = await self.held(store, claim)
        other = KeyHold(key="key", owner=hold.owner, fence=hold.fence, fingerprint="another")
        assert await self.complete(store, other) is Answer.MISMATCH
        assert await self.complete(store, hold) is Answer.OK

    async def test_an_absent_key_is_gone_for_every_outcome(self, store: IdempotencyStore) -> None:
        assert await self.complete(store, self.claim("a").held(3)) is Answer.GONE
        assert await self.fail(store, self.claim("b").held(3)) is Answer.GONE
        assert await self.release(store, self.claim("c").held(3)) is Answer.GONE
        assert await store.look(["b", "c"]) == [None, None]

    async def test_releasing_twice_is_releasing_once(self, store: IdempotencyStore) -> None:
        hold = await self.held(store)
        assert await self.release(store, hold) is Answer.OK
        assert await self.release(store, hold) is Answer.OK
        assert (await self.begin(store, self.claim())).fence == 2

    @pytest.mark.parametrize("state", [KeyState.COMPLETED, KeyState.FAILED])
    async def test_what_has_ended_cannot_be_released(
        self, store: IdempotencyStore, state: KeyState
    ) -> None:
        hold = await self._brought_to(store, state)
        assert await self.release(store, hold) is Answer.FENCED
        assert (await self.begin(store, self.claim())).answer is Answer.DONE


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
