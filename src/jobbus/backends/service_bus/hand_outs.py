"""Messages under a session's lock, and what a worker gets of them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from azure.servicebus import ServiceBusReceivedMessage

from jobbus.message import Delivery

from .accounts import Account
from .receiving import Receipt
from .wire import Carried

if TYPE_CHECKING:
    from .held import HeldSession
    from .session_lock import SessionLock


@dataclass(slots=True, eq=False)
class Item:
    """A message that the broker has locked for this session."""

    received: ServiceBusReceivedMessage
    carried: Carried
    account: Account

    @property
    def number(self) -> int:
        return self.received.sequence_number or 0


@dataclass(slots=True, eq=False, kw_only=True)
class SessionReceipt(Receipt):
    """A hand-out under a session's lock."""

    session: HeldSession
    item: Item
    valid_until: datetime
    """By the pool's clock. A lane's lock may outlive the lease of one message of many."""


def hand_out(item: Item, session: HeldSession, lock: SessionLock) -> Delivery:
    """The delivery of a message that is written down as out, under a lock that is fresh."""
    message, account, received = item.carried.message, item.account, item.received
    now = session.pool.clock()
    enqueued = received.enqueued_time_utc or now
    ready = max(enqueued, datetime.fromtimestamp(account.due, UTC))
    receipt = SessionReceipt(
        session.pool.entity,
        received,
        session.receiver,
        item.carried,
        session=session,
        item=item,
        valid_until=lock.valid_until,
    )
    return Delivery(
        message=message,
        receipt=receipt,
        attempt=message.prior_attempts + account.handed,
        failures=item.carried.failures + account.failures,
        crashes=item.carried.crashes + account.crashes,
        enqueued_at=enqueued,
        wait=max(now - ready, timedelta(0)),
        received_at=lock.renewed_at,
    )
