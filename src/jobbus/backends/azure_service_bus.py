"""Jobs on Azure Service Bus queues: at least once, under the broker's own locks.

A bare broker: it moves messages and remembers nothing. What a queue needs to be is in
docs/backends/azure-service-bus.md. A lease is a message's lock, which is as long as the queue's
LockDuration says, five minutes at most, and is renewed for as long as a job runs. In queues that
require sessions the lock is the session's, and groups keep their order.
"""

from __future__ import annotations

import asyncio
import functools
import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar

from jobbus.errors import BackendUnavailable, ConfigurationError, MissingDependency, Unsupported
from jobbus.message import (
    BARE_BROKER,
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
    from azure.servicebus import ServiceBusMessage
    from azure.servicebus.aio import ServiceBusSender

    from .service_bus import administration
    from .service_bus.burials import receive_dead
    from .service_bus.depth import count
    from .service_bus.failures import QueueMissing, told
    from .service_bus.hand_outs import SessionReceipt
    from .service_bus.links import Links
    from .service_bus.receiving import Clock, receive
    from .service_bus.scheduled import Schedule
    from .service_bus.sending import check, send
    from .service_bus.sessions import MAX_SESSIONS, Sessions, Verb, check_sessions
    from .service_bus.sessions import extend as extend_sessions
    from .service_bus.sessions import settle as settle_sessions
    from .service_bus.settling import Settling
    from .service_bus.wire import Carried, write
except ImportError as error:
    raise MissingDependency(
        "the Azure Service Bus backend needs azure-servicebus 7.15 or newer: pip install "
        '"jobbus[azure]"'
    ) from error

if TYPE_CHECKING:
    from jobbus.settings import Settings

S = TypeVar("S", Completion, Abandonment, DeadLetter)
LONGEST_LOCK: Final = timedelta(minutes=5)
"""Service Bus has none that is longer; renewals are unlimited."""
STANDARD_MESSAGE: Final = 256 * 1024
"""Bytes of a message in the Standard tier, properties included."""
_HEADERS: Final = 64 * 1024
"""What Service Bus allows for a message's header and properties; the rest is for the payload."""
_LARGEST_PAYLOAD: Final = 1024 * 1024
_NAME: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_./-]{0,258}[A-Za-z0-9])?")


def _utc_now() -> datetime:
    return datetime.now(UTC)


