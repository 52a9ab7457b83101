"""Bugs planted into the real code while it runs: a checker that cannot fail proves nothing.

Each is named, says what it breaks, and which invariants have to report it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Generator, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any, Final

from jobbus.backends.sql import hot, maintenance, moving, settling, steering
from jobbus.backends.sql.base import SqlQueue
from jobbus.backends.sql.moving import Change, Locked
from jobbus.backends.sql.program import Many, Scope
from jobbus.job import EventType, JobState
from jobbus.message import Abandonment, Completion, CountsAs, Delivery, Message
from jobbus.store import CancelOutcome
from jobbus.worker import attempt, worker
from jobbus.worker.backlog import Backlog
from jobbus.worker.heartbeat import Heartbeat
from jobbus.worker.held import Held
from jobbus.worker.host import WorkerHost
from jobbus.worker.settle import Settler
from tests.chaos.plan import REDIS
from tests.chaos.planting import Bug, bug, lua, replaced, sql

_NOTHING: Final = timedelta(0)


# the worker


def _acknowledge_first(claim: Any) -> Any:
    async def _claim(self: SqlQueue, *asked: Any) -> list[Delivery]:
        held: list[Delivery] = await claim(self, *asked)
        if held:
            await self.complete([Completion(delivery=one) for one in held])
        return held

    return _claim


def _never_fence(_: Any) -> Any:
    async def _keep_fencing(self: Heartbeat) -> None:
        await asyncio.Event().wait()

    return _keep_fencing


def _never_tell(_: Any) -> Any:
    def _tell_lost(self: Heartbeat, held: Held) -> None:
        return

    return _tell_lost


def _start_on_the_loop(_: Any) -> Any:
    async def start(self: Heartbeat) -> None:
        self._task = asyncio.create_task(self._beat())  # type: ignore[attr-defined]  # kept alive
        await self._ready.wait()

    return start


def _burn_an_attempt(_: Any) -> Any:
    def release(delivery: Delivery) -> Abandonment:
        return Abandonment(delivery=delivery, counts_as=CountsAs.FAILURE)

    return release


def _do_not_wait(_: Any) -> Any:
    async def flushed(self: Settler) -> None:
        return

    return flushed


def _put_twice(put: Any) -> Any:
    def put_twice(self: Backlog, held: Held) -> None:
        put(self, held)
        put(self, held)

    return put_twice


def _never_refuse(_: Any) -> Any:
    def _check(self: WorkerHost, lost: Sequence[object]) -> None:
        return

    return _check


# the ledger


def _any_lease(_: Any) -> Any:
    def _under_same_lease(delivery: Delivery, job: Locked) -> bool:
        return True

    return _under_same_lease


def _count_twice(abandoned: Any) -> Any:
    def _abandoned(back: Abandonment, job: Locked) -> Change:
        change: Change = abandoned(back, job)
        if back.counts_as is CountsAs.FAILURE and change.failures is not None:
            return replace(change, failures=change.failures + 1)
        return change

    return _abandoned


def _count_nothing(crashed: Any) -> Any:
    def uncounted(job: Locked, reason: str, **told: Any) -> Change:
        change: Change = crashed(replace(job, max_crashes=2**31), reason, **told)
        return replace(change, crashes=job.crashes)

    return uncounted


def _resurrect(cancel: Any) -> Any:
    def cancel_and_resurrect(
        job_ids: Sequence[str], *, reason: str, scope: Scope
    ) -> Generator[Any, Any, dict[str, CancelOutcome]]:
        outcomes: dict[str, CancelOutcome] = yield from cancel(job_ids, reason=reason, scope=scope)
        ended = [one for one, how in outcomes.items() if how is CancelOutcome.FINISHED]
        locked = yield from moving.lock(ended)
        if locked:
            again = [
                Change(job=j, event=EventType.REDRIVEN, to=JobState.QUEUED, delay=_NOTHING)
                for j in locked.values()
            ]
            yield Many("move", [moving._moved(one) for one in again])
        return outcomes

    return cancel_and_resurrect


def _stay_ready(moved: Any) -> Any:
    def _moved(change: Change) -> dict[str, Any]:
        row: dict[str, Any] = moved(change)
        return {**row, "ready": row["ready"] or change.to is JobState.CANCELLED}

    return _moved


def _forget_the_last(enqueue: Any) -> Any:
    def enqueue_most(messages: Sequence[Message], scope: Scope) -> Generator[Any, Any, list[str]]:
        kept = (
            messages[:-1] if len(messages) > 1 and not hot.needs_transaction(messages) else messages
        )
        yield from enqueue(kept, scope)
        return [message.job_id for message in messages]

    return enqueue_most


def _conceal(apply: Any) -> Any:
    def apply_in_silence(changes: Sequence[Change], scope: Scope) -> Any:
        told = [
            replace(one, silent=one.silent or one.event is EventType.CRASHED) for one in changes
        ]
        return apply(told, scope)

    return apply_in_silence


BUGS: Final[Mapping[str, Bug]] = {
    one.name: one
    for one in (
        bug(
            "a completion needs no lease",
            "C5",
            sql(
                "complete",
                sqlite=("attempt = :attempt AND claim = :claim AND ", ""),
                postgres=("j.attempt = d.attempt AND j.claim = d.claim AND ", ""),
            ),
        ),
        bug(
            "an abandonment needs no lease",
            "C5",
            replaced(settling, "_under_same_lease", _any_lease),
        ),
        bug(
            "jobs are acknowledged before they run",
            "C3",
            replaced(SqlQueue, "_claim", _acknowledge_first),
        ),
        bug(
            "live leases are taken back",
            "C4",
            sql(
                "look",
                sqlite=("lease_until < :now", "lease_until < :now + 3600000"),
                postgres=(
                    "lease_until < clock_timestamp()",
                    "lease_until < clock_timestamp() + interval '1 hour'",
                ),
            ),
            sql(
                "lapsed",
                sqlite=("lease_until < :now", "lease_until < :now + 3600000"),
                postgres=(
                    "lease_until < clock_timestamp()",
                    "lease_until < clock_timestamp() + interval '1 hour'",
                ),
            ),
        ),
        bug(
            "a claim takes what is taken",
            "C4",
            sql("pick", sqlite=("ready = 1 AND queue", "state IN ('queued', 'running') AND queue")),
            sql("start", sqlite=(" AND ready = 1", "")),
            sql("claim", postgres=("    FOR UPDATE SKIP LOCKED\n", "")),
            sql(
                "claim",
                postgres=(
                    "WHERE j.ctid = ANY (ARRAY(SELECT place FROM picked))",
                    "WHERE j.id IN (SELECT id FROM picked)",
                ),
            ),
        ),
        bug(
            "renewed leases are not extended",
            "C4",
            sql(
                "extend",
                sqlite=("max(lease_until, :now + :lease_ms)", "lease_until"),
                postgres=(
                    "greatest(lease_until, clock_timestamp() + "
                    ":lease_ms * interval '1 millisecond')",
                    "lease_until",
                ),
            ),
        ),
        bug(
            "a worker trusts leases that ran out",
            "C4",
            replaced(Heartbeat, "_keep_fencing", _never_fence),
        ),
        bug(
            "the heartbeat shares the handlers' loop",
            "C4 C6 C9",
            replaced(Heartbeat, "start", _start_on_the_loop),
            simulated=False,
        ),
        bug(
            "a transaction commits without the lease",
            "C6",
            # Else a heartbeat that wakes up first ends the job, and there is nothing to see.
            replaced(Heartbeat, "_tell_lost", _never_tell),
            replaced(WorkerHost, "_check", _never_refuse),
            simulated=False,
        ),
        bug(
            "on Redis a completion needs no lease",
            "C5",
            lua("complete", "v[2] == attempt and v[3] == claim", "true"),
            simulated=False,
            on=REDIS,
        ),
        bug(
            "on Redis live leases are taken back",
            "C4",
            lua("tend", "int(now - expired_for)", "int(now + 3600000000)"),
            simulated=False,
            on=REDIS,
        ),
        bug(
            "a shutdown burns an attempt",
            "C9",
            replaced(attempt, "release", _burn_an_attempt),
            replaced(worker, "release", _burn_an_attempt),
        ),
        bug("a shutdown drops the last outcomes", "C9", replaced(Settler, "flushed", _do_not_wait)),
        bug("a delivery is run twice", "C6 C13", replaced(Backlog, "put", _put_twice)),
        bug("a failure counts twice", "C9", replaced(settling, "_abandoned", _count_twice)),
        bug(
            "crashes are not counted",
            "C9",
            replaced(settling, "crashed", _count_nothing),
            replaced(maintenance, "crashed", _count_nothing),
        ),
        bug("a cancellation wakes the dead", "C5", replaced(steering, "cancel", _resurrect)),
        bug("what is cancelled stays ready", "C5 C12", replaced(moving, "_moved", _stay_ready)),
        bug(
            "a paused queue hands out",
            "C12",
            sql(
                "pick",
                sqlite=("q.name = :queue AND q.paused", "q.name = :queue AND NOT q.paused"),
            ),
            sql(
                "claim",
                postgres=("q.name = :queue AND q.paused", "q.name = :queue AND NOT q.paused"),
            ),
        ),
        bug(
            "dependents do not wait",
            "C7",
            sql(
                "still_waiting",
                sqlite=("e.resolved = 0)", "e.resolved = 0) AND 1 = 0"),
                postgres=("NOT e.resolved)", "NOT e.resolved) AND 1 = 0"),
            ),
        ),
        bug(
            "due jobs stay where they are",
            "C1",
            sql(
                "promote",
                sqlite=("WHERE timed = 1 AND", "WHERE 1 = 0 AND"),
                postgres=("WHERE timed AND", "WHERE false AND"),
            ),
        ),
        bug("a batch loses its last job", "C1", replaced(hot, "enqueue", _forget_the_last)),
        bug(
            "the history conceals crashes",
            "C5",
            replaced(settling, "apply", _conceal),
            replaced(maintenance, "apply", _conceal),
        ),
    )
}
