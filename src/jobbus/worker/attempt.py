"""One attempt at one job: start gate, decoding, handler, and what its end means."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import logging
import time
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from jobbus.context import JobContext, leave, run_in
from jobbus.errors import Cancelled, HandlerCrashed, LeaseLost
from jobbus.handlers import Isolation, JobType
from jobbus.job import Problem
from jobbus.message import (
    NO_DELAY,
    Abandonment,
    Completion,
    CountsAs,
    DeadLetter,
    Delivery,
    new_completion,
)
from jobbus.middleware import compose
from jobbus.middleware.idempotency import Idempotency
from jobbus.retry import Again, GiveUp, Stop, decide

from .held import Held, Settlement
from .host import WorkerHost
from .wire import HandlerError

if TYPE_CHECKING:
    from jobbus.bus import JobBus

    from .isolation import ChildPool

log = logging.getLogger("jobbus.worker")

UNKNOWN_TYPE_PATIENCE: Final = timedelta(days=1)
"""A newer producer may be ahead of this worker's deploy, but not for ever."""
_UNKNOWN_TYPE_DELAY: Final = timedelta(seconds=30)
_UNKNOWN_TYPE_CAP: Final = timedelta(hours=1)
_TRACEBACK_LIMIT: Final = 8192
_MESSAGE_LIMIT: Final = 2000


class _Running:
    """A handler at work, whose context is made when somebody asks for it."""

    __slots__ = ("_bus", "_guard", "_held", "_job_type", "_limit", "_made")

    def __init__(
        self,
        bus: JobBus,
        guard: Idempotency | None,
        held: Held,
        job_type: JobType[..., Any],
        limit: timedelta,
    ) -> None:
        self._bus = bus
        self._guard = guard
        self._held = held
        self._job_type = job_type
        self._limit = limit
        self._made: JobContext | None = None

    def context(self) -> JobContext:
        if self._made is None:
            delivery = self._held.delivery
            message = delivery.message
            self._made = JobContext(
                job_id=message.job_id,
                job_type=message.job_type,
                queue=message.queue,
                attempt=delivery.attempt,
                failures=delivery.failures,
                max_attempts=message.max_attempts,
                host=WorkerHost(self._bus, self._held, self._job_type, self._guard),
                headers=message.headers,
                tags=message.tags,
                metadata=message.metadata,
                parent_id=message.parent_id,
                timeout=self._limit,
            )
        return self._made


