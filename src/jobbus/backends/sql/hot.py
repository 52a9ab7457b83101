"""The straight path, as programs: enqueue, claim, complete."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jobbus.errors import BackendUnavailable
from jobbus.job import EventType, JobState
from jobbus.message import Completion, Delivery, Message

from .dependencies import link, resolve
from .moving import column, entry, log_entries
from .program import Call, Many, Program, Rows, Scope
from .rows import message_row, unique_lock

_ROUNDS = 5
"""How often a unique key may change hands while we look who holds it."""


def needs_transaction(messages: Sequence[Message]) -> bool:
    """Whether enqueueing these takes more than one statement."""
    return any(m.depends_on or m.group or m.unique_key for m in messages)


def enqueue(messages: Sequence[Message], scope: Scope) -> Program[list[str]]:
    """Add the new ones; return the ids under which the jobs are known."""
    ids = {m.job_id: m.job_id for m in messages}
    waiting = list(messages)
    added: set[str] = set()
    for _ in range(_ROUNDS):
        rows = yield Many("enqueue", [message_row(m, scope.dialect) for m in waiting])
        new = set(column(rows))
        added |= new
        waiting = [m for m in waiting if m.job_id not in new]
        if not waiting:
            break
        waiting = yield from _find_known(waiting, ids)
        if not waiting:
            break
    else:
        raise BackendUnavailable("a unique key kept changing hands; enqueue again")
    linked = [m for m in messages if (m.depends_on or m.group) and m.job_id in added]
    if linked:
        yield from link(linked, scope)
    if scope.watched and added:
        yield log_entries(
            [
                entry(m.job_id, EventType.CREATED, _initial(m), None, 0, "", m.job_type, m.queue)
                for m in messages
                if m.job_id in added
            ]
        )
    return [ids[m.job_id] for m in messages]


def _find_known(waiting: Sequence[Message], ids: dict[str, str]) -> Program[list[Message]]:
    """Note in ``ids`` what stands for the messages that were skipped; return the unexplained."""
    known = set(column((yield Call("known", {"ids": [m.job_id for m in waiting]}))))
    locks = [lock for m in waiting if (lock := unique_lock(m)) is not None]
    holders: dict[str, str] = {}
    if locks:
        rows: Rows = yield Call("holders", {"locks": locks})
        holders = {lock: job_id for lock, job_id in rows}
    unexplained = []
    for message in waiting:
        lock = unique_lock(message)
        if message.job_id in known:
            continue
        if lock is not None and lock in holders:
            ids[message.job_id] = holders[lock]
        else:
            unexplained.append(message)
    return unexplained


def claim(
    queue: str, *, limit: int, lease_ms: int, worker: int, scope: Scope
) -> Program[list[tuple[Any, ...]]]:
    """Hand out the best ready jobs, in order."""
    asked = {"queue": queue, "limit": limit, "lease_ms": lease_ms, "worker": worker}
    if scope.dialect.one_statement_each:
        rows = list((yield Call("claim", asked)))
        rows.sort(key=lambda row: (-row[5], row[13], row[0]))
    else:
        picked = yield Call("pick", asked)
        if not picked:
            return []
        opened = yield Call("open_claim", {**asked, "ids": column(picked)})
        number = opened[0][0]
        yield Many("start", [{"id": row[0]} for row in picked], {"claim": number, "worker": worker})
        rows = [(*row[:2], number, *row[3:]) for row in picked]
    if scope.watched and rows:
        yield log_entries(
            [
                entry(
                    row[0], EventType.STARTED, JobState.RUNNING, "queued", row[1], "", row[6], queue
                )
                for row in rows
            ]
        )
    return rows


def complete(
    done: Sequence[Completion], *, closed: Sequence[int], linked: bool, scope: Scope
) -> Program[tuple[list[Delivery], list[str]]]:
    """Complete what is still held.

    Returns the deliveries that were not, and the completed jobs for which others wait. With
    ``linked`` the others are told here: then the caller has opened a transaction.
    """
    rows = yield Many(
        "complete",
        [
            {
                "id": c.delivery.message.job_id,
                "attempt": c.delivery.attempt,
                "claim": c.delivery.receipt.claim,
                "result": c.result,
            }
            for c in done
        ],
        {"closed": list(closed)},
    )
    if closed and not scope.dialect.one_statement_each:
        yield Call("close_claims", {"closed": list(closed)})
    found = set(column(rows))
    if scope.watched and found:
        yield log_entries(
            [
                entry(
                    c.delivery.job_id,
                    EventType.COMPLETED,
                    JobState.COMPLETED,
                    JobState.RUNNING,
                    c.delivery.attempt,
                    "",
                    c.delivery.message.job_type,
                    c.delivery.message.queue,
                )
                for c in done
                if c.delivery.job_id in found
            ]
        )
    parents = [job_id for job_id, has_dependents in rows if has_dependents]
    if linked and parents:
        yield from resolve(parents, scope)
        parents = []
    if len(found) == len(done):
        return [], parents
    return [c.delivery for c in done if c.delivery.job_id not in found], parents


def _initial(message: Message) -> JobState:
    if message.depends_on or message.group:
        return JobState.BLOCKED
    return JobState.SCHEDULED if message.delay or message.run_at else JobState.QUEUED
