"""Long polls that outlive whoever asked for them, without a message being lost.

A request that SQS is answering cannot be taken back: aborted, it is answered all the same, and the
message in the answer stays hidden until its lease is over. So a poll that nobody awaits any more
goes on in its thread. The next receive of the same kind adopts it; if there is none by the time
that it brings something, what it brings is put back.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta

from jobbus.errors import BackendError, BackendUnavailable
from jobbus.message import Delivery

from .receipts import Place
from .threads import Threads, tell


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """One ReceiveMessage."""

    place: Place
    limit: int
    seconds: int
    """How long SQS may wait for a message."""
    lease: timedelta


class _Poll:
    """A request that is on its way, or was."""

    def __init__(self, ask: Ask) -> None:
        self.ask = ask
        self.future: asyncio.Future[Sequence[Delivery]] = asyncio.get_running_loop().create_future()
        self.lock = threading.Lock()
        self.running = True
        self.deserted = False

    def desert(self) -> bool:
        """Leave it to itself; False when it has an answer already, and so has us."""
        with self.lock:
            self.deserted = self.running
            return self.deserted

    def adopt(self) -> bool:
        """Take it over; False when it has ended."""
        with self.lock:
            if self.running:
                self.deserted = False
            return self.running


class Polls:
    """All polls of one queue object. Its methods belong to the event loop."""

    def __init__(
        self,
        threads: Threads,
        receive: Callable[[Ask], Sequence[Delivery]],
        put_back: Callable[[Sequence[Delivery]], None],
    ) -> None:
        """``receive`` and ``put_back`` block, and are called in threads."""
        self._threads = threads
        self._receive = receive
        self._put_back = put_back
        self._awaited: set[_Poll] = set()
        self._deserted: set[_Poll] = set()

    def standing(self, ask: Ask) -> bool:
        """Whether a poll that ``ask`` could adopt waits already: then there is nothing now."""
        self._deserted = {poll for poll in self._deserted if poll.running}
        return any(_suits(poll.ask, ask) for poll in self._deserted)

    async def first(self, ask: Ask, patience: float) -> Sequence[Delivery]:
        """What the poll brings within ``patience`` seconds; empty when it brings nothing."""
        poll = self._adopted(ask) or self._started(ask)
        self._awaited.add(poll)
        try:
            await asyncio.wait([poll.future], timeout=patience)
            if not poll.future.done() and poll.desert():
                self._deserted.add(poll)
                return []
            return await poll.future
        except asyncio.CancelledError:
            if poll.desert():
                self._deserted.add(poll)
            else:
                poll.future.add_done_callback(self.returned)
            raise
        finally:
            self._awaited.discard(poll)

    def close(self) -> None:
        """Await nothing any more. Polls go on in their threads, and put back what they bring."""
        for poll in self._awaited:
            poll.desert()
            if not poll.future.done():
                poll.future.set_exception(BackendUnavailable("this SQS queue was closed"))
        self._awaited = set()

    def _adopted(self, ask: Ask) -> _Poll | None:
        for poll in list(self._deserted):
            if _suits(poll.ask, ask):
                self._deserted.discard(poll)
                if poll.adopt():
                    return poll
        return None

    def _started(self, ask: Ask) -> _Poll:
        poll, loop = _Poll(ask), asyncio.get_running_loop()
        self._threads.start(lambda: self._work(poll, loop))
        return poll

    def _work(self, poll: _Poll, loop: asyncio.AbstractEventLoop) -> None:
        """In a thread: ask, then tell whoever waits, or put back what nobody waits for."""
        found: Sequence[Delivery] = ()
        failure: BaseException | None = None
        try:
            found = self._receive(poll.ask)
        except BaseException as error:
            failure = error
        with poll.lock:
            poll.running = False
            deserted = poll.deserted
        if not deserted:
            deserted = not tell(loop, self._answered, poll, found, failure)
        if deserted and found:
            self._give_back(found)

    def _answered(
        self, poll: _Poll, found: Sequence[Delivery], failure: BaseException | None
    ) -> None:
        if poll.future.done():
            self._hand_over(found)
        elif failure is not None:
            poll.future.set_exception(failure)
        else:
            poll.future.set_result(found)

    def returned(self, future: asyncio.Future[Sequence[Delivery]]) -> None:
        """Put back what came for somebody who was cancelled at that moment."""
        if not future.cancelled() and future.exception() is None:
            self._hand_over(future.result())

    def _hand_over(self, found: Sequence[Delivery]) -> None:
        if found:
            try:
                self._threads.start(lambda: self._give_back(found))
            except BackendUnavailable:
                return  # closed in between: they come again when their lease is over

    def _give_back(self, found: Sequence[Delivery]) -> None:
        try:
            self._put_back(found)
        except BackendError:
            return  # nobody is left to tell; they come again when their lease is over


def _suits(standing: Ask, wanted: Ask) -> bool:
    """Whether what ``standing`` may bring is what ``wanted`` asks for, and no more."""
    return (
        standing.place.url == wanted.place.url
        and standing.lease == wanted.lease
        and standing.limit <= wanted.limit
    )