class Attempts:
    """Runs attempts. Everything that an attempt needs, made once for a worker."""

    def __init__(
        self,
        handlers: Callable[[str], JobType[..., Any] | None],
        *,
        bus: JobBus,
        threads: ThreadPoolExecutor,
        children: Callable[[], ChildPool],
        default_timeout: timedelta,
        deadlines: Deadlines,
        guard: Idempotency | None = None,
    ) -> None:
        self._guard = guard
        self._handlers = handlers
        self._bus = bus
        self._middleware = bus.middleware
        self._threads = threads
        self._children = children
        self._default_timeout = default_timeout
        self._deadlines = deadlines

    async def run(self, held: Held) -> Settlement | None:
        """Run the job to its end; None when there is nothing to tell because the lease is lost."""
        delivery = held.delivery
        if held.lost:
            return None
        if held.cancel_requested:
            return Completion(delivery=delivery, cancelled=True, reason="asked to stop")
        if held.releasing or held.valid_until < time.monotonic():
            # The reply that brought it may have come too late: another worker may have it by now.
            return release(delivery)
        if delivery.crashes >= delivery.message.max_crashes:
            return poisonous(delivery)
        job_type = self._handlers(delivery.message.job_type)
        if job_type is None:
            return unknown_type(delivery)
        if self._guard is None or not self._guard.concerns(delivery.message):
            return await self._run(held, job_type)
        return await self._guard.around(
            held, job_type, functools.partial(self._run, held, job_type)
        )

    async def _run(self, held: Held, job_type: JobType[..., Any]) -> Settlement | None:
        delivery = held.delivery
        try:
            result = await self._call(held, job_type)
        except asyncio.CancelledError:
            return self._interrupted(held, job_type)
        except LeaseLost:
            return None
        except Exception as error:
            if held.must_stop:
                return self._interrupted(held, job_type, error)
            return conclude(error, delivery, job_type)
        if held.lost:
            return None
        if held.timed_out:
            # It swallowed the cancellation and returned as if nothing had happened.
            return self._interrupted(held, job_type)
        return new_completion(delivery, result)

    async def _call(self, held: Held, job_type: JobType[..., Any]) -> bytes | None:
        message = held.delivery.message
        limit = message.timeout or job_type.timeout or self._default_timeout
        context = held.context = _Running(self._bus, self._guard, held, job_type, limit).context
        token = run_in(context)
        try:
            if job_type.isolation is Isolation.PROCESS:
                return await self._call_child(held, job_type, context(), limit)
            arguments, named = job_type.decode_arguments(message.payload)
            self._deadlines.set(held, limit)
            if self._middleware or not job_type.is_async:
                handler = functools.partial(self._invoke, job_type, context(), arguments, named)
                value = await compose(self._middleware, context(), handler)()
            elif job_type.takes_context:
                value = await job_type.function(context(), *arguments, **named)
            else:
                value = await job_type.function(*arguments, **named)
            if job_type.observers:
                held.notice = ("complete", value)
            return job_type.encode_result(value)
        except Exception as error:
            held.notice = ("error", error)
            raise
        finally:
            leave(token)
            self._deadlines.clear(held)

    async def _call_child(
        self, held: Held, job_type: JobType[..., Any], context: JobContext, limit: timedelta
    ) -> bytes | None:
        """Run the handler in a process of its own; that one keeps to the time limit itself."""
        payload = held.delivery.message.payload
        if not self._middleware and not job_type.observers:
            return await self._children().run(job_type, context, payload, timeout=limit)

        async def handler() -> Any:
            encoded = await self._children().run(job_type, context, payload, timeout=limit)
            return job_type.decode_result(encoded)

        value = await compose(self._middleware, context, handler)()
        held.notice = ("complete", value)
        return job_type.encode_result(value)

    async def _invoke(
        self,
        job_type: JobType[..., Any],
        context: JobContext,
        arguments: tuple[Any, ...],
        named: dict[str, Any],
    ) -> Any:
        if job_type.is_async:
            return await job_type.call(context, arguments, named)
        call = functools.partial(
            contextvars.copy_context().run, job_type.call, context, arguments, named
        )
        future = self._threads.submit(call)
        ended = asyncio.wrap_future(future)
        try:
            return await asyncio.shield(ended)
        except asyncio.CancelledError:
            if future.cancel():
                raise
            # The thread cannot be killed, only asked; and if it finished its work, that counts.
            await asyncio.wait({ended})
            return ended.result()

    def _interrupted(
        self, held: Held, job_type: JobType[..., Any], error: Exception | None = None
    ) -> Settlement | None:
        delivery = held.delivery
        if held.lost:
            return None
        if held.timed_out:
            limit = delivery.message.timeout or job_type.timeout or self._default_timeout
            late = TimeoutError(f"the handler ran longer than its {limit.total_seconds():g} s")
            held.notice = ("error", late)
            return conclude(late, delivery, job_type)
        if held.cancel_requested:
            return Completion(delivery=delivery, cancelled=True, reason="asked to stop")
        if held.releasing:
            return release(delivery)
        return conclude(error or Cancelled("the handler cancelled itself"), delivery, job_type)


