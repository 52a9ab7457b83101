"""Handlers that run in processes of their own, where they are found again by name."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from jobbus import Handlers, JobContext, RetryPolicy

HANDLERS: Final = Handlers()
isolated = HANDLERS.job(isolation="process", retry=RetryPolicy(max_attempts=1))


@dataclass(frozen=True)
class Meeting:
    """Who a handler saw."""

    own: int
    present: list[int]


@isolated
def meet(folder: str, number: int) -> Meeting:
    """Come in, and wait until that many processes are there."""
    place = Path(folder)
    (place / str(os.getpid())).touch()
    while len(present := sorted(int(one.name) for one in place.iterdir())) < number:
        time.sleep(0.005)
    return Meeting(os.getpid(), present)


@isolated
def sleep_for_ever(folder: str) -> None:
    """Leave the number of this process, and never end."""
    Path(folder, str(os.getpid())).touch()
    time.sleep(3600)


@isolated
def stop_when_asked(ctx: JobContext, folder: str) -> None:
    Path(folder, str(os.getpid())).touch()
    while True:
        ctx.raise_if_cancelled()
        time.sleep(0.005)


@isolated(max_crashes=2)
def vanish() -> None:
    os._exit(3)


@isolated
def report_and_spawn(ctx: JobContext, children: int) -> list[str]:
    ctx.progress(50, "spawning", "half way")
    return ctx.spawn_sync(*[name_process.message() for _ in range(children)])


@isolated
def name_process() -> int:
    return os.getpid()


@isolated
async def name_process_async(ctx: JobContext) -> list[str]:
    return [str(os.getpid()), ctx.job_id, *ctx.tags]


@isolated
def begin_transaction(ctx: JobContext) -> None:
    with ctx.transaction():
        pass
