"""Handlers for tests of isolation, each of which misbehaves in one way of its own."""

from __future__ import annotations

import asyncio
import ctypes
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from jobbus.context import JobContext
from jobbus.errors import (
    Cancelled,
    InvalidJob,
    PermanentError,
    RateLimited,
    Reject,
    Retry,
    Snooze,
    Unsupported,
)
from jobbus.handlers import Handlers
from jobbus.message import Dependency, Message, OnFailure
from jobbus.processor import JobProcessor, processor_job_type
from jobbus.retry import RetryPolicy

MIB = 1024 * 1024

HANDLERS = Handlers()
process = HANDLERS.job(isolation="process")


def announce(ctx: JobContext) -> None:
    """Tell the test that the handler is running, and in which process."""
    ctx.progress(1, stage=str(os.getpid()))


def wait_for_ever() -> None:
    while True:
        signal.pause()


@process
def add(ctx: JobContext, a: int, b: int) -> dict[str, Any]:
    return {"sum": a + b, "pid": os.getpid(), "job": ctx.job_id, "attempt": ctx.attempt}


@process
async def add_async(ctx: JobContext, a: int, b: int) -> dict[str, Any]:
    await asyncio.sleep(0)
    return {"sum": a + b, "pid": os.getpid(), "job": JobContext.current().job_id}


@process(jobs_per_child=2)
def add_twice_at_most(ctx: JobContext) -> int:
    return os.getpid()


@process
def see_context(ctx: JobContext) -> dict[str, Any]:
    return {
        "job_type": ctx.job_type,
        "queue": ctx.queue,
        "attempt": ctx.attempt,
        "failures": ctx.failures,
        "max_attempts": ctx.max_attempts,
        "headers": dict(ctx.headers),
        "tags": list(ctx.tags),
        "metadata": dict(ctx.metadata),
        "parent_id": ctx.parent_id,
        "timeout": None if ctx.timeout is None else ctx.timeout.total_seconds(),
    }


class OutOfCredit(PermanentError):
    """A signal of the application's own."""


class Odd(Exception):
    def __init__(self) -> None:
        super().__init__(lambda: None, threading.Lock(), socket.socket)
        self.after = "soon"


