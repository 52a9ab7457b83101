"""Messages that name several jobs: where many are wanted at once, a broker carries few.

Each ticket in a bundle is a delivery of its own to whoever receives; the message is acknowledged
with the last of them. What is not wanted goes back in a message of its own, sent before that.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Final, TypeVar

from jobbus.errors import BackendError
from jobbus.ids import new_id, parse_id
from jobbus.message import (
    Abandonment,
    Capabilities,
    Completion,
    CountsAs,
    DeadLetter,
    Delivery,
    LeaseState,
    Message,
    Priority,
    new_message,
    with_receipt,
)
from jobbus.queue import BackgroundJobQueue

log = logging.getLogger("jobbus.tracked")

TICKET: Final = "jobbus-ticket"
"""The header of messages that only name jobs of the ledger: the attempts before this one of the job
that the message is of, or :data:`_SEVERAL`."""
_SEVERAL: Final = "several"
_DELIVERIES: Final = 50
"""How often a ticket may die with its worker: crashes of jobs are the ledger's to count.

As many as RabbitMQ lets us ask for. A ticket that the broker sets aside is one that it lost.
"""
_MESSAGES: Final = 20
"""Into so many messages a large hand-over goes, so that several workers can share it."""
_LARGEST: Final = 1000
_LARGEST_BODY: Final = 64 * 1024
_LARGEST_NUMBER: Final = 10**10
S = TypeVar("S", Completion, Abandonment)


def divided(messages: Sequence[Message]) -> list[Sequence[Message]]:
    """Jobs that are to travel together, in their order: of many, a twentieth each."""
    size = max(1, min(len(messages) // _MESSAGES, _LARGEST))
    return [messages[start : start + size] for start in range(0, len(messages), size)]


def tickets_for(jobs: Sequence[Message], *, ranked: bool = False) -> Message:
    """What travels: the names of these jobs of one queue, so that a broker's limits do not matter.

    ``ranked`` is said where the broker knows priorities, and then of one job.
    """
    first = jobs[0]
    one = len(jobs) == 1
    names = [[job.job_id, job.prior_attempts] for job in jobs]
    return Message(
        job_id=first.job_id if one else new_id(),
        job_type=first.job_type,
        queue=first.queue,
        payload=b"{}" if one else json.dumps(names).encode(),
        headers={TICKET: str(first.prior_attempts) if one else _SEVERAL},
        priority=first.priority if ranked else Priority.NORMAL,
        max_crashes=_DELIVERIES,
        prior_attempts=first.prior_attempts if one else 0,
    )


@dataclass(slots=True, eq=False)
class Bundle:
    """A message that named several jobs, and how many of them are not done with."""

    message: Delivery
    left: int


@dataclass(slots=True, eq=False)
class Share:
    """The receipt of one ticket in a bundle."""

    bundle: Bundle
    settled: bool = False


class Bundles:
    """A broker, as one whose messages name one job each."""

    def __init__(self, broker: BackgroundJobQueue) -> None:
        self._broker = broker
        self._sizes: dict[str, float] = {}
        """Tickets in a message, as they came last, by queue."""

    @property
    def capabilities(self) -> Capabilities:
        return self._broker.capabilities

    async def enqueue(self, messages: Sequence[Message]) -> None:
        await self._broker.enqueue(messages)

    async def receive(
        self, queue: str, *, limit: int, wait: timedelta, lease: timedelta
    ) -> list[Delivery]:
        """Up to ``limit`` tickets, and messages that are none."""
        asked = math.ceil(limit / self._sizes.get(queue, 1.0))
        messages = await self._broker.receive(queue, limit=asked, wait=wait, lease=lease)
        tickets = [one for message in messages for one in _unpacked(message)]
        if messages:
            self._sizes[queue] = len(tickets) / len(messages)
        if tickets[limit:]:
            await self._give_back(tickets[limit:])
        return tickets[:limit]

    async def complete(self, done: Sequence[Completion]) -> None:
        """Those that were lost are not told apart: nobody here asks."""
        over, plain = _apart(done)
        ready = [*plain, *(Completion(delivery=one) for one in _ended(over))]
        if ready:
            await self._broker.complete(ready)

    async def abandon(self, back: Sequence[Abandonment]) -> None:
        shares, plain = _apart(back)
        if plain:
            await self._broker.abandon(plain)
        if shares:
            await self._send_again([one.delivery for one in shares])

    async def dead_letter(self, dead: Sequence[DeadLetter]) -> None:
        """For messages that are no tickets."""
        await self._broker.dead_letter(dead)

    async def extend(self, held: Sequence[Delivery], lease: timedelta) -> Sequence[LeaseState]:
        """Of each message once; nobody here asks what came of it."""
        messages = {
            id(message): message
            for one in held
            for message in [one.receipt.bundle.message if isinstance(one.receipt, Share) else one]
        }
        return await self._broker.extend(list(messages.values()), lease)

    async def _give_back(self, surplus: Sequence[Delivery]) -> None:
        """What came beyond the limit, for other workers. Nothing is lost if they cannot have it."""
        release = CountsAs.RELEASE
        try:
            await self.abandon([Abandonment(delivery=one, counts_as=release) for one in surplus])
        except BackendError as error:
            log.warning("tickets could not be given back; they will come again: %s", error)

    async def _send_again(self, tickets: Sequence[Delivery]) -> None:
        """First what takes their place, then their own end."""
        by_bundle: dict[int, list[Message]] = {}
        for one in tickets:
            by_bundle.setdefault(id(one.receipt.bundle), []).append(one.message)
        again = [tickets_for(messages) for messages in by_bundle.values()]
        size = self.capabilities.max_batch or len(again)
        for start in range(0, len(again), size):
            await self._broker.enqueue(again[start : start + size])
        await self.complete([Completion(delivery=one) for one in tickets])


def _apart(settled: Sequence[S]) -> tuple[list[S], list[S]]:
    """Those of tickets in bundles, and the others."""
    shares = [one for one in settled if isinstance(one.delivery.receipt, Share)]
    plain = [one for one in settled if not isinstance(one.delivery.receipt, Share)]
    return shares, plain


def _ended(done: Sequence[Completion]) -> list[Delivery]:
    """The messages of which the last ticket is settled now."""
    ended = []
    for one in done:
        share: Share = one.delivery.receipt
        if not share.settled:
            share.settled = True
            share.bundle.left -= 1
            if not share.bundle.left:
                ended.append(share.bundle.message)
    return ended


def _unpacked(message: Delivery) -> list[Delivery]:
    """The tickets in a message; the message itself, if it is no bundle, or a broken one."""
    if message.message.headers.get(TICKET) != _SEVERAL:
        return [message]
    try:
        named = _named(message.message.payload)
    except ValueError:
        return [message]
    bundle = Bundle(message, len(named))
    outer = message.message
    return [
        with_receipt(
            message,
            Share(bundle),
            new_message(
                job_id,
                outer.job_type,
                b"{}",
                outer.queue,
                max_crashes=outer.max_crashes,
                prior_attempts=attempts,
                headers={TICKET: str(attempts)},
            ),
        )
        for job_id, attempts in named
    ]


def _named(payload: bytes) -> list[tuple[str, int]]:
    """Jobs and attempts, as anybody may have written them. Raises ValueError."""
    if len(payload) > _LARGEST_BODY:
        raise ValueError("it is too large")
    try:
        found = json.loads(payload)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    if not isinstance(found, list) or not 0 < len(found) <= _LARGEST:
        raise ValueError("it names no jobs, or too many")
    named = []
    for entry in found:
        match entry:
            case [str() as job_id, int() as attempts] if (
                parse_id(job_id) == job_id and 0 <= attempts < _LARGEST_NUMBER
            ):
                named.append((job_id, attempts))
            case _:
                raise ValueError("an entry is no id and number of attempts")
    return named
