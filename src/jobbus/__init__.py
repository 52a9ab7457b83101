"""Background jobs: write a job once, run it on SQLite, Postgres, or a broker, by one setting.

This page is the table of contents of the public names. They load when first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jobbus.bus import JobBus as JobBus
    from jobbus.context import JobContext as JobContext
    from jobbus.errors import BackendError as BackendError
    from jobbus.errors import BackendFull as BackendFull
    from jobbus.errors import BackendUnavailable as BackendUnavailable
    from jobbus.errors import Cancelled as Cancelled
    from jobbus.errors import ConfigurationError as ConfigurationError
    from jobbus.errors import HandlerCrashed as HandlerCrashed
    from jobbus.errors import IdempotencyMismatch as IdempotencyMismatch
    from jobbus.errors import InvalidJob as InvalidJob
    from jobbus.errors import JobbusError as JobbusError
    from jobbus.errors import JobFailed as JobFailed
    from jobbus.errors import JobNotFound as JobNotFound
    from jobbus.errors import LeaseLost as LeaseLost
    from jobbus.errors import MissingDependency as MissingDependency
    from jobbus.errors import PayloadError as PayloadError
    from jobbus.errors import PayloadTooLarge as PayloadTooLarge
    from jobbus.errors import PermanentError as PermanentError
    from jobbus.errors import RateLimited as RateLimited
    from jobbus.errors import Reject as Reject
    from jobbus.errors import Retry as Retry
    from jobbus.errors import SchemaMismatch as SchemaMismatch
    from jobbus.errors import Snooze as Snooze
    from jobbus.errors import UnknownJobType as UnknownJobType
    from jobbus.errors import Unsupported as Unsupported
    from jobbus.errors import WaitTimeout as WaitTimeout
    from jobbus.handlers import EnqueueOptions as EnqueueOptions
    from jobbus.handlers import Handlers as Handlers
    from jobbus.job import EventType as EventType
    from jobbus.job import Job as Job
    from jobbus.job import JobEvent as JobEvent
    from jobbus.job import JobState as JobState
    from jobbus.job import Problem as Problem
    from jobbus.job import Progress as Progress
    from jobbus.job_type import Isolation as Isolation
    from jobbus.job_type import JobType as JobType
    from jobbus.message import Capabilities as Capabilities
    from jobbus.message import Delivery as Delivery
    from jobbus.message import Dependency as Dependency
    from jobbus.message import Message as Message
    from jobbus.message import OnFailure as OnFailure
    from jobbus.message import Priority as Priority
    from jobbus.message import QueueDepth as QueueDepth
    from jobbus.middleware import Middleware as Middleware
    from jobbus.processor import BaseJobProcessor as BaseJobProcessor
    from jobbus.processor import JobProcessor as JobProcessor
    from jobbus.queue import BackgroundJobQueue as BackgroundJobQueue
    from jobbus.retry import Backoff as Backoff
    from jobbus.retry import RetryPolicy as RetryPolicy
    from jobbus.settings import Settings as Settings
    from jobbus.settings import load_settings as load_settings
    from jobbus.store import CancelOutcome as CancelOutcome
    from jobbus.store import JobFilter as JobFilter
    from jobbus.store import JobStore as JobStore
    from jobbus.store import Page as Page
    from jobbus.sync import SyncJobBus as SyncJobBus
    from jobbus.worker import Worker as Worker

__version__ = "0.1.0"

_HOMES = {
    # Enqueue, look, steer
    "jobbus.bus": ("JobBus",),
    "jobbus.sync": ("SyncJobBus",),
    "jobbus.handlers": ("EnqueueOptions", "Handlers"),
    "jobbus.store": ("CancelOutcome", "JobFilter", "JobStore", "Page"),
    "jobbus.job": ("EventType", "Job", "JobEvent", "JobState", "Problem", "Progress"),
    # Handle
    "jobbus.context": ("JobContext",),
    "jobbus.job_type": ("Isolation", "JobType"),
    "jobbus.middleware": ("Middleware",),
    "jobbus.processor": ("BaseJobProcessor", "JobProcessor"),
    "jobbus.retry": ("Backoff", "RetryPolicy"),
    "jobbus.worker": ("Worker",),
    # Backends
    "jobbus.message": (
        "Capabilities", "Delivery", "Dependency", "Message", "OnFailure", "Priority", "QueueDepth",
    ),
    "jobbus.queue": ("BackgroundJobQueue",),
    "jobbus.settings": ("Settings", "load_settings"),
    # Errors and signals
    "jobbus.errors": (
        "BackendError", "BackendFull", "BackendUnavailable", "Cancelled", "ConfigurationError",
        "HandlerCrashed", "IdempotencyMismatch", "InvalidJob", "JobFailed", "JobNotFound",
        "JobbusError", "LeaseLost",
        "MissingDependency", "PayloadError", "PayloadTooLarge", "PermanentError", "RateLimited",
        "Reject", "Retry", "SchemaMismatch", "Snooze", "UnknownJobType", "Unsupported",
        "WaitTimeout",
    ),
}  # fmt: skip
_WHERE = {name: module for module, names in _HOMES.items() for name in names}

__all__ = sorted(_WHERE)


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'jobbus' has no attribute {name!r}")
    return getattr(import_module(_WHERE[name]), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