class AzureServiceBusQueue:
    """Jobs in Service Bus queues, shared by any number of machines.

    Give a ``connection_string``, or a ``namespace`` (``shop.servicebus.windows.net``) for the
    identity that azure-identity finds. The queue ``default`` is ``queue_name`` there, and every
    other one ``queue_prefix`` and its name. ``lock_duration`` is what the queues have, or are to be
    created with; no lease is longer. ``sessions`` says that they require sessions, which groups
    need; of each queue up to ``max_sessions`` are held at a time.
    """

    def __init__(
        self,
        connection_string: str | None = None,
        *,
        namespace: str | None = None,
        queue_name: str | None = None,
        queue_prefix: str = "",
        queues: Sequence[str] = (DEFAULT_QUEUE,),
        lock_duration: timedelta = timedelta(seconds=60),
        max_message_bytes: int = STANDARD_MESSAGE,
        sessions: bool = False,
        max_sessions: int = MAX_SESSIONS,
        clock: Clock = _utc_now,
    ) -> None:
        if (connection_string is None) == (namespace is None):
            raise ConfigurationError(
                "Service Bus needs a connection string or a namespace, and not both: set "
                "BACKGROUND_JOBS__AZURE_SERVICE_BUS__CONNECTION_STRING, or "
                "BACKGROUND_JOBS__AZURE_SERVICE_BUS__NAMESPACE to name.servicebus.windows.net"
            )
        if not timedelta(0) < lock_duration <= LONGEST_LOCK:
            raise ConfigurationError(
                f"Service Bus locks a message for at most 300 s, not {lock_duration}: set "
                "BACKGROUND_JOBS__AZURE_SERVICE_BUS__LOCK_DURATION_SECONDS to less"
            )
        if max_message_bytes <= _HEADERS:
            raise ConfigurationError(
                f"max_message_bytes must leave room for a payload: more than {_HEADERS}"
            )
        if max_sessions < 1:
            raise ConfigurationError(f"max_sessions must be at least 1, not {max_sessions}")
        self._access = administration.Access(connection_string, namespace)
        self._options: dict[str, Any] = {
            "namespace": namespace,
            "queue_name": queue_name,
            "queue_prefix": queue_prefix,
            "queues": tuple(queues),
            "lock_duration": lock_duration,
            "max_message_bytes": max_message_bytes,
            "sessions": sessions,
            "max_sessions": max_sessions,
            "clock": clock,
        }
        self._queue_name = queue_name
        self._prefix = queue_prefix
        self._queues = tuple(queues)
        self._lock_duration = lock_duration
        self._clock = clock
        self._links: Links | None = None
        self._settling: Settling
        self._schedule: Schedule
        self._with_sessions = sessions
        self._max_sessions = max_sessions
        self._sessions: Sessions | None = None
        self._capabilities = replace(
            BARE_BROKER,
            ordered_groups=sessions,
            max_lease=lock_duration,
            max_payload=min(max_message_bytes - _HEADERS, _LARGEST_PAYLOAD),
        )

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        """A queue in the namespace that the settings name."""
        given = administration.read_options(settings.provider_options("azure_service_bus"))
        return cls(**given, queues=settings.queues)

    @property
    def location(self) -> str:
        """Which namespace, and its queue ``default``, for people to read."""
        return f"{self._access.place}/{self._queue_name or self._prefix + DEFAULT_QUEUE}"

    @property
    def capabilities(self) -> Capabilities:
        return self._capabilities

    async def open(self) -> None:
        """Connect, and see that the queues are there.

        Raises BackendUnavailable when the namespace cannot be reached, BackendError for
        credentials that are refused or a queue that is missing, and ConfigurationError for one that
        has no sessions where the settings say that it has.
        """
        if self._links is not None:
            return
        self._links = Links(self._access.connect)
        self._settling = Settling(self._links, self._clock)
        self._schedule = Schedule(self._links, self._clock)
        try:
            await asyncio.gather(*(self._greet(name) for name in self._queues))
        except BaseException:
            await self.close()
            raise

    async def _greet(self, queue: str) -> None:
        async def nothing(sender: ServiceBusSender) -> None: ...

        entity, links = self._entity(queue), self._open_links()
        with told(f"opening queue {entity!r}"):
            checking = [check_sessions(links, entity)] if self._with_sessions else []
            await asyncio.gather(links.with_sender(entity, nothing), *checking)

    async def close(self) -> None:
        """Let go of all links, but for sessions with messages out: those until they are settled.

        The locks of the others last as long without a link.
        """
        if self._links is not None:
            links, self._links = self._links, None
            sessions, self._sessions = self._sessions, None
            if sessions is not None:
                await sessions.close()
            await links.close()

    def separate(self) -> AzureServiceBusQueue:
        return AzureServiceBusQueue(self._access.connection_string, **self._options)

    async def create(self, *, max_delivery_count: int = 100) -> list[str]:
        """Create the queues that are missing; return their names. Works on a closed queue.

        Needs a policy that may Manage. Raises Unsupported for an emulator, whose queues come from
        its own configuration, and ConfigurationError for a queue whose locks are too short.
        """
        wanted = [self._entity(name) for name in self._queues]
        with told("creating queues"):
            return await administration.create_queues(
                self._access,
                wanted,
                lock_duration=self._lock_duration,
                max_delivery_count=max_delivery_count,
                sessions=self._with_sessions,
            )

    async def warnings(self) -> list[str]:
        """What is doubtful about the queues, each with its remedy. Works on a closed queue."""
        links = Links(self._access.connect)
        try:
            asked = [self._entity(name) for name in self._queues]
            found = await asyncio.gather(*(self._mismatch(links, one) for one in asked))
        finally:
            await links.close()
        return [one for one in found if one]

    async def _mismatch(self, links: Links, entity: str) -> str | None:
        """What the settings say wrongly of the queue's sessions."""
        try:
            with told(f"receiving from queue {entity!r}"):
                if self._with_sessions:
                    await check_sessions(links, entity)
                else:
                    async with links.receiver(entity):
                        pass
        except ConfigurationError as error:
            return str(error)
        return None

    # in

    async def enqueue(
        self, messages: Sequence[Message], *, connection: Any | None = None
    ) -> Sequence[str]:
        """Send; what is refused is refused before anything is sent.

        All or nothing within one queue, as far as the messages fit into one batch of the broker's
        (256 KB in the Standard tier, else 1 MB), and belong to one session where the queue requires
        them. More go in several batches, in order, and a failure between two leaves the first ones
        sent.
        """
        _refuse(connection)
        by_entity: dict[str, list[ServiceBusMessage]] = {}
        for message in messages:
            check(message, self._capabilities)
            carried = Carried(message=message)
            written = write(carried, self._due(message), sessions=self._with_sessions)
            by_entity.setdefault(self._entity(message.queue), []).append(written)
        links = self._open_links()
        for entity, batch in by_entity.items():
            with told(f"sending to queue {entity!r}"):
                await links.with_sender(entity, functools.partial(send, messages=batch))
        return [message.job_id for message in messages]

    def _due(self, message: Message) -> datetime | None:
        now = self._clock()
        due = max(now + message.delay, message.run_at or now)
        return due if due > now else None

    # out

    async def receive(
        self, queue: str, *, limit: int, wait: timedelta, lease: timedelta
    ) -> Sequence[Delivery]:
        """Lock up to ``limit`` messages, each for the queue's LockDuration.

        Where fewer than ``limit`` are there, the client library looks 0.2 s for more. A job whose
        locks have run out ``max_crashes`` times goes to the dead letters, and so does what is no
        message of jobbus's. Raises ConfigurationError for a queue that requires sessions, or has
        none, unlike the settings say.
        """
        self._check_lease(lease)
        entity = self._entity(queue)
        links = self._open_links()
        with told(f"receiving from queue {entity!r}"):
            if self._with_sessions:
                found = self._open_sessions()
                return await found.receive(queue, entity, limit=limit, wait=wait)
            return await receive(links, queue, entity, limit=limit, wait=wait, clock=self._clock)

    def _check_lease(self, lease: timedelta) -> None:
        if lease > self._lock_duration:
            raise Unsupported(
                f"a lease of {lease} is longer than the queues' locks, {self._lock_duration}: set "
                "VISIBILITY_TIMEOUT_SECONDS to less, or LOCK_DURATION_SECONDS to what they have"
            )

    # back

    async def complete(
        self, done: Sequence[Completion], *, connection: Any | None = None
    ) -> Sequence[Delivery]:
        _refuse(connection)
        return await self._settle(done, "complete")

    async def abandon(self, back: Sequence[Abandonment]) -> Sequence[Delivery]:
        """Send a copy for the next attempt, and complete this one.

        Service Bus has no abandon with a delay, nor one that takes a count along. The copy goes
        first: a crash between the two may duplicate the job, and never loses it. A message of a
        group is not copied: it keeps its place, and its group waits for it.
        """
        return await self._settle(back, "abandon")

    async def dead_letter(self, dead: Sequence[DeadLetter]) -> Sequence[Delivery]:
        """To the queue's own dead letters, with the problem as reason and description."""
        return await self._settle(dead, "dead_letter")

    async def _settle(self, items: Sequence[S], verb: Verb) -> Sequence[Delivery]:
        """Under the locks of sessions, or of messages; returns those whose lock was lost."""
        settling = self._open_settling()
        inside, alone = _apart(items)
        act: Callable[[Any], Awaitable[bool]] = getattr(settling, verb)
        lost = await settling.lost([one.delivery for one in alone], alone, act)
        return lost + await settle_sessions(inside, verb)

    @property
    def gives_delayed(self) -> bool:
        """Not of queues that require sessions: those are looked into one session at a time."""
        return not self._with_sessions

    async def receive_delayed(self, queue: str, *, limit: int) -> Sequence[Delivery]:
        """Scheduled messages, but for those that fall due within a minute: nothing locks them."""
        if self._with_sessions:
            raise Unsupported(
                "what is scheduled in a session of Service Bus is received when it is due"
            )
        entity = self._entity(queue)
        self._open_links()
        with told(f"looking for scheduled messages of queue {entity!r}"):
            return await self._schedule.receive(queue, entity, limit)

    @property
    def takes_dead(self) -> bool:
        return False

    async def receive_dead(
        self, queue: str, *, limit: int, wait: timedelta, lease: timedelta
    ) -> Sequence[DeadLetter]:
        """From the queue's own dead letters, each for the queue's LockDuration."""
        self._check_lease(lease)
        entity = self._entity(queue)
        links = self._open_links()
        with told(f"receiving from the dead letters of queue {entity!r}"):
            return await receive_dead(
                links, queue, entity, limit=limit, wait=wait, clock=self._clock
            )

    async def enqueue_dead(self, dead: Sequence[DeadLetter]) -> None:
        raise Unsupported(
            "nobody can send to the dead letters of Service Bus: it keeps there what it delivered"
        )

    async def extend(self, held: Sequence[Delivery], lease: timedelta) -> Sequence[LeaseState]:
        """Renew the locks, each for the queue's LockDuration.

        Goes by the locks' tokens, and so through this queue's own connection whichever queue
        object received the messages. A session's lock goes through the session's own link, which
        hangs on no loop of its users.
        """
        self._check_lease(lease)
        settling = self._open_settling()
        inside = [one for one in held if isinstance(one.receipt, SessionReceipt)]
        alone = [one for one in held if not isinstance(one.receipt, SessionReceipt)]
        answers = [
            *zip(inside, await extend_sessions(inside), strict=True),
            *zip(
                alone,
                await settling.each([settling.renew(one.receipt) for one in alone]),
                strict=True,
            ),
        ]
        kept = {id(one) for one, answer in answers if answer}
        return [LeaseState.KEPT if id(one) in kept else LeaseState.LOST for one in held]

    async def get_queue_depth(self, queue: str) -> QueueDepth:
        """Counted by peeking, up to 1000 of a kind. ``ready`` has the leased ones in it."""
        entity = self._entity(queue)
        links = self._open_links()
        try:
            with told(f"counting queue {entity!r}"):
                return await count(links, entity, self._clock, sessions=self._with_sessions)
        except QueueMissing:
            return QueueDepth(ready=0)

    def _entity(self, queue: str) -> str:
        chosen = self._queue_name if queue == DEFAULT_QUEUE else None
        name = chosen or f"{self._prefix}{queue}"
        if _NAME.fullmatch(name) is None:
            raise ConfigurationError(
                f"Service Bus cannot name a queue {name!r}: it takes letters, digits and . - _ /, "
                "with a letter or digit at both ends"
            )
        return name

    def _open_links(self) -> Links:
        if self._links is None:
            raise BackendUnavailable("the Service Bus queue is not open")
        return self._links

    def _open_sessions(self) -> Sessions:
        if self._sessions is None:
            most = self._max_sessions
            self._sessions = Sessions(self._access.connect, self._clock, self._lock_duration, most)
        return self._sessions

    def _open_settling(self) -> Settling:
        self._open_links()
        return self._settling


def _apart(items: Sequence[S]) -> tuple[list[S], list[S]]:
    """Those of deliveries that came in sessions, and the others: dead letters have none."""
    inside = [one for one in items if isinstance(one.delivery.receipt, SessionReceipt)]
    alone = [one for one in items if not isinstance(one.delivery.receipt, SessionReceipt)]
    return inside, alone


def _refuse(connection: Any | None) -> None:
    if connection is not None:
        raise Unsupported(
            "Service Bus cannot join a database's transaction: use a provider with a ledger"
        )
