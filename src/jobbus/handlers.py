"""Functions become job types, and a registry knows them by name: the names are all that travels."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, Protocol, TypedDict, TypeVar, Unpack, cast, overload

from jobbus.codec import DEFAULT_LIMIT, HARD_LIMIT
from jobbus.context import JobContext
from jobbus.errors import ConfigurationError, InvalidJob
from jobbus.job_type import (
    AsyncJobType,
    Callback,
    Enqueuer,
    Isolation,
    JobType,
    JobTypeSettings,
    Notice,
    P,
    R,
    SyncJobType,
)
from jobbus.message import DEFAULT_QUEUE, NO_DELAY, Priority
from jobbus.options import Duration, EnqueueOptions, as_duration, check_name, normalise_priority
from jobbus.retry import PRESETS, RetryPolicy
from jobbus.signature import Signature

__all__ = [
    "AsyncJobType",
    "EnqueueOptions",
    "Enqueuer",
    "Handlers",
    "Isolation",
    "JobDecorator",
    "JobType",
    "JobTypeOptions",
    "SyncJobType",
    "make_job_type",
]

RESERVED: Final = frozenset(
    {"delayed", "recurring", "stats", "queues", "health", "performance", "types", "user"}
)
"""Words that stand where a job type's name does in the paths of the HTTP API."""

R_co = TypeVar("R_co", covariant=True)
AnyJobType = TypeVar("AnyJobType", bound=JobType[Any, Any])


class JobTypeOptions(TypedDict, total=False):
    """What can be said of a job type besides its function."""

    name: str
    """The function's own name, where this is not given."""
    queue: str
    priority: int | str
    max_attempts: int
    """Tries in all, the first included. Stands over the retry policy's own."""
    max_crashes: int
    timeout: Duration | None
    retry: RetryPolicy | str
    """A policy, or the name of one in :data:`jobbus.retry.PRESETS`."""
    isolation: Isolation | str
    """Async handlers run on the loop and others in threads, where this is not given."""
    expires_in: Duration | None
    memory_limit: int | None
    """Bytes. Only with ``isolation="process"``, as is ``jobs_per_child``."""
    jobs_per_child: int | None
    payload_limit: int
    naturally_idempotent: bool
    """Doing it twice is doing it once, so it may run while no idempotency store can be asked."""


# The parameter's name tells type checkers which functions take a context. It is what keeps a
# function whose first parameter is ``Any``, or which has ``Any`` elsewhere, from fitting both.
class _TakesCtx(Protocol[P, R_co]):
    def __call__(self, ctx: JobContext, *args: P.args, **kwargs: P.kwargs) -> R_co: ...


class _TakesContext(Protocol[P, R_co]):
    def __call__(self, context: JobContext, *args: P.args, **kwargs: P.kwargs) -> R_co: ...


class _Plain(Protocol[P, R_co]):
    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R_co: ...


