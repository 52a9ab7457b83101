"""What users may write, and what type checkers make of it. Read by mypy; never run."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Any, assert_type

from jobbus.context import JobContext
from jobbus.handlers import AsyncJobType, Handlers, JobType, SyncJobType
from jobbus.job import Progress
from jobbus.message import Message
from jobbus.processor import BaseJobProcessor, JobProcessor, processor_job_type

handlers = Handlers()


@dataclass
class Mail:
    to: str


@handlers.job
async def render(ctx: JobContext, path: str, height: int = 720, *, fast: bool = False) -> Mail:
    return Mail(path)


@handlers.job(name="count.words", queue="cpu", timeout=timedelta(minutes=1), retry="none")
def count(words: list[str]) -> int:
    return len(words)


@handlers.job(isolation="process", memory_limit=2**30, priority="high")
def crunch(context: JobContext, table: dict[str, Any]) -> dict[str, Any]:
    return table


@handlers.job
async def fetch(context: JobContext, url: str) -> dict[str, Any]:
    return {"url": url}


@handlers.job
def tidy() -> None: ...


@handlers.job
def anything(value: Any, times: int = 1) -> list[Any]:
    return [value] * times


@handlers.job
async def whatever(value: object) -> object:
    return value


@handlers.job
def open_ended(name: str, **more: int) -> str:
    return name


class SendMail(BaseJobProcessor[Mail, bool]):
    queue = "mails"
    max_attempts = 5

    async def process(self, payload: Mail, context: JobContext) -> bool:
        self.update_progress(context, 100)
        return True

    async def on_progress(self, context: JobContext, progress: Progress) -> None: ...

    def on_complete(self, context: JobContext, result: bool) -> None: ...


class Double(JobProcessor[int, int]):
    def process(self, payload: int, context: JobContext) -> int:
        return 2 * payload


send = processor_job_type(SendMail())


async def use() -> None:
    assert_type(render.message("a.mp4", 1080, fast=True), Message)
    assert_type(await render.enqueue(path="a.mp4"), str)
    assert_type(await render.options(priority="high", delay=5).enqueue("a.mp4"), str)
    assert_type(await render.result("id", wait=10), Mail)
    assert_type(await render("a.mp4"), Mail)
    assert_type(count.options(tags=["a"]).enqueue_sync(["a"]), str)
    assert_type(count(["a"]), int)
    assert_type(await count.result("id"), int)
    assert_type(crunch({"a": 1}), dict[str, Any])
    assert_type(crunch.enqueue_sync(table={}), str)
    assert_type(await fetch("http://localhost"), dict[str, Any])
    assert_type(await fetch.result("id"), dict[str, Any])
    assert_type(tidy.message(), Message)
    assert_type(await tidy.result("id"), None)
    assert_type(anything(7, times=2), list[Any])
    assert_type(await whatever(value=7), object)
    assert_type(open_ended.message("a", b=1), Message)
    assert_type(await send.enqueue(Mail("a")), str)
    assert_type(await send.result("id"), bool)
    assert_type(await processor_job_type(Double()).result("id"), int)
    assert_type(handlers.register(send), JobType[[Mail], bool])


def kinds(one: AsyncJobType[[str], int], other: SyncJobType[[str], int]) -> JobType[[str], int]:
    return one if one.is_async else other
