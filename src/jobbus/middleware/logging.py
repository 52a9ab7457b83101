"""Puts the running job's name into every log record made while it runs."""

from __future__ import annotations

import logging

from jobbus.context import JobContext


class JobLogFilter(logging.Filter):
    """Adds ``job_id``, ``job_type``, ``queue`` and ``attempt`` to records; never a payload.

    Attach it to a handler (``handler.addFilter(JobLogFilter())``); the command line does.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        try:
            context = JobContext.current()
        except LookupError:
            return True
        record.job_id = context.job_id
        record.job_type = context.job_type
        record.queue = context.queue
        record.attempt = context.attempt
        return True
