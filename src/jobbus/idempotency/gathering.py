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
        [answer] = self._ask([one])
        return await answer

    async def ask_all(self, several: Sequence[Asked]) -> list[Told]:
        """The answers, in order. Raises what the call for one of their batches raised."""
        answers = self._ask(several)
        await asyncio.wait(answers)
        for error in [answer.exception() for answer in answers]:
            if error is not None:
                raise error
        return [answer.result() for answer in answers]

    def _ask(self, several: Sequence[Asked]) -> list[asyncio.Future[Told]]:
        loop = asyncio.get_running_loop()
        answers: list[asyncio.Future[Told]] = [loop.create_future() for _ in several]
        self._waiting += zip(several, answers, strict=True)
        if self._running is None:
            self._running = asyncio.create_task(self._run())
        return answers

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
