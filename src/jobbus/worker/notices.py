"""Tells those who asked to hear of it how jobs fare: observers of the worker and of job types."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from typing import Any

from jobbus.job import Progress
from jobbus.job_type import JobType, Notice
from jobbus.message import Delivery
from jobbus.telemetry.tally import Tally

from .held import Held, Settlement
from .reports import AttemptReport, log_problem, outcome_of, tell

log = logging.getLogger("jobbus.worker")


class Notices:
    """Passes news on; nobody who hears it has a say in the work."""

    def __init__(
        self,
        handlers: Callable[[str], JobType[..., Any] | None],
        observers: list[Callable[[AttemptReport], None]],
        tally: Tally | None,
    ) -> None:
        self._handlers = handlers
        self._observers = observers
        self._tally = tally
        self._telling: set[asyncio.Task[None]] = set()

    def attempted(self, held: Held, settlement: Settlement | None, duration: float) -> None:
        """An attempt has come to its end here; the queue has yet to be told. None: lease lost."""
        outcome, problem = outcome_of(settlement)
        # The application's logging is not ours: a filter or handler that fails costs no slot.
        try:
            tally, started = self._tally, held.started_at
            if tally is not None and started is None:
                tally.returned(held.delivery)
            elif tally is not None and started is not None:
                waited = held.delivery.wait.total_seconds() + started - held.received_at
                tally.attempted(held.delivery, outcome, duration, waited)
            if problem is not None:
                log_problem(held.delivery, outcome, problem)
            elif log.isEnabledFor(logging.DEBUG):
                message = held.delivery.message
                log.debug("%s %s %s", outcome, message.job_type, message.job_id)
        except Exception:
            with contextlib.suppress(Exception):
                log.exception("logging the outcome of job %s failed", held.delivery.job_id)
        if self._observers:
            report = AttemptReport(
                delivery=held.delivery, outcome=outcome, duration=duration, problem=problem
            )
            tell(self._observers, report)

    def recorded(self, held: Held) -> None:
        """The queue has taken the outcome: now it is true."""
        if held.notice is not None:
            self._notify(held, *held.notice)

    def refused(self, delivery: Delivery) -> None:
        """The queue has not taken the outcome: another worker has the job."""
        if self._tally is not None:
            self._tally.refused(delivery)

    def progressed(self, held: Held, progress: Progress) -> None:
        self._notify(held, "progress", progress)

    async def told(self) -> None:
        """Until everybody has heard."""
        await asyncio.gather(*self._telling)

    def _notify(self, held: Held, event: Notice, value: object) -> None:
        job_type = self._handlers(held.delivery.message.job_type)
        if job_type is None or held.context is None or event not in job_type.observers:
            return
        task = asyncio.create_task(job_type.notify(event, held.context(), value))
        self._telling.add(task)
        task.add_done_callback(self._telling.discard)
