"""Ends deliveries under the locks of their sessions; a lost session is an answer, not an error."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, cast

from azure.servicebus.aio import ServiceBusReceiver

from jobbus.message import Abandonment

from .failures import told
from .receiving import End, Receipt
from .scheduled import Appointment
from .settling import Settling

if TYPE_CHECKING:
    from .hand_outs import SessionReceipt


class SessionSettling(Settling):
    """On the sessions' own loop."""

    sessions = True

    async def abandon(self, back: Abandonment) -> bool:
        """Keep a group's message in its place; send a copy of one that has no group."""
        receipt: SessionReceipt = back.delivery.receipt
        if not receipt.session.grouped:
            return await super().abandon(back)
        if receipt.end is not None:
            return receipt.end is End.ABANDONED
        with told(f"handing a job back to queue {receipt.entity!r}"):
            return await receipt.session.put_back(receipt, back) or self._lost(receipt)

    async def renew(self, receipt: Receipt | Appointment) -> bool:
        mine = _of(receipt)
        with told(f"renewing a session of queue {mine.entity!r}"):
            return mine.end is None and await mine.session.renew(mine)

    async def _end(
        self,
        receipt: Receipt,
        end: End,
        act: Callable[[ServiceBusReceiver], Awaitable[None]] | None = None,
    ) -> bool:
        kept = await super()._end(receipt, end, act)
        _of(receipt).session.settled(_of(receipt))
        return kept

    async def _act(
        self, receipt: Receipt, act: Callable[[ServiceBusReceiver], Awaitable[None]]
    ) -> bool:
        with told(f"settling a message of queue {receipt.entity!r}"):
            return await _of(receipt).session.act(_of(receipt), act)

    def _lost(self, receipt: Receipt) -> bool:
        receipt.end = receipt.end or End.LOST
        return receipt.end is End.ABANDONED


def _of(receipt: Receipt | Appointment) -> SessionReceipt:
    return cast("SessionReceipt", receipt)  # none other comes here
