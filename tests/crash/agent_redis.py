"""The witness inside a process whose jobs are in Redis; points are before and after each script."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from jobbus.backends.redis import RedisQueue
from jobbus.backends.redis_store.connection import Argument, Link
from jobbus.backends.redis_store.options import RedisOptions
from jobbus.message import Abandonment, Completion, DeadLetter, Delivery, LeaseState, Message

if TYPE_CHECKING:
    from tests.crash.agent import Agent

_verb: ContextVar[str] = ContextVar("crash_verb_redis", default="")


class WatchedLink(Link):
    """Tells the agent of every script."""

    def __init__(self, options: RedisOptions, agent: Agent) -> None:
        super().__init__(options)
        self._agent = agent

    async def run(self, name: str, *arguments: Argument) -> Any:
        verb = _verb.get()
        self._agent.reach(f"{verb}/{name}:before")
        answer = await super().run(name, *arguments)
        self._agent.reach(f"{verb}/{name}:after")
        return answer


class WatchedRedis(RedisQueue):
    """A queue that tells its agent of every verb. Its address is a URL, ``#``, and a prefix."""

    def __init__(self, address: str, agent: Agent) -> None:
        url, _, prefix = address.partition("#")
        options = RedisOptions(url=url, prefix=prefix)
        super().__init__(options=options)
        self._link = WatchedLink(options, agent)
        self.agent = agent
        self.address = address

    def separate(self) -> WatchedRedis:
        return WatchedRedis(self.address, self.agent)

    async def enqueue(
        self, messages: Sequence[Message], *, connection: Any | None = None
    ) -> Sequence[str]:
        self.agent.note_enqueuing(messages)
        with self._points("enqueue"):
            ids = await super().enqueue(messages, connection=connection)
        for job_id in ids:
            self.agent.note("enqueued", job_id)
        return ids

    async def _claim(self, queue: str, limit: int, lease: timedelta) -> list[Delivery]:
        before = time.monotonic()
        with _within("claim"):
            self.agent.reach("claim:before")
            deliveries = await super()._claim(queue, limit, lease)
        self._held("claimed", deliveries, before, lease)
        if deliveries:
            self.agent.reach("claim:after")
        return deliveries

    async def complete(
        self, done: Sequence[Completion], *, connection: Any | None = None
    ) -> Sequence[Delivery]:
        if self.agent.settling_takes:
            await asyncio.sleep(self.agent.settling_takes)
        with self._settling("complete", done) as lost:
            lost += await super().complete(done, connection=connection)
        return lost

    async def abandon(self, back: Sequence[Abandonment]) -> Sequence[Delivery]:
        with self._settling("abandon", back) as lost:
            lost += await super().abandon(back)
        return lost

    async def dead_letter(self, dead: Sequence[DeadLetter]) -> Sequence[Delivery]:
        with self._settling("dead_letter", dead) as lost:
            lost += await super().dead_letter(dead)
        return lost

    async def extend(self, held: Sequence[Delivery], lease: timedelta) -> Sequence[LeaseState]:
        before = time.monotonic()
        with self._points("extend") if held else _within("extend"):
            states = await super().extend(held, lease)
        pairs = list(zip(held, states, strict=True))
        self._held("lost", [d for d, one in pairs if one is LeaseState.LOST], before, lease)
        self._held("renewed", [d for d, one in pairs if one is not LeaseState.LOST], before, lease)
        return states

    async def _tend(self, *, expired_for: timedelta, thorough: bool) -> int:
        with self._points("tend"):
            return await super()._tend(expired_for=expired_for, thorough=thorough)

    def _held(
        self, event: str, deliveries: Sequence[Delivery], before: float, lease: timedelta
    ) -> None:
        for one in deliveries:
            self.agent.note(
                event, one.job_id, one.attempt, before=before, lease=lease.total_seconds()
            )

    @contextmanager
    def _points(self, verb: str) -> Iterator[None]:
        with _within(verb):
            self.agent.reach(f"{verb}:before")
            yield
            self.agent.reach(f"{verb}:after")

    @contextmanager
    def _settling(
        self, verb: str, settlements: Sequence[Completion | Abandonment | DeadLetter]
    ) -> Iterator[list[Delivery]]:
        keys = [(s.delivery.job_id, s.delivery.attempt) for s in settlements]
        for key in keys:
            self.agent.note("settling", *key, verb=verb)
        lost: list[Delivery] = []
        with self._points(verb) if keys else _within(verb):
            yield lost
        refused = {(delivery.job_id, delivery.attempt) for delivery in lost}
        for key in keys:
            self.agent.note("settled", *key, verb=verb, accepted=key not in refused)


@contextmanager
def _within(verb: str) -> Iterator[None]:
    token = _verb.set(verb)
    try:
        yield
    finally:
        _verb.reset(token)
