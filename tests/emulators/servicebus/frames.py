"""AMQP 1.0 frames and performatives (OASIS AMQP 1.0, part 2: transport)."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Final

from tests.emulators.servicebus.codec import Described, Malformed, Reader, Symbol, ULong, encode

SASL_HEADER: Final = b"AMQP\x03\x01\x00\x00"
AMQP_HEADER: Final = b"AMQP\x00\x01\x00\x00"
AMQP_FRAME: Final = 0
SASL_FRAME: Final = 1
MAX_FRAME: Final = 64 * 1024
_LARGEST: Final = 16 * 1024 * 1024


class Code(IntEnum):
    """Descriptors."""

    OPEN = 0x10
    BEGIN = 0x11
    ATTACH = 0x12
    FLOW = 0x13
    TRANSFER = 0x14
    DISPOSITION = 0x15
    DETACH = 0x16
    END = 0x17
    CLOSE = 0x18
    ERROR = 0x1D
    RECEIVED = 0x23
    ACCEPTED = 0x24
    REJECTED = 0x25
    RELEASED = 0x26
    MODIFIED = 0x27
    SOURCE = 0x28
    TARGET = 0x29
    SASL_MECHANISMS = 0x40
    SASL_INIT = 0x41
    SASL_OUTCOME = 0x44


_WIDTHS: Final = {
    Code.OPEN: 10,
    Code.BEGIN: 8,
    Code.ATTACH: 14,
    Code.FLOW: 11,
    Code.TRANSFER: 11,
    Code.DISPOSITION: 6,
    Code.DETACH: 3,
    Code.END: 1,
    Code.CLOSE: 1,
    Code.ERROR: 3,
    Code.SOURCE: 11,
    Code.TARGET: 7,
}


def performative(code: Code, fields: Sequence[Any]) -> Described:
    """With every field, nulls at the end included: some clients read past a short one's end."""
    width = _WIDTHS.get(code, len(fields))
    return Described(ULong(code), [*fields, *[None] * (width - len(fields))])


def error(condition: str, description: str = "") -> Described:
    """An error with all three of its fields."""
    return performative(Code.ERROR, [Symbol(condition), description or condition, {}])


@dataclass(frozen=True, slots=True)
class Frame:
    """What a peer sent on a channel; ``body`` is None for a frame that only says it is alive."""

    channel: int
    body: Described | None
    payload: bytes = b""


async def read_frame(reader: asyncio.StreamReader) -> Frame:
    """Raises Malformed, and IncompleteReadError when the peer has gone."""
    size, offset, _, channel = struct.unpack(">IBBH", await reader.readexactly(8))
    if not 8 <= size <= _LARGEST:
        raise Malformed(f"a frame of {size} bytes")
    data = await reader.readexactly(size - 8)
    rest = Reader(data[4 * offset - 8 :])
    if not rest:
        return Frame(channel, None)
    body = rest.value()
    if not isinstance(body, Described) or not isinstance(body.value, list):
        raise Malformed("a frame holds a performative")
    return Frame(channel, body, rest.rest())


def write_frame(
    body: Described | None, *, channel: int = 0, kind: int = AMQP_FRAME, payload: bytes = b""
) -> bytes:
    data = (b"" if body is None else encode(body)) + payload
    return struct.pack(">IBBH", len(data) + 8, 2, kind, channel) + data
