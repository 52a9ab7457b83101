"""Runs handlers in child processes that can really be killed, one process for each slot.

The other end is :mod:`jobbus.worker.child`. A child's death costs the job that it ran, no other.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Sequence
from datetime import timedelta
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

from jobbus.context import JobContext
from jobbus.errors import Cancelled, ConfigurationError, HandlerCrashed, PermanentError, Snooze
from jobbus.worker import wire
from jobbus.worker.child_runner import ChildRunner, Visit
from jobbus.worker.reference import HandlerReference, reference_for
from jobbus.worker.wire import HandlerError

if TYPE_CHECKING:
    from jobbus.handlers import JobType

__all__ = ["ChildPool", "ChildRunner", "HandlerError", "HandlerReference", "reference_for"]

log = logging.getLogger("jobbus.worker.isolation")

DEFAULT_GRACE: Final = timedelta(seconds=5)
DEFAULT_START: Final = timedelta(seconds=60)
NO_PROCESS: Final = timedelta(seconds=5)
"""How long a job waits when the machine has no process to spare."""


class ChildPool:
    """Up to ``size`` handler processes: started when needed, reused, replaced when they die.

    ``app`` is the ``module:attribute`` under which the children find the :class:`jobbus.JobBus`;
    without it they find each handler by its own module and name. Of one event loop.
    """

    def __init__(
        self,
        size: int,
        *,
        app: str | None = None,
        term_grace: timedelta = DEFAULT_GRACE,
        cancel_grace: timedelta = DEFAULT_GRACE,
        start_timeout: timedelta = DEFAULT_START,
    ) -> None:
        if size < 1:
            raise ConfigurationError(f"a pool needs at least 1 handler process, not {size}")
        _refuse_in_child()
        self._app = app
        self._term_grace = term_grace
        self._cancel_grace = cancel_grace
        self._start_timeout = start_timeout
        self._slots = asyncio.Semaphore(size)
        self._idle: list[ChildRunner] = []
        self._children: set[ChildRunner] = set()
        self._visits: set[Visit] = set()
        self._retiring: set[asyncio.Task[None]] = set()
        self._references: dict[str, HandlerReference] = {}
        self._closed = False

    @property
    def pids(self) -> list[int]:
        """The processes that live now, idle ones included."""
        return sorted(one.pid for one in self._children if one.alive and one.pid is not None)

    def check(self, job_types: Sequence[JobType[..., Any]]) -> None:
        """Raise ConfigurationError, naming it, for a handler that no child could find again."""
        for job_type in job_types:
            self._references[job_type.name] = reference_for(job_type, self._app)

    async def run(
        self,
        job_type: JobType[..., Any],
        context: JobContext,
        payload: bytes,
        *,
        timeout: timedelta | None,  # noqa: ASYNC109 - a limit of the job's, not of this call's
    ) -> bytes:
        """Run the handler in a child and return its encoded result.

        Waits for a free child. ``timeout`` counts from the handler's own start. Raises the
        handler's error: a signal, TimeoutError, PayloadError or ConfigurationError as such, what
        the job type's policy calls permanent as PermanentError, anything else as
        :class:`HandlerError`; TimeoutError when time ran out; HandlerCrashed when the child died;
        Cancelled when the job was asked to stop; Snooze when no process could be started. Being
        cancelled stops the child: SIGTERM to its process group, then SIGKILL after the grace.
        """
        if job_type.name not in self._references:
            self.check([job_type])
        visit = Visit(
            context=context,
            frame=_run_frame(self._references[job_type.name], job_type, context, payload),
            timeout=timeout,
            memory_limit=job_type.memory_limit,
            outcome=asyncio.get_running_loop().create_future(),
            cancelled=context.cancel_requested,
        )
        self._visits.add(visit)
        try:
            async with self._slots:
                return await self._run_in_a_child(visit, job_type.jobs_per_child)
        except HandlerError as error:
            if error.was(*job_type.retry.permanent):
                raise PermanentError(str(error)) from error
            raise
        finally:
            self._visits.discard(visit)

    def request_cancel(self, job_id: str) -> bool:
        """Ask a running job to stop; its child is killed when it has not within the grace.

        Whether there was such a job. Harmless when repeated.
        """
        visits = [one for one in self._visits if one.context.job_id == job_id]
        for visit in visits:
            visit.request_cancel()
        return bool(visits)

    async def close(self) -> None:
        """End all children and cancel what still runs. Afterwards no process is left."""
        self._closed = True
        for visit in tuple(self._visits):
            visit.outcome.cancel()
        idle, self._idle = self._idle, []
        await asyncio.gather(
            *(one.stop() for one in idle),
            *(one.terminate() for one in self._children if one not in idle),
        )
        await asyncio.gather(*self._retiring)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def _run_in_a_child(self, visit: Visit, jobs_per_child: int | None) -> bytes:
        while True:
            if self._closed:
                raise RuntimeError("the pool of handler processes has been closed")
            if visit.cancelled:
                raise Cancelled("the job was asked to stop before its handler started")
            child = await self._take()
            reused = child.served > 0
            try:
                return await child.run(visit, start_timeout=self._start_timeout)
            except HandlerCrashed:
                if visit.started or not reused:
                    raise
                # It died while it was idle, or of its age: that is not this job's doing.
                log.info("handler process %s died before it began; starting another", child.pid)
                visit.outcome = asyncio.get_running_loop().create_future()
            finally:
                self._give_back(child, jobs_per_child)

    async def _take(self) -> ChildRunner:
        while self._idle:
            child = self._idle.pop()
            if child.fit:
                return child
        child = ChildRunner(term_grace=self._term_grace, cancel_grace=self._cancel_grace)
        try:
            await child.start()
        except OSError as error:
            reason = f"no process could be started for the handler: {error}"
            raise Snooze(NO_PROCESS, reason) from error
        self._children = {one for one in self._children if one.alive} | {child}
        return child

    def _give_back(self, child: ChildRunner, jobs_per_child: int | None) -> None:
        worn = jobs_per_child is not None and child.served >= jobs_per_child
        if child.fit and not worn and not self._closed:
            self._idle.append(child)
        elif child.alive:
            task = asyncio.create_task(child.stop())
            self._retiring.add(task)
            task.add_done_callback(self._retiring.discard)


def _run_frame(
    reference: HandlerReference, job_type: JobType[..., Any], context: JobContext, payload: bytes
) -> bytes:
    return wire.pack(
        "run",
        payload,
        handler=reference.to_fields(),
        memory_limit=job_type.memory_limit,
        log_level=logging.getLogger().getEffectiveLevel(),
        job={
            "job_id": context.job_id,
            "job_type": context.job_type,
            "queue": context.queue,
            "attempt": context.attempt,
            "failures": context.failures,
            "max_attempts": context.max_attempts,
            "headers": dict(context.headers),
            "tags": list(context.tags),
            "metadata": dict(context.metadata),
            "parent_id": context.parent_id,
            "timeout": wire.span_out(context.timeout),
        },
    )


def _refuse_in_child() -> None:
    spec = getattr(sys.modules.get("__main__"), "__spec__", None)
    if spec is not None and spec.name == "jobbus.worker.child":
        raise ConfigurationError(
            "this is a handler's process, and it was about to start a worker of its own: put the "
            'call that starts the worker under `if __name__ == "__main__":`'
        )
