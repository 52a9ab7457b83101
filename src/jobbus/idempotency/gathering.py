"""Joins single requests into batches: what comes while one batch is on its way travels together."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Generic, TypeVar

Asked = TypeVar("Asked")
Told = TypeVar("Told")
MAX_BATCH: Final = 500


class Gatherer(Generic[Asked, Told]):
    """A lone request waits for nobody; under load batches grow by themselves."""

    def __init__(self, call: Callable[[Sequence[Asked]], Awaitable[Sequence[Told]]]) -> None:
        """``call`` answers a batch in its order. It is never cancelled in the middle."""
        self._call = call
        self._waiting: list[tuple[Asked, asyncio.Future[Told]]] = []
        self._running: asyncio.Task[None] | None = None

    async def ask(self, one: Asked) -> Told:
        """The answer to ``one``. Raises what the call for its batch raised."""
        answer: asyncio.Future[Told] = asyncio.get_running_loop().create_future()
        self._waiting.append((one, answer))
        if self._running is None:
            self._running = asyncio.create_task(self._run())
        return await answer

    async def _run(self) -> None:
        try:
            while self._waiting:
                batch = self._waiting[:MAX_BATCH]
                del self._waiting[:MAX_BATCH]
                await self._answer(batch)
        finally:
            self._running = None

    async def _answer(self, batch: Sequence[tuple[Asked, asyncio.Future[Told]]]) -> None:
        try:
            told = await self._call([one for one, _ in batch])
        except Exception as error:
            for _, answer in batch:
                if not answer.done():
                    answer.set_exception(error)
            return
        for (_, answer), one in zip(batch, told, strict=True):
            if not answer.done():
                answer.set_result(one)
