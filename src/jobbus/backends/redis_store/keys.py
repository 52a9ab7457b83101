"""Idempotency keys beside the jobs: on the queue's own connection, in its slot of a cluster."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from jobbus.errors import BackendUnavailable
from jobbus.idempotency.redis import (
    TOGETHER,
    RedisIdempotencyStore,
    key_digest,
    key_script,
    script_arguments,
)

from .connection import Link


class RedisKeys(RedisIdempotencyStore):
    """What :class:`RedisIdempotencyStore` is, also behind Sentinel and in a cluster."""

    def __init__(self, link: Link, ttl: timedelta, *, owned: bool = False) -> None:
        """``owned`` says that the connection is this store's own, to open and to close."""
        super().__init__(link.options.plain_url, ttl)
        self._link = link
        self._owned = owned
        self._opening = asyncio.Lock()

    async def open(self) -> None:
        with contextlib.suppress(BackendUnavailable):  # the first request tries again
            await self._ensure_open()

    async def close(self) -> None:
        if self._owned:
            await self._link.close()

    def separate(self) -> RedisKeys:
        return RedisKeys(Link(self._link.options), self._ttl, owned=True)

    async def concerns(self) -> Sequence[str]:
        """None: a Redis that would forget is refused by the queue."""
        return []

    def _name(self, key: str) -> str:
        return f"{self._link.options.base}key:{key_digest(key)}"

    async def _evaluate(self, name: str, calls: Sequence[tuple[Any, ...]]) -> list[Any]:
        await self._ensure_open()
        script = key_script(name)
        answers: list[Any] = []
        for start in range(0, len(calls), TOGETHER):
            batch = calls[start : start + TOGETHER]
            names = [self._name(call[0]) for call in batch]
            answers += await self._link.evaluate(script, names, script_arguments(batch))
        return answers

    async def _ensure_open(self) -> None:
        if self._owned:
            async with self._opening:
                await self._link.open()
