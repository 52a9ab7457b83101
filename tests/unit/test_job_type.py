"""Job types ask for jobs of their own, call their handlers, and tell how jobs fare."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from jobbus.context import Detached, JobContext
from jobbus.errors import ConfigurationError, InvalidJob, PayloadError, PayloadTooLarge
from jobbus.handlers import Handlers, make_job_type
from jobbus.ids import parse_id
from jobbus.job_type import JobType, SyncJobType
from jobbus.message import Message


class Bus:
    """Keeps what is enqueued, and has one result for all jobs."""

    def __init__(self, result: bytes | None = None) -> None:
        self.messages: list[Message] = []
        self.connections: list[Any] = []
        self.waits: list[timedelta] = []
        self._result = result

    async def enqueue_messages(
        self, messages: Sequence[Message], *, connection: Any | None = None
    ) -> Sequence[str]:
        return self.enqueue_messages_sync(messages, connection=connection)

    def enqueue_messages_sync(
        self, messages: Sequence[Message], *, connection: Any | None = None
    ) -> Sequence[str]:
        self.messages.extend(messages)
        self.connections.append(connection)
        return [message.job_id for message in messages]

    async def result_bytes(self, job_id: str, wait: timedelta) -> bytes | None:
        self.waits.append(wait)
        return self._result


@dataclass
class Render:
    path: str


def resize(path: str, height: int = 720) -> int:
    return len(path) * height


async def render(ctx: JobContext, path: str) -> str:
    ctx.progress(50)
    return f"{path} by {ctx.job_type}"


def context_of(job_type: JobType[..., Any]) -> JobContext:
    return JobContext(
        job_id="0",
        job_type=job_type.name,
        queue=job_type.queue,
        attempt=1,
        failures=0,
        max_attempts=3,
        host=Detached(),
        headers={},
        metadata={},
    )


def test_a_message_carries_the_defaults_of_its_type() -> None:
    job_type = make_job_type(resize, queue="gpu", priority=9, max_attempts=5, max_crashes=2)
    message = job_type.message("a", height=5)
    assert parse_id(message.job_id) == message.job_id
    assert (message.job_type, message.queue, message.priority) == ("resize", "gpu", 9)
    assert (message.max_attempts, message.max_crashes) == (5, 2)
    assert message.payload == b'{"path":"a","height":5}'
    assert message.timeout is None
    assert message.expires_at is None
    assert job_type.message("a").job_id != job_type.message("a").job_id


def test_options_make_a_copy_and_add_up() -> None:
    job_type = make_job_type(resize)
    urgent = job_type.options(priority="high", tags=["a"], delay=5)
    both = urgent.options(queue="gpu", priority=10)
    assert both.message("a").queue == "gpu"
    assert both.message("a").priority == 10
    assert both.message("a").tags == ("a",)
    assert both.message("a").delay == timedelta(seconds=5)
    assert urgent.message("a").priority == 8
    assert job_type.message("a").priority == 5
    assert isinstance(both, SyncJobType)


def test_a_type_that_expires_gives_its_jobs_a_deadline_from_when_they_are_due() -> None:
    job_type = make_job_type(resize, expires_in=60)
    moment = datetime.now(UTC) + timedelta(days=1)
    assert job_type.options(run_at=moment).message("a").expires_at == moment + timedelta(minutes=1)
    own = moment + timedelta(hours=5)
    assert job_type.options(run_at=moment, expires_at=own).message("a").expires_at == own


async def test_enqueueing_goes_through_the_bus_and_returns_the_id() -> None:
    bus = Bus()
    job_type = make_job_type(resize, bus=bus)
    job_id = await job_type.enqueue("a", 3)
    assert job_type.options(connection="mine").enqueue_sync(path="b") == bus.messages[1].job_id
    assert job_id == bus.messages[0].job_id
    assert [message.payload for message in bus.messages] == [
        b'{"path":"a","height":3}',
        b'{"path":"b"}',
    ]
    assert bus.connections == [None, "mine"]


async def test_without_a_bus_the_error_says_how_to_get_one() -> None:
    job_type = make_job_type(resize)
    with pytest.raises(ConfigurationError, match=r"call resize\.bind\(bus\)"):
        job_type.enqueue_sync("a")
    for call in (job_type.enqueue("a"), job_type.result("0")):
        with pytest.raises(ConfigurationError, match="needs a bus and has none"):
            await call


def test_binding_reaches_copies_that_were_made_before() -> None:
    bus = Bus()
    handlers = Handlers()
    copy = handlers.job(resize).options(priority=10)
    handlers.bind(bus)
    copy.enqueue_sync("a")
    assert bus.messages[0].priority == 10


async def test_a_result_comes_back_as_the_type_that_the_handler_promises() -> None:
    def find() -> list[Render]:
        return [Render("a")]

    bus = Bus(b'[{"path":"a"}]')
    job_type = make_job_type(find, bus=bus)
    assert await job_type.result("0", wait=timedelta(seconds=2)) == [Render("a")]
    assert await job_type.result("0") == job_type.decode_result(job_type.encode_result(find()))
    assert bus.waits == [timedelta(seconds=2), timedelta(seconds=30)]
    assert await make_job_type(resize, bus=Bus(b"7")).result("0", wait=1) == 7
    assert await make_job_type(lambda: None, name="nothing", bus=Bus(None)).result("0") is None


async def test_a_result_of_another_type_is_an_error_that_says_so() -> None:
    job_type = make_job_type(resize, bus=Bus(b'"seven"'))
    with pytest.raises(PayloadError, match="the result of resize is not what"):
        await job_type.result("0")
    with pytest.raises(InvalidJob, match="wait cannot be negative"):
        await job_type.result("0", wait=-1)


def test_a_ready_payload_is_checked_and_kept_byte_for_byte() -> None:
    job_type = make_job_type(resize, payload_limit=40)
    payload = b'{ "height": 3, "path": "a" }'
    assert job_type.message_from(payload).payload == payload
    with pytest.raises(PayloadError, match="argument `path` is missing"):
        job_type.message_from(b'{"height":3}')
    with pytest.raises(PayloadTooLarge, match="and the limit is 40"):
        job_type.message_from(payload + b" " * 40)
    with pytest.raises(PayloadTooLarge, match="and the limit is 40"):
        job_type.message("a" * 40)


# Running handlers


def test_a_direct_call_runs_the_function_and_makes_no_job() -> None:
    bus = Bus()
    job_type = make_job_type(resize, bus=bus)
    assert job_type("abc", height=2) == 6
    assert not bus.messages


async def test_a_direct_call_outside_of_a_job_gets_a_detached_context() -> None:
    job_type = make_job_type(render, name="video.render")
    assert await job_type("a") == "a by video.render"
    with pytest.raises(LookupError):
        JobContext.current()


async def test_a_direct_call_within_a_job_gets_the_context_of_that_job() -> None:
    @make_job_type
    async def inner(ctx: JobContext) -> str:
        return ctx.job_id

    @make_job_type
    async def outer(ctx: JobContext) -> tuple[str, str, str]:
        await asyncio.sleep(0)
        return ctx.job_id, await inner(), JobContext.current().job_id

    assert len(set(await outer())) == 1


def test_a_context_may_be_given_to_a_direct_call() -> None:
    @make_job_type
    def own(ctx: JobContext, x: int) -> tuple[JobContext, int]:
        return ctx, x

    context, _ = own(1)
    assert own(context, 2) == (context, 2)


async def test_the_worker_calls_with_what_it_decoded() -> None:
    job_type = make_job_type(render, name="video.render")
    context = context_of(job_type)
    args, kwargs = job_type.decode_arguments(job_type.message("a").payload)
    assert await job_type.call(context, args, kwargs) == "a by video.render"
    plain = make_job_type(resize)
    assert plain.call(context, *plain.decode_arguments(b'{"path":"abc"}')) == 3 * 720


def test_what_a_worker_announces_is_complete() -> None:
    record = make_job_type(resize, queue="gpu", max_attempts=4, priority=2).record()
    assert (record.name, record.queue, record.max_attempts, record.priority) == (
        "resize",
        "gpu",
        4,
        2,
    )
    assert record.payload_schema == {
        "type": "object",
        "title": "resize",
        "additionalProperties": False,
        "required": ["path"],
        "properties": {
            "path": {"type": "string", "title": "Path"},
            "height": {"type": "integer", "title": "Height", "default": 720},
        },
    }


async def test_observers_are_told_and_have_no_say(caplog: pytest.LogCaptureFixture) -> None:
    heard: list[tuple[str, Any]] = []

    async def hear(context: JobContext, value: Any) -> None:
        heard.append((context.job_type, value))

    def fail(context: JobContext, value: Any) -> None:
        raise RuntimeError("deaf")

    job_type = make_job_type(
        resize, observers={"complete": [fail, hear, lambda *_: heard.append(("plain", 0))]}
    )
    assert job_type.observed
    assert not make_job_type(resize).observed
    with caplog.at_level(logging.ERROR, "jobbus.handler"):
        await job_type.notify("complete", context_of(job_type), 7)
        await job_type.notify("error", context_of(job_type), ValueError())
    assert heard == [("resize", 7), ("plain", 0)]
    assert "on_complete callback of resize failed" in caplog.text