class JobDecorator:
    """Turns functions into job types: ``@job``, or ``@job(name="video.render", queue="gpu")``.

    A first parameter annotated ``JobContext`` gets the job's context and is no part of the
    payload. Call it ``ctx`` or ``context``: type checkers go by that, the worker does not.
    """

    def __init__(
        self,
        register: Callable[[JobType[Any, Any]], object],
        defaults: JobTypeOptions | None = None,
    ) -> None:
        self._register = register
        self._defaults: JobTypeOptions = defaults or {}

    # The overlaps are meant: whatever returns a coroutine is async, and the first that fits counts.
    @overload
    def __call__(  # type: ignore[overload-overlap]
        self, function: _TakesCtx[P, Coroutine[Any, Any, R]], /
    ) -> AsyncJobType[P, R]: ...

    @overload
    def __call__(  # type: ignore[overload-overlap]
        self, function: _TakesContext[P, Coroutine[Any, Any, R]], /
    ) -> AsyncJobType[P, R]: ...

    @overload
    def __call__(  # type: ignore[overload-overlap]
        self, function: _Plain[P, Coroutine[Any, Any, R]], /
    ) -> AsyncJobType[P, R]: ...

    @overload
    def __call__(self, function: _TakesCtx[P, R], /) -> SyncJobType[P, R]: ...

    @overload
    def __call__(self, function: _TakesContext[P, R], /) -> SyncJobType[P, R]: ...

    @overload
    def __call__(self, function: _Plain[P, R], /) -> SyncJobType[P, R]: ...

    @overload
    def __call__(self, **options: Unpack[JobTypeOptions]) -> JobDecorator: ...

    def __call__(
        self, function: Callable[..., Any] | None = None, **options: Unpack[JobTypeOptions]
    ) -> Any:
        """Register ``function`` and return its job type; without one, a decorator that will.

        Raises ConfigurationError for options that cannot work and names that are taken.
        """
        merged = cast("JobTypeOptions", {**self._defaults, **options})
        if function is None:
            return JobDecorator(self._register, merged)
        job_type = make_job_type(function, **merged)
        self._register(job_type)
        return job_type


class Handlers:
    """The job types of an application, by name. A value to pass to buses and workers."""

    def __init__(
        self, *, bus: Enqueuer | None = None, defaults: JobTypeOptions | None = None
    ) -> None:
        self._types: dict[str, JobType[Any, Any]] = {}
        self._by_payload: dict[type, JobType[Any, Any] | None] = {}
        self._bus = bus
        self._job = JobDecorator(self.register, defaults)

    @property
    def job(self) -> JobDecorator:
        """Decorator that makes functions job types of this registry."""
        return self._job

    def register(self, job_type: AnyJobType) -> AnyJobType:
        """Add a job type; return it. Raises ConfigurationError when its name is taken."""
        other = self._types.get(job_type.name)
        if other is not None and other.function is not job_type.function:
            raise ConfigurationError(
                f"two handlers want to be {job_type.name!r}: {_place(other.function)} and "
                f"{_place(job_type.function)}; give one of them another name"
            )
        if other is not None:
            raise ConfigurationError(f"the handler {job_type.name!r} is registered twice")
        self._types[job_type.name] = job_type
        self._by_payload.clear()
        if self._bus is not None:
            job_type.bind(self._bus)
        return job_type

    def bind(self, bus: Enqueuer) -> None:
        """Let all job types, present and to come, enqueue through ``bus``."""
        self._bus = bus
        for job_type in self._types.values():
            job_type.bind(bus)

    def get(self, name: str) -> JobType[Any, Any] | None:
        """The job type of that name, or None."""
        return self._types.get(name)

    def for_payload(self, payload: type) -> JobType[Any, Any] | None:
        """The job type whose payloads are instances of this class, or of one that it derives from.

        Raises ConfigurationError when several are: then the class does not say which is meant.
        """
        if payload not in self._by_payload:
            self._by_payload[payload] = self._taker_of(payload)
        return self._by_payload[payload]

    def _taker_of(self, payload: type) -> JobType[Any, Any] | None:
        for kind in payload.__mro__:
            takers = [each for each in self if each.payload_class is kind]
            if len(takers) > 1:
                names = ", ".join(each.name for each in takers)
                raise ConfigurationError(
                    f"{payload.__name__} is the payload of several job types ({names}); "
                    "enqueue through the one that is meant"
                )
            if takers:
                return takers[0]
        return None

    def __iter__(self) -> Iterator[JobType[Any, Any]]:
        return iter(list(self._types.values()))

    def __len__(self) -> int:
        return len(self._types)

    def __contains__(self, name: object) -> bool:
        return name in self._types


