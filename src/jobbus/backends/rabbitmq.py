"""A queue on RabbitMQ: quorum queues, confirmed publishing, the broker's own waits for delays.

Delivery: at least once. A message is held until it is settled or its connection ends; there is no
lease to run out. Whatever becomes of a message but its completion is a copy of it, confirmed before
the first is acknowledged (RM-4), so that its counters travel with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final, Self

from jobbus.errors import BackendError, MissingDependency, Unsupported
from jobbus.message import (
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
    from .amqp import envelope as wire
    from .amqp import rules
    from .amqp.broker import Broker
    from .amqp.consuming import Consumer, Receipt, Source, tag_of
    from .amqp.letters import Letters, raise_first
    from .amqp.link import address, readable, warnings_about
    from .amqp.options import Options, read_options
    from .amqp.publishing import Letter
    from .amqp.waits import Waits
except ImportError as error:
    if error.name is not None and error.name.startswith("jobbus"):
        raise
    raise MissingDependency(
        'the RabbitMQ backend needs aiormq: pip install "jobbus[rabbitmq]"'
    ) from error

if TYPE_CHECKING:
    from aiormq.abc import DeliveredMessage

    from jobbus.settings import Settings

_HOUSEKEEPING_SECONDS: Final = 1
_CLOSE_SECONDS: Final = 5


class RabbitMqQueue:
    """Jobs on a RabbitMQ broker, moved and not remembered.

    ``queues`` are those that :meth:`create` makes, and that :meth:`open` looks for where it may not
    make them; others are made, or looked for, at their first use.
    """

    def __init__(
        self,
        url: str,
        *,
        queues: Sequence[str] = ("default",),
        queue_prefix: str = "jobbus",
        create_topology: str = "auto",
        heartbeat: timedelta = timedelta(seconds=30),
        consumer_timeout: timedelta = timedelta(minutes=30),
    ) -> None:
        self._options = Options(
            url=url,
            queue_prefix=queue_prefix,
            create_topology=create_topology,
            heartbeat=heartbeat,
            consumer_timeout=consumer_timeout,
        )
        self._queues = tuple(queues)
        self._broker = Broker(self._options)
        self._topology = self._broker.topology
        self._letters = Letters(self._topology)
        self._waits = Waits(self._broker, self._letters)
        self._housekeeping: asyncio.Task[None] | None = None

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        """A queue on the broker that the settings name."""
        options = read_options(settings.provider_options("rabbitmq"))
        return cls(queues=settings.queues, **asdict(options))

    @property
    def capabilities(self) -> Capabilities:
        return rules.CAPABILITIES

    @property
    def location(self) -> str:
        """Which broker and virtual host, for people to read; without its password."""
        return readable(address(self._options.url))

    async def warnings(self) -> list[str]:
        """What an operator should know of the address, though it works."""
        return warnings_about(address(self._options.url))

    @property
    def max_job_timeout(self) -> timedelta:
        """The longest time limit of a job; before :meth:`open`, as if the server were old."""
        return rules.longest_job(self._broker.version or (), self._options.consumer_timeout)

    async def open(self) -> None:
        """Connect, and make what is missing.

        Raises ConfigurationError where the broker refuses the user or the virtual host, where the
        user may not make what is missing, and where it exists with other arguments.
        """
        await self._broker.open(self._queues)
        if self._housekeeping is None:
            self._housekeeping = asyncio.create_task(self._keep_house(), name="jobbus-rabbitmq")

    async def close(self) -> None:
        if self._housekeeping is not None:
            self._housekeeping.cancel()
            await asyncio.gather(self._housekeeping, return_exceptions=True)
            self._housekeeping = None
            with contextlib.suppress(TimeoutError):  # then the connection's end returns the rest
                async with asyncio.timeout(_CLOSE_SECONDS):
                    for consumer in list(self._broker.consumers.values()):
                        await self._hand_back(consumer)
        await self._broker.close()

    def separate(self) -> RabbitMqQueue:
        return RabbitMqQueue(queues=self._queues, **asdict(self._options))

    async def create(self) -> list[str]:
        """Declare everything, on a queue that is open or not; return the queues' names.

        Raises ConfigurationError for what exists with other arguments.
        """
        return await self._broker.create(self._queues)

    async def missing(self) -> list[str]:
        """What :meth:`create` would make, by the broker's names; on a queue that is open or not."""
        return await self._broker.missing(self._queues)

    async def enqueue(
        self, messages: Sequence[Message], *, connection: Any | None = None
    ) -> Sequence[str]:
        """Publish, and wait for the broker to confirm each.

        What is refused is refused before anything is sent. After BackendUnavailable nobody knows
        which of the messages are there: enqueue them again; jobs that were there run twice.
        """
        self._refuse(connection)
        now = time.time()
        letters = [self._letters.first(message, self.max_job_timeout, now) for message in messages]
        outcomes = await self._broker.send(letters, {message.queue for message in messages})
        raise_first(outcomes)
        return [message.job_id for message in messages]

    async def receive(
        self, queue: str, *, limit: int, wait: timedelta, lease: timedelta
    ) -> Sequence[Delivery]:
        """Hand out what came to this queue's consumer; ``lease`` means nothing here.

        Messages that no jobbus wrote, and jobs whose connection ended under them too often, go to
        the dead letters instead.
        """
        consumer = await self._broker.consumer(queue)
        deadline = time.monotonic() + wait.total_seconds()
        while True:
            taken = await consumer.take(limit, max(deadline - time.monotonic(), 0.0))
            deliveries = await self._sort_out(consumer, taken)
            if deliveries or not taken:
                return deliveries

    async def complete(
        self, done: Sequence[Completion], *, connection: Any | None = None
    ) -> Sequence[Delivery]:
        self._refuse(connection)
        lost: list[Delivery] = []
        mine: dict[Consumer, list[Delivery]] = defaultdict(list)
        for each in done:
            if self._take_in_hand(each.delivery, "complete", lost):
                mine[each.delivery.receipt.consumer].append(each.delivery)
        for consumer, deliveries in mine.items():
            if not await consumer.acknowledge([each.receipt.tag for each in deliveries]):
                lost += deliveries
        return lost

    async def abandon(self, back: Sequence[Abandonment]) -> Sequence[Delivery]:
        for each in back:
            rules.check_delay(each.delay)
        groups: dict[Source, list[Abandonment]] = defaultdict(list)
        for each in back:
            groups[_receipt(each.delivery).consumer.source].append(each)
        letters = [(each.delivery, self._letters.back(each)) for each in groups[Source.DUE]]
        letters += self._letters_until_due([each.delivery for each in groups[Source.DELAYED]])
        lost = await self._put_back([each.delivery for each in groups[Source.DEAD]])
        return [*lost, *await self._pass_on("abandon", letters)]

    def _letters_until_due(self, early: Sequence[Delivery]) -> list[tuple[Delivery, Letter]]:
        """Copies into the waits; with them goes what was found there and not handed out."""
        rest = [
            one for queue in {d.message.queue for d in early} for one in self._waits.rest(queue)
        ]
        return [
            (each, self._letters.until_due(wire.envelope_behind(each, _due(each))))
            for each in [*early, *rest]
        ]

    async def dead_letter(self, dead: Sequence[DeadLetter]) -> Sequence[Delivery]:
        now = time.time()
        letters = [
            (
                each.delivery,
                self._letters.dead(
                    wire.envelope_behind(each.delivery, now), each.problem, each.timed_out
                ),
            )
            for each in dead
        ]
        return await self._pass_on("dead_letter", letters)

    @property
    def gives_delayed(self) -> bool:
        return True

    async def receive_delayed(self, queue: str, *, limit: int) -> Sequence[Delivery]:
        """Out of the waits, which are common to all queues: what is for others is put back."""
        return await self._waits.receive(queue, limit)

    @property
    def takes_dead(self) -> bool:
        return True

    async def receive_dead(
        self, queue: str, *, limit: int, wait: timedelta, lease: timedelta
    ) -> Sequence[DeadLetter]:
        """What is there; the broker knows, so that there is no wait, and ``lease`` means nothing.

        Of what RabbitMQ itself set aside it keeps the reason, and no count of deliveries: so many
        are added as it takes.
        """
        consumer = await self._broker.consumer(queue, Source.DEAD)
        return [
            wire.dead_letter_of(each, queue, Receipt(consumer, tag_of(each)))
            for each in await consumer.get(limit)
        ]

    async def enqueue_dead(self, dead: Sequence[DeadLetter]) -> None:
        now = time.time()
        longest = self.max_job_timeout
        letters = [self._letters.died_elsewhere(each, longest, now) for each in dead]
        queues = {each.delivery.message.queue for each in dead}
        raise_first(await self._broker.send(letters, queues))

    async def extend(self, held: Sequence[Delivery], lease: timedelta) -> Sequence[LeaseState]:
        """Say whether the channel that delivered is still there: as long as it is, so is the hold.

        Works on a queue object other than the one that received, and from another thread.
        """
        return [LeaseState.KEPT if _receipt(each).held else LeaseState.LOST for each in held]

    async def get_queue_depth(self, queue: str) -> QueueDepth:
        """Ready and dead. What another process has prefetched is in neither count."""
        ready = await self._broker.count(self._topology.queue(queue))
        consumer = self._broker.consumers.get(queue)
        return QueueDepth(
            ready=ready + (consumer.waiting if consumer is not None else 0),
            dead=await self._broker.count(self._topology.dead(queue)),
        )

    def _refuse(self, connection: Any | None) -> None:
        if connection is not None:
            raise Unsupported(
                "RabbitMQ cannot join a transaction of yours: choose a provider that keeps a ledger"
            )

    # moving

    async def _sort_out(
        self, consumer: Consumer, taken: Sequence[DeliveredMessage]
    ) -> list[Delivery]:
        """Deliveries for workers; what cannot be run goes to the dead letters at once (D-17)."""
        now = time.time()
        deliveries: list[Delivery] = []
        hopeless: dict[int, Letter] = {}
        for each in taken:
            tag = tag_of(each)
            try:
                envelope = wire.envelope_of(each, consumer.name)
            except wire.Undecodable as error:
                hopeless[tag] = self._letters.foreign(each, consumer.name, str(error))
                continue
            if envelope.crashes and envelope.crashes >= envelope.message.max_crashes:
                hopeless[tag] = self._letters.dead(envelope, wire.poison(envelope))
            else:
                deliveries.append(wire.delivery_of(envelope, Receipt(consumer, tag), now))
        if hopeless:
            left = {tag_of(each): each for each in taken}
            try:
                await self._replace(consumer, hopeless, left)
            except BaseException:
                consumer.give_up(left.values())
                raise
        return deliveries

    async def _replace(
        self, consumer: Consumer, letters: dict[int, Letter], left: dict[int, Any]
    ) -> None:
        """Send the letters in place of the messages with these tags; take those out of ``left``.

        Raises the first error after all were tried.
        """
        outcomes = await self._broker.send(list(letters.values()), {consumer.name})
        sent = [tag for tag, error in zip(letters, outcomes, strict=True) if error is None]
        for tag in sent:
            del left[tag]
        await consumer.acknowledge(sent)
        raise_first(outcomes)

    async def _hand_back(self, consumer: Consumer) -> None:
        """Return what came and was not taken: a copy each, so that it counts as no delivery."""
        with contextlib.suppress(BackendError):  # then the connection's end returns it
            left = {tag_of(each): each for each in await consumer.stop()}
            letters = {}
            for tag, each in left.items():
                try:
                    letters[tag] = self._letters.letter(wire.envelope_of(each, consumer.name))
                except wire.Undecodable as error:
                    letters[tag] = self._letters.foreign(each, consumer.name, str(error))
            try:
                await self._replace(consumer, letters, left)
            finally:
                consumer.give_up(left.values())

    async def _keep_house(self) -> None:
        while True:
            await asyncio.sleep(_HOUSEKEEPING_SECONDS)
            for consumer in list(self._broker.consumers.values()):
                if consumer.unasked():
                    await self._hand_back(consumer)

    # settling

    def _take_in_hand(self, delivery: Delivery, verb: str, lost: list[Delivery]) -> bool:
        """Whether this verb is now to settle the delivery; if it is not ours, add it to ``lost``.

        A verb that settled it before is satisfied: settling twice is settling once.
        """
        receipt = _receipt(delivery)
        if receipt.outcome == verb:
            return False
        if not receipt.held or not self._broker.owns(receipt.consumer):
            lost.append(delivery)
            return False
        receipt.outcome = verb
        return True

    async def _put_back(self, dead: Sequence[Delivery]) -> list[Delivery]:
        """Let dead letters go, as they are; return those that were not ours."""
        lost: list[Delivery] = []
        for each in dead:
            if self._take_in_hand(each, "abandon", lost):
                receipt = _receipt(each)
                if not await receipt.consumer.put_back([receipt.tag]):
                    lost.append(each)
        return lost

    async def _pass_on(
        self, verb: str, moves: Sequence[tuple[Delivery, Letter]]
    ) -> Sequence[Delivery]:
        """Send each letter in place of its delivery; return those deliveries that were not ours."""
        lost: list[Delivery] = []
        mine = [each for each in moves if self._take_in_hand(each[0], verb, lost)]
        if not mine:
            return lost
        by_consumer: dict[Consumer, dict[int, tuple[Receipt, Letter]]] = defaultdict(dict)
        for delivery, letter in mine:
            receipt = _receipt(delivery)
            by_consumer[receipt.consumer][receipt.tag] = (receipt, letter)
        for consumer, pairs in by_consumer.items():
            left: dict[int, Any] = {tag: receipt for tag, (receipt, _) in pairs.items()}
            try:
                letters = {tag: letter for tag, (_, letter) in pairs.items()}
                await self._replace(consumer, letters, left)
            finally:
                for receipt in left.values():
                    receipt.outcome = ""
        return lost


def _due(early: Delivery) -> float:
    run_at = early.message.run_at
    return time.time() if run_at is None else run_at.timestamp()


def _receipt(delivery: Delivery) -> Receipt:
    receipt = delivery.receipt
    if not isinstance(receipt, Receipt):
        raise TypeError(f"job {delivery.job_id} was not delivered by RabbitMQ")
    return receipt
