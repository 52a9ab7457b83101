"""What tests of isolation share: a stand-in for the worker, and handlers under way."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from jobbus.context import JobContext
from jobbus.ids import new_id
from jobbus.job import Progress
from jobbus.message import Message
from jobbus.worker.isolation import ChildPool

SECOND = timedelta(seconds=1)
SOON = SECOND / 5
"""A grace that a test waits out."""
NEVER = timedelta(hours=1)
"""A grace or limit that a test fails by waiting out."""
DESCRIPTORS = Path("/proc/self/fd")


class Host:
    """Stands for the worker: notes what the handler says, and answers."""

    def __init__(self) -> None:
        self.reports: list[Progress] = []
        self.spawned: list[Message] = []
        self.refusal: Exception | None = None
        self.cancelled = False
        self.announced = asyncio.Event()

    def report(self, progress: Progress) -> None:
        self.reports.append(progress)
        self.announced.set()

    def cancel_requested(self) -> bool:
        return self.cancelled

    async def enqueue(self, messages: Sequence[Message]) -> Sequence[str]:
        if self.refusal is not None:
            raise self.refusal
        self.spawned.extend(messages)
        return [one.job_id for one in messages]

    def enqueue_sync(self, messages: Sequence[Message]) -> Sequence[str]:
        raise AssertionError("the worker's side is asynchronous")

    def complete_with(self, connection: Any, result: object) -> Any:
        raise AssertionError("never passed on")

    def transaction(self, result: object) -> Any:
        raise AssertionError("never passed on")


def context(host: Host | None = None, **more: Any) -> JobContext:
    about: dict[str, Any] = {
        "job_id": new_id(),
        "job_type": "test",
        "queue": "default",
        "attempt": 1,
        "failures": 0,
        "max_attempts": 3,
        "headers": {},
        "metadata": {},
        **more,
    }
    return JobContext(host=host or Host(), **about)


async def run(
    pool: ChildPool,
    job_type: Any,
    host: Host | None = None,
    *,
    limit: timedelta | None = None,
    **arguments: Any,
) -> Any:
    payload = json.dumps(arguments).encode()
    return json.loads(await pool.run(job_type, context(host), payload, timeout=limit))


class Run:
    """A handler that is at work: it has announced itself."""

    def __init__(self, pool: ChildPool, job_type: Any, **arguments: Any) -> None:
        self.host = Host()
        self.context = context(self.host)
        payload = json.dumps(arguments).encode()
        self.task = asyncio.create_task(pool.run(job_type, self.context, payload, timeout=None))

    async def begun(self) -> int:
        """Wait for the announcement; the handler's process."""
        waiting = asyncio.create_task(self.host.announced.wait())
        await asyncio.wait({waiting, self.task}, return_when=asyncio.FIRST_COMPLETED)
        if not waiting.done():
            waiting.cancel()
            await self.task
        return int(self.host.reports[0].stage)


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


class Held:
    """A named pipe that processes hold open: it ends when the last of them has."""

    def __init__(self, path: Path) -> None:
        os.mkfifo(path)
        self.path = str(path)
        self._end = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        os.set_blocking(self._end, True)

    async def let_go(self) -> None:
        """Wait until nobody holds it any more."""
        try:
            await asyncio.to_thread(os.read, self._end, 1)
        finally:
            os.close(self._end)
