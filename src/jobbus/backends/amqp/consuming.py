"""Takes messages from one queue through long-lived consumers, and acknowledges them.

The window, AMQP's prefetch, is what is held and asked for (RM-12): it grows with what ``take`` is
asked, and what nobody takes goes back.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

from aiormq import exceptions, spec
from aiormq.abc import DeliveredMessage
from aiormq.channel import Channel

from jobbus.errors import BackendUnavailable

from .link import CALL_SECONDS, Detached, Link

_WIDEST: Final = 2000
_UNASKED_SECONDS: Final = 5.0
"""How long a message waits here for somebody to take it, before it goes to somebody else."""


class Source(Enum):
    """What a consumer takes. Workers take what is due; the rest is got by :meth:`Consumer.get`."""

    DUE = "due"
    DELAYED = "delayed"
    DEAD = "dead"


@dataclass(slots=True, eq=False)
class Receipt:
    """A hold on one message. Dies with the channel that delivered it (RM-8)."""

    consumer: Consumer
    tag: int
    outcome: str = ""
    """The verb that settled it; empty while it is held."""

    @property
    def held(self) -> bool:
        """From any thread."""
        return not self.outcome and self.consumer.alive


class Consumer:
    """What consumes one queue, on a channel of its own. Once it is not :attr:`alive`, for good."""

    def __init__(self, link: Link, name: str, queue: str, source: Source) -> None:
        self.name = name
        self.source = source
        self._link = link
        self._queue = queue
        self._channel: Channel | None = None
        self._ended = False
        self._buffer: deque[tuple[float, DeliveredMessage]] = deque()
        self._arrived = asyncio.Event()
        self._window = 0
        self._consumer_tags: list[str] = []
        self._held = 0
        self._wanted = 0
        self._changing = asyncio.Lock()
        self._acknowledging = asyncio.Lock()
        self._settled: set[int] = set()
        self._all_settled_to = 0
        self._calls = Detached()

    @property
    def alive(self) -> bool:
        """Whether what it delivered is still held. From any thread."""
        return not self._ended and self._link.alive

    @property
    def waiting(self) -> int:
        """Messages that came and were not taken."""
        return len(self._buffer)

    async def open(self) -> None:
        self._channel = await self._link.channel(confirms=False)
        self._channel.closing.add_done_callback(self._note_end)
        self._channel.on_consumer_cancel_callbacks.add(self._cancelled_by_broker)

    async def take(self, limit: int, wait: float) -> list[DeliveredMessage]:
        """Up to ``limit`` messages: at once what is here, else the first to come within ``wait``.

        Without a wait the broker is asked, so that nothing means that there is nothing.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + wait
        self._wanted += limit
        try:
            await self._widen()
            if wait <= 0 and not self._buffer:
                await self._calls.run(self._look())
            while not self._buffer and (left := deadline - loop.time()) > 0:
                self._check()
                self._arrived.clear()
                await _until_set(self._arrived, left)
            self._check()
        finally:
            self._wanted -= limit
        taken = [self._buffer.popleft()[1] for _ in range(min(limit, len(self._buffer)))]
        self._held += len(taken)
        return taken

    async def get(self, limit: int, queue: str | None = None) -> list[DeliveredMessage]:
        """Up to ``limit`` of what is there now, asked for one by one: nothing more comes along.

        ``queue`` is the broker's name of another queue to look into.
        """
        while len(self._buffer) < limit:
            before = len(self._buffer)
            await self._calls.run(self._look(queue))
            if len(self._buffer) == before:
                break
        taken = [self._buffer.popleft()[1] for _ in range(min(limit, len(self._buffer)))]
        self._held += len(taken)
        return taken

    def give_up(self, messages: Iterable[DeliveredMessage]) -> None:
        """Take back, as the next to be taken, what was taken and handed to nobody."""
        now = asyncio.get_running_loop().time()
        back = [(now, each) for each in messages]
        self._buffer.extendleft(reversed(back))
        self._held -= len(back)
        self._arrived.set()

    def unasked(self) -> bool:
        """Whether something waits here that others could have run by now."""
        oldest = self._buffer[0][0] if self._buffer else None
        return oldest is not None and (
            asyncio.get_running_loop().time() - oldest > _UNASKED_SECONDS
        )

    async def stop(self) -> list[DeliveredMessage]:
        """Receive nothing more until the next :meth:`take`; take all that waits here."""
        await self._calls.run(self._stop_consuming())
        taken = [message for _, message in self._buffer]
        self._buffer.clear()
        self._held += len(taken)
        return taken

    async def acknowledge(self, tags: Iterable[int]) -> bool:
        """Tell the broker that these are done; False when they are not ours any more.

        The longest run from the first is told in one frame.
        """
        if not self.alive or self._channel is None:
            return False
        async with self._acknowledging:
            told = self._note_settled(tags)
            run = [tag for tag in told if tag <= self._all_settled_to]
            rest = told[len(run) :]
            try:
                if run:
                    await self._channel.basic_ack(run[-1], multiple=True, wait=not rest)
                for tag in rest:
                    await self._channel.basic_ack(tag, wait=tag == rest[-1])
            except (exceptions.AMQPError, exceptions.ChannelInvalidStateError, OSError):
                return False
        return True

    async def put_back(self, tags: Iterable[int]) -> bool:
        """Let go of these only; False when they are not ours any more."""
        if not self.alive or self._channel is None:
            return False
        async with self._acknowledging:
            try:
                for tag in self._note_settled(tags):
                    await self._channel.basic_nack(tag, requeue=True)
            except (exceptions.AMQPError, exceptions.ChannelInvalidStateError, OSError):
                return False
        return True

    def _note_settled(self, tags: Iterable[int]) -> list[int]:
        """Note that these are settled, and up to which tag all are; the tags in order."""
        told = sorted(tags)
        self._held -= len(told)
        self._settled.update(told)
        while self._all_settled_to + 1 in self._settled:
            self._all_settled_to += 1
            self._settled.remove(self._all_settled_to)
        return told

    async def close(self) -> None:
        """Let go: what is held goes back to the queue, and counts as a delivery unsettled."""
        self._end()
        await self._calls.ended()
        if self._channel is not None and self._link.alive:
            with self._link.translated(f"closing the channel of {self._queue}"):
                await self._channel.close(
                    exceptions.ChannelClosed(0, "closed here"), timeout=CALL_SECONDS
                )

    async def _widen(self) -> None:
        wanted = min(self._held + self._wanted, _WIDEST)
        if wanted > self._window:
            await self._calls.run(self._open_window(wanted))

    async def _open_window(self, wanted: int) -> None:
        async with self._changing:
            if wanted <= self._window:
                return
            # A window is a consumer's for life, and a broker takes back what was on its way to a
            # consumer that ends, counting that as a delivery: so a further one makes up the rest.
            # Larger steps make for fewer of them.
            window = min(max(wanted, self._window * 2), _WIDEST)
            with self._link.translated(f"receiving from {self._queue}"):
                channel = self._open_channel()
                more = window - self._window
                await channel.basic_qos(prefetch_count=more, timeout=CALL_SECONDS)
                consuming = await channel.basic_consume(
                    self._queue, self._arrive, timeout=CALL_SECONDS
                )
            self._consumer_tags.append(str(consuming.consumer_tag))
            self._window = window

    async def _stop_consuming(self) -> None:
        async with self._changing:
            await self._cancel()

    async def _cancel(self) -> None:
        self._window = 0
        while self._consumer_tags:
            tag = self._consumer_tags.pop()
            with self._link.translated(f"pausing the consumer of {self._queue}"):
                await self._open_channel().basic_cancel(tag, timeout=CALL_SECONDS)

    async def _look(self, queue: str | None = None) -> None:
        """Ask for one message; what was on its way to the consumer comes before the answer."""
        queue = queue or self._queue
        with self._link.translated(f"looking into {queue}"):
            found = await self._open_channel().basic_get(queue, timeout=CALL_SECONDS)
        if isinstance(found.delivery, spec.Basic.GetOk):
            await self._arrive(found)

    async def _arrive(self, message: DeliveredMessage) -> None:
        self._buffer.append((asyncio.get_running_loop().time(), message))
        self._arrived.set()

    def _open_channel(self) -> Channel:
        self._check()
        if self._channel is None:
            raise BackendUnavailable(f"the consumer of {self._queue} is not open")
        return self._channel

    def _check(self) -> None:
        if not self.alive:
            raise BackendUnavailable(
                f"RabbitMQ ended the consumer of {self._queue}; what it had delivered goes back"
            )

    def _note_end(self, _: Any) -> None:
        self._end()

    def _end(self) -> None:
        self._ended = True
        self._buffer.clear()
        self._arrived.set()

    async def _cancelled_by_broker(self, _: Any) -> None:
        """The queue was deleted, or (RabbitMQ 4.3) a message was held for too long."""
        self._end()


async def _until_set(event: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return


def tag_of(message: DeliveredMessage) -> int:
    tag = getattr(message.delivery, "delivery_tag", None)
    if not isinstance(tag, int):
        raise BackendUnavailable("RabbitMQ delivered a message without a tag")
    return tag
