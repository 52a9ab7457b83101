"""Queues of Amazon SQS, standard and FIFO, without a ledger.

Delivery: at least once, under visibility timeouts that are extended. SQS is durable, keeps messages
for up to 14 days, and fences nothing: a worker learns from its own clock that its lease is over.
A retry on a standard queue is a copy that carries the counters, sent before the old message is
deleted: it may duplicate a job and never loses one. On a FIFO queue the message itself is hidden
for a while, so that its group waits; every hand-out then counts as a failed attempt.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Self

from jobbus.errors import (
    BackendError,
    BackendUnavailable,
    ConfigurationError,
    MissingDependency,
    Unsupported,
)
from jobbus.message import (
    DEFAULT_QUEUE,
    Abandonment,
    Capabilities,
    Completion,
    DeadLetter,
    Delivery,
    LeaseState,
    Message,
    QueueDepth,
)

try:
    from .client import DEADLINE, BlockingClient, BotoSession, Client, address_of
except ImportError as error:
    raise MissingDependency('the SQS backend needs boto3: pip install "jobbus[sqs]"') from error

from .burials import dead_letter_of, grave_of, with_unreadable
from .envelope import Envelope
from .limits import (
    FIFO,
    MAX_ENTRIES,
    MAX_WAIT,
    STANDARD,
    check_lease,
    check_message,
    check_size,
    refuse_transaction,
)
from .places import Naming, Places
from .polls import Ask, Polls
from .provisioning import Provisioning
from .receipts import ATTRIBUTES, Place, entry, read
from .settling import Settling, put_back, set_aside

if TYPE_CHECKING:
    from jobbus.settings import Settings

_LONGEST_PAUSE: Final = 1.0
"""Seconds between looks where there are no long polls, or the lease is too short for one."""
_SPARE_RECEIVES: Final = 20
"""How many more receives than attempts and crashes SQS allows before it redrives by itself."""
_MAX_CRASHES: Final = 3
_NAMED: Final = 20
"""Job ids in one error message."""
_COUNTS: Final = (
    "ApproximateNumberOfMessages",
    "ApproximateNumberOfMessagesNotVisible",
    "ApproximateNumberOfMessagesDelayed",
)


class AwsSqsQueue:
    """Jobs in queues of SQS, which all of an account's machines share."""

    def __init__(
        self,
        queue_url: str,
        *,
        dead_letter_queue_url: str | None = None,
        region: str | None = None,
        endpoint_url: str | None = None,
        fifo: bool = False,
        queue_prefix: str | None = None,
        wait_time: timedelta = MAX_WAIT,
        max_messages: int = MAX_ENTRIES,
        pollers: int = 4,
        queues: Sequence[str] = (DEFAULT_QUEUE,),
        max_attempts: int = 3,
        _session: BotoSession | None = None,
    ) -> None:
        """``queues`` and ``max_attempts`` are for :meth:`create` and :meth:`warnings` only."""
        _session = _session or BotoSession()
        given = dict(locals())
        self._options = {name: given[name] for name in given if name not in ("self", "queue_url")}
        self._naming = Naming(
            queue_url=queue_url,
            dead_letter_queue_url=dead_letter_queue_url,
            prefix=queue_prefix,
            fifo=fifo or queue_url.endswith(".fifo"),
        )
        if self._naming.fifo and not queue_url.endswith(".fifo"):
            raise ConfigurationError(
                f"aws_sqs.use_fifo_queue is set, and the name of {queue_url} does not end in .fifo"
            )
        self._wait_time = min(int(wait_time.total_seconds()), int(MAX_WAIT.total_seconds()))
        # Of one group only the first may be handed out, and one receive may bring several.
        self._per_request = 1 if self._naming.fifo else max_messages
        self._pollers = pollers
        address = address_of(
            queue_url, region=region, endpoint_url=endpoint_url, wait=self._wait_time
        )
        self._client = Client(address, _session)
        self._places = Places(self._client, self._naming)
        self._settling = Settling(self._client, self._places)
        self._polls: Polls | None = None

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        """The queues that the settings name."""
        chosen = settings.aws_sqs
        if not chosen.queue_url:
            raise ConfigurationError(
                "the SQS backend needs a queue: set BACKGROUND_JOBS__AWSSQS__QUEUEURL to its URL, "
                "such as https://sqs.us-west-2.amazonaws.com/123456789012/jobs"
            )
        return cls(
            chosen.queue_url,
            dead_letter_queue_url=chosen.dead_letter_queue_url,
            region=chosen.region,
            endpoint_url=chosen.endpoint_url,
            fifo=chosen.use_fifo_queue,
            queue_prefix=chosen.queue_prefix,
            wait_time=timedelta(seconds=chosen.wait_time_seconds),
            max_messages=chosen.max_number_of_messages,
            pollers=chosen.pollers,
            queues=tuple(dict.fromkeys((DEFAULT_QUEUE, *settings.queues))),
            max_attempts=settings.max_attempts,
        )

    @property
    def location(self) -> str:
        """The URL of the queue ``default``, for people to read."""
        return self._naming.queue_url

    @property
    def capabilities(self) -> Capabilities:
        return FIFO if self._naming.fifo else STANDARD

    async def open(self) -> None:
        """Find credentials and the queue ``default``.

        Raises ConfigurationError when it is not there, is of the other type, may not be used with
        these credentials, or has nowhere for dead letters; BackendUnavailable when SQS cannot be
        reached.
        """
        if self._client.is_open:
            return
        await self._client.open()
        try:
            await self._places.dead_letters(await self._places.find(DEFAULT_QUEUE))
        except BackendUnavailable:
            await self.close()
            raise
        except BackendError as error:
            await self.close()
            raise ConfigurationError(str(error)) from error
        except BaseException:
            await self.close()
            raise
        blocking = self._client.bound()
        self._polls = Polls(
            self._client.threads, partial(_receive, blocking), partial(put_back, blocking)
        )

    async def close(self) -> None:
        if self._polls is not None:
            self._polls.close()
            self._polls = None
        self._client.close()
        self._places.forget()

    def separate(self) -> AwsSqsQueue:
        return AwsSqsQueue(self._naming.queue_url, **self._options)

    async def create(self) -> list[str]:
        """Make the queues and the dead-letter queue where they are missing; return what was made.

        Works on a queue that is not open. Leaves alone what is there, but for a redrive policy that
        is missing. The policy is a safety net, far above what jobs need.
        """
        return await self._provision(lambda provisioning: provisioning.create())

    async def warnings(self) -> list[str]:
        """What is doubtful about the queues, each with its remedy. Needs no :meth:`open`."""
        return await self._provision(lambda provisioning: provisioning.warnings())

    async def _provision(self, what: Callable[[Provisioning], Awaitable[list[str]]]) -> list[str]:
        client = self._client.separate()
        places = Places(client, self._naming)
        await client.open()
        try:
            return await what(
                Provisioning(
                    client,
                    places,
                    self._naming,
                    queues=self._options["queues"],
                    max_receive_count=(
                        self._options["max_attempts"] + _MAX_CRASHES + _SPARE_RECEIVES
                    ),
                )
            )
        finally:
            client.close()

    async def enqueue(
        self, messages: Sequence[Message], *, connection: Any | None = None
    ) -> Sequence[str]:
        """Check every message, then send. SQS accepts message by message, not all or none.

        Where it accepts some only, the error says which are missing: enqueue those again. The same
        job twice is one job on a FIFO queue for five minutes, and two messages on a standard queue.
        """
        refuse_transaction(connection)
        self._client.check_open()
        fifo = self._naming.fifo
        delays = [check_message(message, fifo=fifo) for message in messages]
        by_url: dict[str, list[tuple[Message, dict[str, Any]]]] = {}
        for message, delay in zip(messages, delays, strict=True):
            place = await self._places.find(message.queue)
            sent = entry(place, Envelope(message=message, delay=delay))
            check_size(sent["MessageBody"], message.job_type, place.largest)
            by_url.setdefault(place.url, []).append((message, sent))
        refused: list[tuple[Message, BackendError]] = []
        for url, pairs in by_url.items():
            outcomes = await self._client.batch(
                "send_message_batch", "enqueueing", url, [sent for _, sent in pairs], ordered=fifo
            )
            refused += [
                (message, outcome)
                for (message, _), outcome in zip(pairs, outcomes, strict=True)
                if outcome is not None
            ]
        if refused:
            raise _partial(refused, len(messages))
        return [message.job_id for message in messages]

    async def receive(
        self, queue: str, *, limit: int, wait: timedelta, lease: timedelta
    ) -> Sequence[Delivery]:
        """One long poll while there is nothing; several requests at once to take what is there."""
        check_lease(lease)
        self._client.check_open()
        return await self._receive(await self._places.find(queue), limit, wait, lease)

    async def _receive(
        self, place: Place, limit: int, wait: timedelta, lease: timedelta
    ) -> Sequence[Delivery]:
        deadline = time.monotonic() + wait.total_seconds()
        if wait <= timedelta(0):
            return await self._look(place, limit, lease)
        while (left := deadline - time.monotonic()) > 0:
            seconds = min(self._wait_time, int(lease.total_seconds() / 3), math.ceil(left))
            found = await self._poll(place, limit, seconds, lease, patience=left)
            if found:
                return found
            if not seconds:
                await asyncio.sleep(min(_LONGEST_PAUSE, lease.total_seconds() / 10, left))
        return []

    async def complete(
        self, done: Sequence[Completion], *, connection: Any | None = None
    ) -> Sequence[Delivery]:
        refuse_transaction(connection)
        self._client.check_open()
        return await self._settling.complete([one.delivery for one in done])

    async def abandon(self, back: Sequence[Abandonment]) -> Sequence[Delivery]:
        """A copy with the counters on a standard queue; on a FIFO queue the message itself."""
        self._client.check_open()
        return await self._settling.abandon(back)

    async def dead_letter(self, dead: Sequence[DeadLetter]) -> Sequence[Delivery]:
        """To the dead-letter queue, with the reasons as message attributes ``jobbus.*``."""
        self._client.check_open()
        return await self._settling.dead_letter(dead)

    @property
    def gives_delayed(self) -> bool:
        return False

    async def receive_delayed(self, queue: str, *, limit: int) -> Sequence[Delivery]:
        raise Unsupported("SQS gives nobody a message before it is due, in 15 minutes at most")

    @property
    def takes_dead(self) -> bool:
        return True

    async def receive_dead(
        self, queue: str, *, limit: int, wait: timedelta, lease: timedelta
    ) -> Sequence[DeadLetter]:
        """From the dead-letter queue, which may be that of other queues too.

        Needs the right to receive, hide and delete there.
        """
        check_lease(lease)
        self._client.check_open()
        place = await self._places.find(queue)
        grave = grave_of(place, await self._places.dead_letters(place))
        return [dead_letter_of(one) for one in await self._receive(grave, limit, wait, lease)]

    async def enqueue_dead(self, dead: Sequence[DeadLetter]) -> None:
        self._client.check_open()
        await self._settling.enqueue_dead(dead)

    async def extend(self, held: Sequence[Delivery], lease: timedelta) -> Sequence[LeaseState]:
        """Up to eleven hours after the receive; then the lease counts as lost."""
        self._client.check_open()
        return await self._settling.extend(held, lease)

    async def get_queue_depth(self, queue: str) -> QueueDepth:
        """SQS's own approximate counts, a minute late at times.

        One dead-letter queue serves all queues: it is counted with the queue ``default``.
        """
        self._client.check_open()
        place = await self._places.find_or_none(queue)
        if place is None:
            return QueueDepth(ready=0)
        said = await self._places.attributes(place.url, *_COUNTS)
        ready, leased, delayed = (int(said.get(name, 0)) for name in _COUNTS)
        dead = None
        if queue == DEFAULT_QUEUE and place.dead_letters is not None:
            there = await self._places.attributes(place.dead_letters, _COUNTS[0])
            dead = int(there.get(_COUNTS[0], 0))
        return QueueDepth(ready=ready, leased=leased, delayed=delayed, dead=dead)

    async def _look(self, place: Place, limit: int, lease: timedelta) -> Sequence[Delivery]:
        """What is there now, with as many requests at once as may be needed and are allowed."""
        if self._polling.standing(self._ask(place, limit, 0, lease)):
            return []
        requests = min(self._pollers, math.ceil(limit / self._per_request))
        share = math.ceil(limit / requests)
        limits = [min(share, limit - share * index) for index in range(requests)]
        polls = [
            asyncio.create_task(self._poll(place, each, 0, lease, patience=DEADLINE))
            for each in limits
            if each > 0
        ]
        try:
            await asyncio.wait(polls)
        except asyncio.CancelledError:
            for poll in polls:
                poll.add_done_callback(self._polling.returned)
                poll.cancel()
            raise
        found = [one for poll in polls if not poll.exception() for one in poll.result()]
        failures = [failure for poll in polls if (failure := poll.exception())]
        if failures and not found:
            raise failures[0]
        return found

    async def _poll(
        self, place: Place, limit: int, seconds: int, lease: timedelta, *, patience: float
    ) -> Sequence[Delivery]:
        return await self._polling.first(self._ask(place, limit, seconds, lease), patience)

    def _ask(self, place: Place, limit: int, seconds: int, lease: timedelta) -> Ask:
        limit = min(limit, self._per_request)
        return Ask(place=place, limit=limit, seconds=seconds, lease=lease)

    @property
    def _polling(self) -> Polls:
        if self._polls is None:
            raise BackendUnavailable("this SQS queue is not open")
        return self._polls


