"""One client's connection: handshake, sessions, keep-alive, the end."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any, Final

from tests.emulators.servicebus.broker import Broker
from tests.emulators.servicebus.codec import (
    Array,
    Described,
    Malformed,
    Symbol,
    UByte,
    UInt,
    UShort,
)
from tests.emulators.servicebus.frames import (
    AMQP_HEADER,
    MAX_FRAME,
    SASL_FRAME,
    SASL_HEADER,
    Code,
    performative,
    read_frame,
    write_frame,
)
from tests.emulators.servicebus.session import AmqpSession

_WINDOW: Final = 2**31 - 1
_LAST_HANDLE: Final = 1023


class Connection:
    """Speaks with one client until either hangs up."""

    def __init__(
        self, broker: Broker, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.broker = broker
        self.frame_limit = MAX_FRAME
        self._reader = reader
        self._writer = writer
        self._sessions: dict[int, AmqpSession] = {}
        self._keep_alive: asyncio.Task[None] | None = None

    async def run(self) -> None:
        """Until the client hangs up, is cut off, or talks nonsense."""
        try:
            await self._shake_hands()
            while await self._next():
                pass
        except (asyncio.IncompleteReadError, ConnectionError, Malformed):
            pass  # whatever the client meant, it is gone
        finally:
            self.cut()
            with contextlib.suppress(ConnectionError):
                await self._writer.wait_closed()

    def cut(self) -> None:
        """Drop the connection without a word. What it had locked stays locked."""
        if self._keep_alive is not None:
            self._keep_alive.cancel()
        for session in self._sessions.values():
            session.end()
        self._sessions.clear()
        self._writer.transport.abort()

    def pump(self) -> None:
        """Deliver what can be delivered, and detach what has been idle for too long."""
        for session in list(self._sessions.values()):
            session.pump()

    def lose_sessions(self, owners: list[object]) -> None:
        for session in list(self._sessions.values()):
            session.lose_sessions(owners)

    def send(self, channel: int, code: Code, *fields: Any, payload: bytes = b"") -> None:
        body = performative(code, fields)
        self._writer.write(write_frame(body, channel=channel, payload=payload))

    # the client's side

    async def _shake_hands(self) -> None:
        header = await self._reader.readexactly(8)
        if header == SASL_HEADER:
            self._writer.write(SASL_HEADER)
            mechanisms = Array(Symbol, [Symbol("ANONYMOUS"), Symbol("PLAIN"), Symbol("MSSBCBS")])
            self._sasl(performative(Code.SASL_MECHANISMS, [mechanisms]))
            await read_frame(self._reader)
            self._sasl(performative(Code.SASL_OUTCOME, [UByte(0), None]))
            header = await self._reader.readexactly(8)
        self._writer.write(AMQP_HEADER)
        if header != AMQP_HEADER:
            raise Malformed("not AMQP 1.0")

    def _sasl(self, body: Described) -> None:
        self._writer.write(write_frame(body, kind=SASL_FRAME))

    async def _next(self) -> bool:
        frame = await read_frame(self._reader)
        if frame.body is None:
            return True
        match frame.body.descriptor:
            case Code.OPEN:
                self._open(frame.body)
            case Code.BEGIN:
                self._begin(frame.channel, frame.body)
            case Code.END:
                if session := self._sessions.pop(frame.channel, None):
                    session.end()
                    self.send(frame.channel, Code.END)
            case Code.CLOSE:
                self.send(0, Code.CLOSE)
                await self._writer.drain()
                return False
            case _:
                # A detach may come after the end of its session: that is the SDK's way of leaving.
                if session := self._sessions.get(frame.channel):
                    session.handle(frame)
        if not self._writer.is_closing():
            await self._writer.drain()
        return True

    def _open(self, body: Described) -> None:
        self.frame_limit = min(body.field(2) or MAX_FRAME, MAX_FRAME)
        idle = body.field(4)
        if idle:
            self._keep_alive = asyncio.create_task(self._stay_alive(idle / 2000))
        self.send(0, Code.OPEN, "emulator", None, UInt(MAX_FRAME), UShort(255))

    async def _stay_alive(self, pause: float) -> None:
        while True:
            await asyncio.sleep(pause)
            self._writer.write(write_frame(None))

    def _begin(self, channel: int, body: Described) -> None:
        self._sessions[channel] = AmqpSession(self, channel)
        window = UInt(_WINDOW)
        self.send(channel, Code.BEGIN, UShort(channel), UInt(0), window, window, UInt(_LAST_HANDLE))
