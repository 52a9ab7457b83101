"""Queues broken on purpose, one promise each: a suite that cannot fail proves nothing.

``PLANS`` names, for each, the case that must catch it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any, Final, Literal

from jobbus.job import TERMINAL, EventType, JobEvent, JobState, Problem
from jobbus.message import (
    NO_DELAY,
    Abandonment,
    Capabilities,
    Completion,
    CountsAs,
    DeadLetter,
    Delivery,
    LeaseState,
    Message,
    OnFailure,
)
from jobbus.movable import Departure, JobRecord, TakenOut
from jobbus.store import CancelOutcome, JobFilter, Page
from jobbus.testing.wrapping import LedgerQueue, MovableWrapper, QueueWrapper


class Saboteur(QueueWrapper):
    """Remembers whom it handed what; subclasses break one thing."""

    def __init__(self, inner: LedgerQueue) -> None:
        super().__init__(inner)
        self.newest: dict[str, Delivery] = {}

    async def receive(
        self, queue: str, *, limit: int, wait: timedelta, lease: timedelta
    ) -> Sequence[Delivery]:
        held = await super().receive(queue, limit=limit, wait=wait, lease=lease)
        self.newest.update({one.job_id: one for one in held})
        return held


class Rewriter(Saboteur):
    """Changes messages on their way in."""

    def rewrite(self, message: Message) -> Message:
        raise NotImplementedError

    async def enqueue(
        self, messages: Sequence[Message], *, connection: Any | None = None
    ) -> Sequence[str]:
        changed = [self.rewrite(one) for one in messages]
        return await super().enqueue(changed, connection=connection)


class NoFencing(Saboteur):
    """Settles whatever it is given, whoever holds the lease now."""

    async def complete(
        self, done: Sequence[Completion], *, connection: Any | None = None
    ) -> Sequence[Delivery]:
        forged = [replace(one, delivery=self.newest[one.delivery.job_id]) for one in done]
        return await super().complete(forged, connection=connection)


class AcknowledgesFirst(Saboteur):
    """Takes messages off the queue as it hands them out."""

    async def receive(
        self, queue: str, *, limit: int, wait: timedelta, lease: timedelta
    ) -> Sequence[Delivery]:
        held = await super().receive(queue, limit=limit, wait=wait, lease=lease)
        await self.inner.complete([Completion(delivery=one) for one in held])
        return held


class LosesOnAbandon(Saboteur):
    """Drops what is handed back."""

    async def abandon(self, back: Sequence[Abandonment]) -> Sequence[Delivery]:
        return await self.inner.complete([Completion(delivery=one.delivery) for one in back])


class BuriesAlive(Saboteur):
    """Hands dead letters out again."""

    async def dead_letter(self, dead: Sequence[DeadLetter]) -> Sequence[Delivery]:
        return await self.inner.abandon([Abandonment(delivery=one.delivery) for one in dead])


class DeliversTwice(Saboteur):
    """Hands out again what is already in somebody's hands."""

    async def receive(
        self, queue: str, *, limit: int, wait: timedelta, lease: timedelta
    ) -> Sequence[Delivery]:
        again = list(self.newest.values())
        held = await super().receive(queue, limit=limit, wait=wait, lease=lease)
        return held or again[:limit]


class TakesTooMany(Saboteur):
    """Does not count what it hands out."""

    async def receive(
        self, queue: str, *, limit: int, wait: timedelta, lease: timedelta
    ) -> Sequence[Delivery]:
        return await super().receive(queue, limit=limit * 10, wait=wait, lease=lease)


class HalfEnqueues(Saboteur):
    """Writes a batch message by message."""

    async def enqueue(
        self, messages: Sequence[Message], *, connection: Any | None = None
    ) -> Sequence[str]:
        ids: list[str] = []
        for one in messages:
            ids += await super().enqueue([one], connection=connection)
        return ids


class IgnoresPriority(Rewriter):
    def rewrite(self, message: Message) -> Message:
        return replace(message, priority=5)


class IgnoresDelay(Rewriter):
    def rewrite(self, message: Message) -> Message:
        return replace(message, delay=NO_DELAY, run_at=None)


class IgnoresDeadlines(Rewriter):
    def rewrite(self, message: Message) -> Message:
        return replace(message, expires_at=None)


class IgnoresUniqueKeys(Rewriter):
    def rewrite(self, message: Message) -> Message:
        return replace(message, unique_key=None)


class IgnoresGroups(Rewriter):
    def rewrite(self, message: Message) -> Message:
        return replace(message, group=None)


class DropsDependencyFailure(Rewriter):
    """Runs children whatever became of their parents."""

    def rewrite(self, message: Message) -> Message:
        edges = tuple(replace(one, on_failure=OnFailure.RUN) for one in message.depends_on)
        return replace(message, depends_on=edges)


class OneQueueForAll(Rewriter):
    def rewrite(self, message: Message) -> Message:
        return replace(message, queue="default")


