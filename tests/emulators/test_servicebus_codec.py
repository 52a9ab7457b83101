"""AMQP values to bytes and back, by themselves; Proton has its say in a file of its own."""

from __future__ import annotations

import uuid
from typing import Any

import pytest

from tests.emulators.servicebus.codec import (
    Array,
    Byte,
    Described,
    Float,
    Int,
    Long,
    Malformed,
    Reader,
    Short,
    Symbol,
    Timestamp,
    UByte,
    UInt,
    ULong,
    UShort,
    encode,
)

VALUES: list[Any] = [
    *(None, True, False, 1.5, Float(0.5), b"", b"x" * 300, "", "é" * 300, Symbol("x-opt")),
    *(UByte(255), UShort(65_535), UInt(2**32 - 1), ULong(7), ULong(2**64 - 1)),
    *(Byte(-128), Short(-32_768), Int(-(2**31)), Long(-(2**63)), Timestamp(1_700_000_000_000)),
    *(uuid.UUID(int=7), [], [1, [None, "a"]], {}, {Symbol("a"): {"b": [b"c"]}}),
    *(Array(Symbol, ["a", "b"]), Array(uuid.UUID, [uuid.UUID(int=1)]), Array(Long, [1, 2])),
]


@pytest.mark.parametrize("value", VALUES, ids=lambda value: repr(value)[:40])
def test_a_value_comes_back_with_its_type(value: Any) -> None:
    again = Reader(encode(value)).value()
    assert again == value
    assert type(again) is (Long if type(value) is int else type(value))


@pytest.mark.parametrize(
    "data", [b"", b"\x00", b"\xa1\x05ab", b"\xff", b"\xc0\x01", b"\x00\x53", b"\xd0" + b"\xff" * 8]
)
def test_bytes_that_are_no_amqp_are_malformed(data: bytes) -> None:
    with pytest.raises(Malformed):
        Reader(data).value()


def test_a_described_value_shows_itself_and_lacks_no_field() -> None:
    value = Described(1, [2])
    assert (value.field(0), value.field(1)) == (2, None)
    assert repr(value) == "Described(1, [2])"
