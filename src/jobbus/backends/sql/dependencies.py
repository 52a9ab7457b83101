"""Edges between jobs: who waits for whom, and what an end means to those who waited."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from graphlib import CycleError, TopologicalSorter

from jobbus.errors import InvalidJob
from jobbus.job import EventType, JobState, Problem
from jobbus.message import Dependency, Message, OnFailure

from .moving import Change, Locked, apply, column, lock
from .program import Call, Many, Program, Row, Scope


def link(messages: Sequence[Message], scope: Scope) -> Program[None]:
    """Write the edges of new, blocked jobs, and release those with nothing to wait for.

    Raises InvalidJob for an unknown dependency or a circle.
    """
    edges: dict[str, list[Dependency]] = {m.job_id: list(m.depends_on) for m in messages}
    _refuse_circles(edges)
    asked = {edge.job_id for own in edges.values() for edge in own}
    before = yield from _join_groups(messages)
    for job_id, predecessor in before.items():
        edges[job_id].append(Dependency(predecessor, OnFailure.RUN))
    parents = yield from lock(asked | set(before.values()))
    if unknown := sorted(asked - parents.keys()):
        raise InvalidJob(
            f"depends_on names jobs that do not exist: {', '.join(unknown)}. Enqueue them first, "
            "or in the same call"
        )
    waited_for = [p.id for p in parents.values() if not JobState(p.state).terminal]
    if waited_for:
        yield Call("mark_dependents", {"ids": waited_for})
    rows = [
        {
            "job_id": job_id,
            "depends_on": edge.job_id,
            "on_failure": edge.on_failure,
            "outcome": _outcome(parents[edge.job_id]),
        }
        for job_id, own in edges.items()
        for edge in own
        if edge.job_id in parents
    ]
    yield Many("add_edges", rows)
    ended: list[Row] = [
        (row["job_id"], row["depends_on"], row["on_failure"], row["outcome"])
        for row in rows
        if row["outcome"] is not None
    ]
    children = yield from lock(edges)
    failed = yield from _settle_blocked(children, ended, scope)
    yield from resolve(failed, scope)


def resolve(ended: Iterable[str], scope: Scope) -> Program[None]:
    """Tell those who waited for these ended jobs, and in turn those who waited for them."""
    pending = sorted(set(ended))
    while pending:
        children = column((yield Call("waiting_for", {"ids": pending})))
        if not children:
            return
        # The children first: two parents that end at once must see each other's edge resolved.
        locked = yield from lock(children)
        edges = yield Call("resolve_edges", {"ids": pending})
        pending = yield from _settle_blocked(locked, edges, scope)


def _settle_blocked(
    children: Mapping[str, Locked], edges: Sequence[Row], scope: Scope
) -> Program[list[str]]:
    blocked = {id: job for id, job in children.items() if job.state == JobState.BLOCKED}
    verdicts: dict[str, Change] = {}
    for job_id, depends_on, on_failure, outcome in edges:
        job = blocked.get(job_id)
        if job is None or outcome == JobState.COMPLETED or on_failure == OnFailure.RUN:
            continue
        change = _without(job, depends_on, OnFailure(on_failure), outcome)
        if job_id not in verdicts or change.to is JobState.FAILED:
            verdicts[job_id] = change
    candidates = [job_id for job_id in blocked if job_id not in verdicts]
    waiting = set(column((yield Call("still_waiting", {"ids": candidates}))) if candidates else ())
    changes = list(verdicts.values()) + [
        Change(
            job=blocked[job_id],
            event=EventType.RELEASED_TO_QUEUE,
            to=JobState.SCHEDULED if blocked[job_id].early else JobState.QUEUED,
            delay=None if blocked[job_id].early else timedelta(0),
            silent=True,
        )
        for job_id in candidates
        if job_id not in waiting
    ]
    return (yield from apply(changes, scope))


def _without(job: Locked, depends_on: str, policy: OnFailure, outcome: str) -> Change:
    reason = f"job {depends_on}, on which it depends, ended {outcome}"
    if policy is OnFailure.SKIP:
        return Change(job=job, event=EventType.CANCELLED, to=JobState.CANCELLED, reason=reason)
    return Change(
        job=job,
        event=EventType.FAILED,
        to=JobState.FAILED,
        reason=reason,
        problem=Problem(kind="dependency_failed", message=reason),
    )


def _join_groups(messages: Sequence[Message]) -> Program[dict[str, str]]:
    """Put each message at the end of its group; return whom it comes after."""
    members: dict[tuple[str, str], list[str]] = {}
    for message in messages:
        if message.group is not None:
            members.setdefault((message.queue, message.group), []).append(message.job_id)
    before: dict[str, str] = {}
    for (queue, name), ids in sorted(members.items()):
        group = {"queue": queue, "name": name}
        made = yield Call("take_group", {**group, "tail": ids[-1]})
        if not made:
            tail = yield Call("lock_group", group)
            before[ids[0]] = tail[0][0]
            yield Call("move_group", {**group, "tail": ids[-1]})
        before |= dict(zip(ids[1:], ids, strict=False))
    return before


def _refuse_circles(edges: Mapping[str, Sequence[Dependency]]) -> None:
    try:
        TopologicalSorter({id: [e.job_id for e in own] for id, own in edges.items()}).prepare()
    except CycleError as error:
        circle = " -> ".join(error.args[1])
        raise InvalidJob(f"these jobs wait for each other in a circle: {circle}") from error


def _outcome(parent: Locked) -> str | None:
    return parent.state if JobState(parent.state).terminal else None
