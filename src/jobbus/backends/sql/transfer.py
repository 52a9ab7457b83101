"""Jobs that leave for another store, and jobs that come from one, as programs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import replace
from typing import Any

from jobbus.errors import BackendUnavailable
from jobbus.job import DEAD, EventType, Job, JobState, Progress
from jobbus.message import Message, OnFailure
from jobbus.movable import (
    Departure,
    Edge,
    JobRecord,
    TakenOut,
    Told,
    in_order,
    record_from,
    record_text,
)

from . import hot
from .moving import Locked, column, entry, lock, log_entries
from .program import Call, Many, Program, Row, Rows, Scope
from .rows import (
    job_from,
    mended,
    problem_from,
    problem_text,
    progress_text,
    progress_word,
    unique_lock,
)
from .steering import delete


def take_out(
    ids: Sequence[str], states: Iterable[JobState], *, to: str, scope: Scope
) -> Program[TakenOut]:
    """Put these jobs into the journal; not those that run by now, or wait for one that stays."""
    wanted = frozenset(states) - {JobState.RUNNING}
    locked = yield from lock(ids)
    leaving = {job.id: job for job in locked.values() if job.state in wanted}
    on_the_way = column((yield Call("on_the_way", {"ids": sorted(leaving)}))) if leaving else []
    staying = dict.fromkeys(on_the_way, "it was enqueued again while it was on its way")
    for job_id in on_the_way:
        del leaving[job_id]
    edges = yield from _edges(leaving)
    staying |= yield from _keep_back(leaving, edges)
    records = yield from _records(leaving, edges, scope)
    if records:
        yield Many(
            "note_departure",
            [
                {"id": record.job.id, "target": to, "record": record_text(record)}
                for record in records
            ],
        )
        yield from delete([record.job.id for record in records])
    return TakenOut(records=records, staying=staying)


def _edges(jobs: Mapping[str, Locked]) -> Program[dict[str, list[Edge]]]:
    edges: dict[str, list[Edge]] = defaultdict(list)
    rows: Rows = (yield Call("edges_of", {"ids": sorted(jobs)})) if jobs else ()
    for job_id, depends_on, on_failure, outcome in rows:
        ended = None if outcome is None else JobState(outcome)
        edges[job_id].append(Edge(depends_on, OnFailure(on_failure), ended))
    return edges


def _keep_back(
    leaving: dict[str, Locked], edges: Mapping[str, Sequence[Edge]]
) -> Program[dict[str, str]]:
    """Take out of ``leaving`` what waits for a job that is here and does not leave; return why."""
    waited_for = {edge.depends_on for own in edges.values() for edge in own if edge.outcome is None}
    here = set(column((yield Call("known", {"ids": sorted(waited_for)})))) if waited_for else set()
    staying: dict[str, str] = {}
    while True:
        bound = {
            job_id: edge.depends_on
            for job_id in leaving
            for edge in edges.get(job_id, ())
            if edge.outcome is None and edge.depends_on in here - leaving.keys()
        }
        if not bound:
            return staying
        for job_id, parent in bound.items():
            staying[job_id] = f"it waits for job {parent}, which stays for now"
            del leaving[job_id]


def _records(
    leaving: Mapping[str, Locked], edges: Mapping[str, Sequence[Edge]], scope: Scope
) -> Program[list[JobRecord]]:
    if not leaving:
        return []
    ids = sorted(leaving)
    rows: Rows = yield Call("whole", {"ids": ids})
    told: dict[str, list[Told]] = defaultdict(list)
    for job_id, *fields in (yield Call("histories", {"ids": ids})):
        told[job_id].append(told_from(fields, scope))
    words: dict[str, list[Any]] = defaultdict(list)
    for job_id, *fields in (yield Call("progress_of", {"ids": ids})):
        words[job_id].append(progress_word(fields, scope.dialect))
    records = []
    for *row, max_crashes in rows:
        job = job_from(tuple(row), scope.dialect)
        records.append(
            JobRecord(
                job=job,
                initial_state=JobState(row[-1]),
                max_crashes=max_crashes,
                edges=tuple(edges.get(job.id, ())),
                history=tuple(told[job.id]),
                progress=tuple(words[job.id]),
            )
        )
    return records


def told_from(row: Sequence[Any], scope: Scope) -> Told:
    """A row of the history."""
    event, at, origin, to, attempt, worker, started_at, reason, problem = row
    moment: Any = scope.dialect.read_moment
    return Told(
        event=EventType(event),
        at=moment(at),
        from_state=None if origin is None else JobState(origin),
        to_state=JobState(to),
        attempt=attempt,
        worker=worker,
        started_at=moment(started_at),
        reason=reason,
        problem=problem_from(problem),
    )


def take_in(
    records: Sequence[JobRecord], *, origin: str | None, refused: dict[str, str], scope: Scope
) -> Program[dict[str, str]]:
    """Keep what is not known yet; return why some of it cannot be kept, ``refused`` included."""
    yield Call("lock_departures")
    known = set(column((yield Call("known", {"ids": [record.job.id for record in records]}))))
    fresh = {
        record.job.id: record
        for record in in_order(records)
        if record.job.id not in known and record.job.id not in refused
    }
    messages = {job_id: record.message() for job_id, record in fresh.items()}
    refused |= yield from _refuse(messages)
    if messages:
        yield from _keep([(fresh[id], message) for id, message in messages.items()], origin, scope)
    arrived = [record.job.id for record in records if record.job.id not in refused]
    yield Call("forget_departures", {"ids": arrived})
    return refused


def _refuse(messages: dict[str, Message]) -> Program[dict[str, str]]:
    """Take out of ``messages`` what cannot be kept here; return why."""
    refused: dict[str, str] = {}
    locks = {key: job_id for job_id, m in messages.items() if (key := unique_lock(m)) is not None}
    if locks:
        for held, holder in (yield Call("holders", {"locks": sorted(locks)})):
            refused[locks[held]] = f"job {holder} holds its unique key {held!r} here"
    parents = {edge.job_id for message in messages.values() for edge in message.depends_on}
    here = set(column((yield Call("known", {"ids": sorted(parents)})))) if parents else set()
    while True:
        for job_id in refused.keys() & messages.keys():
            del messages[job_id]
        lost = _stranded(messages, here)
        if not lost:
            return refused
        refused |= lost


def _stranded(messages: Mapping[str, Message], here: Set[str]) -> dict[str, str]:
    return {
        job_id: f"it waits for job {edge.job_id}, which is not here"
        for job_id, message in messages.items()
        for edge in message.depends_on
        if edge.job_id not in here and edge.job_id not in messages
    }


def _keep(
    jobs: Sequence[tuple[JobRecord, Message]], origin: str | None, scope: Scope
) -> Program[None]:
    """Enqueue them, between the writing of their histories and of the rest of their past."""
    records = [record for record, _ in jobs]
    names = {told.worker for record in records for told in record.history}
    names |= {record.job.worker for record in records}
    rows: Rows = yield Call("known_workers", {"names": sorted(name for name in names if name)})
    workers: dict[str | None, int] = {name: number for number, name in rows}
    told = [_retold(r.job.id, entry, workers, scope) for r in records for entry in r.history]
    if told:
        yield Many("retell", told)
    yield from _tell_move(jobs, origin, scope)
    ids = yield from hot.enqueue([message for _, message in jobs], replace(scope, watched=False))
    if ids != [record.job.id for record in records]:
        raise BackendUnavailable("a unique key was taken at this moment; move the jobs again")
    yield Many("restore", [_restored(record, m, workers, scope) for record, m in jobs])
    yield Call("mark_waited_for", {"ids": ids})
    words = [_word(record, word, scope) for record in records for word in record.progress]
    if words:
        yield Many("restore_progress", words)
    ended = [_ended(r, edge) for r in records for edge in r.edges if edge.outcome is not None]
    if ended:
        yield Many("add_edges", ended)


def _tell_move(
    jobs: Sequence[tuple[JobRecord, Message]], origin: str | None, scope: Scope
) -> Program[None]:
    arrivals = [
        (record.job, _arrival(record.job, message, scope), reason)
        for record, message in jobs
        if (reason := _reason(record.job, message, origin)) is not None
    ]
    if not arrivals:
        return
    yield Many(
        "tell",
        [
            {
                "job_id": job.id,
                "event": EventType.MOVED,
                "from_state": job.state,
                "to_state": to,
                "attempt": job.attempt,
                "worker": None,
                "started_at": None,
                "reason": reason,
                "problem": None,
            }
            for job, to, reason in arrivals
        ],
    )
    if scope.watched:
        moved = EventType.MOVED
        yield log_entries(
            [
                entry(job.id, moved, to, job.state, job.attempt, reason, job.job_type, job.queue)
                for job, to, reason in arrivals
            ]
        )


def _reason(job: Job, message: Message, origin: str | None) -> str | None:
    if origin is not None:
        return mended(f"from {origin}")
    # Who comes home and finds that its group went on has moved after all.
    return "behind its group" if message.group and job.state is not JobState.BLOCKED else None


def _arrival(job: Job, message: Message, scope: Scope) -> JobState:
    """The state in which a moved job arrives; what it is by now, its row tells."""
    if _waits(message):
        return JobState.BLOCKED
    if job.state.terminal or job.state in (JobState.SCHEDULED, JobState.RETRYING):
        return job.state
    return JobState.CREATED if scope.relayed else JobState.QUEUED


def _waits(message: Message) -> bool:
    return bool(message.depends_on or message.group)


def _restored(
    record: JobRecord, message: Message, workers: Mapping[str | None, int], scope: Scope
) -> dict[str, Any]:
    job, moment = record.job, scope.dialect.write_moment
    word = job.progress
    return {
        "id": job.id,
        "ended": job.state.terminal,
        "state": job.state,
        "dead": job.state in DEAD,
        "retrying": job.state is JobState.RETRYING and not _waits(message),
        "cancel_requested": job.cancel_requested,
        "initial_state": record.initial_state,
        "failures": job.failures,
        "crashes": job.crashes,
        "snoozes": job.snoozes,
        "generation": job.generation,
        "worker": workers.get(job.worker),
        "created_at": moment(job.created_at),
        "run_at": moment(job.run_at),
        "started_at": moment(job.started_at),
        "finished_at": moment(job.finished_at),
        "expires_at": moment(job.expires_at),
        "unique_key": job.unique_key,
        "group_name": job.group,
        "progress": None if word is None else progress_text(word, word.at),
        "problem": problem_text(job.problem),
        "result": job.result,
    }


def _retold(
    job_id: str, told: Told, workers: Mapping[str | None, int], scope: Scope
) -> dict[str, Any]:
    moment = scope.dialect.write_moment
    return {
        "job_id": job_id,
        "at": moment(told.at),
        "event": told.event,
        "from_state": told.from_state,
        "to_state": told.to_state,
        "attempt": told.attempt,
        "worker": workers.get(told.worker),
        "started_at": moment(told.started_at),
        "reason": mended(told.reason),
        "problem": problem_text(told.problem),
    }


def _word(record: JobRecord, word: Progress, scope: Scope) -> dict[str, Any]:
    return {
        "job_id": record.job.id,
        "at": scope.dialect.write_moment(word.at or record.job.created_at),
        "percent": word.percent,
        "stage": mended(word.stage),
        "message": mended(word.message),
    }


def _ended(record: JobRecord, edge: Edge) -> dict[str, Any]:
    return {
        "job_id": record.job.id,
        "depends_on": edge.depends_on,
        "on_failure": edge.on_failure,
        "outcome": edge.outcome,
    }


def departures(
    *, limit: int, after: str | None, ids: Sequence[str] | None
) -> Program[list[Departure]]:
    """A page of the journal."""
    rows: Sequence[Row] = yield Call(
        "departures", {"limit": limit, "after": after, "ids": None if ids is None else list(ids)}
    )
    return [
        Departure(record=record_from(job_id, text), to=target, arrived=bool(arrived))
        for job_id, target, text, arrived in rows
    ]
