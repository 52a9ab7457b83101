"""AMQP 1.0 values to bytes and back (OASIS AMQP 1.0, part 1: types).

Decoding keeps each value's type, so that what is decoded can be encoded again unchanged.
"""

from __future__ import annotations

import struct
import uuid
from collections.abc import Callable
from typing import Any, Final


class Malformed(Exception):
    """The bytes are not AMQP 1.0."""


class UByte(int): ...


class UShort(int): ...


class UInt(int): ...


class ULong(int): ...


class Byte(int): ...


class Short(int): ...


class Int(int): ...


class Long(int): ...


class Timestamp(int):
    """Milliseconds since 1970, UTC."""


class Char(int): ...


class Float(float): ...


class Symbol(str): ...


class Described:
    """A value with a descriptor in front: a performative, a section of a message, an outcome."""

    __slots__ = ("descriptor", "value")

    def __init__(self, descriptor: Any, value: Any) -> None:
        self.descriptor = descriptor
        self.value = value

    def __repr__(self) -> str:
        return f"Described({self.descriptor!r}, {self.value!r})"

    def field(self, index: int) -> Any:
        """A field of a described list; None where the list is shorter."""
        return self.value[index] if index < len(self.value) else None


class Array(list[Any]):
    """Values of one type; an empty one says of which."""

    def __init__(self, kind: type, values: Any = ()) -> None:
        super().__init__(values)
        self.kind = kind


class Opaque(bytes):
    """A decimal: kept as it came, with its constructor in front."""


_FIXED: Final[dict[type, tuple[int, str]]] = {
    UByte: (0x50, ">B"),
    UShort: (0x60, ">H"),
    UInt: (0x70, ">I"),
    ULong: (0x80, ">Q"),
    Byte: (0x51, ">b"),
    Short: (0x61, ">h"),
    Int: (0x71, ">i"),
    Long: (0x81, ">q"),
    Float: (0x72, ">f"),
    float: (0x82, ">d"),
    Timestamp: (0x83, ">q"),
    Char: (0x73, ">I"),
}


def encode(value: Any) -> bytes:
    """The bytes of a value; a plain ``int`` is a long. Raises TypeError for what has no type."""
    match value:
        case None:
            return b"\x40"
        case bool():
            return b"\x41" if value else b"\x42"
        case Described():
            return b"\x00" + encode(value.descriptor) + encode(value.value)
        case Opaque():
            return bytes(value)
        case ULong() if value < 256:
            return bytes((0x53, value))  # clients take descriptors to be one byte long
        case Array():
            return _array(value)
        case list() | tuple():
            return _compound(0xD0, len(value), b"".join(map(encode, value)))
        case dict():
            items = b"".join(encode(key) + encode(item) for key, item in value.items())
            return _compound(0xD1, 2 * len(value), items)
    code, data = _plain(value)
    return bytes((code,)) + data


def _plain(value: Any) -> tuple[int, bytes]:
    """Constructor and data, in the form that also stands in arrays."""
    kind = type(value)
    if kind in _FIXED:
        code, layout = _FIXED[kind]
        return code, struct.pack(layout, value)
    match value:
        case bool():
            return 0x56, bytes((value,))
        case int():
            return 0x81, struct.pack(">q", value)
        case uuid.UUID():
            return 0x98, value.bytes
        case bytes() | bytearray() | memoryview():
            return 0xB0, struct.pack(">I", len(value)) + bytes(value)
        case Symbol():
            return 0xB3, _counted(value.encode("ascii"))
        case str():
            return 0xB1, _counted(value.encode())
    raise TypeError(f"AMQP has no type for {value!r}")


