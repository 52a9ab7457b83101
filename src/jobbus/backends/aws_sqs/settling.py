"""What becomes of messages that were handed out: deleted, sent again, hidden, set aside.

On a standard queue, what goes back is a copy with its counters, sent first; only then is the old
message deleted. In between a crash leaves both, never neither.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Final, TypeVar

from jobbus.errors import BackendUnavailable, LeaseLost
from jobbus.message import Abandonment, CountsAs, DeadLetter, Delivery, LeaseState

from .burials import dead_letter_entry
from .client import BlockingClient, Client, Entry, chunks
from .envelope import Envelope
from .limits import LONGEST_HOLD, check_back_off, check_lease, check_message, check_size
from .places import Places
from .receipts import LOST, Arrivals, Receipt, dead_entry, entry

COMPLETE: Final = "complete"
ABANDON: Final = "abandon"
DEAD_LETTER: Final = "dead_letter"
_DELETING: Final = "deleting settled messages"
_HIDING: Final = "changing visibility timeouts"
_SENDING: Final = "sending messages back"
_BURYING: Final = "sending dead letters"
_Settlement = TypeVar("_Settlement", Abandonment, DeadLetter)


class Settling:
    """The verbs that end or prolong a lease."""

    def __init__(self, client: Client, places: Places) -> None:
        self._client = client
        self._places = places

    async def complete(self, deliveries: Sequence[Delivery]) -> Sequence[Delivery]:
        """Delete; return those whose lease was lost."""
        _raise_worst(await self._delete([one.receipt for one in deliveries], COMPLETE))
        return _lost(deliveries, COMPLETE)

    async def abandon(self, back: Sequence[Abandonment]) -> Sequence[Delivery]:
        """Put back with a delay; return those whose lease was lost."""
        hidden: dict[Receipt, Entry] = {}
        copies: dict[Receipt, Entry] = {}
        for one in back:
            receipt: Receipt = one.delivery.receipt
            seconds = check_back_off(one.delay, fifo=receipt.place.fifo)
            if receipt.place.hides:
                hidden[receipt] = _visibility(receipt, seconds)
            else:
                copies[receipt] = entry(receipt.place, _counted(one, seconds))
        failures = await self._hide(hidden, lambda receipt: _end(receipt, ABANDON))
        failures += await self._replace(copies, _SENDING, lambda one: one.place.url, ABANDON)
        _raise_worst(failures)
        return _lost([one.delivery for one in back], ABANDON)

    async def dead_letter(self, dead: Sequence[DeadLetter]) -> Sequence[Delivery]:
        """Send to the dead-letter queue, then delete; return those whose lease was lost."""
        letters: dict[Receipt, Entry] = {}
        targets: dict[Receipt, str] = {}
        for one in dead:
            receipt: Receipt = one.delivery.receipt
            letters[receipt] = dead_letter_entry(one, receipt.place)
            targets[receipt] = await self._places.dead_letters(receipt.place)
        _raise_worst(await self._replace(letters, _BURYING, targets.__getitem__, DEAD_LETTER))
        return _lost([one.delivery for one in dead], DEAD_LETTER)

    async def enqueue_dead(self, dead: Sequence[DeadLetter]) -> None:
        """Send to the dead-letter queues what was never received here."""
        by_url: dict[str, list[Entry]] = {}
        for one in dead:
            message = one.delivery.message
            check_message(message, fifo=self._places.fifo)
            place = await self._places.find(message.queue)
            sent = dead_letter_entry(one, place)
            check_size(sent["MessageBody"], message.job_type, place.largest)
            by_url.setdefault(await self._places.dead_letters(place), []).append(sent)
        for url, entries in by_url.items():
            outcomes = await self._client.batch("send_message_batch", _BURYING, url, entries)
            _raise_worst([one for one in outcomes if one is not None])

    async def extend(self, held: Sequence[Delivery], lease: timedelta) -> Sequence[LeaseState]:
        """Hide for ``lease`` from now. What SQS cannot hide for so long any more is lost."""
        seconds, until = check_lease(lease), time.monotonic() + lease.total_seconds()
        longest = max(LONGEST_HOLD, lease).total_seconds()
        receipts: list[Receipt] = [one.receipt for one in held]
        wanted = {
            one: _visibility(one, seconds) for one in receipts if until <= one.taken_at + longest
        }
        kept: set[Receipt] = set()
        _raise_worst(await self._hide(wanted, kept.add))
        for receipt in kept:
            receipt.valid_until = until
        return [LeaseState.KEPT if one in kept else LeaseState.LOST for one in receipts]

    async def _replace(
        self,
        substitutes: Mapping[Receipt, Entry],
        what: str,
        target: Callable[[Receipt], str],
        verb: str,
    ) -> list[Exception]:
        """Send what takes the place of each message, then delete the message."""
        missing = {one: sent for one, sent in substitutes.items() if not one.copied}
        failures = await self._batch("send_message_batch", what, missing, target, _mark_copied)
        copied = [receipt for receipt in substitutes if receipt.copied]
        return failures + await self._delete(copied, verb)

    async def _delete(self, receipts: Sequence[Receipt], verb: str) -> list[Exception]:
        entries = {one: {"ReceiptHandle": one.handle} for one in receipts}
        return await self._batch(
            "delete_message_batch", _DELETING, entries, _own_url, lambda one: _end(one, verb)
        )

    async def _hide(
        self, entries: Mapping[Receipt, Entry], done: Callable[[Receipt], None]
    ) -> list[Exception]:
        operation = "change_message_visibility_batch"
        return await self._batch(operation, _HIDING, entries, _own_url, done)

    async def _batch(
        self,
        operation: str,
        what: str,
        entries: Mapping[Receipt, Entry],
        url: Callable[[Receipt], str],
        done: Callable[[Receipt], None],
    ) -> list[Exception]:
        """Ask for all that is held; tell of successes, mark what is lost, return the failures."""
        groups: dict[str, list[Receipt]] = {}
        for receipt in entries:
            if receipt.held:
                groups.setdefault(url(receipt), []).append(receipt)
        answers = await asyncio.gather(
            *(
                self._client.batch(operation, what, place, [entries[one] for one in group])
                for place, group in groups.items()
            )
        )
        failures: list[Exception] = []
        for group, outcomes in zip(groups.values(), answers, strict=True):
            for receipt, outcome in zip(group, outcomes, strict=True):
                if outcome is None:
                    done(receipt)
                elif isinstance(outcome, LeaseLost):
                    _end(receipt, LOST)
                else:
                    failures.append(outcome)
        return failures


def put_back(client: BlockingClient, deliveries: Sequence[Delivery]) -> None:
    """In a thread: make messages receivable again that no worker has seen."""
    # With half of the lease gone they come again soon, and a copy would be a second one.
    fresh = [one for one in deliveries if one.receipt.half_held]
    receipts: list[Receipt] = [one.receipt for one in fresh]
    if not receipts:
        return
    url = receipts[0].place.url
    if receipts[0].place.hides:
        hidden = [_visibility(one, 0) for one in receipts]
        client.batch("change_message_visibility_batch", _HIDING, url, hidden)
        return
    for page in chunks([entry(one.receipt.place, _untouched(one)) for one in fresh]):
        outcomes = client.batch("send_message_batch", _SENDING, url, page)
        _delete_where(client, receipts[: len(page)], outcomes)
        del receipts[: len(page)]


def set_aside(client: BlockingClient, arrivals: Arrivals) -> None:
    """In a thread: send what cannot be read to the dead letters, byte for byte."""
    for one in arrivals.undecodable:
        target = one.receipt.place.dead_letters
        if target is None:
            continue
        receipt = one.receipt
        letter = dead_entry(
            receipt.place, one.problem, {}, identity=receipt.identity, body=receipt.body
        )
        outcomes = client.batch("send_message_batch", _BURYING, target, [letter])
        _delete_where(client, [one.receipt], outcomes)


def _delete_where(
    client: BlockingClient, receipts: Sequence[Receipt], outcomes: Sequence[Exception | None]
) -> None:
    sent = [one for one, outcome in zip(receipts, outcomes, strict=True) if outcome is None]
    if sent:
        handles = [{"ReceiptHandle": one.handle} for one in sent]
        client.batch("delete_message_batch", _DELETING, sent[0].place.url, handles)


def _visibility(receipt: Receipt, seconds: int) -> Entry:
    return {"ReceiptHandle": receipt.handle, "VisibilityTimeout": seconds}


def _counted(back: Abandonment, delay: int) -> Envelope:
    """The next message of an abandoned job."""
    delivery = back.delivery
    return Envelope(
        message=replace(delivery.message, prior_attempts=delivery.attempt),
        failures=delivery.failures + (back.counts_as is CountsAs.FAILURE),
        crashes=delivery.crashes + (back.counts_as is CountsAs.CRASH),
        delay=delay,
        first_sent=delivery.enqueued_at,
    )


def _untouched(delivery: Delivery) -> Envelope:
    """The same message as if it had not been handed out."""
    return Envelope(
        message=replace(delivery.message, prior_attempts=delivery.attempt - 1),
        failures=delivery.failures,
        crashes=delivery.crashes,
        first_sent=delivery.enqueued_at,
    )


def _own_url(receipt: Receipt) -> str:
    return receipt.place.url


def _end(receipt: Receipt, verb: str) -> None:
    # A heartbeat finds a message gone that was settled at that moment: it is not lost.
    if verb != LOST or receipt.ended is None:
        receipt.ended = verb


def _mark_copied(receipt: Receipt) -> None:
    receipt.copied = True


def _lost(deliveries: Sequence[Delivery], verb: str) -> list[Delivery]:
    """Those that were settled by another verb, by another worker, or not in time."""
    return [one for one in deliveries if one.receipt.ended != verb]


def _raise_worst(failures: Sequence[Exception]) -> None:
    """Raise one failure: one that repeating does not help, if there is one."""
    if failures:
        raise min(failures, key=lambda one: isinstance(one, BackendUnavailable))
