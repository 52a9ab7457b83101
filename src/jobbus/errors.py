"""Everything jobbus raises.

::

    JobbusError
    ├── ConfigurationError         the settings cannot work as given; found at start-up
    │   ├── Unsupported            the chosen backend declares that it cannot do this
    │   ├── MissingDependency      a client library is not installed; names the exact pip command
    │   └── SchemaMismatch         the database's schema is older or newer than this code
    ├── BackendError               the broker or database answered badly
    │   ├── BackendUnavailable     transient: the same call may succeed later
    │   ├── BackendFull            no room left to write; nothing was half-written
    │   └── LeaseLost              another worker holds, or has settled, this delivery
    ├── InvalidJob                 an enqueue asked for something that can never be right
    │   ├── PayloadError           a payload cannot be encoded or decoded
    │   │   └── PayloadTooLarge
    │   ├── UnknownJobType         nobody has registered this job type
    │   └── IdempotencyMismatch    an idempotency key was used before, for another payload
    ├── JobNotFound                the store holds no such job
    ├── JobFailed                  raised to those who wait for a result: the job ended without one
    ├── WaitTimeout                the job had not ended when the caller's patience ran out
    └── HandlerCrashed             the process that ran the handler died under it

Handlers steer their own job with the signals: :class:`Retry`, :class:`Snooze`, :class:`Reject`,
:class:`RateLimited`, :class:`PermanentError`. Those are not errors of jobbus.

Every error carries an ``exit_code`` for the command line: 1 a job failed, 2 usage or configuration,
3 backend unreachable, 4 not found, 5 conflict.
"""

from __future__ import annotations

from datetime import timedelta
from typing import ClassVar


class JobbusError(Exception):
    """Base of every error that jobbus raises on its own account."""

    exit_code: ClassVar[int] = 2


class ConfigurationError(JobbusError):
    """The settings cannot work as given."""


class Unsupported(ConfigurationError):
    """The chosen backend declares that it cannot do this."""


class MissingDependency(ConfigurationError):
    """A client library is not installed."""


class SchemaMismatch(ConfigurationError):
    """The database's schema does not fit this version of jobbus."""


class BackendError(JobbusError):
    """The broker or database answered badly; its own error is ``__cause__``."""

    exit_code = 3


class BackendUnavailable(BackendError):
    """A transient failure: the same call may succeed later."""


class BackendFull(BackendError):
    """The disk, quota or page limit is used up. Nothing of the call was kept."""


class LeaseLost(BackendError):
    """Another worker holds, or has settled, this delivery."""

    exit_code = 5


class InvalidJob(JobbusError):
    """A job as given could never run; nothing was written."""


class PayloadError(InvalidJob):
    """A payload cannot be encoded or decoded, now or ever."""


class PayloadTooLarge(PayloadError):
    """A payload or result is larger than the limit."""


class UnknownJobType(InvalidJob):
    """No handler is registered under this name, here or by any worker."""


class IdempotencyMismatch(InvalidJob):
    """The idempotency key was used before, for a job of this type with another payload."""

    exit_code = 5


class JobNotFound(JobbusError):
    """The store holds no such job."""

    exit_code = 4


class JobFailed(JobbusError):
    """The awaited job ended without a result."""

    exit_code = 1


class WaitTimeout(JobbusError, TimeoutError):
    """The job had not ended in the time given. It goes on."""

    exit_code = 1


class HandlerCrashed(JobbusError):
    """The child process that ran the handler died: killed, out of memory, or ``os._exit``."""

    exit_code = 1


class Signal(Exception):
    """Raised by handlers to steer their own job."""


class Retry(Signal):
    """Try again after ``after``, else after the policy's delay. Counts as an attempt."""

    def __init__(self, reason: str = "", *, after: timedelta | None = None) -> None:
        super().__init__(reason)
        self.after = after


class Snooze(Signal):
    """Not now: a closed window, a missing input. Does not count as an attempt."""

    def __init__(self, after: timedelta, reason: str = "") -> None:
        super().__init__(reason or f"snoozed for {after}")
        self.after = after


class RateLimited(Signal):
    """Somebody asked us to slow down. Waits ``retry_after`` and burns no attempt."""

    def __init__(self, retry_after: timedelta, reason: str = "") -> None:
        super().__init__(reason or f"rate limited for {retry_after}")
        self.retry_after = retry_after


class PermanentError(Signal):
    """This job can never succeed: it goes to the dead letters now."""


class Reject(PermanentError):
    """The same as :class:`PermanentError`, said by a handler that looked at its input."""


class Cancelled(Signal):
    """The job was asked to stop, and its handler did."""
