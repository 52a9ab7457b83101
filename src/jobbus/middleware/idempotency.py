"""Around an attempt: work under an idempotency key is begun once and its outcome recorded first.

It stands one step further out than other middleware, between a delivery and its settlement: the
outcome that a store must know of (D-7) is decided behind the handler, by time limits,
cancellation and the encoding of results.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from datetime import timedelta
from itertools import islice
from typing import Any, Final

from jobbus.errors import BackendError, InvalidJob
from jobbus.idempotency.gathering import Gatherer
from jobbus.idempotency.store import (
    Answer,
    IdempotencyStore,
    KeyClaim,
    KeyEnd,
    KeyHold,
    KeyRecord,
    KeyState,
    Reply,
)
from jobbus.job import Problem
from jobbus.job_type import JobType
from jobbus.message import (
    IDEMPOTENCY_KEY,
    Abandonment,
    Completion,
    CountsAs,
    DeadLetter,
    Delivery,
    Message,
)
from jobbus.middleware.idempotency_keys import claim_for
from jobbus.middleware.idempotency_values import (
    Ahead,
    Attempt,
    Holder,
    KeyEvent,
    KeyNotice,
    Settlement,
    acquired,
    dead,
    end_of,
    read_problem,
    succeeded,
    written_problem,
)

log = logging.getLogger("jobbus.worker")

AWAY_DELAY: Final = (5.0, 30.0)
"""Seconds after which a job comes back that the store could not be asked about (D-10)."""
_PAUSE_CAP: Final = 2.0
_RELEASE_TRIES: Final = 3


class Idempotency:
    """The policy between a worker and its store of keys.

    Costs nothing where a ledger fences the job and the caller gave no key of its own.
    """

    def __init__(
        self,
        store: IdempotencyStore,
        *,
        lease: timedelta,
        trusted: timedelta,
        ledger: bool,
        waits_always: bool = False,
        result_of: Callable[[str], Awaitable[bytes | None]] | None = None,
        observers: Sequence[Callable[[KeyNotice], None]] = (),
    ) -> None:
        """``trusted`` is how much of a lease its holder relies on.

        ``waits_always`` holds naturally idempotent jobs back too while the store is away;
        ``result_of`` fetches a job's result that was too large to be kept with its key.
        """
        self.store = store
        self.counts: Counter[KeyEvent] = Counter()
        self.away = False
        """The store could not be asked the last time, and has not answered since."""
        self._lease = lease
        self._trusted = trusted.total_seconds()
        self._ledger = ledger
        self._waits_always = waits_always
        self._result_of = result_of
        self._observers = observers
        self._begin = Gatherer(self._begin_all)
        self._begin_several = Gatherer(self._begin_lists)
        self._complete = Gatherer(store.complete)
        self._fail = Gatherer(store.fail)
        self._release = Gatherer(store.release)
        self._undoing: set[asyncio.Task[Any]] = set()

    def concerns(self, message: Message) -> bool:
        """Whether the job goes through the store at all."""
        return not self._ledger or IDEMPOTENCY_KEY in message.headers

    def begin_ahead(self, holders: Sequence[Holder]) -> None:
        """Begin the keys of jobs that were delivered together, in one request.

        Not of suspects, who may be about to kill this process, and of several jobs with one key
        only of the first. Whoever is not run after all is to be :meth:`let_go`.
        """
        if self.away:
            return
        begun: dict[str, tuple[Holder, Ahead]] = {}
        told = asyncio.get_running_loop().create_future()
        for holder in holders:
            message = holder.delivery.message
            if holder.delivery.crashes or not self.concerns(message):
                continue
            try:
                claim = claim_for(message)
            except InvalidJob:
                continue  # it will be told when it is to run
            if claim.key not in begun:
                holder.ahead = Ahead(claim, told)
                begun[claim.key] = (holder, holder.ahead)
        if begun:
            self._later(self._begin_these(list(begun.values()), told))

    async def _begin_these(
        self, pairs: Sequence[tuple[Holder, Ahead]], told: asyncio.Future[None]
    ) -> None:
        asked = time.monotonic()
        replies: Sequence[Reply | None] = [None] * len(pairs)
        try:
            replies = await self._begin_several.ask([ahead.claim for _, ahead in pairs])
        except BackendError as error:
            self._lost_sight(error, pairs[0][0].delivery.message)
        except Exception:
            log.exception("keys could not be begun ahead; they are begun one by one")
        for (holder, ahead), reply in zip(pairs, replies, strict=True):
            if acquired(reply) and not holder.finished:
                holder.hold_until = asked + self._trusted  # first: from then on it is renewed
                holder.hold = ahead.claim.held(reply.fence)
            ahead.reply = reply
        told.set_result(None)

    async def let_go(self, holder: Holder) -> None:
        """Give back a key that was begun ahead, for a job that does not run here after all."""
        ahead, holder.ahead = holder.ahead, None
        if ahead is None:
            return
        holder.hold_ending = True
        await asyncio.shield(ahead.told)
        if acquired(ahead.reply):
            await self._tell(self._release, ahead.claim.held(ahead.reply.fence))

    async def around(
        self, holder: Holder, job_type: JobType[..., Any], attempt: Attempt
    ) -> Settlement | None:
        """What becomes of the delivery; ``attempt`` runs where its key is to be had.

        A success is yet :meth:`to_record`. None when nothing may be told, because the lease or the
        key is another's.
        """
        message = holder.delivery.message
        reply = await self._known_ahead(holder)
        if reply is None:
            try:
                claim = claim_for(message)
            except InvalidJob as error:
                return dead(holder.delivery, "invalid_idempotency_key", str(error))
            reply = await self._begin_now(holder, claim)
        if reply is None:
            return await self._without_store(holder, job_type, attempt)
        if acquired(reply) and holder.hold is not None:
            self._count(KeyEvent.MISS, message)
            return await self._run(holder, holder.hold, attempt)
        return await self._refused(holder.delivery, reply)

    async def _known_ahead(self, holder: Holder) -> Reply | None:
        """What the store said while the job waited; None where it is to be asked now."""
        ahead = holder.ahead
        if ahead is None:
            return None
        if not ahead.told.done():
            await asyncio.shield(ahead.told)
        holder.ahead = None
        reply = ahead.reply
        if reply is None or reply.answer is Answer.BUSY:
            return None  # whoever was at it may have finished since
        if acquired(reply) and holder.hold_until < time.monotonic():
            # It could not be renewed while it waited. We ask again, as the same owner.
            holder.hold = None
            return await self._begin_now(holder, ahead.claim)
        return reply

    async def _begin_now(self, holder: Holder, claim: KeyClaim) -> Reply | None:
        """The store's reply; None while it is away."""
        if self.away:
            return None
        asked = time.monotonic()
        try:
            reply = await self._begun(claim)
        except BackendError as error:
            self._lost_sight(error, holder.delivery.message)
            return None
        if acquired(reply):
            holder.hold_until = asked + self._trusted  # first: from then on it is renewed
            holder.hold = claim.held(reply.fence)
        return reply

    @property
    def degraded(self) -> str | None:
        """What readiness has to say; None when all is well."""
        return "the idempotency store is away: jobs that need it wait" if self.away else None

    def nothing_runs(self, job_types: Iterable[JobType[..., Any]]) -> bool:
        """Whether, for want of the store, no job of these types could run now."""
        if not self.away or self._ledger:
            return False
        return self._waits_always or not any(t.settings.naturally_idempotent for t in job_types)

    async def probe(self) -> bool:
        """Ask a store that was away again; whether it is back since."""
        if not self.away:
            return False
        try:
            await self.store.look(["probe"])
        except BackendError as error:
            log.debug("the idempotency store is still away: %s", error)
            return False
        log.info("the idempotency store answers again")
        self.away = False
        return True

    # before the handler

    async def _begin_all(self, claims: Sequence[KeyClaim]) -> Sequence[Reply]:
        return await self.store.begin(claims, self._lease)

    async def _begin_lists(self, lists: Sequence[Sequence[KeyClaim]]) -> Sequence[Sequence[Reply]]:
        replies = iter(await self._begin_all([claim for claims in lists for claim in claims]))
        return [list(islice(replies, len(claims))) for claims in lists]

    async def _begun(self, claim: KeyClaim) -> Reply:
        """The store's reply; who is cancelled meanwhile gives back what it would have got."""
        asking = asyncio.ensure_future(self._begin.ask(claim))
        try:
            return await asyncio.shield(asking)
        except asyncio.CancelledError:
            self._later(self._give_back(claim, asking))
            raise

    async def _give_back(self, claim: KeyClaim, asking: asyncio.Future[Reply]) -> None:
        try:
            reply = await asking
        except BackendError as error:
            log.debug("nothing to give back of an idempotency key: %s", error)
            return
        if acquired(reply):
            await self._tell(self._release, claim.held(reply.fence))

    async def _refused(self, delivery: Delivery, reply: Reply) -> Settlement:
        message = delivery.message
        if reply.answer is Answer.BUSY:
            self._count(KeyEvent.IN_PROGRESS, message)
            wait = min(reply.wait, self._lease)
            jitter = timedelta(seconds=random.uniform(0.05, 0.5))  # noqa: S311  # no secret
            problem = Problem(
                kind="idempotency_key_busy", message="another job works under the same key"
            )
            return Abandonment(
                delivery=delivery,
                delay=wait + jitter,
                counts_as=CountsAs.SNOOZE,
                problem=problem,
            )
        if reply.answer is Answer.DONE and reply.record is not None:
            self._count(KeyEvent.HIT, message)
            return await self._done_before(delivery, reply.record)
        if reply.answer is Answer.POISON:
            self._count(KeyEvent.POISON, message)
            return dead(
                delivery,
                "poison_crash",
                f"{message.max_crashes + 1} owners of its idempotency key died or lost it",
            )
        self._count(KeyEvent.MISMATCH, message)
        return dead(
            delivery,
            "idempotency_mismatch",
            "its idempotency key was used before, for another payload",
        )

    async def _done_before(self, delivery: Delivery, record: KeyRecord) -> Settlement:
        if record.state is KeyState.FAILED:
            return DeadLetter(delivery=delivery, problem=read_problem(record.data))
        result = record.data
        if result is None and self._result_of is not None:
            result = await self._result_of(record.job_id)
        return Completion(delivery=delivery, result=b"null" if result is None else result)

    async def _without_store(
        self, holder: Holder, job_type: JobType[..., Any], attempt: Attempt
    ) -> Settlement | None:
        if job_type.settings.naturally_idempotent and not self._waits_always:
            self._count(KeyEvent.UNGUARDED, holder.delivery.message)
            return await attempt()
        delay = timedelta(seconds=random.uniform(*AWAY_DELAY))  # noqa: S311  # jitter
        problem = Problem(
            kind="idempotency_store_unavailable",
            message="the idempotency store cannot be asked whether this was done before",
        )
        return Abandonment(
            delivery=holder.delivery, delay=delay, counts_as=CountsAs.SNOOZE, problem=problem
        )

    # behind it

    async def _run(self, holder: Holder, hold: KeyHold, attempt: Attempt) -> Settlement | None:
        try:
            settlement = await attempt()
        except BaseException:
            holder.hold_ending = True
            self._later(self._tell(self._release, hold))
            raise
        holder.hold_ending = True
        if succeeded(settlement):
            return settlement
        # Under the job's own id nothing is remembered of a failure: it would keep a redrive from
        # running, and there is no other job that shares the key.
        keyed = holder.delivery.message.idempotency_key is not None
        if isinstance(settlement, DeadLetter) and keyed:
            end = KeyEnd(hold=hold, data=written_problem(settlement.problem))
            await self._tell(self._fail, end)
        else:
            await self._tell(self._release, hold)
        return settlement

    def to_record(self, holder: Holder, settlement: Settlement) -> bool:
        """Whether this is a success that the store must know of before the queue (D-7)."""
        return holder.hold is not None and succeeded(settlement)

    async def record_together(
        self, successes: Sequence[tuple[Holder, Completion]]
    ) -> list[Completion | None]:
        """Record successes in one request; None for each that the queue must not be told of.

        Raises BackendError when the store cannot be told; then :meth:`record` them one by one.
        """
        ends = [end_of(holder.hold, done) for holder, done in successes if holder.hold is not None]
        answers = await self.store.complete(ends)
        return [
            self._told(holder, done, answer)
            for (holder, done), answer in zip(successes, answers, strict=True)
        ]

    async def record(self, holder: Holder, done: Completion) -> Completion | None:
        """Record a success under its key; None when the queue must not be told of it.

        Takes as long as the store is away, while the key is surely ours.
        """
        hold = holder.hold
        if hold is None:
            return done
        return self._told(holder, done, await self._insist(end_of(hold, done), holder))

    def _told(self, holder: Holder, done: Completion, answer: Answer | None) -> Completion | None:
        """What the queue may hear of a success, after what the store said to it."""
        if answer is Answer.OK:
            return done
        message = holder.delivery.message
        if answer is None:
            log.error("job %s: its idempotency key could not be completed", message.job_id)
            return None
        if answer is Answer.GONE:
            self._count(KeyEvent.GONE, message)
            log.error(
                "job %s is done, but the store had forgotten its idempotency key: another job "
                "with the same key may do it again",
                message.job_id,
            )
            return done
        self._count(KeyEvent.FENCED, message)
        log.warning(
            "job %s lost its idempotency key while it ran: its outcome is discarded",
            message.job_id,
        )
        return None

    async def _insist(self, end: KeyEnd, holder: Holder) -> Answer | None:
        """Repeat over outages while the key is surely ours; None when that did not suffice."""
        failures = 0
        while True:
            try:
                return await self._complete.ask(end)
            except BackendError as error:
                self._lost_sight(error, holder.delivery.message)
                failures += 1
                pause = min(_PAUSE_CAP, 0.1 * 2.0 ** min(failures, 10))
                if time.monotonic() + pause > holder.hold_until:
                    return None
                await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311  # jitter

    async def _tell(self, verb: Gatherer[Any, Answer], what: KeyEnd | KeyHold) -> None:
        """A failure or a release; if it cannot be told, the key's lease runs out instead."""
        for attempt in range(1, _RELEASE_TRIES + 1):
            try:
                await verb.ask(what)
                return
            except BackendError as error:
                if attempt == _RELEASE_TRIES:
                    log.warning("an idempotency key is left to its lease: %s", error)
                    return
                await asyncio.sleep(0.1 * attempt)

    # news

    def _lost_sight(self, error: BackendError, message: Message) -> None:
        self._count(KeyEvent.ERROR, message)
        if not self.away:
            log.error("the idempotency store is away; jobs that need it wait: %s", error)
        self.away = True

    def _count(self, event: KeyEvent, message: Message) -> None:
        self.counts[event] += 1
        if not self._observers:
            return
        notice = KeyNotice(event=event, job_type=message.job_type, queue=message.queue)
        for observer in self._observers:
            try:
                observer(notice)
            except Exception:
                log.exception("an observer of idempotency keys failed; the work goes on")

    def _later(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._undoing.add(task)
        task.add_done_callback(self._undoing.discard)
