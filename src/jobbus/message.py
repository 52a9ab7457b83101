"""What travels: messages, deliveries, settlements, and what a queue declares that it can do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import IntEnum, StrEnum
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from jobbus.job import Problem

DEFAULT_QUEUE: Final = "default"
DEFAULT_LEASE: Final = timedelta(seconds=60)
NO_DELAY: Final = timedelta(0)
IDEMPOTENCY_KEY: Final = "idempotency-key"
"""The header in which a caller's own idempotency key travels, on every backend."""


class Priority(IntEnum):
    """1 to 10; higher runs sooner. Any number in between is as good as a name."""

    LOW = 2
    NORMAL = 5
    HIGH = 8


class OnFailure(StrEnum):
    """What becomes of a job when one that it depends on ends without success."""

    FAIL = "fail"
    """It fails too, and goes to the dead letters."""
    SKIP = "skip"
    """It is cancelled."""
    RUN = "run"
    """It runs all the same, once the other has ended."""


@dataclass(frozen=True, slots=True)
class Dependency:
    """An edge: the job may start only when ``job_id`` has ended."""

    job_id: str
    on_failure: OnFailure = OnFailure.FAIL


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """A job on its way to a worker, with everything that was asked for it."""

    job_id: str
    """A UUID made by the client, so that enqueueing twice is enqueueing once."""
    job_type: str
    """Names the handler, e.g. ``video.render``. Never a Python path."""
    payload: bytes
    queue: str = DEFAULT_QUEUE
    headers: Mapping[str, str] = field(default_factory=dict)
    priority: int = Priority.NORMAL
    group: str | None = None
    """Messages of one group are delivered in order, one at a time."""
    delay: timedelta = NO_DELAY
    run_at: datetime | None = None
    """A moment instead of a delay; given both, the later one holds."""
    expires_at: datetime | None = None
    """A job that does not run by then never does again: it becomes ``expired``.

    Holds before every attempt of the first generation; a redrive is not bound by it.
    """
    max_attempts: int = 3
    """Tries in all, the first included."""
    max_crashes: int = 3
    timeout: timedelta | None = None
    """Overrides the job type's own."""
    unique_key: str | None = None
    """At most one unfinished job of a job type holds a key."""
    depends_on: tuple[Dependency, ...] = ()
    parent_id: str | None = None
    tags: tuple[str, ...] = ()
    metadata: Mapping[str, Any] = field(default_factory=dict)
    prior_attempts: int = 0
    """Attempts made under earlier messages of the same job."""

    @property
    def idempotency_key(self) -> str | None:
        """The caller's own key: jobs of one type that share it do their work once."""
        return self.headers.get(IDEMPOTENCY_KEY)

    @property
    def id(self) -> str:
        """The same for a resend, different for a retry: safe to deduplicate on."""
        return f"{self.job_id}.{self.prior_attempts}"


class _OpenMessage(Message):
    """A message in the making."""

    __slots__ = ()
    # Both, though nothing is deleted: they share a slot, and one left frozen makes setting slow.
    __setattr__ = object.__setattr__
    __delattr__ = object.__delattr__


def new_message(
    job_id: str,
    job_type: str,
    payload: bytes,
    queue: str = DEFAULT_QUEUE,
    priority: int = Priority.NORMAL,
    max_attempts: int = 3,
    max_crashes: int = 3,
    prior_attempts: int = 0,
    *,
    headers: Mapping[str, str] | None = None,
    group: str | None = None,
    expires_at: datetime | None = None,
    timeout: timedelta | None = None,
    unique_key: str | None = None,
    parent_id: str | None = None,
    tags: tuple[str, ...] = (),
    metadata: Mapping[str, Any] | None = None,
) -> Message:
    """``Message(...)`` for hot paths: filled in before it is frozen, at a fifth of the price."""
    message: Any = object.__new__(_OpenMessage)
    message.job_id = job_id
    message.job_type = job_type
    message.payload = payload
    message.queue = queue
    message.headers = {} if headers is None else headers
    message.priority = priority
    message.group = group
    message.delay = NO_DELAY
    message.run_at = None
    message.expires_at = expires_at
    message.max_attempts = max_attempts
    message.max_crashes = max_crashes
    message.timeout = timeout
    message.unique_key = unique_key
    message.depends_on = ()
    message.parent_id = parent_id
    message.tags = tags
    message.metadata = {} if metadata is None else metadata
    message.prior_attempts = prior_attempts
    message.__class__ = Message
    made: Message = message
    return made


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """A message in one worker's hands, until its lease runs out."""

    message: Message
    receipt: Any
    """Opaque to everyone but the queue that made it."""
    attempt: int
    """Counts hand-outs of the job; only ever grows. It is the fencing token."""
    failures: int = 0
    """Attempts so far that ended in an error; what ``max_attempts`` is held against."""
    crashes: int = 0
    """Attempts so far that ended with the death of their process."""
    enqueued_at: datetime | None = None
    wait: timedelta = NO_DELAY
    """How long the job could have run already, by the store's clock."""
    received_at: float | None = None
    """Monotonic seconds just before the queue was asked for it: its lease is no older than that."""

    @property
    def job_id(self) -> str:
        return self.message.job_id


