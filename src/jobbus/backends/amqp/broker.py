"""The two connections of a queue, what stands on them, and what must exist behind them.

One connection publishes, one consumes (RM-11). A connection that broke is replaced at the next
call; who consumed on it has lost what was held, and starts anew.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from typing import Final

from aiormq.channel import Channel

from jobbus.errors import BackendError, BackendUnavailable, ConfigurationError

from .consuming import Consumer, Source
from .link import CALL_SECONDS, Detached, Link, Missing, address, readable
from .options import Options
from .publishing import Letter, Publisher
from .topology import Topology

_LATER: Final = "the broker refuses the connection that broke to be made anew"


class Broker:
    """A RabbitMQ as one queue object sees it. For one event loop."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._url = address(options.url)
        self.topology = Topology(options.queue_prefix)
        self.consumers: dict[str, Consumer] = {}
        self._others: dict[tuple[Source, str], Consumer] = {}
        """Those that take what no worker receives."""
        self._known: set[str] = set()
        self._publishing: Link | None = None
        self._consuming: Link | None = None
        self._publisher: Publisher | None = None
        self._changing = asyncio.Lock()
        self._calls = Detached()
        self._open = False
        self.version: tuple[int, ...] | None = None
        """The server's, once it is known."""

    async def open(self, queues: Collection[str]) -> None:
        """Connect, and make or look for what must exist. Raises ConfigurationError, and more."""
        if self._open:
            return
        self._open = True
        # Locks belong to an event loop, and this need not be the one of the last time.
        self._changing = asyncio.Lock()
        try:
            link = await self._publishing_link()
            self.version = link.server_version
            await self._ensure_delays(link)
            if not self._creates:
                for name in queues:
                    await self._ensure(name)
        except Missing as error:
            await self.close()
            raise ConfigurationError(str(error)) from error
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Let go of both connections. What is held goes back to the broker."""
        self._open = False
        links = [each for each in (self._consuming, self._publishing) if each is not None]
        self._publishing = self._consuming = self._publisher = None
        self.consumers.clear()
        self._others.clear()
        await asyncio.gather(*(each.close() for each in links))
        await self._calls.ended()

    async def create(self, queues: Collection[str]) -> list[str]:
        """Declare everything; return the names of the queues. Works on what is not open."""
        async with self._visit() as link, self._channel(link) as channel:
            with link.translated("declaring the waits"):
                await self.topology.declare_delays(channel)
            for name in queues:
                with link.translated(f"declaring {self.topology.queue(name)}"):
                    await self.topology.declare_queue(channel, name)
        return [self.topology.queue(name) for name in queues]

    async def missing(self, queues: Collection[str]) -> list[str]:
        """Names of what :meth:`create` would make. Works on what is not open."""
        found = []
        async with self._visit() as link:
            for queue in [self.topology.first_wait, *map(self.topology.queue, queues)]:
                with contextlib.suppress(Missing), link.translated(f"looking for {queue}"):
                    async with self._channel(link) as channel:
                        await self.topology.look_for(channel, queue)
                    continue
                found.append(queue)
        return found

    async def send(
        self, letters: Sequence[Letter], queues: Collection[str]
    ) -> list[BackendError | None]:
        """Send letters that lead to these queues; see :meth:`Publisher.send`."""
        link = await self._publishing_link()
        for name in queues:
            await self._ensure(name)
        if self._publisher is None:
            self._publisher = Publisher(link)
        outcomes = await self._publisher.send(letters)
        if any(outcomes):
            self._known.clear()  # somebody may have deleted it: it is looked for, or made, again
        return outcomes

    async def consumer(self, name: str, source: Source = Source.DUE) -> Consumer:
        """The queue's consumer of this kind, alive."""
        self._check_open()
        found = self._consumer(name, source)
        if found is not None and found.alive:
            return found
        return await self._calls.run(self._made_consumer(name, source))

    async def _made_consumer(self, name: str, source: Source) -> Consumer:
        await self._ensure(name)
        async with self._changing:
            found = self._consumer(name, source)
            if found is None or not found.alive:
                if found is not None:
                    await found.close()
                found = await self._new_consumer(name, source)
                if source is Source.DUE:
                    self.consumers[name] = found
                else:
                    self._others[source, name] = found
        return found

    def owns(self, consumer: Consumer) -> bool:
        """Whether this is the consumer that its queue has now."""
        return self._consumer(consumer.name, consumer.source) is consumer

    def _consumer(self, name: str, source: Source) -> Consumer | None:
        if source is Source.DUE:
            return self.consumers.get(name)
        return self._others.get((source, name))

    async def count(self, queue: str) -> int:
        """Messages ready in a queue, by the broker's name for it; 0 where there is none."""
        return await self._calls.run(self._count(queue))

    async def _count(self, queue: str) -> int:
        link = await self._publishing_link()
        try:
            with link.translated(f"counting {queue}"):
                async with self._channel(link) as channel:
                    told = await channel.queue_declare(queue, passive=True, timeout=CALL_SECONDS)
        except Missing:
            return 0
        return int(told.message_count or 0)

    # connections

    @property
    def _creates(self) -> bool:
        return self._options.create_topology == "auto"

    def _check_open(self) -> None:
        if not self._open:
            raise BackendUnavailable(
                f"the queue on RabbitMQ at {readable(self._url)} is not open: open() it first"
            )

    def _new_link(self, purpose: str) -> Link:
        name = f"jobbus {purpose} {os.getpid()}"
        return Link(self._url, heartbeat=self._options.heartbeat, name=name)

    async def _publishing_link(self) -> Link:
        self._check_open()
        async with self._changing:
            if self._publishing is None or not self._publishing.alive:
                self._publisher = None
                self._publishing = await self._connected("publish", self._publishing)
            return self._publishing

    async def _new_consumer(self, name: str, source: Source) -> Consumer:
        if self._consuming is None or not self._consuming.alive:
            self._consuming = await self._connected("consume", self._consuming)
        queue = self.topology.dead(name) if source is Source.DEAD else self.topology.queue(name)
        consumer = Consumer(self._consuming, name, queue, source)
        with self._consuming.translated(f"opening a channel to receive from {name}"):
            await consumer.open()
        return consumer

    async def _connected(self, purpose: str, before: Link | None) -> Link:
        if before is not None:
            await before.close()
        link = self._new_link(purpose)
        try:
            await link.open()
        except ConfigurationError as error:
            if self.version is None:
                raise
            # It worked before: a broker that starts refuses what it will grant in a moment.
            raise BackendUnavailable(f"{_LATER}: {error}") from error
        if not self._open:
            await link.close()
            self._check_open()
        return link

    @asynccontextmanager
    async def _visit(self) -> AsyncIterator[Link]:
        """A connection for a moment."""
        link = self._new_link("visit")
        await link.open()
        try:
            yield link
        finally:
            await link.close()

    @asynccontextmanager
    async def _channel(self, link: Link) -> AsyncIterator[Channel]:
        channel = await link.channel(confirms=False)
        try:
            yield channel
        finally:
            if not channel.is_closed:
                await channel.close(timeout=CALL_SECONDS)

    # what must exist

    async def _ensure_delays(self, link: Link) -> None:
        try:
            with link.translated(f"looking for {self.topology.first_wait}"):
                async with self._channel(link) as channel:
                    await self.topology.look_for(channel, self.topology.first_wait)
        except Missing:
            if not self._creates:
                raise
            with link.translated("declaring the waits"):
                async with self._channel(link) as channel:
                    await self.topology.declare_delays(channel)

    async def _ensure(self, name: str) -> None:
        """Make the queue, or find it there. Once for each, until one is found missing."""
        if name not in self._known:
            # To be cancelled half-way would cost the connection, and with it what others send.
            await self._calls.run(self._made_sure_of(name))

    async def _made_sure_of(self, name: str) -> None:
        link = await self._publishing_link()
        queue = self.topology.queue(name)
        with link.translated(f"{'declaring' if self._creates else 'looking for'} {queue}"):
            async with self._channel(link) as channel:
                if self._creates:
                    await self.topology.declare_queue(channel, name)
                else:
                    await self.topology.look_for(channel, queue)
        self._known.add(name)
