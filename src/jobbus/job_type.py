"""A job type: one handler function, how it is to be run, and typed ways to ask for it."""

from __future__ import annotations

import copy
import inspect
import logging
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import (
    Any,
    Final,
    Generic,
    Literal,
    ParamSpec,
    Protocol,
    Self,
    TypeAlias,
    TypeVar,
    Unpack,
)

from jobbus.codec import DEFAULT_LIMIT
from jobbus.context import Detached, JobContext, leave, run_in
from jobbus.errors import ConfigurationError, PayloadTooLarge
from jobbus.ids import new_id
from jobbus.message import DEFAULT_QUEUE, Message, Priority, new_message
from jobbus.options import (
    NOTHING,
    Duration,
    EnqueueOptions,
    OptionKeywords,
    apply_options,
    as_duration,
)
from jobbus.retry import RetryPolicy
from jobbus.signature import Signature
from jobbus.store import JobTypeRecord

P = ParamSpec("P")
R = TypeVar("R")
Notice: TypeAlias = Literal["progress", "complete", "error"]
Callback: TypeAlias = Callable[[JobContext, Any], Awaitable[None] | None]

log = logging.getLogger("jobbus.handler")
RESULT_WAIT: Final = timedelta(seconds=30)


class Isolation(StrEnum):
    """Where a handler runs."""

    LOOP = "loop"
    """On the worker's event loop; what blocks there holds up all jobs."""
    THREAD = "thread"
    PROCESS = "process"
    """In a child process of its own, which can be killed and whose death costs only its job."""


class Enqueuer(Protocol):
    """What a job type needs of the bus that it is bound to."""

    async def enqueue_messages(
        self, messages: Sequence[Message], *, connection: Any | None = None
    ) -> Sequence[str]:
        """Enqueue all or none; return the job ids, in order."""
        ...

    def enqueue_messages_sync(
        self, messages: Sequence[Message], *, connection: Any | None = None
    ) -> Sequence[str]:
        """The same for code that runs outside of the bus's event loop."""
        ...

    async def result_bytes(self, job_id: str, wait: timedelta) -> bytes | None:
        """The encoded result, once there is one.

        Raises JobFailed, JobNotFound, or WaitTimeout when ``wait`` has passed.
        """
        ...


@dataclass(slots=True)
class Binding:
    """Which bus a job type enqueues through; shared by all copies of the type."""

    bus: Enqueuer | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class JobTypeSettings:
    """How jobs of one type are run, whoever asks for them."""

    name: str
    queue: str = DEFAULT_QUEUE
    priority: int = Priority.NORMAL
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    max_crashes: int = 3
    timeout: timedelta | None = None
    """None leaves it to the worker's setting."""
    isolation: Isolation
    expires_in: timedelta | None = None
    """How long after it falls due a job may still start."""
    memory_limit: int | None = None
    """Bytes, of a child process."""
    jobs_per_child: int | None = None
    """After so many, a child process is replaced."""
    payload_limit: int = DEFAULT_LIMIT
    """Bytes of JSON."""


