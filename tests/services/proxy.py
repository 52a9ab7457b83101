"""A TCP proxy that treats connections as bad networks do: late, cut, reset, or swallowed.

Runs on a thread and an event loop of its own, so that it goes on while a test waits.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

_CHUNK: Final = 65536
_RESET: Final = struct.pack("ii", 1, 0)
"""SO_LINGER on, for no time: closing sends RST instead of FIN."""
_START_SECONDS: Final = 10


class Way(StrEnum):
    """Which half of a connection."""

    REQUEST = "request"
    """From the client to the server."""
    REPLY = "reply"


@dataclass(slots=True)
class Trap:
    """Cut the connection when these bytes pass."""

    pattern: bytes
    way: Way
    forward: bool
    """Whether the other side still gets them: then what is lost is the answer."""
    times: int


class Proxy:
    """Stands before a server on a port of its own. Its methods may be called from any thread."""

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._pairs: set[_Pair] = set()
        self._opened: list[asyncio.WriteTransport] = []
        self._serving: set[asyncio.Task[Any]] = set()
        self._traps: list[Trap] = []
        self._delay = 0.0
        self._flowing = threading.Event()
        self._flowing.set()
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name="tcp-proxy", daemon=True)
        self.port = 0
        self.cuts = 0
        """Connections that were cut."""
        self.on_cut: Callable[[], None] = lambda: None
        """Called, on the proxy's thread, just before one is."""

    # what a test does to it

    def slow_down(self, seconds: float) -> None:
        """From now on every piece takes so long in each direction."""
        self._delay = seconds

    def cut_all(self) -> None:
        """Reset every connection that is open."""
        asyncio.run_coroutine_threadsafe(self._cut_all(), self._loop).result(_START_SECONDS)

    def cut_at(
        self, pattern: bytes, *, way: Way = Way.REQUEST, forward: bool, times: int = 1
    ) -> None:
        """Reset the next connections on which these bytes pass.

        With ``forward`` the bytes still arrive, and what comes back is lost: the client cannot
        know whether it was done.
        """
        self._traps.append(Trap(pattern, way, forward, times))

    def swallow(self) -> None:
        """Accept everything and pass nothing on, as behind a firewall that drops packets."""
        self._flowing.clear()

    def flow(self) -> None:
        """Be a good network again: what was held up arrives."""
        self._delay = 0.0
        self._traps.clear()
        self._flowing.set()

    # on its own thread

    def start(self) -> None:
        self._thread.start()
        if not self._ready.wait(_START_SECONDS):
            raise RuntimeError("the proxy did not start")

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join(_START_SECONDS)
        self._loop.close()

    def _run(self) -> None:
        self._loop.run_until_complete(self._serve())

    async def _serve(self) -> None:
        self._stopping = asyncio.Event()
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._stopping.wait()
        server.close()
        await self._cut_all()
        for task in list(self._serving):
            task.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)
        for transport in self._opened:
            transport.abort()
        await asyncio.sleep(0.02)  # for them to be gone

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            far_reader, far_writer = await asyncio.open_connection(*self._target)
        except OSError:
            _reset(writer)
            return
        self._opened += [writer.transport, far_writer.transport]
        pair = _Pair(self, (reader, writer), (far_reader, far_writer))
        self._pairs.add(pair)
        task = asyncio.current_task()
        assert task is not None
        self._serving.add(task)
        try:
            await pair.run()
        except asyncio.CancelledError:
            return  # the proxy stops
        finally:
            self._pairs.discard(pair)
            self._serving.discard(task)

    async def _cut_all(self) -> None:
        for pair in list(self._pairs):
            self.note_cut()
            pair.cut()

    def note_cut(self) -> None:
        self.cuts += 1
        self.on_cut()

    async def passage(self) -> None:
        """Take as long as the network does."""
        if self._delay:
            await asyncio.sleep(self._delay)
        while not self._flowing.is_set():  # noqa: ASYNC110 - it is set on another thread
            await asyncio.sleep(0.02)

    def trapped(self, data: bytes, way: Way) -> Trap | None:
        for trap in self._traps:
            if trap.way is way and trap.times > 0 and trap.pattern in data:
                trap.times -= 1
                return trap
        return None


Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class _Pair:
    """One client's connection, and the server's behind it."""

    def __init__(self, proxy: Proxy, near: Stream, far: Stream) -> None:
        self._proxy = proxy
        self._near = near
        self._far = far

    async def run(self) -> None:
        ways = [
            asyncio.create_task(self._carry(self._near[0], self._far[1], Way.REQUEST)),
            asyncio.create_task(self._carry(self._far[0], self._near[1], Way.REPLY)),
        ]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            self._far[1].close()
            self._near[1].close()

    async def _carry(
        self, source: asyncio.StreamReader, target: asyncio.StreamWriter, way: Way
    ) -> None:
        try:
            while data := await source.read(_CHUNK):
                await self._proxy.passage()
                trap = self._proxy.trapped(data, way)
                if trap is not None:
                    self._proxy.note_cut()
                    if trap.forward:
                        target.write(data)
                        await target.drain()
                    self.cut(keep_far=trap.forward)
                    return
                target.write(data)
                await target.drain()
        except (ConnectionError, OSError):
            return

    def cut(self, *, keep_far: bool = False) -> None:
        """Reset the client; the server too, unless it is to finish what it was sent."""
        _reset(self._near[1])
        if not keep_far:
            _reset(self._far[1])


def _reset(writer: asyncio.StreamWriter) -> None:
    sock: socket.socket | None = writer.get_extra_info("socket")
    if sock is not None and sock.fileno() >= 0:  # else it is gone already
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    writer.transport.abort()


@contextmanager
def proxy_before(host: str, port: int) -> Iterator[Proxy]:
    """A running proxy before this server."""
    proxy = Proxy(host, port)
    proxy.start()
    try:
        yield proxy
    finally:
        proxy.stop()
