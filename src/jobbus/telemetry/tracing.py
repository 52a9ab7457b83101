"""Spans around enqueueing and around attempts, and the W3C context that joins them.

Nothing here happens unless a tracer provider is configured. Payloads never become attributes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from jobbus.context import JobContext
from jobbus.errors import Signal
from jobbus.message import Message
from jobbus.middleware import CallNext, Middleware

from .names import SPAN_PROCESS, SPAN_SEND, TRACER
from .sdk import traces_configured

if TYPE_CHECKING:
    from opentelemetry.trace import Span

CARRIED: Final = frozenset({"traceparent", "tracestate"})
"""Headers of https://www.w3.org/TR/trace-context/. Baggage is left behind: it is for whoever the
application trusts, and a queue's readers may be others."""
_HEADER_LIMIT: Final = 512
"""Characters; the standard wants at least that much of a tracestate carried."""


@contextmanager
def sending(messages: Sequence[Message], *, enabled: bool = True) -> Iterator[Sequence[Message]]:
    """A span around enqueueing; yields the messages with its context in their headers.

    A message that brings a ``traceparent`` of its own keeps it.
    """
    if not enabled or not messages or not traces_configured():
        yield messages
        return
    from opentelemetry import trace

    queues = sorted({message.queue for message in messages})
    name = f"{SPAN_SEND} {queues[0]}" if len(queues) == 1 else SPAN_SEND
    attributes = _sending_attributes(messages, queues)
    kind = trace.SpanKind.PRODUCER
    tracer = trace.get_tracer(TRACER)
    with tracer.start_as_current_span(name, kind=kind, attributes=attributes) as span:
        carrier = _carrier_of(span)
        yield [
            message
            if "traceparent" in message.headers
            else replace(message, headers={**message.headers, **carrier})
            for message in messages
        ]


def _sending_attributes(messages: Sequence[Message], queues: Sequence[str]) -> dict[str, Any]:
    attributes: dict[str, Any] = {
        "messaging.system": "jobbus",
        "messaging.operation.name": SPAN_SEND,
        "messaging.operation.type": SPAN_SEND,
    }
    if len(queues) == 1:
        attributes["messaging.destination.name"] = queues[0]
    if len(messages) == 1:
        attributes["messaging.message.id"] = messages[0].job_id
        attributes["jobbus.job.id"] = messages[0].job_id
        attributes["jobbus.job.type"] = messages[0].job_type
    else:
        attributes["messaging.batch.message_count"] = len(messages)
    return attributes


def _carrier_of(span: Span) -> Mapping[str, str]:
    from opentelemetry.trace import set_span_in_context
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    carrier: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(carrier, set_span_in_context(span))
    return {name: text for name, text in carrier.items() if len(text) <= _HEADER_LIMIT}


def layers() -> Sequence[Middleware]:
    """The middleware that traces attempts; none where no tracer provider is configured."""
    return (traced,) if traces_configured() else ()


async def traced(context: JobContext, call_next: CallNext) -> Any:
    """Middleware: a span around the handler, in the trace of who enqueued the job.

    It is a child of the span that enqueued the job, so that there is one trace, and linked to
    it, as OpenTelemetry's conventions for messaging ask; so is every further attempt.
    """
    from opentelemetry import trace

    parent = _parent_of(context.headers)
    origin = trace.get_current_span(parent).get_span_context()
    with trace.get_tracer(TRACER).start_as_current_span(
        f"{SPAN_PROCESS} {context.queue}",
        context=parent,
        kind=trace.SpanKind.CONSUMER,
        attributes=_processing_attributes(context),
        links=[trace.Link(origin)] if origin.is_valid else [],
        record_exception=False,
        set_status_on_exception=False,
    ) as span:
        try:
            return await call_next()
        except Signal as signal:
            # A handler that steers its job has not failed.
            span.set_attribute("error.type", type(signal).__name__)
            raise
        except asyncio.CancelledError:
            span.set_attribute("error.type", "CancelledError")
            raise
        except Exception as error:
            span.set_attribute("error.type", type(error).__name__)
            span.record_exception(error)
            span.set_status(trace.StatusCode.ERROR, type(error).__name__)
            raise


def _parent_of(headers: Mapping[str, str]) -> Any:
    """The context in the headers, or an empty one: they are strangers' text."""
    from opentelemetry.context import Context
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    carrier = {
        name: text
        for name, text in headers.items()
        if name in CARRIED and len(text) <= _HEADER_LIMIT
    }
    return TraceContextTextMapPropagator().extract(carrier, Context())


def _processing_attributes(context: JobContext) -> dict[str, Any]:
    return {
        "messaging.system": "jobbus",
        "messaging.operation.name": SPAN_PROCESS,
        "messaging.operation.type": SPAN_PROCESS,
        "messaging.destination.name": context.queue,
        "messaging.message.id": context.job_id,
        "jobbus.job.id": context.job_id,
        "jobbus.job.type": context.job_type,
        "jobbus.job.attempt": context.attempt,
    }