class Mute(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")


def make_error(name: str) -> BaseException:
    impostor = type("PermanentError", (Exception,), {})
    circle = ValueError("circle")
    circle.__cause__ = KeyError("and back")
    circle.__cause__.__cause__ = circle
    hollow = Snooze.__new__(Snooze)
    errors: dict[str, BaseException] = {
        "value": ValueError("no such thing"),
        "retry": Retry("busy", after=timedelta(seconds=7)),
        "retry-whenever": Retry("busy"),
        "snooze": Snooze(timedelta(milliseconds=1500), "too early"),
        "rate": RateLimited(timedelta(seconds=30), "slow down"),
        "permanent": PermanentError("never"),
        "reject": Reject("nonsense"),
        "cancelled": Cancelled("stopped"),
        "credit": OutOfCredit("empty"),
        "timeout": TimeoutError("upstream was slow"),
        "odd": Odd(),
        "mute": Mute(),
        "impostor": impostor("trust me"),
        "exit": SystemExit(3),
        "interrupt": KeyboardInterrupt(),
        "group": ExceptionGroup("several", [ValueError("one"), KeyError("two")]),
        "circle": circle,
        "hollow": hollow,
        "surrogate": ValueError("\ud800"),
        "huge": ValueError("x" * 10 * MIB),
    }
    return errors[name]


@process
def fail(ctx: JobContext, name: str) -> None:
    raise make_error(name)


@process(retry=RetryPolicy(permanent=(LookupError, ValueError)))
def fail_for_good(ctx: JobContext, name: str) -> None:
    raise make_error(name)


@process
async def fail_async(ctx: JobContext, name: str) -> None:
    raise make_error(name)


@process
def die(ctx: JobContext, how: str) -> None:
    announce(ctx)
    if how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif how == "segfault":
        ctypes.string_at(0)
    else:
        os._exit(int(how))


@process(memory_limit=64 * MIB)
def hog(ctx: JobContext, mib: int) -> int:
    return len(bytearray(mib * MIB))


@process
def hog_freely(ctx: JobContext, mib: int) -> dict[str, int]:
    return {"bytes": len(bytearray(mib * MIB)), "pid": os.getpid()}


@process
def hang(ctx: JobContext, tidied: str = "") -> None:
    try:
        announce(ctx)
        wait_for_ever()
    finally:
        if tidied:
            Path(tidied).write_text("tidied")


@process
async def hang_async(ctx: JobContext, tidied: str = "") -> None:
    try:
        announce(ctx)
        await asyncio.Event().wait()
    finally:
        if tidied:
            await asyncio.to_thread(Path(tidied).write_text, "tidied")


@process
def ignore_sigterm(ctx: JobContext) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    announce(ctx)
    wait_for_ever()


@process
def hold_the_interpreter(ctx: JobContext) -> None:
    announce(ctx)
    ctx.spawn_sync(Message(job_id=ctx.job_id, job_type="x", payload=b""))  # announced for sure
    re.match(r"(a+)+$", "a" * 60 + "b")


@process
def hang_with_children(ctx: JobContext, pipe: str) -> None:
    """Its grandchild holds the pipe open for as long as it lives."""
    held = os.open(pipe, os.O_WRONLY)
    subprocess.Popen(
        ["sh", "-c", "trap '' TERM; while :; do sleep 1; done"],
        pass_fds=(held,),
    )
    announce(ctx)
    wait_for_ever()


@process
def leave_children_and_die(ctx: JobContext, pipe: str) -> None:
    held = os.open(pipe, os.O_WRONLY)
    subprocess.Popen(["sleep", "60"], pass_fds=(held,))
    os._exit(1)


@process
def stop_when_asked(ctx: JobContext) -> None:
    announce(ctx)
    while True:
        time.sleep(0.02)
        ctx.raise_if_cancelled()


@process
def finish_when_asked(ctx: JobContext) -> str:
    announce(ctx)
    while not ctx.cancel_requested:
        time.sleep(0.02)
    return "finished all the same"


@process
def report_often(ctx: JobContext, times: int) -> None:
    for number in range(times):
        ctx.progress(100 * (number + 1) / times, "counting", f"number {number}")


@process
def say_too_much(ctx: JobContext) -> None:
    ctx.progress(1, message="x" * 16 * MIB)
    logging.getLogger("app").error("y" * 16 * MIB)


def offspring() -> list[Message]:
    return [
        Message(job_id="", job_type="child.plain", payload=b"\x00\xff"),
        Message(
            job_id="",
            job_type="child.full",
            payload=b"{}",
            queue="other",
            headers={"traceparent": "00-1-2-03"},
            priority=8,
            group="g",
            delay=timedelta(microseconds=1),
            run_at=datetime(2030, 1, 1, tzinfo=timezone(timedelta(hours=2))),
            expires_at=datetime(2031, 1, 1, tzinfo=UTC),
            max_attempts=7,
            max_crashes=1,
            timeout=timedelta(days=2, microseconds=3),
            unique_key="u",
            depends_on=(Dependency("some-id", OnFailure.SKIP),),
            tags=("a", "b"),
            metadata={"deep": [1, {"er": None}]},
            prior_attempts=2,
        ),
    ]


@process
def spawn(ctx: JobContext) -> list[str]:
    return ctx.spawn_sync(*offspring())


@process
async def spawn_async(ctx: JobContext) -> list[str]:
    first, second = await asyncio.gather(*(ctx.spawn(one) for one in offspring()))
    return first + second


@process
def spawn_refused(ctx: JobContext) -> list[str]:
    try:
        ctx.spawn_sync(*offspring())
    except InvalidJob as error:
        return [type(error).__name__, str(error)]
    return []


@process
def use_transactions(ctx: JobContext) -> list[str]:
    said = []
    ways: list[Callable[[], object]] = [ctx.transaction, lambda: ctx.complete_in(object())]
    for way in ways:
        try:
            way()
        except Unsupported as error:
            said.append(str(error))
    return said


@process
def print_a_lot(ctx: JobContext) -> str:
    print("to stdout")
    print("to stderr", file=sys.stderr)
    os.write(1, b"\x00\x00\x00\x02\x00\x00\x00\x00{}" * 100)
    sys.stdout.flush()
    return "printed"


@process
def write_into_the_channel(ctx: JobContext) -> None:
    announce(ctx)
    os.write(_channel(), b"\xff" * 64)
    wait_for_ever()


@process
def close_everything(ctx: JobContext) -> None:
    os.closerange(3, 256)


def _channel() -> int:
    return next(fd for fd in _descriptors() if os.readlink(f"/proc/self/fd/{fd}")[:6] == "socket")


def _descriptors() -> list[int]:
    with os.scandir("/proc/self/fd") as found:
        numbers = [int(one.name) for one in found]
    return [one for one in numbers if os.path.exists(f"/proc/self/fd/{one}")]


@process
def list_descriptors(ctx: JobContext) -> dict[str, Any]:
    child = subprocess.run(
        [sys.executable, "-c", "import os; print(os.listdir('/proc/self/fd'))"],
        capture_output=True,
        text=True,
        close_fds=False,
        check=True,
    )
    return {
        "open": {str(fd): os.readlink(f"/proc/self/fd/{fd}") for fd in _descriptors() if fd > 2},
        "in_programs": len(child.stdout.split(",")),
    }


@process
def return_bytes(ctx: JobContext, size: int) -> str:
    return "x" * size


@process
def see_process(ctx: JobContext) -> dict[str, Any]:
    return {
        "path": sys.path,
        "environment": {key: os.environ.get(key) for key in ("PYTHONPATH", "HOME")},
        "ours": [key for key in os.environ if key.startswith("JOBBUS_")],
        "modules": sorted(sys.modules),
        "group": os.getpgrp() == os.getpid(),
        "stdin": sys.stdin.read(),
    }


@process
def log_something(ctx: JobContext) -> None:
    log = logging.getLogger("app.video")
    log.debug("too much detail")
    log.info("rendering %s", "frame 100%")
    try:
        raise ValueError("out of frames")
    except ValueError:
        log.exception("rendering failed")


@process
def leave_a_thread(ctx: JobContext) -> None:
    """The thread goes on to speak of this job during the next one."""

    def speak() -> None:
        while True:
            ctx.progress(99, stage="late")

    threading.Thread(target=speak, daemon=True).start()


def plain(ctx: JobContext, text: str) -> str:
    """No job type: tests make one of it."""
    return text.upper()


class Shout(JobProcessor[str, str]):
    isolation = "process"

    def __init__(self, mark: str) -> None:
        self.mark = mark

    def process(self, payload: str, context: JobContext) -> str:
        return payload.upper() + self.mark


shout = HANDLERS.register(processor_job_type(Shout("!")))
unnamed = Handlers()
unnamed.register(processor_job_type(Shout("?"), name="ask"))
