"""What becomes of an attempt that failed: policies, and the one pure decision."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum
from typing import Final

from jobbus.errors import (
    Cancelled,
    ConfigurationError,
    PayloadError,
    PermanentError,
    RateLimited,
    Retry,
    Snooze,
)

MAX_DELAY: Final = timedelta(hours=24)
MAX_EXPONENT: Final = 20
RETRY_AFTER_RANGE: Final = (timedelta(seconds=1), timedelta(hours=1))
"""A rate limiter's own word is kept within these bounds."""


class Backoff(StrEnum):
    EXPONENTIAL = "exponential"
    LINEAR = "linear"
    FIXED = "fixed"


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """When a job that failed is tried again.

    ``max_attempts`` counts tries, the first included; a setting that counts *re*-tries is one less.
    A delay lies between half of the plain back-off and the whole of it (``jitter=True``), so that
    jobs that failed together do not come back together.
    """

    max_attempts: int = 3
    backoff: Backoff = Backoff.EXPONENTIAL
    base: timedelta = timedelta(seconds=5)
    cap: timedelta = timedelta(seconds=300)
    jitter: bool = True
    permanent: tuple[type[BaseException], ...] = ()
    """Exceptions of these classes go to the dead letters at once."""
    random: Callable[[], float] = field(default=random.random, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.max_attempts < 1:
            raise ValueError(
                f"max_attempts counts the first try: at least 1, not {self.max_attempts}"
            )
        if self.base < timedelta(0) or self.cap < timedelta(0):
            raise ValueError("a back-off cannot be negative")

    def delay(self, failures: int) -> timedelta:
        """The wait after the ``failures``-th failed attempt (1 is the first)."""
        plain: timedelta
        match self.backoff:
            case Backoff.EXPONENTIAL:
                plain = self.base * 2 ** min(max(failures - 1, 0), MAX_EXPONENT)
            case Backoff.LINEAR:
                plain = self.base * max(failures, 1)
            case Backoff.FIXED:
                plain = self.base
        plain = min(plain, self.cap, MAX_DELAY)
        return plain * (0.5 + 0.5 * self.random()) if self.jitter else plain


PRESETS: Final = {
    "default": RetryPolicy(),
    "aura": RetryPolicy(base=timedelta(seconds=5), cap=timedelta(seconds=300)),
    "bull": RetryPolicy(base=timedelta(seconds=2)),
    "honua": RetryPolicy(max_attempts=4),
    "cleancue": RetryPolicy(backoff=Backoff.FIXED, base=timedelta(seconds=5), jitter=False),
    "reporadar": RetryPolicy(base=timedelta(seconds=1)),
    "none": RetryPolicy(max_attempts=1),
}
"""Policies by name; all but the first and last carry a source system's own values (S0 to S4)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Again:
    """Try again after ``delay``; ``counts`` says whether this attempt is held against the job."""

    delay: timedelta
    counts: bool = True


@dataclass(frozen=True, slots=True)
class GiveUp:
    """To the dead letters."""

    timed_out: bool = False


@dataclass(frozen=True, slots=True)
class Stop:
    """The job was cancelled, and that is final."""


Decision = Again | GiveUp | Stop


def decide(
    error: BaseException, *, failures: int, policy: RetryPolicy, max_attempts: int | None = None
) -> Decision:
    """What to do about an attempt that raised ``error``.

    ``failures`` counts the failed attempts before this one; ``max_attempts`` is the job's own
    limit, where it has one. Pure but for the policy's jitter.
    """
    limit = max_attempts if max_attempts is not None else policy.max_attempts
    match error:
        case Cancelled():
            return Stop()
        case Snooze(after=after):
            return Again(delay=_clamp(after, timedelta(0), MAX_DELAY), counts=False)
        case RateLimited(retry_after=after):
            wait = _clamp(after, *RETRY_AFTER_RANGE)
            return Again(delay=wait * (1 + 0.1 * policy.random()), counts=False)
        case PermanentError() | PayloadError() | ConfigurationError():
            return GiveUp()
    if isinstance(error, policy.permanent):
        return GiveUp()
    if failures + 1 >= limit:
        return GiveUp(timed_out=isinstance(error, TimeoutError))
    if isinstance(error, Retry) and error.after is not None:
        return Again(delay=_clamp(error.after, timedelta(0), MAX_DELAY))
    return Again(delay=policy.delay(failures + 1))


def _clamp(value: timedelta, low: timedelta, high: timedelta) -> timedelta:
    return min(max(value, low), high)
