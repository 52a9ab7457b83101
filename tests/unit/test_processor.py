"""Handlers as classes: named, typed and optioned by the class, with callbacks beside the work."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Generic, TypeVar

import pydantic
import pytest

from jobbus.context import Detached, JobContext
from jobbus.errors import ConfigurationError
from jobbus.handlers import Handlers, Isolation
from jobbus.job import Progress
from jobbus.processor import BaseJobProcessor, JobProcessor, processor_job_type

AnyPayload = TypeVar("AnyPayload")


class Mail(pydantic.BaseModel):
    to: str


@dataclass
class Sent:
    to: str


def context() -> JobContext:
    return JobContext(
        job_id="0",
        job_type="send",
        queue="default",
        attempt=1,
        failures=0,
        max_attempts=3,
        host=Detached(),
        headers={},
        metadata={},
    )


class SendMailProcessor(BaseJobProcessor[Mail, Sent]):
    queue = "mails"
    priority = "high"
    max_attempts = 7
    timeout = 20

    def __init__(self) -> None:
        self.heard: list[Any] = []

    async def process(self, payload: Mail, context: JobContext) -> Sent:
        self.update_progress(context, 50, "sending", payload.to)
        return Sent(payload.to)

    def on_complete(self, context: JobContext, result: Sent) -> None:
        self.heard.append(result)

    async def on_progress(self, context: JobContext, progress: Progress) -> None:
        self.heard.append(progress.percent)

    def on_error(self, context: JobContext, error: BaseException) -> None:
        raise RuntimeError("deaf") from error


class Count(JobProcessor[list[str], int]):
    def process(self, words: list[str], context: JobContext) -> int:
        return len(words)


def test_a_processor_becomes_a_job_type_with_the_options_of_its_class() -> None:
    job_type = processor_job_type(SendMailProcessor())
    assert (job_type.name, job_type.queue, job_type.priority) == ("send_mail", "mails", 8)
    assert (job_type.max_attempts, job_type.timeout) == (7, timedelta(seconds=20))
    assert job_type.isolation is Isolation.LOOP
    assert job_type.takes_context
    assert job_type.payload_class is Mail


async def test_it_takes_its_payload_and_gives_its_result_like_any_handler() -> None:
    job_type = processor_job_type(SendMailProcessor())
    message = job_type.message(Mail(to="a@b"))
    assert message.payload == b'{"to":"a@b"}'
    own = context()
    result = await job_type.call(own, *job_type.decode_arguments(message.payload))
    assert result == Sent("a@b")
    assert own.last_progress == Progress(percent=50, stage="sending", message="a@b")
    assert job_type.decode_result(job_type.encode_result(result)) == Sent("a@b")
    assert await job_type(Mail(to="direct")) == Sent("direct")


async def test_callbacks_are_called_and_one_that_fails_changes_nothing() -> None:
    processor = SendMailProcessor()
    job_type = processor_job_type(processor)
    await job_type.notify("progress", context(), Progress(percent=3))
    await job_type.notify("error", context(), ValueError())
    await job_type.notify("complete", context(), Sent("a"))
    assert processor.heard == [3, Sent("a")]
    assert not processor_job_type(Count()).observed


def test_a_plain_method_runs_in_a_thread_and_a_plain_payload_has_a_name() -> None:
    job_type = processor_job_type(Count())
    assert job_type.name == "count"
    assert job_type.isolation is Isolation.THREAD
    assert job_type.message(["a", "b"]).payload == b'{"payload":["a","b"]}'
    assert job_type(["a", "b"]) == 2


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("PDFExportProcessor", "pdf_export"),
        ("RenderHTML5Page", "render_html5_page"),
        ("Processor", "processor"),
        ("_Hidden", "hidden"),
    ],
)
def test_the_class_gives_its_name(name: str, expected: str) -> None:
    assert processor_job_type(type(name, (Count,), {})()).name == expected


def test_a_name_may_be_given_and_is_inherited() -> None:
    class Named(Count):
        job_type = "words.count"

    class Child(Named):
        pass

    assert Child.job_type == "words.count"
    assert processor_job_type(Child()).name == "words.count"
    assert processor_job_type(Child(), name="other").name == "other"


def test_types_may_come_from_the_base_class_alone() -> None:
    class Middle(JobProcessor[AnyPayload, Sent], Generic[AnyPayload]):
        pass

    class Leaf(Middle[Mail]):
        def process(self, payload, context):  # type: ignore[no-untyped-def]
            return Sent(payload.to)

    job_type = processor_job_type(Leaf())
    assert job_type.payload_class is Mail
    assert job_type.decode_result(b'{"to":"a"}') == Sent("a")


def test_a_processor_of_anything_is_a_processor_of_json() -> None:
    class Loose(JobProcessor[Any, Any]):
        def process(self, payload, context):  # type: ignore[no-untyped-def]
            return payload

    job_type = processor_job_type(Loose())
    assert job_type.message({"a": [1]}).payload == b'{"payload":{"a":[1]}}'


def test_options_of_a_class_that_cannot_work_are_refused() -> None:
    class Broken(Count):
        max_attempts = 0

    with pytest.raises(ConfigurationError, match="max_attempts is a whole number"):
        processor_job_type(Broken())


def test_processors_are_registered_like_functions() -> None:
    handlers = Handlers()
    job_type = handlers.register(processor_job_type(SendMailProcessor()))
    assert handlers.for_payload(Mail) is job_type
    with pytest.raises(ConfigurationError, match="two handlers want to be 'send_mail'"):
        handlers.register(processor_job_type(SendMailProcessor()))
