"""What a worker shows of itself: whether it lives, whether it takes work, how it gets on."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import platform
import time
from collections.abc import Callable, Coroutine, Iterator
from datetime import timedelta
from http import HTTPStatus
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final

from jobbus.errors import ConfigurationError, MissingDependency
from jobbus.services.loop import every
from jobbus.store import JobStore
from jobbus.telemetry import names
from jobbus.telemetry.fleet import FleetWatch
from jobbus.telemetry.sdk import metrics_configured
from jobbus.telemetry.server import Address, Answer, MonitorServer
from jobbus.telemetry.tally import Reading, Tally

from .backlog import Backlog
from .fetch import Fetcher
from .held import Holdings

if TYPE_CHECKING:
    from .worker import Worker

log = logging.getLogger("jobbus.worker")
_TICK: Final = 0.5
_STALLED_AFTER: Final = 60.0
"""Seconds that handlers may block the event loop before the worker counts as dead."""
_OUT_OF_TOUCH_AFTER: Final = 60.0
"""Seconds without an answer from the queue after which a worker with free slots is not ready."""
PROCESS_VARIABLE: Final = "JOBBUS_PROCESS_INDEX"


class Monitor:
    """Gathers a worker's facts, and serves them where an address is set. A context manager.

    ``/livez`` fails when handlers have blocked the event loop for a minute; never because the
    backend is away, which restarting does not help. ``/readyz`` fails while the worker starts,
    drains, or gets no answer. ``/progress`` tells numbers, ``/metrics`` is for Prometheus.
    """

    fetcher: Fetcher
    """Comes after the rest of the worker has been made."""

    def __init__(
        self, worker: Worker, holdings: Holdings, backlog: Backlog, *, address: str | None
    ) -> None:
        settings = worker.bus.settings.monitor
        self._worker = worker
        self._holdings = holdings
        self._backlog = backlog
        self._interval = timedelta(seconds=settings.interval_seconds)
        self._started_at = self._ticked_at = time.monotonic()
        self.tally: Tally | None = worker.bus.tally
        """None where nothing is to be counted."""
        queue = worker.bus.queue
        store = queue if isinstance(queue, JobStore) else None
        self._fleet = FleetWatch(queue, store, worker.queues, exports=settings.fleet)
        self._server = (
            self._make_server(address, self.tally) if self.tally is not None and address else None
        )

    @property
    def address(self) -> str | None:
        """Where to ask; None where nothing listens."""
        return None if self._server is None else str(self._server.address)

    def __enter__(self) -> Monitor:
        if self._server is not None:
            self._server.start()
            log.info("monitor at %s", self.address)
        if self.tally is not None:
            self.tally.expect((one.queue, one.name) for one in self._worker.bus.handlers)
            self.tally.gauges.append(self._readings)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.tally is not None:
            self.tally.gauges.remove(self._readings)
        if self._server is not None:
            self._server.stop()

    def services(self) -> list[Coroutine[Any, Any, None]]:
        """What goes on beside the work, where anybody can see what comes of it."""
        services = [self._tick()] if self._server is not None else []
        if self.tally is not None and (self._server is not None or metrics_configured()):
            services.append(every(self._interval, self._fleet.sample_once))
        return services

    async def _tick(self) -> None:
        while True:
            self._ticked_at = time.monotonic()
            await asyncio.sleep(_TICK)

    # on the server's threads

    def _make_server(self, address: str, tally: Tally) -> MonitorServer:
        number = os.environ.get(PROCESS_VARIABLE, "0")
        try:
            where = Address.parse(address.replace("{process}", number))
        except ValueError as error:
            raise ConfigurationError(f"monitor {error}") from error
        pages = {
            "/livez": self._alive,
            "/readyz": self._ready,
            "/progress": self._progress,
            "/metrics": _metrics(tally),
        }
        return MonitorServer(where, pages)

    def _alive(self) -> Answer:
        blocked = time.monotonic() - self._ticked_at
        if blocked > _STALLED_AFTER:
            return _said(f"a handler has blocked the event loop for {blocked:.0f} s", well=False)
        return _said("alive")

    def _ready(self) -> Answer:
        phase = str(self._worker.phase)
        if phase != "running":
            return _said(f"not taking jobs: {phase}", well=False)
        silent = time.monotonic() - self.fetcher.last_contact
        if silent > _OUT_OF_TOUCH_AFTER and self._free() > 0:
            return _said(f"the queue has not answered for {silent:.0f} s", well=False)
        return _said("taking jobs")

    def _progress(self) -> Answer:
        now = time.monotonic()
        facts = {
            "phase": str(self._worker.phase),
            "queues": list(self._worker.queues),
            "slots": self._worker.concurrency,
            "busy": self._worker.running,
            "backlog": len(self._backlog),
            "finished": 0 if self.tally is None else self.tally.attempts,
            "stuck_handlers": self._worker.stuck,
            "longest_running_seconds": round(self._longest(), 3),
            "uptime_seconds": round(now - self._started_at, 3),
            "since_queue_answered_seconds": round(now - self.fetcher.last_contact, 3),
            "since_delivery_seconds": round(self.fetcher.silence, 3),
            "since_event_loop_turned_seconds": round(now - self._ticked_at, 3),
        }
        return Answer(HTTPStatus.OK, json.dumps(facts).encode() + b"\n", "application/json")

    def _readings(self) -> Iterator[Reading]:
        busy = self._worker.running
        free = max(self._worker.concurrency - busy, 0)
        yield Reading(names.WORKER_SLOTS, {("busy",): busy, ("free",): free})
        yield Reading(names.WORKER_BACKLOG, {(): len(self._backlog)})
        yield Reading(names.LONGEST_RUNNING, {(): self._longest()})
        yield Reading(names.STUCK_HANDLERS, {(): self._worker.stuck})
        yield Reading(names.BUILD_INFO, {self._build(): 1})
        yield from self._fleet.readings()

    def _build(self) -> tuple[str, str, str]:
        from jobbus import __version__

        return (__version__, self._worker.bus.settings.provider, platform.python_version())

    def _free(self) -> int:
        return self._worker.concurrency - self._worker.running

    def _longest(self) -> float:
        starts = [h.started_at for h in self._holdings.running() if h.started_at is not None]
        return time.monotonic() - min(starts) if starts else 0.0


def _metrics(tally: Tally) -> Callable[[], Answer]:
    from jobbus.telemetry.prometheus import CONTENT_TYPE, exposition

    try:
        show = exposition(tally)
    except MissingDependency as error:
        missing = f"{error}\n".encode()
        log.warning("/metrics shows nothing: %s", error)
        return lambda: Answer(HTTPStatus.NOT_IMPLEMENTED, missing)
    return lambda: Answer(HTTPStatus.OK, show(), CONTENT_TYPE)


def _said(text: str, *, well: bool = True) -> Answer:
    status = HTTPStatus.OK if well else HTTPStatus.SERVICE_UNAVAILABLE
    return Answer(status, f"{text}\n".encode())