def _receive(client: BlockingClient, ask: Ask) -> list[Delivery]:
    """In a thread: one request. What cannot be read goes to the dead letters on the way."""
    asked_at = time.monotonic()
    answer = client.call(
        "receive_message",
        f"receiving from {ask.place.queue}",
        QueueUrl=ask.place.url,
        MaxNumberOfMessages=ask.limit,
        WaitTimeSeconds=ask.seconds,
        VisibilityTimeout=check_lease(ask.lease),
        MessageSystemAttributeNames=list(ATTRIBUTES),
        MessageAttributeNames=["All"] if ask.place.dead else [],
    )
    arrivals = read(answer, ask.place, asked_at=asked_at, lease=ask.lease)
    if ask.place.dead:
        return with_unreadable(arrivals)
    # If it cannot, they come again when their lease is over; what else came must not wait for that.
    with contextlib.suppress(BackendError):
        set_aside(client, arrivals)
    return arrivals.deliveries


def _partial(refused: Sequence[tuple[Message, BackendError]], number: int) -> BackendError:
    """The error for messages that SQS did not accept, of one kind with the first of their own."""
    error = refused[0][1]
    ids = ", ".join(message.job_id for message, _ in refused[:_NAMED])
    more = f" and {len(refused) - _NAMED} more" if len(refused) > _NAMED else ""
    told = type(error)(
        f"SQS accepted {number - len(refused)} of {number} messages; not accepted, so enqueue them "
        f"again: {ids}{more}. {error}"
    )
    told.__cause__ = error
    return told