class _OpenDelivery(Delivery):
    """A delivery in the making."""

    __slots__ = ()
    # Both, as in _OpenMessage.
    __setattr__ = object.__setattr__
    __delattr__ = object.__delattr__


def new_delivery(
    message: Message,
    receipt: Any,
    attempt: int,
    failures: int,
    crashes: int,
    enqueued_at: datetime | None,
    wait: timedelta,
    received_at: float | None = None,
) -> Delivery:
    """``Delivery(...)`` for hot paths: filled in before it is frozen."""
    delivery: Any = object.__new__(_OpenDelivery)
    delivery.message = message
    delivery.receipt = receipt
    delivery.attempt = attempt
    delivery.failures = failures
    delivery.crashes = crashes
    delivery.enqueued_at = enqueued_at
    delivery.wait = wait
    delivery.received_at = received_at
    delivery.__class__ = Delivery
    made: Delivery = delivery
    return made


class CountsAs(StrEnum):
    """Against which of a job's budgets an abandoned attempt is held."""

    FAILURE = "failure"
    CRASH = "crash"
    SNOOZE = "snooze"
    """Rate limits, closed windows. Against none."""
    RELEASE = "release"
    """Handed back unstarted or by a shutdown. Against none, and told apart in the history."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """The delivery is done with: completed, or cancelled while it ran."""

    delivery: Delivery
    result: bytes | None = None
    cancelled: bool = False
    reason: str = ""


class _OpenCompletion(Completion):
    """A completion in the making."""

    __slots__ = ()
    # Both, as in _OpenMessage.
    __setattr__ = object.__setattr__
    __delattr__ = object.__delattr__


def new_completion(delivery: Delivery, result: bytes | None) -> Completion:
    """``Completion(...)`` for hot paths: filled in before it is frozen."""
    completion: Any = object.__new__(_OpenCompletion)
    completion.delivery = delivery
    completion.result = result
    completion.cancelled = False
    completion.reason = ""
    completion.__class__ = Completion
    made: Completion = completion
    return made


@dataclass(frozen=True, slots=True, kw_only=True)
class Abandonment:
    """The delivery goes back and becomes receivable again after ``delay``."""

    delivery: Delivery
    delay: timedelta = NO_DELAY
    counts_as: CountsAs = CountsAs.FAILURE
    problem: Problem | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """The delivery is set aside where no worker receives it, with the reason."""

    delivery: Delivery
    problem: Problem
    timed_out: bool = False
    """The last attempt ran out of time: the job ends ``timed_out`` instead of ``failed``."""


class LeaseState(StrEnum):
    """What :meth:`BackgroundJobQueue.extend` found, per delivery."""

    KEPT = "kept"
    LOST = "lost"
    CANCEL_REQUESTED = "cancel_requested"
    """Kept, and somebody asked for the job to stop."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueDepth:
    """How much is there. ``None`` means that this queue cannot say."""

    ready: int
    leased: int | None = None
    delayed: int | None = None
    blocked: int | None = None
    dead: int | None = None
    oldest_age: timedelta | None = None
    """How long the oldest ready message has been ready; None when there is none."""
    oldest_unsent: timedelta | None = None
    """Behind a ledger: how long the oldest of those that are not with the broker yet has been
    ready; zero when there is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """What a queue does natively: a promise in both directions.

    What is declared works and is proven by :class:`jobbus.testing.QueueConformance`; what is not
    declared raises :class:`~jobbus.errors.Unsupported` and is never quietly ignored.
    """

    durable: bool
    """Accepted messages survive the death of every process."""
    ledger: bool
    """The queue is also a :class:`~jobbus.store.JobStore` over the same rows."""
    deduplicates: bool
    """A message whose job is already known is dropped."""
    ordered_groups: bool
    priorities: bool
    dependencies: bool
    unique_keys: bool
    expiry: bool
    transactional: bool
    """Enqueues and completes in the caller's own database transaction."""
    extends_leases: bool
    exact_counts: bool
    delays: bool = True
    """A message may be enqueued with a delay or for a moment."""
    max_delay: timedelta | None = None
    """Longest delay on enqueue, where ``delays``, and on abandon. None is unlimited."""
    max_lease: timedelta | None = None
    max_batch: int | None = None
    max_payload: int = 1024 * 1024
    """Bytes."""
    retention: timedelta | None = None
    """How long after its enqueue a message may still come again, from the dead letters too.

    None where a ledger decides, or where messages stay for ever, which no key can outlive.
    """


BARE_BROKER: Final = Capabilities(
    durable=True,
    ledger=False,
    deduplicates=False,
    ordered_groups=False,
    priorities=False,
    dependencies=False,
    unique_keys=False,
    expiry=False,
    transactional=False,
    extends_leases=True,
    exact_counts=False,
)
"""What most brokers do: move messages durably, under leases. A backend declares what departs."""
