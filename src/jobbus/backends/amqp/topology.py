"""What there is on the broker: names, arguments, and the way that a delay takes through it.

A delay is a number of units, written in binary. Each bit that is set is a wait in the queue of its
level, which has one time to live for all messages, so that none waits behind a longer one; the
broker itself moves a message on, from a higher level to the next, and from the last to its queue.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

from aiormq.channel import Channel

from jobbus.errors import InvalidJob

CALL_SECONDS: Final = 10
UNIT: Final = timedelta(milliseconds=100)
LEVELS: Final = 20
MAX_DELAY: Final = timedelta(hours=24)
_PRECISION: Final = 6
"""Bits of a delay that count: it ends at most 1/32 late, after at most so many hops."""
DELIVERY_LIMIT: Final = 50
"""Deliveries without a settlement after which the broker itself sets a message aside (RM-3)."""
CONSUMER_TIMEOUT: Final = timedelta(hours=24)
"""How long a message may be held on RabbitMQ 3.12 and newer; older ones do not look (RM-2)."""
_UNLIMITED: Final = 1_000_000_000
_NAME: Final = re.compile(r"[A-Za-z0-9_.:-]{1,64}")

# At least once needs a quorum queue that refuses what it cannot hold (RM-4).
_SAFE: Final[Mapping[str, Any]] = {
    "x-queue-type": "quorum",
    "x-overflow": "reject-publish",
    "x-dead-letter-strategy": "at-least-once",
}


@dataclass(frozen=True, slots=True)
class Topology:
    """Names under one prefix, and the declarations behind them.

    No argument depends on the broker's version, so that an upgrade leaves what is declared equal
    to what exists.
    """

    prefix: str

    def queue(self, name: str) -> str:
        """Raises InvalidJob for what is no name of a queue."""
        if not _NAME.fullmatch(name):
            raise InvalidJob(f"{name[:80]!r} is no name of a queue: it takes {_NAME.pattern}")
        return f"{self.prefix}.queue.{name}"

    def dead(self, name: str) -> str:
        return f"{self.prefix}.dead.{name}"

    @property
    def due(self) -> str:
        """The exchange to which every delay leads."""
        return f"{self.prefix}.due"

    def level(self, number: int) -> str:
        """A wait's queue, and the exchange before it, which alike goes by this name."""
        return f"{self.prefix}.delay.{number:02}"

    @property
    def first_wait(self) -> str:
        """The last thing that is declared for delays: where it is, all is."""
        return self.level(LEVELS - 1)

    def route(self, name: str, delay: timedelta) -> tuple[str, str]:
        """Exchange and routing key by which a message comes to its queue after ``delay``."""
        units = delay_units(delay)
        if not units:
            return "", self.queue(name)
        return self.level(units.bit_length() - 1), ".".join([*f"{units:0{LEVELS}b}", name])

    async def declare_delays(self, channel: Channel) -> None:
        """From the last step to the first."""
        await self._exchange(channel, self.due)
        for number in range(LEVELS):
            name = self.level(number)
            following = self.level(number - 1) if number else self.due
            ttl = UNIT * 2**number
            higher = "*." * (LEVELS - 1 - number)
            await self._exchange(channel, name)
            await channel.exchange_bind(following, name, f"{higher}0.#", timeout=CALL_SECONDS)
            await channel.queue_declare(
                name,
                durable=True,
                timeout=CALL_SECONDS,
                arguments={
                    **_SAFE,
                    "x-message-ttl": ttl // timedelta(milliseconds=1),
                    "x-dead-letter-exchange": following,
                },
            )
            await channel.queue_bind(name, name, f"{higher}1.#", timeout=CALL_SECONDS)

    async def declare_queue(self, channel: Channel, name: str) -> None:
        """The queue, its dead letters, and its place behind every delay."""
        queue, dead = self.queue(name), self.dead(name)
        await channel.queue_declare(
            dead,
            durable=True,
            timeout=CALL_SECONDS,
            # Without a limit of its own, RabbitMQ 4 drops what was looked at 20 times.
            arguments={"x-queue-type": "quorum", "x-delivery-limit": _UNLIMITED},
        )
        await channel.queue_declare(
            queue,
            durable=True,
            timeout=CALL_SECONDS,
            arguments={
                **_SAFE,
                "x-dead-letter-exchange": "",
                "x-dead-letter-routing-key": dead,
                "x-delivery-limit": DELIVERY_LIMIT,
                "x-consumer-timeout": CONSUMER_TIMEOUT // timedelta(milliseconds=1),
            },
        )
        await channel.queue_bind(queue, self.due, "*." * LEVELS + name, timeout=CALL_SECONDS)

    async def look_for(self, channel: Channel, queue: str) -> None:
        """Raise ChannelNotFoundEntity where there is no such queue."""
        await channel.queue_declare(queue, passive=True, timeout=CALL_SECONDS)

    async def _exchange(self, channel: Channel, name: str) -> None:
        await channel.exchange_declare(
            name, exchange_type="topic", durable=True, timeout=CALL_SECONDS
        )


def delay_units(delay: timedelta) -> int:
    """The delay in units, rounded up: to whole ones, and to what ``_PRECISION`` bits can say."""
    units = max(-(-delay // UNIT), 0)
    spare = max(units.bit_length() - _PRECISION, 0)
    return -(-units >> spare) << spare
