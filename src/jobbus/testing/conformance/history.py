"""The history of a job, its progress, and the live log of events."""

from __future__ import annotations

from datetime import timedelta

import pytest

from jobbus.job import EventType, JobEvent, JobState, Progress
from jobbus.message import CountsAs, Delivery, Message
from jobbus.queue import BackgroundJobQueue
from jobbus.store import JobStore
from jobbus.testing.conformance.base import Suite, needs, where_leases_expire
from jobbus.testing.conformance.control import ENDINGS, UNKNOWN
from jobbus.testing.histories import check_history
from jobbus.testing.make import back, dead, done, message, messages, problem

E = EventType
ENDS = {
    CountsAs.FAILURE: E.RETRY_SCHEDULED,
    CountsAs.CRASH: E.CRASHED,
    CountsAs.SNOOZE: E.SNOOZED,
    CountsAs.RELEASE: E.RELEASED,
}
"""The event by which each kind of abandonment is told."""


class HistoryCases(Suite):
    """Everything that happened, in the order in which it did."""

    async def _history(self, store: JobStore, wanted: Message | Delivery) -> list[JobEvent]:
        """The job's events, checked against the transition table and against the job."""
        events = list(await store.history(wanted.job_id))
        check_history(events, await self.job(store, wanted))
        return events

    async def _told(self, store: JobStore, wanted: Message | Delivery) -> list[EventType]:
        """The types of the events, without the steps into the queue."""
        events = await self._history(store, wanted)
        return [event.type for event in events if event.type is not E.RELEASED_TO_QUEUE]

    @pytest.mark.parametrize("text", [UNKNOWN, "42", ""], ids=repr)
    async def test_an_unknown_job_has_no_history(
        self, queue: BackgroundJobQueue, store: JobStore, text: str
    ) -> None:
        assert list(await store.history(text)) == []

    async def test_a_waiting_job_has_been_created(
        self, queue: BackgroundJobQueue, store: JobStore
    ) -> None:
        sent = message()
        await queue.enqueue([sent])
        assert await self._told(store, sent) == [E.CREATED]

    async def test_a_straight_job_is_created_started_and_completed(
        self, queue: BackgroundJobQueue, store: JobStore
    ) -> None:
        held = await self.started(queue, message())
        await queue.complete([done(held)])
        events = await self._history(store, held)
        assert await self._told(store, held) == [E.CREATED, E.STARTED, E.COMPLETED]
        assert events[-1].attempt == held.attempt
        assert events[-2].worker

    async def test_an_event_says_which_job_of_which_type_and_queue(
        self, queue: BackgroundJobQueue, store: JobStore
    ) -> None:
        held = await self.started(queue, message("video.render", queue="video"))
        await queue.complete([done(held)])
        for event in await self._history(store, held):
            assert event.job_id == held.job_id
            assert (event.job_type, event.queue) == ("video.render", "video")

    @pytest.mark.parametrize(
        ("ending", "told"),
        [
            ("failed", [E.CREATED, E.STARTED, E.FAILED]),
            ("timed_out", [E.CREATED, E.STARTED, E.TIMED_OUT]),
            ("cancelled", [E.CREATED, E.CANCELLED]),
            (
                "cancelled while running",
                [E.CREATED, E.STARTED, E.CANCEL_REQUESTED, E.CANCELLED],
            ),
        ],
    )
    async def test_the_end_of_a_job_stands_in_its_history(
        self, queue: BackgroundJobQueue, store: JobStore, ending: str, told: list[EventType]
    ) -> None:
        one = message()
        await ENDINGS[ending](self, queue, store, one)
        assert await self._told(store, one) == told

    @pytest.mark.parametrize("counts_as", list(CountsAs))
    async def test_the_end_of_an_attempt_stands_in_the_history(
        self, queue: BackgroundJobQueue, store: JobStore, counts_as: CountsAs
    ) -> None:
        held = await self.started(queue, message())
        await queue.abandon([back(held, counts_as=counts_as)])
        again = await self.receive_one(queue)
        await queue.complete([done(again)])
        end = ENDS[counts_as]
        assert await self._told(store, held) == [
            E.CREATED,
            E.STARTED,
            end,
            E.STARTED,
            E.COMPLETED,
        ]

    async def test_every_attempt_of_a_long_story_is_told_in_order(
        self, queue: BackgroundJobQueue, store: JobStore
    ) -> None:
        held = await self.started(queue, message(max_attempts=9, max_crashes=9))
        story = [CountsAs.FAILURE, CountsAs.SNOOZE, CountsAs.RELEASE, CountsAs.CRASH]
        for counts_as in story * 2:
            await queue.abandon([back(held, counts_as=counts_as)])
            held = await self.receive_one(queue)
            await self._history(store, held)
        await queue.dead_letter([dead(held)])
        told = await self._told(store, held)
        expected = [E.CREATED, E.STARTED]
        for counts_as in story * 2:
            expected += [ENDS[counts_as], E.STARTED]
        assert told == [*expected, E.FAILED]
        starts = [one.attempt for one in await store.history(held.job_id) if one.type is E.STARTED]
        assert starts == list(range(1, 10))

    async def test_a_failed_attempt_keeps_its_problem_in_the_history(
        self, queue: BackgroundJobQueue, store: JobStore
    ) -> None:
        held = await self.started(queue, message())
        await queue.abandon([back(held)])
        await queue.complete([done(await self.receive_one(queue))])
        events = await self._history(store, held)
        [retry] = [event for event in events if event.type is E.RETRY_SCHEDULED]
        assert retry.problem == problem()
        assert retry.attempt == 1

    @pytest.mark.parametrize("how", ["created", "abandoned"])
    async def test_a_job_that_waited_is_released_to_the_queue(
        self, queue: BackgroundJobQueue, store: JobStore, how: str
    ) -> None:
        sent = message(delay=self.short_delay if how == "created" else timedelta(0))
        if how == "created":
            await queue.enqueue([sent])
        else:
            held = await self.started(queue, sent)
            await queue.abandon([back(held, self.short_delay)])
        await self._history(store, sent)
        await self.past(queue, self.short_delay)
        await self.receive_one(queue)
        events = await self._history(store, sent)
        assert [event.type for event in events[-2:]] == [E.RELEASED_TO_QUEUE, E.STARTED]

    @where_leases_expire
    async def test_a_crash_stands_in_the_history(
        self, queue: BackgroundJobQueue, store: JobStore
    ) -> None:
        held = await self.started(queue, message(), lease=self.short_lease)
        await self.expire(queue)
        taker = await self.receive_one(queue)
        expected = [E.CREATED, E.STARTED, E.CRASHED, E.STARTED]
        assert await self._told(store, held) == expected
        await queue.complete([done(taker)])
        assert await self._told(store, held) == [*expected, E.COMPLETED]

    @where_leases_expire
    async def test_a_poisonous_job_tells_of_its_crash_and_its_failure(
        self, queue: BackgroundJobQueue, store: JobStore
    ) -> None:
        held = await self.started(queue, message(max_crashes=1), lease=self.short_lease)
        await self.expire(queue)
        await store.recover()
        told = await self._told(store, held)
        assert told[:2] == [E.CREATED, E.STARTED]
        assert told[-1] is E.FAILED

    @needs("expiry")
    async def test_a_missed_deadline_stands_in_the_history(
        self, queue: BackgroundJobQueue, store: JobStore
    ) -> None:
        sent = message(expires_at=self.now(queue) + self.short_delay)
        await queue.enqueue([sent])
        await self.past(queue, self.short_delay)
        await self.nothing_comes(queue)
        await store.recover()
        assert await self._told(store, sent) == [E.CREATED, E.EXPIRED]