class NeverPoisoned(Rewriter):
    """Runs what kills its worker for ever."""

    def rewrite(self, message: Message) -> Message:
        return replace(message, max_crashes=1_000_000)


class ReadsPayloadsAsText(Rewriter):
    def rewrite(self, message: Message) -> Message:
        text = message.payload.decode("utf-8", errors="replace")
        return replace(message, payload=text.encode())


class ExtendLies(Saboteur):
    """Says that leases are kept, and does not keep them."""

    async def extend(self, held: Sequence[Delivery], lease: timedelta) -> Sequence[LeaseState]:
        return [LeaseState.KEPT for _ in held]


class HidesCancellations(Saboteur):
    """Keeps from workers that somebody asked them to stop."""

    async def extend(self, held: Sequence[Delivery], lease: timedelta) -> Sequence[LeaseState]:
        states = await super().extend(held, lease)
        return [LeaseState.KEPT if one == "cancel_requested" else one for one in states]


class ReleaseBurnsAnAttempt(Saboteur):
    """Holds a worker's shutdown against the job."""

    async def abandon(self, back: Sequence[Abandonment]) -> Sequence[Delivery]:
        return await super().abandon([replace(one, counts_as=CountsAs.FAILURE) for one in back])


class CancelResurrects(Saboteur):
    """Starts again what it is asked to stop, if it had ended."""

    async def cancel(
        self, job_ids: Sequence[str], *, reason: str = ""
    ) -> Mapping[str, CancelOutcome]:
        outcomes = await super().cancel(job_ids, reason=reason)
        await self.inner.redrive([one for one, how in outcomes.items() if how == "finished"])
        return outcomes


class RedriveForgetsAttempts(Saboteur):
    """Counts from one again in a new generation, so that old workers pass for new ones."""

    def __init__(self, inner: LedgerQueue) -> None:
        super().__init__(inner)
        self.forgotten: dict[str, int] = {}

    async def redrive(self, job_ids: Sequence[str]) -> Sequence[str]:
        for job_id in job_ids:
            job = await self.inner.get(job_id)
            self.forgotten[job_id] = 0 if job is None else job.attempt
        return await super().redrive(job_ids)

    async def receive(
        self, queue: str, *, limit: int, wait: timedelta, lease: timedelta
    ) -> Sequence[Delivery]:
        held = await super().receive(queue, limit=limit, wait=wait, lease=lease)
        return [
            replace(one, attempt=one.attempt - self.forgotten.get(one.job_id, 0)) for one in held
        ]


class RecoveryRobsTheLiving(Saboteur):
    """Takes jobs back by what they took, not by their leases."""

    async def recover(self, *, expired_for: timedelta = timedelta(0)) -> int:
        taken = [
            Abandonment(delivery=one, counts_as=CountsAs.CRASH) for one in self.newest.values()
        ]
        lost = await self.inner.abandon(taken)
        return len(taken) - len(lost)


class HistoryOmitsCrashes(Saboteur):
    """Tells only what looks well."""

    async def history(self, job_id: str) -> Sequence[JobEvent]:
        told = await super().history(job_id)
        return [event for event in told if event.type is not EventType.CRASHED]


class ForgetsProblems(Saboteur):
    """Buries without an inscription."""

    async def dead_letter(self, dead: Sequence[DeadLetter]) -> Sequence[Delivery]:
        unknown = Problem(kind="Exception", message="")
        return await super().dead_letter([replace(one, problem=unknown) for one in dead])


class TrimsByNumberOnly(Saboteur):
    """Lets ended jobs be as large as they like."""

    async def trim(
        self,
        *,
        keep_count: int | None = None,
        keep_bytes: int | None = None,
        states: frozenset[JobState] = TERMINAL,
        limit: int = 1000,
    ) -> int:
        return await super().trim(keep_count=keep_count, states=states, limit=limit)


class PauseIsForgotten(Saboteur):
    async def pause(self, queue: str, *, reason: str = "") -> None:
        await self.inner.resume(queue)


class PagesOverlap(Saboteur):
    """Starts every page with the last job of the one before."""

    def __init__(self, inner: LedgerQueue) -> None:
        super().__init__(inner)
        self.last: Page | None = None

    async def find(self, where: JobFilter, *, limit: int = 50, cursor: str | None = None) -> Page:
        page = await super().find(where, limit=limit, cursor=cursor)
        if cursor is not None and self.last is not None:
            page = replace(page, jobs=[self.last.jobs[-1], *page.jobs])
        self.last = page
        return page


class PromisesLess(Saboteur):
    """Declares no priorities, and quietly takes messages that have one."""

    @property
    def capabilities(self) -> Capabilities:
        return replace(super().capabilities, priorities=False)


class MovesWithoutThePast(MovableWrapper):
    """What arrives has never been tried before."""

    async def take_in(
        self, records: Sequence[JobRecord], *, origin: str | None
    ) -> Mapping[str, str]:
        fresh = [replace(one, history=(), job=replace(one.job, attempt=0)) for one in records]
        return await super().take_in(fresh, origin=origin)


