"""Jobs and their relatives as JSON: the keys that programs may rely on."""

from __future__ import annotations

import base64
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from jobbus.cli.text import moment

if TYPE_CHECKING:
    from jobbus.job import Job, JobEvent, Problem, Progress
    from jobbus.store import JobTypeRecord, QueueStatus, WorkerRecord

Shape = dict[str, Any]


def job_summary(job: Job) -> Shape:
    """A job as lists show it: nothing of what its producer put into it or its handler got out."""
    return {
        "id": job.id,
        "type": job.job_type,
        "queue": job.queue,
        "state": job.state.value,
        "priority": job.priority,
        "attempt": job.attempt,
        "failures": job.failures,
        "crashes": job.crashes,
        "snoozes": job.snoozes,
        "max_attempts": job.max_attempts,
        "generation": job.generation,
        "created_at": moment(job.created_at),
        "run_at": moment(job.run_at),
        "started_at": moment(job.started_at),
        "finished_at": moment(job.finished_at),
        "expires_at": moment(job.expires_at),
        "timeout_seconds": _seconds(job.timeout),
        "worker": job.worker,
        "progress": progress_shape(job.progress),
        "problem": problem_shape(job.problem, traceback=False),
        "cancel_requested": job.cancel_requested,
        "parent_id": job.parent_id,
        "unique_key": job.unique_key,
        "group": job.group,
        "tags": list(job.tags),
    }


def job_detail(job: Job) -> Shape:
    """Everything about a job, payload and result included."""
    payload, payload_raw = document(job.payload)
    result, result_raw = (None, None) if job.result is None else document(job.result)
    return {
        **job_summary(job),
        "problem": problem_shape(job.problem, traceback=True),
        "payload": payload,
        "payload_base64": payload_raw,
        "result": result,
        "result_base64": result_raw,
        "headers": dict(job.headers),
        "metadata": dict(job.metadata),
    }


def document(data: bytes) -> tuple[Any, str | None]:
    """The JSON value in ``data``, else None and the bytes in base64."""
    from jobbus.codec import decode
    from jobbus.errors import PayloadError

    try:
        return decode(data), None
    except PayloadError:
        return None, base64.b64encode(data).decode()


def event_shape(event: JobEvent) -> Shape:
    return {
        "at": moment(event.at),
        "event": event.type.value,
        "from": None if event.from_state is None else event.from_state.value,
        "to": event.to_state.value,
        "attempt": event.attempt,
        "worker": event.worker,
        "reason": event.reason,
        "problem": problem_shape(event.problem, traceback=False),
    }


def progress_shape(progress: Progress | None) -> Shape | None:
    if progress is None:
        return None
    return {
        "percent": progress.percent,
        "stage": progress.stage,
        "message": progress.message,
        "at": moment(progress.at),
    }


def problem_shape(problem: Problem | None, *, traceback: bool) -> Shape | None:
    if problem is None:
        return None
    shape: Shape = {"kind": problem.kind, "message": problem.message}
    return {**shape, "traceback": problem.traceback} if traceback else shape


def queue_shape(status: QueueStatus) -> Shape:
    from jobbus.job import JobState

    return {
        "name": status.name,
        "paused": status.paused,
        "reason": status.reason,
        "counts": {state.value: status.counts.get(state, 0) for state in JobState},
    }


def worker_shape(worker: WorkerRecord) -> Shape:
    return {
        "name": worker.name,
        "host": worker.host,
        "pid": worker.pid,
        "started_at": moment(worker.started_at),
        "seen_at": moment(worker.seen_at),
        "running": worker.running,
        "alive": worker.alive,
    }


def job_type_shape(record: JobTypeRecord) -> Shape:
    return {
        "name": record.name,
        "queue": record.queue,
        "priority": record.priority,
        "max_attempts": record.max_attempts,
        "max_crashes": record.max_crashes,
        "payload_schema": dict(record.payload_schema),
    }


def _seconds(span: timedelta | None) -> float | None:
    return None if span is None else span.total_seconds()
