"""A small HTTP server for what operators and their programs ask: read-only, and nothing secret.

It runs in a thread of its own, so that it answers also while a handler blocks the event loop;
that it does block is then what ``/livez`` tells.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import stat
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final

from jobbus.errors import ConfigurationError

log = logging.getLogger("jobbus.monitor")
_SECONDS: Final = 10.0
"""For a whole request and its answer."""
_HEAD_LIMIT: Final = 8192
_AT_ONCE: Final = 32
"""Connections; more are closed unheard."""
_UNIX: Final = "unix:"


@dataclass(frozen=True, slots=True)
class Answer:
    """What is said to a request."""

    status: HTTPStatus
    body: bytes
    content_type: str = "text/plain; charset=utf-8"


Pages = Mapping[str, Callable[[], Answer]]


@dataclass(frozen=True, slots=True)
class Address:
    """Where a server listens: a host and a port (0 is any free one), or a Unix socket's path."""

    host: str = ""
    port: int = 0
    path: str = ""

    @classmethod
    def parse(cls, text: str) -> Address:
        """Read ``9464``, ``0.0.0.0:9464``, ``[::1]:9464`` or ``unix:/run/jobbus/worker.sock``.

        A port alone is one of 127.0.0.1. Raises ValueError.
        """
        if text.startswith(_UNIX):
            path = text.removeprefix(_UNIX)
            if not path.startswith("/"):
                raise ValueError(f"takes unix:/PATH, and {path!r} does not start with /")
            return cls(path=path)
        host, _, port = text.rpartition(":")
        if not port.isascii() or not port.isdigit() or int(port) > 65_535:
            raise ValueError(f"takes a port, HOST:PORT or unix:/PATH, not {text!r}")
        return cls(host=host.strip("[]") or "127.0.0.1", port=int(port))

    def __str__(self) -> str:
        if self.path:
            return f"{_UNIX}{self.path}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}"


class MonitorServer:
    """Serves ``pages`` at ``address`` until it is stopped."""

    def __init__(self, address: Address, pages: Pages) -> None:
        self.address = address
        self._pages = pages
        self._open = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopped = asyncio.Event()
        self._started = threading.Event()
        self._failure: OSError | None = None
        self._thread = threading.Thread(target=self._run, name="jobbus-monitor", daemon=True)

    def start(self) -> None:
        """Listen. Raises ConfigurationError where that cannot be; afterwards ``address`` is it."""
        self._thread.start()
        self._started.wait()
        if self._failure is not None:
            raise ConfigurationError(
                f"nothing can listen at {self.address}: {self._failure.strerror}; choose another "
                "monitor.address, or none"
            ) from self._failure

    def stop(self) -> None:
        """Hear nobody any more. Harmless when repeated."""
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # it has ended by itself
                self._loop.call_soon_threadsafe(self._stopped.set)
            self._thread.join(5)

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except OSError as error:
            self._failure = error
        finally:
            self._started.set()

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        server = await self._listen()
        if not self.address.path:
            port = server.sockets[0].getsockname()[1]
            self.address = Address(self.address.host, port)
        self._started.set()
        async with server:
            await self._stopped.wait()
        if self.address.path:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.address.path)

    async def _listen(self) -> asyncio.Server:
        if not self.address.path:
            return await asyncio.start_server(
                self._connected, self.address.host, self.address.port, limit=_HEAD_LIMIT
            )
        # A predecessor that was killed leaves its socket. Whatever else is there, stays.
        with contextlib.suppress(FileNotFoundError):
            if stat.S_ISSOCK(os.lstat(self.address.path).st_mode):
                os.unlink(self.address.path)
        return await asyncio.start_unix_server(
            self._connected, self.address.path, limit=_HEAD_LIMIT
        )

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open += 1
        try:
            if self._open <= _AT_ONCE:
                async with asyncio.timeout(_SECONDS):
                    await self._converse(reader, writer)
        except (TimeoutError, OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            log.debug("a client of the monitor went away, or talked too long")
        finally:
            self._open -= 1
            writer.close()

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        words = head.split(b"\r\n", 1)[0].decode("latin-1").split()
        # Elsewhere: a page may ask other processes, and others must not wait for that.
        answer = await asyncio.to_thread(self._answer, words)
        lines = [
            f"HTTP/1.1 {answer.status.value} {answer.status.phrase}",
            f"Content-Type: {answer.content_type}",
            f"Content-Length: {len(answer.body)}",
            "Cache-Control: no-store",
            "X-Content-Type-Options: nosniff",
            "Connection: close",
        ]
        writer.write("\r\n".join([*lines, "", ""]).encode("latin-1"))
        if words[:1] != ["HEAD"]:
            writer.write(answer.body)
        await writer.drain()

    def _answer(self, words: list[str]) -> Answer:
        if len(words) != 3 or not words[2].startswith("HTTP/1."):
            return Answer(HTTPStatus.BAD_REQUEST, b"this is not a request of HTTP/1\n")
        method, target, _ = words
        if method not in ("GET", "HEAD"):
            return Answer(HTTPStatus.METHOD_NOT_ALLOWED, b"there is nothing to change here\n")
        page = self._pages.get(target.partition("?")[0])
        if page is None:
            there = "  ".join(self._pages)
            return Answer(HTTPStatus.NOT_FOUND, f"there are {there}\n".encode())
        try:
            return page()
        except Exception:
            log.exception("the monitor could not answer %s", target.partition("?")[0])
            return Answer(HTTPStatus.INTERNAL_SERVER_ERROR, b"this failed; the log tells why\n")
