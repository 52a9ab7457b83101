"""The links of one queue object to the broker: opened when needed, replaced when broken.

A receiver serves one ``receive`` at a time; more are opened when more are needed. Settling and
renewing go by the lock's token, so that any receiver of the same queue will do where the one that
brought the message is gone.
"""

from __future__ import annotations

import asyncio
import weakref
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Final, TypeVar

from azure.servicebus import NEXT_AVAILABLE_SESSION, ServiceBusSubQueue
from azure.servicebus.aio import ServiceBusClient, ServiceBusReceiver, ServiceBusSender

from jobbus.errors import BackendUnavailable

from .failures import ANSWERS, BROKEN_LINK

T = TypeVar("T")
CALL_DEADLINE: Final = 30.0
"""Seconds for any one call of the client library, beyond the wait that was asked for."""
_CLOSE_DEADLINE: Final = 5.0
_PAUSE: Final = 5.0
"""Seconds without use after which a receiver is closed. One that pauses has credit at the broker
left, and maybe messages in its buffer: locked, and renewed by nobody. Closing gives them back."""
MOST_REQUESTS: Final = 5000
"""After so many requests a link is replaced: azure-servicebus 7.15 takes 10,000 replies on one link
(DEFAULT_LINK_CREDIT), never allows for more, and then waits for ever."""
_READ: Final = 0.05
"""Seconds of one read. So long a settlement waits for an idle receive on the same link."""
DEAD_LETTERS: Final = "/$deadletterqueue"