def _counted(data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + data


def _compound(code: int, count: int, items: bytes) -> bytes:
    return struct.pack(">BII", code, len(items) + 4, count) + items


_SAMPLES: Final[dict[type, Any]] = {
    uuid.UUID: uuid.UUID(int=0),
    Symbol: Symbol(""),
    str: "",
    bytes: b"",
    int: 0,
}


def _array(values: Array) -> bytes:
    sample = values[0] if values else _SAMPLES.get(values.kind, 0)
    if not values and values.kind in _FIXED:
        sample = values.kind(0)
    code, _ = _plain(sample)
    data = bytes((code,)) + b"".join(_plain(_of(values.kind, one))[1] for one in values)
    return _compound(0xF0, len(values), data)


def _of(kind: type, value: Any) -> Any:
    return value if isinstance(value, kind) else kind(value)


class Reader:
    """Takes values off the front of some bytes."""

    def __init__(self, data: bytes | memoryview) -> None:
        self._data = memoryview(data)
        self.position = 0

    def __bool__(self) -> bool:
        return self.position < len(self._data)

    def rest(self) -> bytes:
        """What has not been read, all of it."""
        return bytes(self._take(len(self._data) - self.position))

    def value(self) -> Any:
        """The next value. Raises Malformed."""
        try:
            return self._read(self._byte())
        except (struct.error, UnicodeDecodeError, RecursionError) as error:
            raise Malformed(str(error)) from error

    def _take(self, size: int) -> memoryview:
        end = self.position + size
        if end > len(self._data):
            raise Malformed(f"{size} bytes wanted, {len(self._data) - self.position} there")
        taken = self._data[self.position : end]
        self.position = end
        return taken

    def _byte(self) -> int:
        return self._take(1)[0]

    def _number(self, layout: str) -> Any:
        return struct.unpack(layout, self._take(struct.calcsize(layout)))[0]

    def _read(self, code: int) -> Any:
        if code == 0x00:
            return Described(self.value(), self.value())
        if code == 0x45:
            return []
        if code in _CONSTANTS:
            return _CONSTANTS[code]
        if code in _NUMBERS:
            kind, layout = _NUMBERS[code]
            return kind(self._number(layout))
        if code in (0xC0, 0xD0):
            return [self.value() for _ in range(self._count(code == 0xD0))]
        if code in (0xC1, 0xD1):
            pairs = self._count(code == 0xD1) // 2
            return {self.value(): self.value() for _ in range(pairs)}
        if code in (0xE0, 0xF0):
            return self._elements(self._count(code == 0xF0))
        if code in _OPAQUE:
            return Opaque(bytes((code,)) + bytes(self._take(_OPAQUE[code])))
        if code in _VARIABLE:
            make, wide = _VARIABLE[code]
            return make(bytes(self._take(self._number(">I" if wide else ">B"))))
        raise Malformed(f"no AMQP type has the code {code:#04x}")

    def _count(self, wide: bool) -> int:
        layout = ">I" if wide else ">B"
        self._number(layout)  # the size in bytes, which the count makes superfluous
        count: int = self._number(layout)
        return count

    def _elements(self, count: int) -> Array:
        code = self._byte()
        if code == 0x00:
            raise Malformed("arrays of described values are not understood here")
        found = [self._read(code) for _ in range(count)]
        return Array(type(found[0]) if found else bytes, found)


_CONSTANTS: Final[dict[int, Any]] = {
    0x40: None,
    0x41: True,
    0x42: False,
    0x43: UInt(0),
    0x44: ULong(0),
}
_FIXED_CODES: Final = {code: (kind, layout) for kind, (code, layout) in _FIXED.items()}
_NUMBERS: Final[dict[int, tuple[Callable[[Any], Any], str]]] = {
    **_FIXED_CODES,
    0x52: (UInt, ">B"),
    0x53: (ULong, ">B"),
    0x54: (Int, ">b"),
    0x55: (Long, ">b"),
    0x56: (bool, ">B"),
    0x98: (lambda data: uuid.UUID(bytes=data), "16s"),
}
_VARIABLE: Final[dict[int, tuple[Callable[[bytes], Any], bool]]] = {
    0xA0: (bytes, False),
    0xB0: (bytes, True),
    0xA1: (bytes.decode, False),
    0xB1: (bytes.decode, True),
    0xA3: (lambda data: Symbol(data.decode("ascii")), False),
    0xB3: (lambda data: Symbol(data.decode("ascii")), True),
}
_OPAQUE: Final = {0x74: 4, 0x84: 8, 0x94: 16}