class ProgressCases(Suite):
    """What a running job says of itself."""

    async def test_progress_is_shown_with_the_job(
        self, queue: BackgroundJobQueue, store: JobStore
    ) -> None:
        held = await self.started(queue, message())
        report = Progress(percent=12.5, stage="décodage", message="1 of 8")
        await store.record_progress([(held, report)])
        shown = (await self.job(store, held)).progress
        assert shown is not None
        assert (shown.percent, shown.stage, shown.message) == (12.5, "décodage", "1 of 8")
        assert shown.at is not None

    async def test_the_last_progress_is_shown_and_all_of_it_is_kept(
        self, queue: BackgroundJobQueue, store: JobStore
    ) -> None:
        held = await self.started(queue, message())
        for percent in (10.0, 50.0, 40.0):
            await store.record_progress([(held, Progress(percent=percent, stage="work"))])
            await self.pass_time(queue, timedelta(milliseconds=2))
        told = await store.progress_history(held.job_id)
        assert [one.percent for one in told] == [10.0, 50.0, 40.0]
        shown = (await self.job(store, held)).progress
        assert shown is not None
        assert shown.percent == 40.0
        moments = [one.at for one in told if one.at is not None]
        assert len(moments) == 3
        assert moments == sorted(moments)

    async def test_progress_of_many_jobs_is_recorded_in_one_call(
        self, queue: BackgroundJobQueue, store: JobStore
    ) -> None:
        await queue.enqueue(messages(3))
        held = await self.receive(queue, 3)
        await store.record_progress(
            [(one, Progress(percent=10.0 * index)) for index, one in enumerate(held)]
        )
        for index, one in enumerate(held):
            shown = (await self.job(store, one)).progress
            assert shown is not None
            assert shown.percent == 10.0 * index

    async def test_recording_no_progress_is_harmless(
        self, queue: BackgroundJobQueue, store: JobStore
    ) -> None:
        await store.record_progress([])
        held = await self.started(queue, message())
        assert (await self.job(store, held)).progress is None
        assert list(await store.progress_history(held.job_id)) == []

    async def test_progress_is_still_there_when_the_job_has_completed(
        self, queue: BackgroundJobQueue, store: JobStore
    ) -> None:
        held = await self.started(queue, message())
        await store.record_progress([(held, Progress(percent=90, stage="upload"))])
        await queue.complete([done(held)])
        assert [one.percent for one in await store.progress_history(held.job_id)] == [90]

    @where_leases_expire
    async def test_progress_under_a_lost_lease_is_dropped(
        self, queue: BackgroundJobQueue, store: JobStore
    ) -> None:
        late = await self.started(queue, message(), lease=self.short_lease)
        await self.expire(queue)
        taker = await self.receive_one(queue)
        await store.record_progress([(late, Progress(percent=99)), (taker, Progress(percent=5))])
        shown = (await self.job(store, taker)).progress
        assert shown is not None
        assert shown.percent == 5
        assert [one.percent for one in await store.progress_history(taker.job_id)] == [5]

    async def test_progress_after_the_end_is_dropped(
        self, queue: BackgroundJobQueue, store: JobStore
    ) -> None:
        held = await self.started(queue, message())
        await queue.complete([done(held)])
        await store.record_progress([(held, Progress(percent=50))])
        assert list(await store.progress_history(held.job_id)) == []