def make_job_type(
    function: Callable[..., Any],
    *,
    bus: Enqueuer | None = None,
    annotations: Mapping[str, Any] | None = None,
    observers: Mapping[Notice, Sequence[Callback]] | None = None,
    **options: Unpack[JobTypeOptions],
) -> JobType[..., Any]:
    """A job type of ``function``, registered nowhere.

    ``annotations`` stand in for the function's own; ``observers`` are told how its jobs fare.
    Raises ConfigurationError for functions that no payload can call and options that cannot work.
    """
    name: str = options.get("name", getattr(function, "__name__", ""))
    try:
        check_name("job type", name)
        if name in RESERVED:
            raise ConfigurationError(
                f"{name!r} cannot name a job type: the HTTP API has another use for the word"
            )
        signature = Signature(function, job_type=name, annotations=annotations)
        settings = _settings(name, signature, options)
    except InvalidJob as error:
        raise ConfigurationError(f"handler {_place(function)}: {error}") from error
    made: type[JobType[..., Any]] = AsyncJobType if signature.is_async else SyncJobType
    return made(function, settings, signature, bus=bus, observers=observers)


def _settings(name: str, signature: Signature, options: JobTypeOptions) -> JobTypeSettings:
    isolation = _isolation(name, signature.is_async, options)
    timeout, expires_in = options.get("timeout"), options.get("expires_in")
    return JobTypeSettings(
        name=name,
        queue=check_name("queue", options.get("queue", DEFAULT_QUEUE)),
        priority=normalise_priority(options.get("priority", Priority.NORMAL)),
        retry=_policy(name, options),
        max_crashes=_at_least_one(name, "max_crashes", options.get("max_crashes", 3)),
        timeout=timeout if timeout is None else as_duration("timeout", timeout, least=NO_DELAY),
        isolation=isolation,
        expires_in=(
            expires_in
            if expires_in is None
            else as_duration("expires_in", expires_in, least=NO_DELAY)
        ),
        memory_limit=_of_child(name, isolation, "memory_limit", options.get("memory_limit")),
        jobs_per_child=_of_child(name, isolation, "jobs_per_child", options.get("jobs_per_child")),
        payload_limit=min(
            HARD_LIMIT,
            _at_least_one(name, "payload_limit", options.get("payload_limit", DEFAULT_LIMIT)),
        ),
        naturally_idempotent=options.get("naturally_idempotent", False),
    )


def _policy(name: str, options: JobTypeOptions) -> RetryPolicy:
    policy = options.get("retry", "default")
    if isinstance(policy, str):
        if policy not in PRESETS:
            raise ConfigurationError(
                f"job type {name}: there is no retry policy {policy!r}; "
                f"there are {', '.join(PRESETS)}"
            )
        policy = PRESETS[policy]
    if "max_attempts" not in options:
        return policy
    attempts = _at_least_one(name, "max_attempts", options["max_attempts"])
    return replace(policy, max_attempts=attempts)


def _isolation(name: str, is_async: bool, options: JobTypeOptions) -> Isolation:
    asked = options.get("isolation", Isolation.LOOP if is_async else Isolation.THREAD)
    try:
        isolation = Isolation(asked)
    except ValueError as error:
        raise ConfigurationError(
            f"job type {name}: isolation is {', '.join(Isolation)}; not {asked!r}"
        ) from error
    if is_async and isolation is Isolation.THREAD:
        raise ConfigurationError(
            f"job type {name}: an async handler runs on the loop or in a process, not in a thread"
        )
    return isolation


def _of_child(name: str, isolation: Isolation, what: str, value: int | None) -> int | None:
    if value is None:
        return None
    if isolation is not Isolation.PROCESS:
        raise ConfigurationError(
            f'job type {name}: {what} is a limit of child processes; add isolation="process"'
        )
    return _at_least_one(name, what, value)


def _at_least_one(name: str, what: str, value: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ConfigurationError(
            f"job type {name}: {what} is a whole number of at least 1, not {value!r}"
        )
    return value


def _place(function: Callable[..., Any]) -> str:
    module = getattr(function, "__module__", "?")
    return f"{module}.{getattr(function, '__qualname__', repr(function))}"
