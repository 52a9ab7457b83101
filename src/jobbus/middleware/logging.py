"""Puts the running job's name, and that of its trace, into every log record made meanwhile."""

from __future__ import annotations

import logging
import sys
from typing import Any

from jobbus.context import JobContext


class JobLogFilter(logging.Filter):
    """Adds ``job_id``, ``job_type``, ``queue`` and ``attempt`` to records; never a payload.

    Also ``trace_id`` and ``span_id`` where a span is current, as hexadecimal digits.

    Attach it to a handler (``handler.addFilter(JobLogFilter())``); the command line does.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        _name_trace(record)
        try:
            context = JobContext.current()
        except LookupError:
            return True
        record.job_id = context.job_id
        record.job_type = context.job_type
        record.queue = context.queue
        record.attempt = context.attempt
        return True


def _name_trace(record: logging.LogRecord) -> None:
    # Who traces has it loaded; nobody else pays for it.
    trace: Any = sys.modules.get("opentelemetry.trace")
    if trace is None:
        return
    span = trace.get_current_span().get_span_context()
    if span.is_valid:
        record.trace_id = trace.format_trace_id(span.trace_id)
        record.span_id = trace.format_span_id(span.span_id)