class Deadlines:
    """Ends handlers that run too long: one timer for all, looked at ten times a second.

    A timer for each job would cost more than most handlers do.
    """

    _INTERVAL = 0.1

    def __init__(self, grace: timedelta, on_stuck: Callable[[Held], None]) -> None:
        self._grace = grace.total_seconds()
        self._on_stuck = on_stuck
        self._watched: dict[Held, float] = {}
        self._timer: asyncio.TimerHandle | None = None

    def set(self, held: Held, limit: timedelta) -> None:
        self._watched[held] = time.monotonic() + limit.total_seconds()
        if self._timer is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(self._INTERVAL, self._look)

    def clear(self, held: Held) -> None:
        self._watched.pop(held, None)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        now = time.monotonic()
        for held, deadline in list(self._watched.items()):
            if now < deadline:
                continue
            if held.timed_out:
                del self._watched[held]
                self._on_stuck(held)
                continue
            held.timed_out = True
            self._watched[held] = now + self._grace
            held.interrupt()
        self._timer = None
        if self._watched:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(self._INTERVAL, self._look)


def conclude(error: BaseException, delivery: Delivery, job_type: JobType[..., Any]) -> Settlement:
    """The settlement of an attempt that raised ``error``."""
    problem = problem_of(error)
    if isinstance(error, HandlerCrashed):
        return Abandonment(delivery=delivery, counts_as=CountsAs.CRASH, problem=problem)
    decision = decide(
        error,
        failures=delivery.failures,
        policy=job_type.retry,
        max_attempts=delivery.message.max_attempts,
    )
    match decision:
        case Stop():
            return Completion(delivery=delivery, cancelled=True, reason=problem.message)
        case GiveUp(timed_out=timed_out):
            return DeadLetter(delivery=delivery, problem=problem, timed_out=timed_out)
        case Again(delay=delay, counts=counts):
            return Abandonment(
                delivery=delivery,
                delay=delay,
                counts_as=CountsAs.FAILURE if counts else CountsAs.SNOOZE,
                problem=problem,
            )


def release(delivery: Delivery, *, after: timedelta = NO_DELAY) -> Abandonment:
    """Hand a job back that this worker will not finish; it burns nothing."""
    return Abandonment(delivery=delivery, delay=after, counts_as=CountsAs.RELEASE)


def poisonous(delivery: Delivery) -> DeadLetter:
    """Its processes keep dying. A ledger hands no such job out; a broker without one does."""
    message = f"the process that ran it died {delivery.crashes} times"
    return DeadLetter(delivery=delivery, problem=Problem(kind="poison_crash", message=message))


def unknown_type(delivery: Delivery) -> Settlement:
    """Nobody here can run it: later perhaps, after a day never."""
    name = delivery.message.job_type
    since = delivery.enqueued_at
    if since is not None and datetime.now(UTC) - since > UNKNOWN_TYPE_PATIENCE:
        return DeadLetter(
            delivery=delivery,
            problem=Problem(
                kind="unknown_type",
                message=f"no worker knew the job type {name!r} within {UNKNOWN_TYPE_PATIENCE}",
            ),
        )
    log.warning("no handler for job type %r here; the job waits for a worker that has one", name)
    delay = min(_UNKNOWN_TYPE_DELAY * 2 ** min(delivery.attempt - 1, 10), _UNKNOWN_TYPE_CAP)
    problem = Problem(kind="unknown_type", message=f"this worker has no handler for {name!r}")
    return Abandonment(delivery=delivery, delay=delay, counts_as=CountsAs.SNOOZE, problem=problem)


def problem_of(error: BaseException) -> Problem:
    """An exception as data: its own words, and where it came from, within bounds.

    What a child process raised is told as it was there, also where a signal stands for it here.
    """
    for told in (error, error.__cause__):
        if isinstance(told, HandlerError):
            return _problem(told.kind, told.message, told.traceback)
    trace = "".join(traceback.format_exception(error)) if error.__traceback__ else None
    return _problem(type(error).__name__, str(error), trace)


def _problem(kind: str, message: str, trace: str | None) -> Problem:
    return Problem(
        kind=kind,
        message=(message or kind)[:_MESSAGE_LIMIT],
        traceback=trace[-_TRACEBACK_LIMIT:] if trace else None,
    )
