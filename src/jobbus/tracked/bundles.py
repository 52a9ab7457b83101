"""Messages that name several jobs: where many are wanted at once, a broker carries few.

Each ticket in a message is settled by itself by whoever received it; the message is acknowledged
with the last of them. What is not wanted goes back in a message of its own, sent before that.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Final, TypeVar

from pydantic_core import from_json, to_json

from jobbus.errors import BackendError
from jobbus.ids import new_id, parse_id
from jobbus.job import Problem
from jobbus.message import (
    Abandonment,
    Capabilities,
    Completion,
    CountsAs,
    DeadLetter,
    Delivery,
    Message,
    Priority,
)
from jobbus.queue import BackgroundJobQueue
from jobbus.store import Ticket

log = logging.getLogger("jobbus.tracked")

TICKET: Final = "jobbus-ticket"
"""The header of messages that only name jobs of the ledger: the attempts before this one of the job
that the message is of, or :data:`_SEVERAL`."""
_SEVERAL: Final = "several"
_DELIVERIES: Final = 50
"""How often a ticket may die with its worker: crashes of jobs are the ledger's to count.

As many as RabbitMQ lets us ask for. A ticket that the broker sets aside is one that it lost.
"""
_MESSAGES: Final = 10
"""Into so many messages a large hand-over goes, so that several workers can share it."""
_BUNDLED: Final = 40
"""A hand-over is large from so many jobs on."""
_LARGEST: Final = 1000
_LARGEST_BODY: Final = 64 * 1024
_LARGEST_NUMBER: Final = 10**10
_DIGITS: Final = 10
"""Of a number of attempts, in a header that anybody may have written."""
T = TypeVar("T")


def divided(tickets: Sequence[T]) -> list[Sequence[T]]:
    """What is to travel together, in its order: of many, a tenth each."""
    size = 1 if len(tickets) < _BUNDLED else min(len(tickets) // _MESSAGES, _LARGEST)
    return [tickets[start : start + size] for start in range(0, len(tickets), size)]


def message_of(queue: str, tickets: Sequence[Ticket], *, ranked: bool = False) -> Message:
    """What travels: the names of jobs of one queue, so that a broker's limits do not matter.

    ``ranked`` is said where the broker knows priorities, and then of one job.
    """
    first = tickets[0]
    one = len(tickets) == 1
    names = [(ticket.job_id, ticket.attempts) for ticket in tickets]
    return Message(
        job_id=first.job_id if one else new_id(),
        job_type=first.job_type,
        queue=queue,
        payload=b"{}" if one else to_json(names),
        headers={TICKET: str(first.attempts) if one else _SEVERAL},
        priority=first.priority if ranked else Priority.NORMAL,
        max_crashes=_DELIVERIES,
        prior_attempts=first.attempts if one else 0,
    )


@dataclass(slots=True, eq=False)
class Bundle:
    """A message as it came, and how many of its tickets are not done with."""

    message: Delivery
    left: int
    several: bool = False
    is_job: bool = False
    """It is from before there was a ledger: the job itself, and no ticket."""


@dataclass(slots=True, eq=False)
class Share:
    """One ticket of a message, or a message without any."""

    job_id: str
    attempts: int
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
    ) -> list[Share]:
        """About ``limit`` tickets, and messages that are none; more where they came together."""
        asked = math.ceil(limit / self._sizes.get(queue, 1.0))
        messages = await self._broker.receive(queue, limit=asked, wait=wait, lease=lease)
        shares = [one for message in messages for one in shares_of(message)]
        if messages:
            self._sizes[queue] = len(shares) / len(messages)
        return shares

    async def complete(self, shares: Sequence[Share]) -> None:
        """Those that were lost are not told apart: nobody here asks."""
        done = [Completion(delivery=message) for message in _ended(shares)]
        if done:
            await self._broker.complete(done)

    async def give_back(self, shares: Sequence[Share]) -> None:
        """For whoever receives next: a message of one ticket itself, else another in its place."""
        whole = [
            Abandonment(delivery=one.bundle.message, counts_as=CountsAs.RELEASE)
            for one in shares
            if not one.bundle.several
        ]
        if whole:
            await self._broker.abandon(whole)
        parts = [one for one in shares if one.bundle.several]
        if parts:
            await self._send_again(parts)

    async def dead_letter(self, share: Share, problem: Problem) -> None:
        """For messages that are no tickets."""
        await self._broker.dead_letter([DeadLetter(delivery=share.bundle.message, problem=problem)])

    async def extend(self, shares: Sequence[Share], lease: timedelta) -> None:
        """Of each message once; nobody here asks what came of it."""
        messages = {id(one.bundle): one.bundle.message for one in shares}
        await self._broker.extend(list(messages.values()), lease)

    async def give_up(self, surplus: Sequence[Share]) -> None:
        """What came beyond the limit, for other workers. Nothing is lost if they cannot have it."""
        try:
            await self.give_back(surplus)
        except BackendError as error:
            log.warning("tickets could not be given back; they will come again: %s", error)

    async def _send_again(self, shares: Sequence[Share]) -> None:
        """First what takes their place, then their own end."""
        by_bundle: dict[int, list[Share]] = {}
        for one in shares:
            by_bundle.setdefault(id(one.bundle), []).append(one)
        again = [_message_again(some) for some in by_bundle.values()]
        size = self.capabilities.max_batch or len(again)
        for start in range(0, len(again), size):
            await self._broker.enqueue(again[start : start + size])
        await self.complete(shares)


def share_of(delivery: Delivery) -> Share:
    """The ticket with which the job of a delivery was started."""
    share = getattr(delivery.receipt, "ticket", None)
    if not isinstance(share, Share):
        raise TypeError(f"the delivery of job {delivery.job_id} is not from a tracked queue")
    return share


def shares_of(message: Delivery) -> list[Share]:
    """The tickets in a message, one at the least; a broken one names a job that is not known."""
    outer = message.message
    said = outer.headers.get(TICKET)
    if said is None:
        return [Share(outer.job_id, outer.prior_attempts, Bundle(message, 1, is_job=True))]
    if said == _SEVERAL:
        try:
            named = _named(outer.payload)
        except ValueError:
            named = []
        if named:
            bundle = Bundle(message, len(named), several=True)
            return [Share(job_id, attempts, bundle) for job_id, attempts in named]
    # Not what the broker counts: a ticket whose worker died before the job started comes again as a
    # later attempt, though the job has had none.
    counted = said.isdecimal() and said.isascii() and len(said) < _DIGITS
    attempts = int(said) if counted else outer.prior_attempts
    return [Share(outer.job_id, attempts, Bundle(message, 1))]


def _message_again(shares: Sequence[Share]) -> Message:
    outer = shares[0].bundle.message.message
    return message_of(outer.queue, [Ticket(s.job_id, s.attempts, outer.job_type) for s in shares])


def _ended(shares: Sequence[Share]) -> list[Delivery]:
    """The messages of which the last ticket is settled now."""
    ended = []
    for one in shares:
        if not one.settled:
            one.settled = True
            one.bundle.left -= 1
            if not one.bundle.left:
                ended.append(one.bundle.message)
    return ended


def _named(payload: bytes) -> list[tuple[str, int]]:
    """Jobs and attempts, as anybody may have written them. Raises ValueError."""
    if len(payload) > _LARGEST_BODY:
        raise ValueError("it is too large")
    found = from_json(payload)
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
