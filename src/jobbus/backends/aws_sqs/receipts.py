"""Receipts: what this process knows of a message that SQS has handed it."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from jobbus.job import Problem
from jobbus.message import NO_DELAY, Delivery, new_delivery

from .client import size_of
from .envelope import Envelope, decode, encode, moment
from .limits import MAX_BYTES, RESERVE

LOST: Final = "lost"
ATTRIBUTES: Final = ("ApproximateReceiveCount", "ApproximateFirstReceiveTimestamp", "SentTimestamp")
"""What a receive asks for beside the bodies."""
_TOLD: Final = "jobbus."
"""In front of the names of a dead letter's reasons."""
_FORBIDDEN: Final = re.compile("[^\t\n\r -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A queue in SQS, as it was found."""

    queue: str
    """Its name in jobbus."""
    url: str
    fifo: bool
    largest: int
    """Its MaximumMessageSize in bytes."""
    dead_letters: str | None
    """The URL of its dead-letter queue; None where it has none."""
    dead: bool = False
    """It is a dead-letter queue itself."""

    @property
    def hides(self) -> bool:
        """Whether what goes back is hidden for a while, instead of sent again as a copy."""
        return self.fifo or self.dead


@dataclass(slots=True, eq=False)
class Receipt:
    """One hand-out of a message.

    SQS does not fence: deleting under an old handle may well succeed. So this process judges by its
    own clock, from just before it asked for the message on, and remembers what it has done. One
    object is shared by all queues of this process, since the heartbeat extends through its own.
    """

    place: Place
    handle: str
    identity: str
    """SQS's own id of the message."""
    body: str
    first_sent: datetime
    taken_at: float
    """Monotonic seconds just before SQS was asked."""
    valid_until: float
    ended: str | None = None
    """The verb that settled it, or ``lost``."""
    told: Mapping[str, str] = field(default_factory=dict)
    """The reasons beside a dead letter."""
    copied: bool = False
    """What is to take its place has been sent; only the deletion is missing."""

    @property
    def held(self) -> bool:
        return self.ended is None and time.monotonic() < self.valid_until

    @property
    def half_held(self) -> bool:
        return self.held and time.monotonic() < (self.taken_at + self.valid_until) / 2


@dataclass(frozen=True, slots=True)
class Undecodable:
    """A message that is none of jobbus's."""

    receipt: Receipt
    problem: Problem


@dataclass(slots=True)
class Arrivals:
    """What one receive brought."""

    deliveries: list[Delivery] = field(default_factory=list)
    undecodable: list[Undecodable] = field(default_factory=list)


def read(answer: Mapping[str, Any], place: Place, *, asked_at: float, lease: timedelta) -> Arrivals:
    """The messages in an answer of ReceiveMessage."""
    arrivals = Arrivals()
    for raw in answer.get("Messages", ()):
        said = raw.get("Attributes", {})
        receipt = Receipt(
            place=place,
            handle=raw["ReceiptHandle"],
            identity=raw["MessageId"],
            body=raw["Body"],
            first_sent=moment(int(said.get("SentTimestamp", time.time() * 1000))),
            taken_at=asked_at,
            valid_until=asked_at + lease.total_seconds(),
            told=_told(raw) if place.dead else {},
        )
        try:
            envelope = decode(receipt.body)
        except ValueError as error:
            problem = Problem(kind="undecodable", message=f"the message cannot be read: {error}")
            arrivals.undecodable.append(Undecodable(receipt, problem))
        else:
            arrivals.deliveries.append(_delivery(envelope, receipt, said))
    return arrivals


def _delivery(envelope: Envelope, receipt: Receipt, said: Mapping[str, str]) -> Delivery:
    """A copy carries the counters of before; SQS counts the hand-outs of this message alone."""
    message, hand_outs = envelope.message, max(1, int(said.get("ApproximateReceiveCount", 1)))
    due = receipt.first_sent + timedelta(seconds=envelope.delay)
    now = datetime.now(UTC)
    if hand_outs == 1 and "ApproximateFirstReceiveTimestamp" in said:
        now = moment(int(said["ApproximateFirstReceiveTimestamp"]))  # by the clock of ``due``
    receipt.first_sent = envelope.first_sent or receipt.first_sent
    fifo = receipt.place.fifo
    return new_delivery(
        message,
        receipt,
        message.prior_attempts + hand_outs,
        envelope.failures + (hand_outs - 1 if fifo else 0),
        envelope.crashes + (0 if fifo else hand_outs - 1),
        receipt.first_sent,
        max(now - due, NO_DELAY),
        receipt.taken_at,
    )


def entry(place: Place, envelope: Envelope) -> dict[str, Any]:
    """The entry of a batch that sends the envelope to its queue."""
    message = envelope.message
    sent: dict[str, Any] = {"MessageBody": encode(envelope)}
    if place.fifo:
        # Without a group of its own, a message stands in nobody's way.
        sent["MessageGroupId"] = message.group or message.job_id
        sent["MessageDeduplicationId"] = message.id
    else:
        sent["DelaySeconds"] = envelope.delay
    return sent


def dead_entry(
    place: Place, problem: Problem, facts: Mapping[str, object], *, identity: str, body: str
) -> dict[str, Any]:
    """The entry that sends a body to the dead letters of ``place``.

    The reasons are attributes beside it, cut to the room that the body leaves.
    """
    told = {"queue": place.queue, "problem": problem.kind}
    told |= {name: str(value) for name, value in facts.items()}
    told |= {"message": problem.message, "traceback": problem.traceback or ""}
    sent: dict[str, Any] = {"MessageBody": body}
    if place.fifo:
        sent["MessageGroupId"] = sent["MessageDeduplicationId"] = identity
    sent["MessageAttributes"] = _attributes(told, min(RESERVE, MAX_BYTES - size_of(sent)))
    return sent


def _told(raw: Mapping[str, Any]) -> dict[str, str]:
    beside = raw.get("MessageAttributes", {})
    return {
        name.removeprefix(_TOLD): value.get("StringValue", "")
        for name, value in beside.items()
        if name.startswith(_TOLD)
    }


def _attributes(told: Mapping[str, str], room: int) -> dict[str, dict[str, str]]:
    """As much of the text as fits into so many bytes, the first things first."""
    attributes: dict[str, dict[str, str]] = {}
    for name, text in told.items():
        name, kind = f"{_TOLD}{name}", "String"
        left = room - len(name) - len(kind)
        value = _allowed(text).encode("utf-8")[: max(left, 0)].decode("utf-8", "ignore")
        if value:
            attributes[name] = {"DataType": kind, "StringValue": value}
            room = left - len(value.encode("utf-8"))
    return attributes


def _allowed(text: str) -> str:
    """The text without the characters that SQS refuses, which are those XML 1.0 has no room for."""
    return _FORBIDDEN.sub("\ufffd", text)
