"""Dead letters as SQS carries them: a message that could run again, with the reasons beside it."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from jobbus.job import Problem
from jobbus.message import DeadLetter, Delivery, Message

from .client import Entry
from .envelope import Envelope, encode
from .receipts import Arrivals, Place, Receipt, dead_entry

_UNTOLD: Final = Problem(
    kind="too_many_receives",
    message="SQS set it aside by itself: it was received more often than its redrive policy allows",
)


def dead_letter_entry(dead: DeadLetter, place: Place) -> Entry:
    """The dead letter: a message that runs again, with its whole budget, if it is moved back."""
    delivery = dead.delivery
    message = replace(delivery.message, prior_attempts=delivery.attempt)
    facts = {
        "job_id": message.job_id,
        "job_type": message.job_type,
        "attempt": delivery.attempt,
        "failures": delivery.failures,
        "crashes": delivery.crashes,
        "timed_out": dead.timed_out,
    }
    body = encode(Envelope(message=message, first_sent=delivery.enqueued_at))
    return dead_entry(place, dead.problem, facts, identity=message.id, body=body)


def grave_of(place: Place, url: str) -> Place:
    """The dead-letter queue at ``url``, as a place to receive from."""
    return replace(place, url=url, dead_letters=url, dead=True)


def with_unreadable(arrivals: Arrivals) -> list[Delivery]:
    """All that came from a dead-letter queue; what cannot be read, without a job id."""
    return arrivals.deliveries + [
        Delivery(message=_foreign(one.receipt), receipt=one.receipt, attempt=0)
        for one in arrivals.undecodable
    ]


def _foreign(receipt: Receipt) -> Message:
    return Message(job_id="", job_type="", payload=receipt.body.encode(), queue=receipt.place.queue)


def dead_letter_of(delivery: Delivery) -> DeadLetter:
    """What came, with its end.

    A letter of jobbus's tells its counters. One that SQS moved by itself has SQS's count of
    receives, with those from the dead-letter queue in it.
    """
    told = delivery.receipt.told
    if not delivery.job_id:
        why = told.get("message", "no message of jobbus's")
        return DeadLetter(delivery=delivery, problem=Problem(kind="undecodable", message=why))
    if "problem" not in told:
        return DeadLetter(
            delivery=replace(delivery, attempt=max(delivery.attempt - 1, 1)), problem=_UNTOLD
        )
    counted = replace(
        delivery,
        attempt=delivery.message.prior_attempts,
        failures=_number(told.get("failures")),
        crashes=_number(told.get("crashes")),
    )
    problem = Problem(
        kind=told["problem"],
        message=told.get("message", ""),
        traceback=told.get("traceback"),
    )
    return DeadLetter(delivery=counted, problem=problem, timed_out=told.get("timed_out") == "True")


def _number(text: str | None) -> int:
    return (
        int(text)
        if text is not None and text.isascii() and text.isdigit() and len(text) < 10
        else 0
    )