class EventCases(Suite):
    """The live log, written while somebody watches."""

    async def _collect(
        self, store: JobStore, position: int, wanted: set[tuple[str, EventType]]
    ) -> list[JobEvent]:
        """All events behind ``position``, once those wanted are among them."""
        found: list[JobEvent] = []

        async def complete() -> bool:
            nonlocal position
            events, position = await store.events(after=position)
            found.extend(events)
            return wanted <= {(event.job_id, event.type) for event in found}

        await self.eventually(complete, f"the event log tells of {wanted}")
        return found

    async def _watch(self, store: JobStore) -> int:
        await store.watch(lasting=timedelta(minutes=5))
        _, position = await store.events(after=0)
        return position

    async def test_a_watcher_is_told_what_happens(
        self, queue: BackgroundJobQueue, store: JobStore
    ) -> None:
        position = await self._watch(store)
        await queue.enqueue(messages(3))
        first, second, third = await self.receive(queue, 3)
        await queue.complete([done(first)])
        await queue.dead_letter([dead(second)])
        await queue.abandon([back(third, self.long_delay)])
        wanted = {(one.job_id, kind) for one in (first, second, third) for kind in (E.STARTED,)}
        wanted |= {(first.job_id, E.CREATED), (first.job_id, E.COMPLETED)}
        wanted |= {(second.job_id, E.FAILED), (third.job_id, E.RETRY_SCHEDULED)}
        await self._collect(store, position, wanted)

    async def test_the_log_tells_events_of_a_job_in_their_order_and_once(
        self, queue: BackgroundJobQueue, store: JobStore
    ) -> None:
        position = await self._watch(store)
        held = await self.started(queue, message("video.render", queue="video"))
        await queue.complete([done(held)])
        found = await self._collect(store, position, {(held.job_id, E.COMPLETED)})
        told = [event.type for event in found if event.type is not E.RELEASED_TO_QUEUE]
        assert told == [E.CREATED, E.STARTED, E.COMPLETED]
        assert found[-1].to_state is JobState.COMPLETED
        assert (found[-1].job_type, found[-1].queue) == ("video.render", "video")

    async def test_reading_from_now_does_not_tell_what_was(
        self, queue: BackgroundJobQueue, store: JobStore
    ) -> None:
        position = await self._watch(store)
        before, behind = messages(2)
        await queue.enqueue([before])
        await self._collect(store, position, {(before.job_id, E.CREATED)})
        events, now = await store.events(after=0)
        assert list(events) == []
        await queue.enqueue([behind])
        found = await self._collect(store, now, {(behind.job_id, E.CREATED)})
        assert before.job_id not in {event.job_id for event in found}

    async def test_reading_from_a_position_again_tells_the_same_again(
        self, queue: BackgroundJobQueue, store: JobStore
    ) -> None:
        position = await self._watch(store)
        batch = messages(5)
        for one in batch:
            await queue.enqueue([one])
        first = await self._collect(store, position, {(one.job_id, E.CREATED) for one in batch})
        again = await self._collect(store, position, {(one.job_id, E.CREATED) for one in batch})
        assert again == first
        assert [event.job_id for event in first] == [one.job_id for one in batch]

    async def test_every_process_writes_the_log_while_one_watches(
        self, queue: BackgroundJobQueue, store: JobStore
    ) -> None:
        twin = queue.separate()
        await twin.open()
        try:
            position = await self._watch(store)
            sent = message()
            # Another process may learn of the watcher a moment late, and then tells all else.
            await twin.enqueue([sent])
            held = await self.receive_one(twin)

            async def told() -> bool:
                await twin.enqueue([message(queue="elsewhere")])
                events, _ = await store.events(after=position)
                return bool(events)

            await self.eventually(told, "the other process writes the log")
            await twin.complete([done(held)])
            await self._collect(store, position, {(sent.job_id, E.COMPLETED)})
        finally:
            await twin.close()
