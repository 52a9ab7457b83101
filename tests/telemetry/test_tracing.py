"""One trace from who enqueues to who runs, through the headers of the message, and its links.

Each side is a process of its own with an in-memory exporter. What carries the jobs between them
joins by its name in :data:`CARRIERS`. That every carrier keeps the headers is in ``test_carriers``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Final

import pytest

from tests.backends.rabbitmq_broker import delete_all, new_prefix
from tests.services import fresh_database
from tests.telemetry.programs import run

pytestmark = pytest.mark.services

APPLICATION: Final = """
import asyncio, json, sys
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from datetime import timedelta
from jobbus import JobBus, RetryPolicy, Worker

exporter = InMemorySpanExporter()
provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(exporter))
trace.set_tracer_provider(provider)
tracer = trace.get_tracer("application")
bus = JobBus()

@bus.job
async def work(text):
    with tracer.start_as_current_span("inner"):
        pass

@bus.job(max_attempts=2, retry=RetryPolicy(base=timedelta(0)))
async def flaky(text):
    raise ValueError("failed")

@bus.job
async def parent(text):
    await bus.enqueue("work", {"text": text})

def hexed(context):
    return None if context is None else [f"{context.trace_id:032x}", f"{context.span_id:016x}"]

def told():
    return [
        {
            "name": span.name, "kind": span.kind.name, "context": hexed(span.context),
            "parent": hexed(span.parent), "links": [hexed(link.context) for link in span.links],
            "attributes": dict(span.attributes), "status": span.status.status_code.name,
            "events": [event.name for event in span.events],
        }
        for span in exporter.get_finished_spans()
    ]

async def main():
    remembering = getattr(bus.queue, "ledger", bus.queue)
    if hasattr(remembering, "migrate"):
        await remembering.migrate()
    if sys.argv[1] == "service":
        await serve()
    else:
        await Worker(bus, burst=True).run()
    await bus.close()
    print(json.dumps(told()))

async def serve():
    canary = {"text": "canary"}
    hostile = {"traceparent": "00-zz-" + "f" * 600}
    forwarded = {"traceparent": "00-" + "ab" * 16 + "-" + "cd" * 8 + "-01"}
    calls = {
        "work": lambda: bus.enqueue("work", canary),
        "flaky": lambda: bus.enqueue("flaky", canary),
        "parent": lambda: bus.enqueue("parent", canary),
        "batch": lambda: bus.enqueue_many([work.message("canary"), work.message("canary")]),
        "forwarded": lambda: bus.enqueue("work", canary, headers=forwarded),
        "hostile": lambda: bus.enqueue("work", canary, headers=hostile),
    }
    for name, call in calls.items():
        with tracer.start_as_current_span("request " + name):
            await call()

