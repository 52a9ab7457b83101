"""Tells systemd, or whoever else speaks its protocol, how a worker stands (sd_notify(3))."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import threading
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from jobbus.worker.ending import end

if TYPE_CHECKING:
    from jobbus.worker import Worker

log = logging.getLogger("jobbus.cli.worker")
_GLANCE: Final = 0.1
_VARIABLES: Final = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")


class ServiceManager:
    """Who has started this process, if it wants to hear of it."""

    def __init__(self, environment: Mapping[str, str] | None = None) -> None:
        given = os.environ if environment is None else environment
        self._address = given.get("NOTIFY_SOCKET", "")
        mine = given.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        watchdog = given.get("WATCHDOG_USEC", "") if mine else ""
        self.patience = timedelta(microseconds=int(watchdog)) if watchdog.isdigit() else None
        """How long it waits for a sign of life before it kills; None: for ever."""

    @property
    def listens(self) -> bool:
        return bool(self._address)

    def tell(self, state: str) -> None:
        """Say ``READY=1``, ``STOPPING=1`` or ``WATCHDOG=1``; a failure is only logged."""
        if not self._address:
            return
        # A name that starts with @ is one of Linux's abstract ones.
        address = "\0" + self._address[1:] if self._address[0] == "@" else self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
                sender.settimeout(1)
                sender.sendto(state.encode(), address)
        except OSError as error:
            log.warning("the service manager could not be told %s: %s", state, error.strerror)

    @contextmanager
    def told_while_alive(self) -> Iterator[None]:
        """Say that this process is ready, give signs of life from a thread, and say when it ends.

        For a supervisor, which looks after its workers by itself.
        """
        stopping = threading.Event()
        pause = None if self.patience is None else self.patience.total_seconds() / 3

        def keep_telling() -> None:
            while pause is not None and not stopping.wait(pause):
                self.tell("WATCHDOG=1")

        thread = threading.Thread(target=keep_telling, name="jobbus-watchdog", daemon=True)
        self.tell("READY=1")
        thread.start()
        try:
            yield
        finally:
            stopping.set()
            self.tell("STOPPING=1")


@asynccontextmanager
async def keeping_told(worker: Worker) -> AsyncIterator[None]:
    """Tell the service manager when the worker takes jobs, lives, and stops.

    Signs of life come from the event loop: handlers that block it for good end the worker.
    """
    manager = ServiceManager()
    if not manager.listens:
        yield
        return
    telling = asyncio.create_task(_keep_telling(worker, manager), name="jobbus-service-manager")
    try:
        yield
    finally:
        await end([telling])


async def _keep_telling(worker: Worker, manager: ServiceManager) -> None:
    from jobbus.worker.worker import Phase

    loop = asyncio.get_running_loop()
    pause = None if manager.patience is None else manager.patience.total_seconds() / 3
    next_sign = loop.time()
    told = ""
    while True:
        running = worker.phase is Phase.RUNNING
        state = "READY=1" if running else "" if worker.phase is Phase.STOPPED else "STOPPING=1"
        if state and state != told:
            manager.tell(state)
            told = state
        if pause is not None and loop.time() >= next_sign:
            manager.tell("WATCHDOG=1")
            next_sign = loop.time() + pause
        await asyncio.sleep(_GLANCE)


def without_notices(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment for processes that the service manager does not know."""
    return {name: text for name, text in environment.items() if name not in _VARIABLES}
