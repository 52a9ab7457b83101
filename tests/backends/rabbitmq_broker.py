"""What the tests of the RabbitMQ backend do to a broker beside the queue's own connection."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from uuid import uuid4

import aiormq
from aiormq.channel import Channel

from jobbus.backends.amqp.topology import LEVELS, Topology

QUEUES = ("default", "mail", "video")


@asynccontextmanager
async def channel_to(url: str) -> AsyncIterator[Channel]:
    """A channel on a connection of its own."""
    async with aiormq.connect(url) as connection:
        channel = await connection.channel()
        assert isinstance(channel, Channel)
        yield channel


def new_prefix() -> str:
    """A prefix that nobody else has. :func:`delete_all` at the end."""
    return f"jbt{uuid4().hex[:10]}"


async def delete_queue(url: str, name: str) -> None:
    """Delete one queue, and return when the broker knows it no more."""
    async with channel_to(url) as channel:
        await channel.queue_delete(name)
    while True:
        async with channel_to(url) as channel:
            try:
                await channel.queue_declare(name, passive=True)
            except aiormq.exceptions.ChannelNotFoundEntity:
                return


async def empty(url: str, prefix: str, names: Sequence[str] = QUEUES) -> None:
    """Leave no message under the prefix, nor any queue but those of the delays."""
    topology = Topology(prefix)
    async with channel_to(url) as channel:
        await _delete_queues(channel, topology, names)
        for number in range(LEVELS):
            level = await channel.queue_declare(topology.level(number), passive=True)
            if level.message_count:
                await channel.queue_purge(topology.level(number))


async def delete_all(url: str, prefix: str, names: Sequence[str] = QUEUES) -> None:
    """Leave nothing under the prefix, where there were these queues."""
    topology = Topology(prefix)
    async with channel_to(url) as channel:
        await _delete_queues(channel, topology, names)
        for number in range(LEVELS):
            await channel.queue_delete(topology.level(number))
            await channel.exchange_delete(topology.level(number))
        await channel.exchange_delete(topology.due)


async def _delete_queues(channel: Channel, topology: Topology, names: Sequence[str]) -> None:
    for name in names:
        await channel.queue_delete(topology.queue(name))
        await channel.queue_delete(topology.dead(name))