class Links:
    """Made on an event loop, and used on it only."""

    def __init__(self, connect: Callable[[], ServiceBusClient]) -> None:
        self._client = connect()
        self._senders: dict[str, ServiceBusSender] = {}
        self._receivers: set[ServiceBusReceiver] = set()
        self._idle: dict[str, list[ServiceBusReceiver]] = defaultdict(list)
        self._used: weakref.WeakKeyDictionary[ServiceBusReceiver, object] = (
            weakref.WeakKeyDictionary()
        )
        self._by_token: dict[str, ServiceBusReceiver] = {}
        self._requests: dict[str, int] = defaultdict(int)
        self._locks: dict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._openings: set[asyncio.Task[object]] = set()
        self._closings: set[asyncio.Task[None]] = set()
        self.closed = False

    async def close(self) -> None:
        """Let go of everything, within a few seconds, whatever the broker says."""
        self.closed = True
        # A link that is closed while it opens would open all the same, and stay.
        for opening in self._openings:
            opening.cancel()
        await asyncio.gather(*self._openings, return_exceptions=True)
        for sender in self._senders.values():
            self._close_soon(sender)
        for receiver in list(self._receivers):
            self._close_soon(receiver)
        await asyncio.gather(*self._closings)
        await _leave(self._client)

    def owns(self, receiver: ServiceBusReceiver) -> bool:
        """Whether this receiver is one of these links, and so of this event loop."""
        return receiver in self._receivers

    async def with_sender(
        self,
        entity: str,
        act: Callable[[ServiceBusSender], Awaitable[T]],
        *,
        asks: bool = False,
    ) -> T:
        """Do something with the queue's sender, alone. One that fails is replaced later.

        ``asks`` says that it is a request with a reply, and no mere sending.
        """
        self._check_open()
        name = f"send {entity}"
        async with self._locks[name]:
            try:
                async with asyncio.timeout(CALL_DEADLINE):
                    if asks and self._used_up(name) and (worn := self._senders.pop(entity, None)):
                        self._close_soon(worn)
                    if entity not in self._senders:
                        sender = self._client.get_queue_sender(entity, socket_timeout=_READ)
                        self._senders[entity] = sender
                        await self._enter(sender)
                    return await act(self._senders[entity])
            except (*BROKEN_LINK, asyncio.CancelledError):
                if failed := self._senders.pop(entity, None):
                    self._close_soon(failed)
                raise

    @asynccontextmanager
    async def receiver(
        self, entity: str, *, fresh: bool = False
    ) -> AsyncIterator[ServiceBusReceiver]:
        """A receiver for this caller alone: the one used last, if it is free and good enough."""
        self._check_open()
        idle = self._idle[entity]
        receiver = idle.pop() if idle and not fresh else await self._open(entity)
        try:
            yield receiver
        except asyncio.CancelledError:
            # What it holds comes with the next receive, or goes back when it is closed.
            self._keep(entity, receiver)
            raise
        except BaseException:
            self._close_soon(receiver)
            raise
        self._keep(entity, receiver)

    def _keep(self, entity: str, receiver: ServiceBusReceiver) -> None:
        if self.closed:
            self._close_soon(receiver)
            return
        idle = self._idle[entity]
        idle.append(receiver)
        used = self._used[receiver] = object()

        def close_if_unused() -> None:
            if receiver in idle and self._used.get(receiver) is used:
                self._close_soon(receiver)

        asyncio.get_running_loop().call_later(_PAUSE, close_if_unused)

    async def with_receiver(
        self,
        entity: str,
        act: Callable[[ServiceBusReceiver], Awaitable[T]],
        preferred: ServiceBusReceiver | None = None,
    ) -> T:
        """Do something by lock token, or look, with any receiver. A broken one is passed over."""
        self._check_open()
        if preferred is not None and self.owns(preferred):
            try:
                async with asyncio.timeout(CALL_DEADLINE):
                    return await act(preferred)
            except ANSWERS:
                raise
            except BROKEN_LINK:
                # The lock is the message's and not the link's: another receiver will do.
                self._close_soon(preferred)
        name = f"settle {entity}"
        async with self._locks[name]:
            if self._used_up(name) and (worn := self._by_token.pop(entity, None)):
                # Others may be waiting for it still, and will be no longer by then.
                asyncio.get_running_loop().call_later(CALL_DEADLINE, self._close_if_open, worn)
            if entity not in self._by_token:
                self._by_token[entity] = await self._open(entity)
            receiver = self._by_token[entity]
        try:
            async with asyncio.timeout(CALL_DEADLINE):
                return await act(receiver)
        except ANSWERS:
            raise
        except BROKEN_LINK:
            if self._by_token.get(entity) is receiver:
                del self._by_token[entity]
                self._close_soon(receiver)
            raise

    async def accept(
        self, entity: str, session_id: str | None, patience: float
    ) -> ServiceBusReceiver:
        """Lock this session, or where it is None the next one that has work.

        Raises OperationTimeoutError where none had any for ``patience`` seconds.
        """
        self._check_open()
        wanted: Any = NEXT_AVAILABLE_SESSION if session_id is None else session_id
        receiver = self._client.get_queue_receiver(
            entity,
            session_id=wanted,
            max_wait_time=patience,
            prefetch_count=0,
            socket_timeout=_READ,
        )
        return await self._opened(receiver, 2 * patience + CALL_DEADLINE)

    def leave(self, receiver: ServiceBusReceiver) -> None:
        """Close, which ends the lock of the receiver's session."""
        self._close_soon(receiver)

    async def _open(self, entity: str) -> ServiceBusReceiver:
        name = entity.removesuffix(DEAD_LETTERS)
        receiver = self._client.get_queue_receiver(
            name,
            sub_queue=ServiceBusSubQueue.DEAD_LETTER if name != entity else None,
            prefetch_count=0,
            socket_timeout=_READ,
        )
        return await self._opened(receiver, CALL_DEADLINE)

    async def _opened(self, receiver: ServiceBusReceiver, deadline: float) -> ServiceBusReceiver:
        self._receivers.add(receiver)
        try:
            async with asyncio.timeout(deadline):
                await self._enter(receiver)
        except BaseException:
            self._close_soon(receiver)
            raise
        return receiver

    async def _enter(self, link: ServiceBusReceiver | ServiceBusSender) -> None:
        opening: asyncio.Task[object] = asyncio.ensure_future(link.__aenter__())
        self._openings.add(opening)
        opening.add_done_callback(self._openings.discard)
        try:
            await opening
        except asyncio.CancelledError:
            self._check_open()
            raise

    def _used_up(self, name: str) -> bool:
        """Count a request. Whether it needs another link than those before it."""
        self._requests[name] += 1
        return self._requests[name] % MOST_REQUESTS == 0

    def _close_if_open(self, receiver: ServiceBusReceiver) -> None:
        if not self.closed:
            self._close_soon(receiver)

    def _check_open(self) -> None:
        if self.closed:
            raise BackendUnavailable("the queue is closed")

    def _close_soon(self, link: ServiceBusReceiver | ServiceBusSender) -> None:
        """Close in the background: that takes up to a second, and nobody waits for it."""
        if isinstance(link, ServiceBusReceiver):
            self._receivers.discard(link)
            for idle in self._idle.values():
                if link in idle:
                    idle.remove(link)
        task = asyncio.get_running_loop().create_task(_leave(link))
        self._closings.add(task)
        task.add_done_callback(self._closings.discard)


async def _leave(link: ServiceBusReceiver | ServiceBusSender | ServiceBusClient) -> None:
    """Close, in bounded time. How the library complains of a broken link is of no interest then."""

    async def close() -> None:
        async with asyncio.timeout(_CLOSE_DEADLINE):
            await link.close()

    await asyncio.gather(close(), return_exceptions=True)
