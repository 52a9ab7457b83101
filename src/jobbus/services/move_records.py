"""A broker's messages as the records of jobs, and back: for moves from and to brokers."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

from jobbus.job import EventType, Job, JobState, Problem
from jobbus.message import NO_DELAY, DeadLetter, Delivery, Message
from jobbus.movable import JobRecord, Told


def sendable(record: JobRecord, now: datetime) -> Message:
    """The message for a broker, whose clock may not be asked: the delay that is left."""
    message = record.message()
    due = message.run_at
    delay = max(due - now, NO_DELAY) if due is not None else NO_DELAY
    return replace(message, run_at=None, delay=delay)


def dead_letter(record: JobRecord, now: datetime) -> DeadLetter:
    """The dead letter for a broker that never delivered it."""
    job = record.job
    return DeadLetter(
        delivery=Delivery(
            message=sendable(record, now),
            receipt=None,
            attempt=job.attempt,
            failures=job.failures,
            crashes=job.crashes,
            enqueued_at=job.created_at,
        ),
        problem=job.problem or Problem(kind=job.state, message="the reason was not recorded"),
        timed_out=job.state is JobState.TIMED_OUT,
    )


def waiting(delivery: Delivery) -> JobRecord:
    """What a delivery says of its job. That we received it was no attempt of it."""
    return _record(delivery, JobState.QUEUED, attempt=delivery.attempt - 1)


def delayed(delivery: Delivery) -> JobRecord:
    """The job of a message that is not due: scheduled, or in its back-off after an attempt."""
    if not delivery.attempt:
        return _record(delivery, JobState.SCHEDULED, attempt=0)
    record = _record(delivery, JobState.RETRYING, attempt=delivery.attempt)
    return _with_end(record, EventType.RETRY_SCHEDULED, datetime.now(UTC))


def dead(letter: DeadLetter) -> JobRecord:
    """The job of a dead letter. No broker keeps when it died: that becomes now."""
    now = datetime.now(UTC)
    state, event = (
        (JobState.TIMED_OUT, EventType.TIMED_OUT)
        if letter.timed_out
        else (JobState.FAILED, EventType.FAILED)
    )
    record = _record(letter.delivery, state, attempt=letter.delivery.attempt)
    job = replace(record.job, finished_at=now, problem=letter.problem)
    return _with_end(replace(record, job=job), event, now)


def with_past(record: JobRecord, past: JobRecord) -> JobRecord:
    """The job that a broker gives back, with what was known of it when it went there."""
    if past.job.state.terminal:
        # A dead letter is what it was. If somebody had it run again meanwhile, it is another job.
        return past if record.job.state.terminal else record
    job = replace(
        past.job,
        attempt=max(past.job.attempt, record.job.attempt),
        failures=max(past.job.failures, record.job.failures),
        crashes=max(past.job.crashes, record.job.crashes),
    )
    if not record.history:
        return replace(past, job=job)
    now = record.job
    job = replace(
        job,
        state=now.state,
        run_at=now.run_at,
        finished_at=now.finished_at,
        problem=now.problem,
    )
    return replace(past, job=job, history=(*past.history, *record.history))


def _with_end(record: JobRecord, event: EventType, at: datetime) -> JobRecord:
    """With the end of the last attempt in its history."""
    job = record.job
    end = Told(
        event=event,
        at=at,
        from_state=JobState.RUNNING if job.attempt else JobState.QUEUED,
        to_state=job.state,
        attempt=job.attempt,
        problem=job.problem,
    )
    return replace(record, initial_state=JobState.QUEUED, history=(end,))


def _record(delivery: Delivery, state: JobState, *, attempt: int) -> JobRecord:
    message = delivery.message
    came = delivery.enqueued_at or datetime.now(UTC)
    return JobRecord(
        job=Job(
            id=message.job_id,
            job_type=message.job_type,
            queue=message.queue,
            state=state,
            priority=message.priority,
            payload=message.payload,
            attempt=attempt,
            failures=delivery.failures,
            crashes=delivery.crashes,
            snoozes=0,
            max_attempts=message.max_attempts,
            generation=1,
            created_at=came,
            run_at=message.run_at or came,
            expires_at=message.expires_at,
            timeout=message.timeout,
            parent_id=message.parent_id,
            unique_key=message.unique_key,
            group=message.group,
            tags=message.tags,
            headers=message.headers,
            metadata=message.metadata,
        ),
        initial_state=state,
        max_crashes=message.max_crashes,
    )