class JobType(Generic[P, R]):
    """A handler function with a name under which jobs for it can be asked for.

    ``P`` are the parameters that a payload fills, which leaves out the :class:`JobContext`; ``R``
    is the result, awaited where the handler is async. Make one with :meth:`jobbus.Handlers.job`.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        settings: JobTypeSettings,
        signature: Signature,
        *,
        bus: Enqueuer | None = None,
        observers: Mapping[Notice, Sequence[Callback]] | None = None,
    ) -> None:
        self.function = function
        self.settings = settings
        self.name = settings.name
        self.queue = settings.queue
        self.priority = settings.priority
        self.retry = settings.retry
        self.max_attempts = settings.retry.max_attempts
        self.max_crashes = settings.max_crashes
        self.timeout = settings.timeout
        self.isolation = settings.isolation
        self.expires_in = settings.expires_in
        self.memory_limit = settings.memory_limit
        self.jobs_per_child = settings.jobs_per_child
        self.is_async = signature.is_async
        self.takes_context = signature.takes_context
        self.observers: Mapping[Notice, Sequence[Callback]] = observers or {}
        self._signature = signature
        self._binding = Binding(bus)
        self._asked = NOTHING

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name} on queue {self.queue}>"

    # The three are overridden for type checkers' sake only: here nothing is known of ``await``.
    def __call__(self, /, *args: P.args, **kwargs: P.kwargs) -> Any:
        """Call the handler here and now, as unit tests do; no job comes of it.

        A handler that takes a context gets that of the running job, else a detached one.
        """
        return self._called(args, kwargs)

    def bind(self, bus: Enqueuer) -> Self:
        """Enqueue through ``bus`` from now on; also holds for copies made by :meth:`options`."""
        self._binding.bus = bus
        return self

    @property
    def bus(self) -> Enqueuer | None:
        return self._binding.bus

    @property
    def observed(self) -> bool:
        """Whether anybody is to be told how jobs of this type fare."""
        return bool(self.observers)

    def options(self, **asked: Unpack[OptionKeywords]) -> Self:
        """A copy whose jobs get these options, over those that it has already.

        See :class:`~jobbus.options.EnqueueOptions`. Raises InvalidJob.
        """
        return self.with_options(EnqueueOptions(**asked))

    def with_options(self, asked: EnqueueOptions) -> Self:
        """:meth:`options`, from a value."""
        other = copy.copy(self)
        other._asked = self._asked.merged(asked)
        return other

    def message(self, /, *args: P.args, **kwargs: P.kwargs) -> Message:
        """A new job with these arguments, not enqueued. Raises InvalidJob."""
        return self._message(
            self._signature.encode_arguments(args, kwargs, limit=self.settings.payload_limit)
        )

    def message_from(self, payload: bytes) -> Message:
        """A new job with a payload that is JSON already, kept byte for byte. Raises InvalidJob."""
        limit = self.settings.payload_limit
        if len(payload) > limit:
            raise PayloadTooLarge(
                f"the payload of {self.name}: {len(payload):,} bytes, and the limit is {limit:,}"
            )
        self.decode_arguments(payload)
        return self._message(payload)

    async def enqueue(self, /, *args: P.args, **kwargs: P.kwargs) -> str:
        """Enqueue a job with these arguments; return its id.

        Raises InvalidJob for what can never run, and ConfigurationError without a bus.
        """
        bus = self._bus("enqueue")
        messages = [self.message(*args, **kwargs)]
        ids = await bus.enqueue_messages(messages, connection=self._asked.connection)
        return ids[0]

    def enqueue_sync(self, /, *args: P.args, **kwargs: P.kwargs) -> str:
        """:meth:`enqueue` for code that cannot await."""
        bus = self._bus("enqueue_sync")
        messages = [self.message(*args, **kwargs)]
        return bus.enqueue_messages_sync(messages, connection=self._asked.connection)[0]

    async def result(self, job_id: str, *, wait: Duration = RESULT_WAIT) -> R:
        """What the job's handler returned, waiting for it.

        Raises JobFailed when the job ended without a result, WaitTimeout when it has not ended in
        time, JobNotFound, and PayloadError when the result is not of the type that is promised.
        """
        data = await self._bus("result").result_bytes(job_id, as_duration("wait", wait))
        return self.decode_result(b"null" if data is None else data)

    def decode_arguments(self, payload: bytes) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """What :meth:`call` takes, validated; PayloadError names what is missing or wrong."""
        return self._signature.decode_arguments(payload)

    def call(self, context: JobContext, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """Run the handler; the outcome is to be awaited where :attr:`is_async`."""
        if self.takes_context:
            return self.function(context, *args, **kwargs)
        return self.function(*args, **kwargs)

    def encode_result(self, value: object) -> bytes:
        """What the handler returned as JSON of at most 1 MiB. Raises PayloadError."""
        return self._signature.encode_result(value)

    def decode_result(self, data: bytes) -> R:
        """What the handler returned, from :meth:`encode_result`. Raises PayloadError."""
        result: R = self._signature.decode_result(data)
        return result

    @property
    def payload_class(self) -> type | None:
        """The class whose instances are payloads of this type, where there is one."""
        return self._signature.payload_class

    def payload_schema(self) -> dict[str, Any]:
        """JSON Schema of the payload."""
        return self._signature.schema()

    def record(self) -> JobTypeRecord:
        """What workers announce. Raises ConfigurationError where annotations cannot be JSON."""
        self._signature.prepare()
        return JobTypeRecord(
            name=self.name,
            queue=self.queue,
            max_attempts=self.max_attempts,
            max_crashes=self.max_crashes,
            priority=self.priority,
            payload_schema=self.payload_schema(),
        )

    async def notify(self, event: Notice, context: JobContext, value: object) -> None:
        """Call the observers of ``event``, one by one. Theirs is no say: an error is logged."""
        import asyncio

        for callback in self.observers.get(event, ()):
            try:
                if inspect.iscoroutinefunction(callback):
                    await callback(context, value)
                else:
                    outcome = await asyncio.to_thread(callback, context, value)
                    if inspect.isawaitable(outcome):
                        await outcome
            except Exception:
                log.exception(
                    "the on_%s callback of %s failed for job %s; the job goes on",
                    event,
                    self.name,
                    context.job_id,
                )

    def _message(self, payload: bytes) -> Message:
        message = new_message(
            job_id=new_id(),
            job_type=self.name,
            payload=payload,
            queue=self.queue,
            priority=self.priority,
            max_attempts=self.max_attempts,
            max_crashes=self.max_crashes,
        )
        asked = self._asked
        if self.expires_in is not None and asked.expires_in is None and asked.expires_at is None:
            asked = replace(asked, expires_in=self.expires_in)
        return message if asked is NOTHING else apply_options(message, asked, datetime.now(UTC))

    def _bus(self, verb: str) -> Enqueuer:
        if self._binding.bus is None:
            raise ConfigurationError(
                f"{self.name}.{verb}() needs a bus and has none: make the bus with the Handlers "
                f"that hold {self.name}, or call {self.name}.bind(bus)"
            )
        return self._binding.bus

    def _called(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        if not self.takes_context or (args and isinstance(args[0], JobContext)):
            return self.function(*args, **kwargs)
        try:
            context = JobContext.current()
        except LookupError:
            return self._called_alone(self._detached(), args, kwargs)
        return self.function(context, *args, **kwargs)

    def _called_alone(
        self, context: JobContext, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Any:
        token = run_in(lambda: context)
        try:
            outcome = self.function(context, *args, **kwargs)
        finally:
            leave(token)
        return _awaited_in(context, outcome) if inspect.isawaitable(outcome) else outcome

    def _detached(self) -> JobContext:
        return JobContext(
            job_id=new_id(),
            job_type=self.name,
            queue=self.queue,
            attempt=1,
            failures=0,
            max_attempts=self.max_attempts,
            host=Detached(),
            headers={},
            metadata={},
            timeout=self.timeout,
        )


class AsyncJobType(JobType[P, R]):
    """A job type whose handler is to be awaited."""

    def __call__(self, /, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, R]:
        """Call the handler here and now, as unit tests do; no job comes of it."""
        outcome: Coroutine[Any, Any, R] = self._called(args, kwargs)
        return outcome


class SyncJobType(JobType[P, R]):
    """A job type whose handler just returns."""

    def __call__(self, /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call the handler here and now, as unit tests do; no job comes of it."""
        outcome: R = self._called(args, kwargs)
        return outcome


async def _awaited_in(context: JobContext, outcome: Awaitable[R]) -> R:
    token = run_in(lambda: context)
    try:
        return await outcome
    finally:
        leave(token)
