"""Letters: what is sent for a message that comes, goes back, waits, or is set aside."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta

from aiormq.abc import DeliveredMessage

from jobbus.errors import BackendError
from jobbus.job import Problem
from jobbus.message import NO_DELAY, Abandonment, CountsAs, DeadLetter, Message

from . import envelope as wire
from . import rules
from .publishing import Letter
from .topology import Topology


@dataclass(frozen=True, slots=True)
class Letters:
    """Writes letters to places of one topology."""

    topology: Topology

    def first(self, message: Message, longest: timedelta, now: float) -> Letter:
        """A message as it is enqueued. Raises what its check raises."""
        rules.check_message(message, longest)
        delay = rules.delay_of(message)
        envelope = wire.Envelope(
            message=message,
            attempts=message.prior_attempts,
            enqueued_at=now,
            available_at=now + delay.total_seconds(),
        )
        wire.check_size(envelope)
        return self.letter(envelope, delay)

    def back(self, back: Abandonment) -> Letter:
        """The copy that carries the counters of an abandoned delivery."""
        now = time.time()
        envelope = wire.envelope_behind(back.delivery, now + back.delay.total_seconds())
        match back.counts_as:
            case CountsAs.FAILURE:
                envelope = replace(envelope, failures=envelope.failures + 1)
            case CountsAs.CRASH:
                envelope = replace(envelope, crashes=envelope.crashes + 1)
                if envelope.crashes >= envelope.message.max_crashes:
                    return self.dead(envelope, wire.poison(envelope))
        return self.letter(envelope, back.delay)

    def letter(self, envelope: wire.Envelope, delay: timedelta = NO_DELAY) -> Letter:
        exchange, key = self.topology.route(envelope.message.queue, delay)
        return Letter(
            exchange=exchange,
            routing_key=key,
            properties=wire.properties_of(envelope),
            body=envelope.message.payload,
        )

    def until_due(self, envelope: wire.Envelope) -> Letter:
        """Through what is left of its delay."""
        left = timedelta(seconds=envelope.available_at - time.time())
        return self.letter(envelope, max(left, NO_DELAY))

    def dead(self, envelope: wire.Envelope, problem: Problem, timed_out: bool = False) -> Letter:
        return Letter(
            exchange="",
            routing_key=self.topology.dead(envelope.message.queue),
            properties=wire.properties_of(envelope, problem, timed_out=timed_out),
            body=envelope.message.payload,
        )

    def died_elsewhere(self, dead: DeadLetter, longest: timedelta, now: float) -> Letter:
        """A dead letter that was not delivered here. Raises what the message's check raises."""
        rules.check_message(dead.delivery.message, longest)
        envelope = wire.envelope_behind(dead.delivery, now)
        wire.check_size(envelope)
        return self.dead(envelope, dead.problem, dead.timed_out)

    def foreign(self, message: DeliveredMessage, queue: str, why: str) -> Letter:
        """Somebody else's message, set aside as it is."""
        problem = Problem(kind="undecodable", message=f"this is no message of jobbus's: {why}")
        return Letter(
            exchange="",
            routing_key=self.topology.dead(queue),
            properties=wire.foreign_properties(message, problem),
            body=message.body,
        )


def raise_first(outcomes: Sequence[BackendError | None]) -> None:
    """Raise the first error among the outcomes of sending."""
    for each in outcomes:
        if each is not None:
            raise each