asyncio.run(main())
"""


Span = dict[str, Any]


class Traces:
    """What both processes recorded."""

    def __init__(self, service: list[Span], worker: list[Span]) -> None:
        self.service = service
        self.worker = worker

    def request(self, name: str) -> Span:
        """The span of the service in which this was enqueued."""
        (span,) = [span for span in self.service if span["name"] == f"request {name}"]
        return span

    def sent(self, name: str) -> Span:
        """The span of enqueueing it."""
        request = self.request(name)["context"]
        (span,) = [span for span in self.service if span["parent"] == request]
        return span

    def attempts(self, context: list[str]) -> list[Span]:
        """The spans of the worker that lead back to this one."""
        return [
            span
            for span in self.worker
            if span["name"] == "process default" and span["links"] == [context]
        ]


Environment = dict[str, str]
Carrier = Callable[[pytest.FixtureRequest], AbstractContextManager[Environment]]


@contextmanager
def _postgres(request: pytest.FixtureRequest) -> Iterator[Environment]:
    with fresh_database(request.getfixturevalue("postgres_server")) as url:
        yield {"JOBBUS_BACKEND": url}


@contextmanager
def _rabbitmq(request: pytest.FixtureRequest) -> Iterator[Environment]:
    """By itself, remembering nothing."""
    url, prefix = request.getfixturevalue("rabbitmq_server").url, new_prefix()
    try:
        yield {"JOBBUS_BACKEND": url, "BACKGROUND_JOBS__RABBITMQ__QUEUE_PREFIX": prefix}
    finally:
        asyncio.run(delete_all(url, prefix))


@contextmanager
def _rabbitmq_with_ledger(request: pytest.FixtureRequest) -> Iterator[Environment]:
    with _rabbitmq(request) as broker, _postgres(request) as ledger:
        yield {**broker, "BACKGROUND_JOBS__LEDGER": ledger["JOBBUS_BACKEND"]}


CARRIERS: Final[Mapping[str, Carrier]] = {
    "postgres": _postgres,
    "rabbitmq": _rabbitmq,
    "rabbitmq-with-ledger": _rabbitmq_with_ledger,
}


@pytest.fixture(scope="module", params=CARRIERS)
def traces(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Traces:
    """Everything is enqueued by one process and run by another, once for each carrier."""
    folder = tmp_path_factory.mktemp("traces")
    with CARRIERS[request.param](request) as environment:
        sides = [run(APPLICATION, folder, side, **environment) for side in ("service", "worker")]
    return Traces(*sides)


def test_one_trace_leads_from_the_request_to_the_handler_in_another_process(
    traces: Traces,
) -> None:
    request, send = traces.request("work"), traces.sent("work")
    (process,) = traces.attempts(send["context"])
    (inner,) = [span for span in traces.worker if span["parent"] == process["context"]]
    assert (send["name"], send["kind"]) == ("send default", "PRODUCER")
    assert (process["name"], process["kind"]) == ("process default", "CONSUMER")
    assert process["parent"] == send["context"]
    assert process["links"] == [send["context"]]
    assert inner["name"] == "inner"
    assert len({span["context"][0] for span in (request, send, process, inner)}) == 1
    assert process["attributes"]["jobbus.job.id"] == send["attributes"]["jobbus.job.id"]
    assert process["attributes"]["jobbus.job.type"] == "work"
    assert process["attributes"]["jobbus.job.attempt"] == 1


def test_no_payload_is_in_any_span(traces: Traces) -> None:
    assert "canary" not in repr((traces.service, traces.worker))


def test_every_attempt_has_a_span_linked_to_the_one_that_enqueued_the_job(traces: Traces) -> None:
    attempts = traces.attempts(traces.sent("flaky")["context"])
    assert [span["attributes"]["jobbus.job.attempt"] for span in attempts] == [1, 2]
    assert {span["status"] for span in attempts} == {"ERROR"}
    assert {span["attributes"]["error.type"] for span in attempts} == {"ValueError"}
    assert len({tuple(span["context"]) for span in attempts}) == 2


def test_every_job_of_a_batch_is_linked_to_the_one_call(traces: Traces) -> None:
    send = traces.sent("batch")
    assert send["attributes"]["messaging.batch.message_count"] == 2
    assert len(traces.attempts(send["context"])) == 2


def test_a_job_that_a_handler_enqueues_stays_in_the_trace(traces: Traces) -> None:
    send = traces.sent("parent")
    (first,) = traces.attempts(send["context"])
    (child,) = [span for span in traces.worker if span["parent"] == first["context"]]
    (second,) = traces.attempts(child["context"])
    assert second["context"][0] == traces.request("parent")["context"][0]


def test_a_context_of_the_callers_own_is_kept(traces: Traces) -> None:
    (process,) = traces.attempts(["ab" * 16, "cd" * 8])
    assert process["parent"] == ["ab" * 16, "cd" * 8]


def test_a_context_that_cannot_be_read_starts_a_new_trace(traces: Traces) -> None:
    (process,) = [
        span for span in traces.worker if span["kind"] == "CONSUMER" and not span["links"]
    ]
    assert (process["parent"], process["status"]) == (None, "UNSET")


def test_without_a_provider_nothing_travels(tmp_path: Path) -> None:
    code = """
import asyncio, json, sys
from jobbus import JobBus
bus = JobBus("memory")
@bus.job
async def work(): ...
async def main():
    job = await bus.get(await work.enqueue())
    await bus.close()
    print(json.dumps([dict(job.headers), "opentelemetry.sdk" in sys.modules]))
asyncio.run(main())
"""
    assert run(code, tmp_path) == [{}, False]


def test_log_records_name_the_trace(tmp_path: Path) -> None:
    code = """
import json, logging
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from jobbus.middleware.logging import JobLogFilter
trace.set_tracer_provider(TracerProvider())
records = []
class Keep(logging.Handler):
    def emit(self, record): records.append(record)
keep = Keep(); keep.addFilter(JobLogFilter()); log = logging.getLogger("x"); log.addHandler(keep)
log.warning("outside")
with trace.get_tracer("x").start_as_current_span("y") as span:
    log.warning("inside")
    expected = f"{span.get_span_context().trace_id:032x}"
print(json.dumps([hasattr(records[0], "trace_id"), records[1].trace_id == expected,
                  len(records[1].span_id)]))
"""
    assert run(code, tmp_path) == [False, True, 16]