class KeepsWhatLeft(MovableWrapper):
    """What was taken out is still here."""

    async def take_out(
        self, where: JobFilter, *, to: str, limit: int, after: str | None = None
    ) -> TakenOut:
        taken = await super().take_out(where, to=to, limit=limit, after=after)
        await self.inner.enqueue([record.message() for record in taken.records])
        return taken


class LosesTheJournal(MovableWrapper):
    """Whoever dies on the way has lost what it carried."""

    async def departures(
        self, *, limit: int, after: str | None = None, ids: Sequence[str] | None = None
    ) -> Sequence[Departure]:
        return []


Suite = Literal["queue", "store"]


@dataclass(frozen=True, slots=True)
class Plan:
    """A saboteur, and the case that must fail on it while it passes on the honest queue."""

    saboteur: Callable[[Any], QueueWrapper]
    suite: Suite
    case: str
    parameters: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return getattr(self.saboteur, "__name__", repr(self.saboteur))


PLANS: Final[Sequence[Plan]] = (
    Plan(
        NoFencing,
        "queue",
        "test_a_worker_that_comes_too_late_learns_that_its_lease_is_lost",
        {"verb": "complete"},
    ),
    Plan(
        AcknowledgesFirst,
        "queue",
        "test_an_expired_lease_hands_the_message_to_the_next_worker",
    ),
    Plan(LosesOnAbandon, "queue", "test_an_abandoned_message_comes_again"),
    Plan(BuriesAlive, "queue", "test_a_dead_letter_is_never_received"),
    Plan(DeliversTwice, "queue", "test_a_held_message_is_not_handed_out_again"),
    Plan(TakesTooMany, "queue", "test_a_receive_never_hands_out_more_than_its_limit"),
    Plan(HalfEnqueues, "queue", "test_enqueue_keeps_all_of_a_batch_or_none_of_it"),
    Plan(IgnoresPriority, "queue", "test_the_most_urgent_message_goes_first"),
    Plan(IgnoresDelay, "queue", "test_a_delayed_message_does_not_come_early"),
    Plan(
        IgnoresDeadlines,
        "queue",
        "test_a_message_that_has_not_started_by_its_deadline_never_does",
    ),
    Plan(
        IgnoresUniqueKeys,
        "queue",
        "test_a_second_job_for_a_key_is_answered_with_the_first",
    ),
    Plan(IgnoresGroups, "queue", "test_group_order_is_kept_or_refused"),
    Plan(OneQueueForAll, "queue", "test_messages_of_one_queue_never_appear_in_another"),
    Plan(
        ReadsPayloadsAsText,
        "queue",
        "test_a_payload_survives_verbatim",
        {"kind": "not UTF-8"},
    ),
    Plan(ExtendLies, "queue", "test_an_extended_lease_outlives_its_first_term"),
    Plan(PromisesLess, "queue", "test_priorities_are_kept_or_refused"),
    Plan(
        DropsDependencyFailure,
        "store",
        "test_what_becomes_of_a_child_whose_parent_failed_is_its_own_choice",
        {"policy": OnFailure.FAIL, "ending": "failed"},
    ),
    Plan(
        NeverPoisoned,
        "store",
        "test_a_job_that_has_used_up_its_crashes_goes_to_the_dead_letters",
    ),
    Plan(
        ReleaseBurnsAnAttempt,
        "store",
        "test_an_abandoned_attempt_is_held_against_one_budget_only",
        {"counts_as": CountsAs.RELEASE, "counters": (0, 0, 0)},
    ),
    Plan(
        CancelResurrects,
        "store",
        "test_an_ended_job_is_too_late_to_cancel",
        {"ending": "failed"},
    ),
    Plan(
        RedriveForgetsAttempts,
        "store",
        "test_a_redriven_job_runs_with_a_higher_attempt",
        {"ending": "failed"},
    ),
    Plan(
        HidesCancellations,
        "store",
        "test_a_worker_learns_of_a_cancellation_by_its_heartbeat",
    ),
    Plan(RecoveryRobsTheLiving, "store", "test_recovery_leaves_held_leases_alone"),
    Plan(HistoryOmitsCrashes, "store", "test_a_crash_stands_in_the_history"),
    Plan(
        ForgetsProblems,
        "store",
        "test_a_dead_letter_keeps_its_problem",
        {"timed_out": False, "state": JobState.FAILED},
    ),
    Plan(
        TrimsByNumberOnly,
        "store",
        "test_trimming_keeps_no_more_than_so_many_bytes_of_messages",
        {"where": "payload"},
    ),
    Plan(PauseIsForgotten, "store", "test_a_paused_queue_hands_out_nothing"),
    Plan(MovesWithoutThePast, "store", "test_the_history_goes_on_with_the_move"),
    Plan(KeepsWhatLeft, "store", "test_nobody_receives_what_was_taken_out"),
    Plan(LosesTheJournal, "store", "test_the_journal_tells_what_left_and_what_has_arrived"),
    Plan(PagesOverlap, "store", "test_pages_are_complete_and_without_repetition"),
)
