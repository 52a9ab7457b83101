"""The emulator: a broker behind a TCP port, on a thread and an event loop of its own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import Any, Final, Self, TypeVar

from tests.emulators.servicebus.broker import Broker, Fault
from tests.emulators.servicebus.connection import Connection
from tests.emulators.servicebus.entity import DEAD_LETTER_SUFFIX, MessageState, QueueOptions

T = TypeVar("T")
_TICK: Final = 0.02
_PATIENCE: Final = 30.0
_KEY: Final = "SAS_KEY_VALUE"


class Emulator:
    """A Service Bus namespace on 127.0.0.1. A context manager; its methods may be called from any
    thread but its own, and return when they have taken effect."""

    def __init__(self, *, port: int = 0, create_missing: bool = False) -> None:
        """``create_missing`` makes any queue that a client names, with the default options."""
        self.port = port
        self._broker = Broker(create_missing=create_missing)
        self._connections: set[Connection] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._pumping = False
        self._ready = threading.Event()
        self._problem: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="servicebus-emulator", daemon=True)

    @property
    def connection_string(self) -> str:
        """For clients of the vendor's; plain TCP. The key is no secret."""
        return (
            f"Endpoint=sb://127.0.0.1:{self.port};SharedAccessKeyName=RootManageSharedAccessKey;"
            f"SharedAccessKey={_KEY};UseDevelopmentEmulator=true;"
        )

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Listen. Raises OSError when the port is taken."""
        self._thread.start()
        self._ready.wait(_PATIENCE)
        if self._problem is not None:
            raise self._problem

    def stop(self) -> None:
        """Cut everybody off, and end the thread."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stop.set)
            self._thread.join(_PATIENCE)

    # what tests ask of it

    def create_queue(self, name: str, **options: Any) -> None:
        """A queue with :class:`QueueOptions`; harmless when it is there."""
        self._call(lambda: self._broker.create_queue(name, QueueOptions(**options)))

    def delete_queue(self, name: str) -> None:
        self._call(lambda: self._broker.delete_queue(name))

    def purge(self, name: str) -> int:
        """Remove all messages, dead letters among them; how many of them were locked."""
        paths = (name, f"{name}{DEAD_LETTER_SUFFIX}")
        return self._call(lambda: sum(self._broker.queue(path).clear() for path in paths))

    def now(self) -> datetime:
        """By the emulator's clock."""
        return datetime.fromtimestamp(self._broker.now() / 1000, UTC)

    def advance(self, delta: timedelta) -> None:
        """Let time pass: locks expire, scheduled messages become active, sessions are lost."""

        def forward() -> None:
            self._broker.advance(delta)
            self._tick()

        self._call(forward)

    def inject(self, fault: Fault) -> None:
        self._call(lambda: self._broker.faults.append(fault))

    def cut_connections(self) -> int:
        """Drop every connection without a word; how many there were."""

        def cut() -> int:
            number = len(self._connections)
            for one in list(self._connections):
                one.cut()
            return number

        return self._call(cut)

    def detach_idle_links_after(self, limit: timedelta | None) -> None:
        """None, as at first, for never. Azure's own limit is ten minutes."""

        def limit_idleness() -> None:
            self._broker.idle_link_timeout = limit

        self._call(limit_idleness)

    def count(self, name: str, state: MessageState = MessageState.ACTIVE) -> int:
        """Messages in this state, locked ones among them."""
        return self._call(lambda: self._broker.queue(name).count(state))

    def dead_letters(self, name: str) -> list[tuple[str, str]]:
        """Reasons and descriptions of the dead letters, oldest first."""

        def read() -> list[tuple[str, str]]:
            found = self._broker.queue(f"{name}{DEAD_LETTER_SUFFIX}").peek(0, 1000)
            said = [one.message.application for one in found]
            names = ("DeadLetterReason", "DeadLetterErrorDescription")
            return [(str(one.get(names[0])), str(one.get(names[1]))) for one in said]

        return self._call(read)

    # on its own thread

    def _call(self, act: Callable[[], T]) -> T:
        async def run() -> T:
            return act()

        return asyncio.run_coroutine_threadsafe(run(), self._loop).result(_PATIENCE)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self._serve())
        finally:
            self._loop.close()

    async def _serve(self) -> None:
        try:
            server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)
        except BaseException as error:
            self._problem = error
            self._ready.set()
            return
        self.port = server.sockets[0].getsockname()[1]
        self._broker.changed = self._pump_soon
        ticking = asyncio.create_task(self._keep_ticking())
        self._ready.set()
        await self._stop.wait()
        server.close()
        for one in list(self._connections):
            one.cut()
        ticking.cancel()
        await asyncio.gather(ticking, *self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        connection = Connection(self._broker, reader, writer)
        self._connections.add(connection)
        if task is not None:
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        try:
            await connection.run()
        finally:
            self._connections.discard(connection)

    async def _keep_ticking(self) -> None:
        while True:
            await asyncio.sleep(_TICK)
            self._tick()

    def _tick(self) -> None:
        lost = [owner for queue in self._broker.queues() for owner in queue.pass_time()]
        for one in list(self._connections):
            if lost:
                one.lose_sessions(lost)
            one.pump()

    def _pump_soon(self) -> None:
        """Once for all that changes in one go."""
        if not self._pumping:
            self._pumping = True
            self._loop.call_soon(self._pump)

    def _pump(self) -> None:
        self._pumping = False
        for one in list(self._connections):
            one.pump()
