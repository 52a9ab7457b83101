"""Sends messages and waits until the broker has them: confirmed, or returned, or neither."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from aiormq import exceptions, spec
from aiormq.channel import Channel

from jobbus.errors import BackendError, BackendFull, BackendUnavailable

from .link import CREATE, Link, Missing

CONFIRM_SECONDS: Final = 10
_WINDOW: Final = 500
"""Messages on their way without a confirm; more bring nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Letter:
    """A message as it goes to the broker."""

    exchange: str
    routing_key: str
    properties: spec.Basic.Properties
    body: bytes


class Publisher:
    """A channel with confirms on a connection that does nothing else.

    Nothing else, because a broker that runs out of memory or disk stops reading from connections
    that publish, and then acknowledgements would wait too (RM-11).
    """

    def __init__(self, link: Link) -> None:
        self._link = link
        self._channel: Channel | None = None
        self._opening = asyncio.Lock()
        self._numbers = itertools.count()

    async def send(self, letters: Sequence[Letter]) -> list[BackendError | None]:
        """Send all at once; for each, None once it is safe on the broker, or why it is not.

        BackendUnavailable is said of those of whom nobody knows: they may be there (RM-1).
        """
        outcomes: list[BackendError | None] = []
        for start in range(0, len(letters), _WINDOW):
            outcomes += await self._send(letters[start : start + _WINDOW])
        return outcomes

    async def _send(self, letters: Sequence[Letter]) -> list[BackendError | None]:
        try:
            with self._link.translated("opening a channel to publish on"):
                channel = await self._open_channel()
        except BackendError as error:
            return [error] * len(letters)
        sending = [asyncio.ensure_future(self._publish(channel, each)) for each in letters]
        try:
            _, late = await asyncio.wait(sending, timeout=CONFIRM_SECONDS)
        finally:
            # Those of a wait that was cancelled too: nobody is left to hear of them.
            for each in sending:
                each.cancel()
        await asyncio.gather(*sending, return_exceptions=True)
        if late:
            # Blocked, or cut off: the next call finds out on a connection of its own.
            await self._link.close()
        return [self._outcome(each, letter) for each, letter in zip(sending, letters, strict=True)]

    async def _publish(self, channel: Channel, letter: Letter) -> None:
        # The library tells a returned message by its id: two of one id are one to it.
        letter.properties.message_id = f"{letter.properties.correlation_id}#{next(self._numbers)}"
        await channel.basic_publish(
            letter.body,
            exchange=letter.exchange,
            routing_key=letter.routing_key,
            properties=letter.properties,
            mandatory=True,
            wait=False,
        )

    def _outcome(self, sent: asyncio.Future[None], letter: Letter) -> BackendError | None:
        error = None if sent.cancelled() else sent.exception()
        if error is None and not sent.cancelled():
            return None
        place = letter.exchange or letter.routing_key
        found: BackendError = BackendUnavailable(
            f"RabbitMQ did not confirm a message to {place}: it may be there or not; enqueue the "
            "same job again"
        )
        # A missing exchange ends the channel, and so befalls what was for others as well.
        unknown = isinstance(error, exceptions.ChannelNotFoundEntity) and place in str(error)
        if unknown or isinstance(error, exceptions.PublishError):
            found = Missing(f"RabbitMQ has no {place} to take the message: {CREATE}")
        elif isinstance(error, exceptions.DeliveryError):
            found = BackendFull(f"RabbitMQ takes no more messages for {place}: a limit is reached")
        found.__cause__ = error
        return found

    async def _open_channel(self) -> Channel:
        async with self._opening:
            if self._channel is None or self._channel.is_closed:
                self._channel = await self._link.channel(confirms=True)
            return self._channel
