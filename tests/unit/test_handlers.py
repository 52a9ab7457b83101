"""Functions become job types with options that can work, and are found by name."""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pydantic
import pytest

from jobbus.context import JobContext
from jobbus.errors import ConfigurationError
from jobbus.handlers import Handlers, Isolation, make_job_type
from jobbus.job_type import AsyncJobType, SyncJobType
from jobbus.retry import PRESETS, Backoff, RetryPolicy


class Mail(pydantic.BaseModel):
    to: str


class UrgentMail(Mail):
    pass


@dataclass
class Render:
    path: str


def resize(path: str, height: int = 720) -> int:
    return len(path) * height


async def render(ctx: JobContext, path: str) -> str:
    ctx.progress(50)
    return f"{path} by {ctx.job_type}"


# Making job types


def test_a_bare_function_becomes_a_job_type_with_the_defaults() -> None:
    job_type = make_job_type(resize)
    assert isinstance(job_type, SyncJobType)
    assert (job_type.name, job_type.queue, job_type.priority) == ("resize", "default", 5)
    assert (job_type.max_attempts, job_type.max_crashes) == (3, 3)
    assert job_type.retry == RetryPolicy()
    assert job_type.timeout is None
    assert job_type.memory_limit is None
    assert job_type.isolation is Isolation.THREAD
    assert not job_type.is_async
    assert not job_type.takes_context
    assert job_type.function is resize


def test_an_async_function_runs_on_the_loop_and_its_context_is_no_argument() -> None:
    job_type = make_job_type(render)
    assert isinstance(job_type, AsyncJobType)
    assert job_type.isolation is Isolation.LOOP
    assert job_type.is_async
    assert job_type.takes_context
    assert job_type.message("a").payload == b'{"path":"a"}'


def test_every_option_of_a_job_type_is_kept() -> None:
    job_type = make_job_type(
        resize,
        name="image.resize",
        queue="gpu",
        priority="high",
        max_attempts=7,
        max_crashes=1,
        timeout=90,
        retry="cleancue",
        isolation="process",
        expires_in=timedelta(hours=1),
        memory_limit=2**30,
        jobs_per_child=100,
    )
    assert (job_type.name, job_type.queue, job_type.priority) == ("image.resize", "gpu", 8)
    assert job_type.timeout == timedelta(seconds=90)
    assert job_type.retry == RetryPolicy(
        max_attempts=7, backoff=Backoff.FIXED, base=PRESETS["cleancue"].base, jitter=False
    )
    assert (job_type.max_attempts, job_type.max_crashes) == (7, 1)
    assert job_type.isolation is Isolation.PROCESS
    assert job_type.expires_in == timedelta(hours=1)
    assert (job_type.memory_limit, job_type.jobs_per_child) == (2**30, 100)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"name": "two words"}, "is no name"),
        ({"name": ""}, "is no name"),
        ({"name": "x" * 65}, "is no name"),
        ({"name": "stats"}, "'stats' cannot name a job type"),
        ({"queue": "a/b"}, "queue 'a/b' is no name"),
        ({"priority": 11}, "priority is 1 to 10"),
        ({"priority": "urgent"}, "low, normal, high"),
        ({"timeout": 0}, "timeout must be more than 0 s"),
        ({"timeout": -1}, "timeout must be more than 0 s"),
        ({"expires_in": timedelta(0)}, "expires_in must be more than 0 s"),
        ({"max_attempts": 0}, "max_attempts is a whole number of at least 1"),
        ({"max_attempts": True}, "max_attempts is a whole number of at least 1"),
        ({"max_crashes": 0}, "max_crashes is a whole number of at least 1"),
        ({"retry": "often"}, "there is no retry policy 'often'; there are default,"),
        ({"isolation": "vm"}, "isolation is loop, thread, process; not 'vm'"),
        ({"memory_limit": 1}, 'memory_limit is a limit of child processes; add isolation="proc'),
        ({"jobs_per_child": 1}, "jobs_per_child is a limit of child processes"),
        ({"isolation": "process", "jobs_per_child": 0}, "jobs_per_child is a whole number"),
        ({"payload_limit": 0}, "payload_limit is a whole number"),
    ],
)
def test_options_that_cannot_work_are_refused_at_registration(
    options: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        make_job_type(resize, **options)
    assert complaint in str(caught.value)


def test_an_async_handler_in_a_thread_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="not in a thread"):
        make_job_type(render, isolation=Isolation.THREAD)


