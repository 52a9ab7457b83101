"""Refuses, when a worker starts, job types that its queue cannot carry as they are declared."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import timedelta
from typing import Any

from jobbus.errors import Unsupported
from jobbus.handlers import JobType
from jobbus.message import Priority
from jobbus.queue import BackgroundJobQueue


def check_job_types(
    job_types: Iterable[JobType[..., Any]], queue: BackgroundJobQueue, default_timeout: timedelta
) -> None:
    """Raise Unsupported, naming all that does not fit and what to change.

    A queue that lets a job be held for so long only says so as ``max_job_timeout``.
    """
    problems = [
        f"job type {each.name} {problem}"
        for each in job_types
        for problem in _problems(each, queue, default_timeout)
    ]
    if problems:
        raise Unsupported(
            "\n".join(problems) + "\nChange the job types, or choose a provider that keeps a "
            "ledger (Sqlite or Postgres)"
        )


def _problems(
    job_type: JobType[..., Any], queue: BackgroundJobQueue, default_timeout: timedelta
) -> Iterator[str]:
    can = queue.capabilities
    if job_type.priority != Priority.NORMAL and not can.priorities:
        yield f"has priority {job_type.priority}, and this queue has no priorities"
    if job_type.expires_in is not None and not can.expiry:
        yield f"expires in {job_type.expires_in}, and this queue has no start deadlines"
    if can.max_delay is not None and job_type.retry.cap > can.max_delay:
        yield f"may wait {job_type.retry.cap} for a retry, and this queue delays {can.max_delay}"
    longest: timedelta | None = getattr(queue, "max_job_timeout", None)
    timeout = job_type.timeout or default_timeout
    if longest is not None and timeout > longest:
        yield f"may run for {timeout}, and this queue lets a worker hold a job for {longest}"
