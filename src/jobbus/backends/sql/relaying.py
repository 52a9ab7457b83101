"""Between ledger and broker, as programs: hand jobs over, and start those whose messages came."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from jobbus.store import HandOver, Ticket

from .hot import best_first, started
from .moving import column
from .program import Call, Many, Program, Row, Rows, Scope


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What a relay asks of a queue."""

    queue: str
    limit: int
    """How many jobs of it may be outstanding."""
    within: timedelta
    beside: Sequence[int]
    worker: int


def hand_over(asked: Request, scope: Scope) -> Program[HandOver]:
    """Take jobs for the broker, up to what may be outstanding."""
    [paused] = column((yield Call("paused", {"queue": asked.queue}))) or [False]
    counts: Rows = ()
    if asked.beside:
        counts = yield Call("outstanding", {"claims": list(asked.beside)})
    outstanding = sum(number for _, number in counts)
    spent = set(asked.beside) - {claim for claim, number in counts if number}
    if spent & {claim for claim, _ in counts}:
        yield Call("close_claims", {"closed": sorted(spent)})
    room = asked.limit - outstanding
    rows: Rows = ()
    if room > 0 and not paused:
        rows = yield from _take(asked, room, scope)
    return HandOver(
        tickets=[
            Ticket(job_id, attempts, job_type, priority)
            for job_id, _, attempts, priority, _, job_type in rows
        ],
        claim=rows[0][1] if rows else None,
        outstanding=outstanding + len(rows),
        spent=frozenset(spent),
        paused=bool(paused),
    )


def _take(asked: Request, room: int, scope: Scope) -> Program[Rows]:
    wanted = {
        "queue": asked.queue,
        "limit": room,
        "lease_ms": _milliseconds(asked.within),
        "worker": asked.worker,
    }
    if scope.dialect.one_statement_each:
        rows = yield Call("hand_over", wanted)
        return sorted(rows, key=lambda row: (-row[3], row[4], row[0]))
    picked = yield Call("pick_ready", wanted)
    return (yield from _claimed(picked, 1, "hand_over", wanted))


def start(
    tickets: Sequence[tuple[str, int]],
    *,
    queue: str,
    worker: int,
    lease: timedelta,
    scope: Scope,
) -> Program[Rows]:
    """Start the jobs of these ids and attempts that may run; rows as ``claim`` returns them."""
    named = [{"id": job_id, "attempt": attempt} for job_id, attempt in tickets]
    wanted = {"queue": queue, "worker": worker, "lease_ms": _milliseconds(lease)}
    if scope.dialect.one_statement_each:
        rows = yield Many("start_handed", named, wanted)
    else:
        picked = yield Call("pick_handed", {"tickets": named})
        rows = yield from _claimed(picked, 2, "start_handed", wanted)
    rows = sorted(rows, key=best_first)
    if scope.watched and rows:
        yield started(rows, queue)
    return rows


def _claimed(
    picked: Rows, place: int, statement: str, wanted: dict[str, Any]
) -> Program[list[Row]]:
    """Put the picked jobs under a new claim, whose number is to stand at ``place`` in each row."""
    if not picked:
        return []
    [[claim]] = yield Call("open_claim", {**wanted, "ids": column(picked)})
    given = {"claim": claim, "worker": wanted["worker"]}
    yield Many(statement, [{"id": row[0]} for row in picked], given)
    return [(*row[:place], claim, *row[place + 1 :]) for row in picked]


def _milliseconds(span: timedelta) -> int:
    return round(span.total_seconds() * 1000)