def test_functions_that_no_payload_can_call_are_refused() -> None:
    def variadic(*paths: str) -> None: ...

    def generator() -> Iterator[int]:
        yield 1

    async def async_generator() -> AsyncIterator[int]:
        yield 1

    def late(path: str, ctx: JobContext) -> None: ...

    def twice(ctx: JobContext, context: JobContext) -> None: ...

    for function, complaint in (
        (variadic, r"takes \*paths"),
        (generator, "yields"),
        (async_generator, "yields"),
        (late, "must be the first parameter"),
        (twice, "must be the first parameter"),
        (lambda path: path, "is no name"),
        (functools.partial(resize, height=1), "is no name"),
    ):
        with pytest.raises(ConfigurationError, match=complaint):
            make_job_type(function)


def test_partials_methods_and_callable_objects_are_handlers_too() -> None:
    class Resizer:
        def run(self, path: str) -> str:
            return path

        async def __call__(self, path: str) -> str:
            return path

    assert make_job_type(Resizer().run).message("a").payload == b'{"path":"a"}'
    job_type = make_job_type(Resizer(), name="resizer")
    assert job_type.is_async
    assert job_type.message(path="a").payload == b'{"path":"a"}'
    small = make_job_type(functools.partial(resize, height=1), name="small")
    assert small.message("a").payload == b'{"path":"a"}'
    assert small("abc") == 3


# The registry


def test_a_registry_knows_its_job_types_by_name() -> None:
    handlers = Handlers()
    first = handlers.job(resize)
    second = handlers.job(name="video.render")(render)
    assert handlers.get("resize") is first
    assert handlers.get("video.render") is second
    assert handlers.get("render") is None
    assert list(handlers) == [first, second]
    assert len(handlers) == 2
    assert "resize" in handlers


def test_a_name_is_taken_once() -> None:
    handlers = Handlers()
    handlers.job(resize)
    with pytest.raises(ConfigurationError, match="two handlers want to be 'resize'"):
        handlers.job(name="resize")(render)
    with pytest.raises(ConfigurationError, match="'resize' is registered twice"):
        handlers.job(resize)
    assert len(handlers) == 1


def test_options_of_a_decorator_stand_over_the_defaults_of_the_registry() -> None:
    handlers = Handlers(defaults={"queue": "slow", "max_attempts": 9})
    assert handlers.job(resize).queue == "slow"
    later = handlers.job(queue="fast")(render)
    assert (later.queue, later.max_attempts) == ("fast", 9)


def test_a_payload_class_finds_its_job_type() -> None:
    handlers = Handlers()

    @handlers.job
    def send(mail: Mail) -> None: ...

    @handlers.job
    def draw(ctx: JobContext, spec: Render) -> None: ...

    @handlers.job
    def count(words: dict[str, int]) -> None: ...

    assert handlers.for_payload(Mail) is send
    assert handlers.for_payload(UrgentMail) is send
    assert handlers.for_payload(Render) is draw
    assert handlers.for_payload(dict) is None
    assert handlers.for_payload(int) is None

    @handlers.job
    def send_soon(mail: UrgentMail) -> None: ...

    assert handlers.for_payload(UrgentMail) is send_soon

    @handlers.job
    def archive(mail: Mail) -> None: ...

    with pytest.raises(ConfigurationError, match=r"several job types \(send, archive\)"):
        handlers.for_payload(Mail)
