"""An event loop that a seed decides: time is virtual, and processes are groups that can die.

Every callback belongs to the group in whose context it was made. Which group goes next is drawn by
lot, as a machine's scheduler might; within a group callbacks keep their order, as asyncio promises
to the code under test. A group that is dead is never resumed: its coroutines stop where
they are, and no ``finally`` of theirs runs, as after a ``kill -9``.
"""

from __future__ import annotations

import asyncio
import heapq
import random
from collections import deque
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor
from contextvars import Context, ContextVar, copy_context
from itertools import count
from typing import Any, Final, TypeVar, TypeVarTuple, Unpack

T = TypeVar("T")
Args = TypeVarTuple("Args")
_STEP: Final = 0.0002
"""Seconds that one step of a process takes at the most."""
_CLOSINGS: Final = 50


class Group:
    """The tasks of one virtual process."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.dead = False
        self.frozen = False
        self.steps = 0
        self.fuse: int | None = None
        """After so many more steps it dies."""
        self.main: asyncio.Task[Any] | None = None
        self.ready: deque[asyncio.Handle] = deque()


ROOT: Final = Group("test")
GROUP: ContextVar[Group] = ContextVar("simulated_process", default=ROOT)


class NumberedTask(asyncio.Task[T]):
    """Sets of tasks are walked in the same order in every run."""

    def __init__(self, number: int, *args: Any, **named: Any) -> None:
        self._number = number
        super().__init__(*args, **named)

    def __hash__(self) -> int:
        return self._number


class NumberedFuture(asyncio.Future[T]):
    """The same for futures."""

    def __init__(self, number: int, loop: asyncio.AbstractEventLoop) -> None:
        self._number = number
        super().__init__(loop=loop)

    def __hash__(self) -> int:
        return self._number


class SeededLoop(asyncio.BaseEventLoop):
    """Runs everything in one thread, and nothing in real time. Has no files, sockets or threads."""

    def __init__(self, chance: random.Random, on_death: Callable[[Group], None]) -> None:
        # Not the base's own: that would look after what there is none of here.
        self._chance = chance
        self._on_death = on_death
        self._now = 1000.0
        self._numbers = count()
        self._groups: dict[str, Group] = {ROOT.name: Group(ROOT.name)}
        self._timers: list[tuple[float, int, Group, asyncio.TimerHandle]] = []
        self._buried: list[asyncio.Handle] = []
        self._tasks: list[tuple[NumberedTask[Any], Context]] = []
        self._closed = False
        self.steps = 0
        self.failures: list[dict[str, Any]] = []
        """What the code under test let escape into the event loop."""

    # processes

    def spawn(self, group: Group, main: Coroutine[Any, Any, Any]) -> None:
        """Start a process."""
        self._groups[group.name] = group
        context = copy_context()
        context.run(GROUP.set, group)
        group.main = self.create_task(main, context=context)

    def within(self, group: Group, callback: Callable[[], object]) -> None:
        """Have a process do something, as its signal handler would."""
        context = copy_context()
        context.run(GROUP.set, group)
        self.call_soon(callback, context=context)

    def kill(self, group: Group) -> None:
        """It does nothing more."""
        group.dead = True
        self._buried.extend(group.ready)
        group.ready.clear()
        self._groups.pop(group.name, None)

    # running

    def run_until_complete(self, future: Any) -> Any:
        task = self.create_task(future)
        asyncio._set_running_loop(self)
        try:
            while not task.done():
                self._step()
        finally:
            asyncio._set_running_loop(None)
        return task.result()

    def _step(self) -> None:
        self._ring_due()
        able = [g for g in self._groups.values() if g.ready and not g.frozen]
        if not able:
            if not self._timers:
                raise RuntimeError("everybody waits, and nothing will ever happen")
            self._now = max(self._now, self._timers[0][0])
            return
        group = able[0] if len(able) == 1 else self._chance.choice(able)
        if group.fuse is not None:
            group.fuse -= 1
            if group.fuse < 0:
                self._on_death(group)
                return
        self.steps += 1
        group.steps += 1
        self._now += self._chance.random() * _STEP
        handle = group.ready.popleft()
        if not handle.cancelled():
            handle._run()

    def _ring_due(self) -> None:
        while self._timers and self._timers[0][0] <= self._now:
            _, _, group, timer = heapq.heappop(self._timers)
            if not timer.cancelled():
                self._put(group, timer)

    def _put(self, group: Group, handle: asyncio.Handle) -> None:
        if group.dead or self._closed:
            self._buried.append(handle)
        else:
            self._groups[group.name].ready.append(handle)

    def close(self) -> None:
        """Take apart what was left suspended, without letting it run."""
        self._closed = True
        for task, context in self._tasks:
            if not task.done():
                task._log_destroy_pending = False  # type: ignore[attr-defined]  # asyncio's own way
                context.run(_shut, task.get_coro())
        self._tasks.clear()
        self._timers.clear()
        self._buried.clear()

    # what asyncio asks of a loop

    def time(self) -> float:
        return self._now

    def is_running(self) -> bool:
        return True

    def is_closed(self) -> bool:
        return self._closed

    def get_debug(self) -> bool:
        return False

    def call_soon(
        self,
        callback: Callable[[Unpack[Args]], object],
        *args: *Args,
        context: Context | None = None,
    ) -> asyncio.Handle:
        context = context or copy_context()
        handle = asyncio.Handle(callback, args, self, context)
        self._put(context.get(GROUP, ROOT), handle)
        return handle

    def call_soon_threadsafe(
        self,
        callback: Callable[[Unpack[Args]], object],
        *args: *Args,
        context: Context | None = None,
    ) -> asyncio.Handle:
        return self.call_soon(callback, *args, context=context)

    def call_later(
        self,
        delay: float,
        callback: Callable[[Unpack[Args]], object],
        *args: *Args,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        return self.call_at(self._now + delay, callback, *args, context=context)

    def call_at(
        self,
        when: float,
        callback: Callable[[Unpack[Args]], object],
        *args: *Args,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        context = context or copy_context()
        timer = asyncio.TimerHandle(when, callback, args, self, context)
        group = context.get(GROUP, ROOT)
        heapq.heappush(self._timers, (when, next(self._numbers), group, timer))
        return timer

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """It is passed over when its time comes."""

    def create_future(self) -> NumberedFuture[Any]:
        return NumberedFuture(next(self._numbers), self)

    def create_task(
        self, coro: Any, *, name: object = None, context: Context | None = None
    ) -> NumberedTask[Any]:
        context = context or copy_context()
        task = NumberedTask[Any](next(self._numbers), coro, loop=self, name=name, context=context)
        self._tasks.append((task, context))
        return task

    def run_in_executor(
        self, executor: Executor | None, func: Callable[[Unpack[Args]], T], *args: *Args
    ) -> asyncio.Future[T]:
        """Done at once, in this thread: what takes time in the simulation says so itself."""
        future: asyncio.Future[T] = self.create_future()
        try:
            future.set_result(func(*args))
        except Exception as error:
            future.set_exception(error)
        return future

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        self.failures.append(context)


def _shut(coroutine: Any) -> None:
    for _ in range(_CLOSINGS):
        try:
            coroutine.close()
            return
        except RuntimeError:
            continue  # its clean-up waits for something: that is ended too
