"""The state table of idempotency keys, row by row.

The rules D-1 and D-6 that cases name are those of the delivery specification.
"""

from __future__ import annotations

from datetime import timedelta

import pytest

from jobbus.idempotency.store import Answer, IdempotencyStore, KeyHold, KeyState
from jobbus.testing.conformance.idempotency_suite import LONG, OVER, IdempotencySuite


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
