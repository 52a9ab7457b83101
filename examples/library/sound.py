"""Measures sound: how long it is, and how loud."""

from __future__ import annotations

import array
import math
import operator
import struct
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import BinaryIO, Final

from .errors import Corrupt
from .reading import size_of, skip, take

PCM, FLOAT, EXTENSIBLE = 1, 3, 0xFFFE
UNKNOWN_LENGTH: Final = 0xFFFFFFFF
"""What programs that write into a pipe put where the length belongs."""
FRAMES_AT_ONCE: Final = 64 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Sound:
    """What a sound file holds. Levels are in dBFS: 0 is as loud as the format goes.

    A level is None for silence, which has none, and where the coding is not understood.
    """

    channels: int
    rate: int
    """Frames per second."""
    bits: int
    """Per sample."""
    seconds: float | None
    """None where the file does not say."""
    peak_dbfs: float | None = None
    rms_dbfs: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Format:
    coding: int
    channels: int
    rate: int
    bytes_per_second: int
    frame: int
    """Bytes of one sample of every channel."""
    bits: int


def read_wav(file: BinaryIO) -> Sound:
    """WAV: a RIFF container whose ``fmt`` chunk says how to read its ``data`` chunk."""
    take(file, 12, "header")
    form = None
    while True:
        name, size = struct.unpack("<4sI", take(file, 8, "chunks: there is no data chunk"))
        if name == b"fmt ":
            form = _format(take(file, size, "fmt chunk"))
            skip(file, size % 2, "fmt chunk")
        elif name == b"data":
            break
        else:
            skip(file, size + size % 2, f"{name.decode('latin-1')} chunk")
    if form is None:
        raise Corrupt("a WAV whose data comes before its format")
    start = file.tell()
    if size == UNKNOWN_LENGTH:
        size = size_of(file) - start
    skip(file, size, "data chunk")
    file.seek(start)
    peak, rms = _levels(file, form, size)
    return Sound(
        channels=form.channels,
        rate=form.rate,
        bits=form.bits,
        seconds=round(size / form.bytes_per_second, 3),
        peak_dbfs=peak,
        rms_dbfs=rms,
    )


def _format(data: bytes) -> _Format:
    if len(data) < 16:
        raise Corrupt("a WAV whose fmt chunk is too short")
    coding, channels, rate, per_second, frame, bits = struct.unpack("<HHIIHH", data[:16])
    if coding == EXTENSIBLE and len(data) >= 26:
        coding = int.from_bytes(data[24:26], "little")
    if not (channels and rate and frame and per_second):
        raise Corrupt("a WAV with no channels, no rate or no frames")
    if coding in (PCM, FLOAT) and frame != channels * ((bits + 7) // 8):
        raise Corrupt(f"a WAV whose frames of {frame} bytes do not fit {channels} x {bits} bits")
    if coding in (PCM, FLOAT):
        per_second = rate * frame
    return _Format(
        coding=coding, channels=channels, rate=rate, bytes_per_second=per_second, frame=frame,
        bits=bits,
    )  # fmt: skip


def _levels(file: BinaryIO, form: _Format, size: int) -> tuple[float | None, float | None]:
    """Peak and root mean square over all channels."""
    samples = _SAMPLES.get((form.coding, (form.bits + 7) // 8))
    if samples is None:
        return None, None
    unpack, full_scale = samples
    peak: float = 0
    squares: float = 0
    count = 0
    for block in _blocks(file, size - size % form.frame, form.frame * FRAMES_AT_ONCE):
        values = unpack(block)
        peak = max(peak, max(values), -min(values))
        squares += sum(map(operator.mul, values, values))
        count += len(values)
    if not count or not math.isfinite(squares) or not squares:
        return None, None
    return _decibel(peak / full_scale), _decibel(math.sqrt(squares / count) / full_scale)


def _blocks(file: BinaryIO, size: int, most: int) -> Iterator[bytes]:
    while size:
        block = take(file, min(size, most), "data chunk")
        size -= len(block)
        yield block


def _decibel(ratio: float) -> float:
    # Adding zero makes a plain 0.0 of -0.0.
    return round(20 * math.log10(ratio), 2) + 0.0


def _unsigned_8(data: bytes) -> Sequence[int]:
    """8-bit WAVs alone are unsigned, with silence at 128."""
    return array.array("b", data.translate(_CENTRED))


def _signed_24(data: bytes) -> Sequence[int]:
    """No machine has 3-byte numbers: they become 4-byte ones, 256 times as large."""
    wide = bytearray(len(data) // 3 * 4)
    for byte in range(3):
        wide[byte + 1 :: 4] = data[byte::3]
    return _little_endian("i", bytes(wide))


def _little_endian(code: str, data: bytes) -> Sequence[int]:
    values: array.array[int] = array.array(code, data)
    if sys.byteorder == "big":
        values.byteswap()
    return values


_CENTRED: Final = bytes((byte - 128) % 256 for byte in range(256))
_SAMPLES: Final[Mapping[tuple[int, int], tuple[Callable[[bytes], Sequence[float]], float]]] = {
    (PCM, 1): (_unsigned_8, 2.0**7),
    (PCM, 2): (lambda data: _little_endian("h", data), 2.0**15),
    (PCM, 3): (_signed_24, 2.0**31),
    (PCM, 4): (lambda data: _little_endian("i", data), 2.0**31),
    (FLOAT, 4): (lambda data: _little_endian("f", data), 1.0),
    (FLOAT, 8): (lambda data: _little_endian("d", data), 1.0),
}
"""By coding and bytes per sample: how to read them, and the value of full scale."""


def read_flac(file: BinaryIO) -> Sound:
    """FLAC: the first block after the signature tells rate, channels, bits and length."""
    packed = int.from_bytes(take(file, 26, "STREAMINFO block")[18:26])
    rate, channels, bits = packed >> 44, (packed >> 41 & 7) + 1, (packed >> 36 & 31) + 1
    if not rate:
        raise Corrupt("a FLAC without a sample rate")
    frames = packed & (1 << 36) - 1
    seconds = round(frames / rate, 3) if frames else None
    return Sound(channels=channels, rate=rate, bits=bits, seconds=seconds)


READERS: Final[Mapping[str, Callable[[BinaryIO], Sound]]] = {"flac": read_flac, "wav": read_wav}
"""By type; each wants the file at its start. Raise Truncated and Corrupt."""
