# mypy: ignore-errors
# ruff: noqa: F841
"""What users must not write: each marked line is an error of just that code, and no other line."""

from __future__ import annotations

from typing import Any

from jobbus.context import JobContext
from jobbus.handlers import Handlers
from jobbus.processor import JobProcessor, processor_job_type
from tests.typing.right_use import Mail, count, crunch, fetch, open_ended, render, send, tidy

handlers = Handlers()


async def wrong_arguments(ctx: JobContext) -> None:
    render.message(7)  # E: arg-type
    render.message()  # E: call-arg
    render.message("a", heigth=7)  # E: call-arg
    render.message("a", 7, True)  # E: call-arg
    render.message(ctx, "a")  # E: arg-type, arg-type
    await render.enqueue("a", height="tall")  # E: arg-type
    await render.options(delay=5).enqueue(b"a")  # E: arg-type
    count.enqueue_sync("a b c")  # E: arg-type
    count.options(queue="slow").enqueue_sync()  # E: call-arg
    tidy.message(1)  # E: call-arg
    open_ended.message("a", b="c")  # E: arg-type
    await send.enqueue({"to": "a"})  # E: arg-type
    await send.enqueue()  # E: call-arg


async def wrong_arguments_beside_untyped_ones(ctx: JobContext) -> None:
    crunch.message([1])  # E: arg-type
    crunch.message(ctx, {})  # E: call-arg, arg-type
    await fetch.enqueue(7)  # E: arg-type
    await fetch.enqueue("a", 7)  # E: call-arg


async def wrong_results() -> None:
    text: str = await count.result("id")  # E: assignment
    mail: Mail = await send.result("id")  # E: assignment
    table: list[Any] = await fetch.result("id")  # E: assignment
    height: int = (await render("a")).to  # E: assignment
    forgotten: Mail = render("a")  # E: assignment
    number: int = await count.enqueue(["a"])  # E: assignment
    count(["a"]).upper()  # E: attr-defined
    render.enqueue("a")  # E: unused-coroutine


async def wrong_options() -> None:
    render.options(prioritty=3)  # E: call-arg
    render.options(priority=1.5)  # E: arg-type
    render.options(tags=[1])  # E: list-item
    render.options(depends_on=[7])  # E: list-item
    await count.result("id", wait="long")  # E: arg-type
    handlers.bind(object())  # E: arg-type


@handlers.job(qeue="slow")  # E: call-overload, untyped-decorator
def misspelt() -> None: ...


@handlers.job(timeout="5 minutes")  # E: call-overload, untyped-decorator
def misspent() -> None: ...


class WrongPayload(JobProcessor[Mail, bool]):
    def process(self, payload: str, context: JobContext) -> bool:  # E: override
        return True


class WrongResult(JobProcessor[Mail, bool]):
    async def process(self, payload: Mail, context: JobContext) -> str:  # E: override
        return ""


class WrongCallback(JobProcessor[Mail, bool]):
    def process(self, payload: Mail, context: JobContext) -> bool:
        return True

    def on_complete(self, context: JobContext, result: str) -> None: ...  # E: override


class Unfinished(JobProcessor[Mail, bool]):
    pass


unfinished = processor_job_type(Unfinished())  # E: abstract
