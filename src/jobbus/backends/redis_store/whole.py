"""Whole records of jobs: how the journal of moves is read, and what arrives is written."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from jobbus.backends.sql.program import Scope
from jobbus.backends.sql.rows import mended, problem_text, progress_text
from jobbus.backends.sql.transfer import told_from
from jobbus.job import Progress
from jobbus.message import Message, OnFailure
from jobbus.movable import Departure, Edge, JobRecord, Told

from .connection import Argument
from .records import (
    DEFAULT_CRASHES,
    DIALECT,
    document,
    fields_of,
    initial_state,
    job_from,
    microseconds,
    options_of,
    progress_from,
)

_SCOPE = Scope(DIALECT)


def departure_from(line: Sequence[Any]) -> Departure:
    """A line of the journal, as scripts answer it."""
    job_id, text, flat, history, words = line
    fields = fields_of(flat)
    edges = json.loads(fields.get("edges", b"[]"))
    record = JobRecord(
        job=job_from(job_id.decode(), text, fields),
        initial_state=initial_state(fields),
        max_crashes=int(fields.get("x", DEFAULT_CRASHES)),
        edges=tuple(Edge(parent, OnFailure(policy)) for parent, policy in sorted(edges)),
        history=tuple(told_from(json.loads(entry), _SCOPE) for entry in history),
        progress=tuple(progress_from(word) for word in words),
    )
    return Departure(record=record, to=fields["to"].decode(), arrived="arrived" in fields)


def arrival_arguments(record: JobRecord) -> list[Argument]:
    """What the script ``take_in`` takes of one job."""
    job, message = record.job, _whole_message(record)
    told: dict[str, Any] = {
        "fields": [part for pair in _fields(record, message).items() for part in pair],
        "history": [_entry(one) for one in record.history],
        "words": [_word(record, one) for one in record.progress],
    }
    if job.parent_id is not None:
        told["parent"] = job.parent_id
    if job.state.terminal:
        told["ended"] = str(microseconds(job.finished_at or job.run_at))
    else:
        asked = options_of(message)
        told |= {name: asked[name] for name in ("lock", "group", "after") if name in asked}
    result = b"-" if job.result is None else b"+" + job.result
    return [job.id, document(message), result, json.dumps(told)]


def _whole_message(record: JobRecord) -> Message:
    """Also with what holds no more: people see what was asked for, a redrive goes by it."""
    job = record.job
    return replace(
        record.message(), unique_key=job.unique_key, group=job.group, expires_at=job.expires_at
    )


def _fields(record: JobRecord, message: Message) -> dict[str, str]:
    """The hash of a job, but for its result. What is usual is not there."""
    job, asked, micros = record.job, options_of(message), DIALECT.write_moment
    word = job.progress
    found: dict[str, Any] = {
        "s": job.state,
        "q": job.queue,
        "p": int(job.priority),
        "T": job.job_type,
        "t": microseconds(job.created_at),
        "r": microseconds(job.run_at),
        "i": record.initial_state,
        "a": job.attempt or None,
        "f": job.failures or None,
        "k": job.crashes or None,
        "z": job.snoozes or None,
        "g": job.generation if job.generation > 1 else None,
        "b": micros(job.started_at),
        "e": micros(job.finished_at),
        "w": None if job.worker is None else mended(job.worker),
        "P": None if word is None else _word(record, word),
        "E": problem_text(job.problem),
        "o": 1 if job.cancel_requested else None,
        "x": asked.get("max_crashes"),
        "u": asked.get("lock"),
        "d": asked.get("expires"),
        "G": asked.get("group"),
        "m": asked.get("parent"),
        "tags": asked.get("tags"),
    }
    return {name: str(value) for name, value in found.items() if value is not None}


def _entry(told: Told) -> str:
    micros = DIALECT.write_moment
    began = micros(told.started_at)
    return json.dumps(
        [
            told.event,
            str(micros(told.at)),
            told.from_state,
            told.to_state,
            told.attempt,
            told.worker,
            None if began is None else str(began),
            mended(told.reason),
            problem_text(told.problem),
        ]
    )


def _word(record: JobRecord, word: Progress) -> str:
    heard = microseconds(word.at or record.job.created_at)
    return f"{heard} {progress_text(word)}"
