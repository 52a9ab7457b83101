"""Handlers as classes, for jobs that have callbacks beside their work."""

from __future__ import annotations

import inspect
import re
import typing
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any, ClassVar, Final, Generic, TypeVar, cast

from jobbus.annotations import Names
from jobbus.context import JobContext
from jobbus.handlers import JobTypeOptions, make_job_type
from jobbus.job import Progress
from jobbus.job_type import Callback, Enqueuer, Isolation, JobType, Notice
from jobbus.retry import RetryPolicy

PayloadT = TypeVar("PayloadT")
ResultT = TypeVar("ResultT")

_CALLBACKS: Final[tuple[tuple[Notice, str], ...]] = (
    ("progress", "on_progress"),
    ("complete", "on_complete"),
    ("error", "on_error"),
)
_HUMP: Final = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")


class _NameOfClass:
    """The name of the class it is read from, as the name of a job type."""

    def __get__(self, instance: object, owner: type) -> str:
        name = owner.__name__.removesuffix("Processor") or owner.__name__
        return _HUMP.sub("_", name.lstrip("_")).lower()


class JobProcessor(ABC, Generic[PayloadT, ResultT]):
    """A handler with callbacks. ``process`` is the work, sync or async; the rest is optional.

    A callback that fails is logged, and changes nothing about the job. The class attributes are
    the options of the job type; :class:`~jobbus.handlers.JobTypeOptions` tells what they mean.
    """

    job_type: ClassVar[str] = cast("str", _NameOfClass())
    """``send_mail`` for a class ``SendMailProcessor``, unless a class says otherwise."""
    queue: ClassVar[str]
    priority: ClassVar[int | str]
    max_attempts: ClassVar[int]
    max_crashes: ClassVar[int]
    timeout: ClassVar[timedelta | float | None]
    retry: ClassVar[RetryPolicy | str]
    isolation: ClassVar[Isolation | str]
    expires_in: ClassVar[timedelta | float | None]
    memory_limit: ClassVar[int | None]
    jobs_per_child: ClassVar[int | None]
    payload_limit: ClassVar[int]
    naturally_idempotent: ClassVar[bool]

    @abstractmethod
    def process(self, payload: PayloadT, context: JobContext) -> Awaitable[ResultT] | ResultT:
        """Do the work; return the result."""
        ...

    def on_progress(self, context: JobContext, progress: Progress) -> Awaitable[None] | None:
        """After progress has been reported."""
        return None

    def on_complete(self, context: JobContext, result: ResultT) -> Awaitable[None] | None:
        """After the job has completed."""
        return None

    def on_error(self, context: JobContext, error: BaseException) -> Awaitable[None] | None:
        """After an attempt has failed, whether or not there will be another."""
        return None


class BaseJobProcessor(JobProcessor[PayloadT, ResultT]):
    """A processor that can say how far it is."""

    def update_progress(
        self, context: JobContext, percent: float, stage: str = "", message: str = ""
    ) -> None:
        """The same as :meth:`JobContext.progress`."""
        context.progress(percent, stage, message)


def processor_job_type(
    processor: JobProcessor[PayloadT, ResultT],
    *,
    name: str | None = None,
    bus: Enqueuer | None = None,
) -> JobType[[PayloadT], ResultT]:
    """The job type that runs ``processor``, registered nowhere; ``name`` stands over its own.

    Raises ConfigurationError for options that cannot work.
    """
    kind = type(processor)
    options: dict[str, Any] = {
        key: getattr(processor, key)
        for key in JobTypeOptions.__annotations__
        if key != "name" and hasattr(processor, key)
    }
    observers: dict[Notice, tuple[Callback, ...]] = {
        event: (getattr(processor, method),)
        for event, method in _CALLBACKS
        if getattr(kind, method) is not getattr(JobProcessor, method)
    }
    job_type = make_job_type(
        _function(processor),
        bus=bus,
        annotations=_annotations(kind),
        observers=observers,
        **{**options, "name": name or processor.job_type},
    )
    return cast("JobType[[PayloadT], ResultT]", job_type)


def _function(processor: JobProcessor[Any, Any]) -> Callable[..., Any]:
    """``process`` with its context first."""
    if inspect.iscoroutinefunction(processor.process):

        async def run_async(context: JobContext, payload: Any) -> Any:
            return await processor.process(payload, context)

        run: Callable[..., Any] = run_async
    else:

        def run_sync(context: JobContext, payload: Any) -> Any:
            return processor.process(payload, context)

        run = run_sync
    run.__qualname__ = f"{type(processor).__qualname__}.process"
    run.__module__ = type(processor).__module__
    return run


def _annotations(kind: type[JobProcessor[Any, Any]]) -> dict[str, Any]:
    """The types of payload and result: as ``process`` says, else as the class's base does."""
    signature = inspect.signature(kind.process)
    said = {
        "payload": list(signature.parameters.values())[1].annotation,
        "return": signature.return_annotation,
    }
    names = Names.of(kind.process)
    hints = names.resolve_all(said, kind.__qualname__)
    for key, argument in zip(hints, _type_arguments(kind), strict=True):
        if said[key] is inspect.Parameter.empty or isinstance(hints[key], TypeVar):
            hints[key] = names.resolve_all({key: argument}, kind.__qualname__)[key]
    return hints


def _type_arguments(kind: type) -> tuple[Any, ...]:
    """What a class puts in the places of PayloadT and ResultT."""
    for base in (*vars(kind).get("__orig_bases__", ()), *kind.__bases__):
        origin = typing.get_origin(base) or base
        if origin is JobProcessor:
            return typing.get_args(base) or (Any, Any)
        if isinstance(origin, type) and issubclass(origin, JobProcessor):
            given = dict(
                zip(getattr(origin, "__parameters__", ()), typing.get_args(base), strict=False)
            )
            return tuple(given.get(each, each) for each in _type_arguments(origin))
    return (Any, Any)
