"""Reads how large a picture is, and whether it is there to its end, without decoding it."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import BinaryIO, Final

from .errors import Corrupt, Truncated
from .reading import size_of, skip, take

BLOCK: Final = 64 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """A picture's measures in pixels."""

    width: int
    height: int
    frames: int = 1
    """Pictures in an animated GIF; other animations count as one."""


def read_png(file: BinaryIO) -> Image:
    """PNG: chunks of length, name, data and checksum, from IHDR to IEND."""
    take(file, 8, "signature")
    image = None
    while True:
        length, name = struct.unpack(">I4s", take(file, 8, "chunks: there is no IEND"))
        if image is None:
            if name != b"IHDR" or length != 13:
                raise Corrupt("a PNG starts with an IHDR chunk; this one does not")
            width, height = struct.unpack(">II", take(file, 8, "IHDR chunk"))
            image = Image(width=width, height=height)
            length -= 8
        skip(file, length + 4, f"{name.decode('latin-1')} chunk")
        if name == b"IEND":
            return image


def read_gif(file: BinaryIO) -> Image:
    """GIF: a screen, then extensions and frames in blocks of up to 255 bytes, then a trailer."""
    take(file, 6, "signature")
    width, height, flags = struct.unpack("<HHB", take(file, 5, "screen descriptor"))
    skip(file, 2 + _colour_table(flags), "colour table")
    frames = 0
    while True:
        match take(file, 1, "blocks: there is no trailer"):
            case b"\x3b":
                return Image(width=width, height=height, frames=frames)
            case b"\x21":
                take(file, 1, "extension")
            case b"\x2c":
                frames += 1
                flags = take(file, 9, "frame")[8]
                skip(file, _colour_table(flags) + 1, "colour table")
            case other:
                raise Corrupt(f"a GIF has no block of kind 0x{other.hex()}")
        while length := take(file, 1, "blocks")[0]:
            skip(file, length, "blocks")


def _colour_table(flags: int) -> int:
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


def read_bmp(file: BinaryIO) -> Image:
    """BMP: a header that tells the file's size, then one of two forms that tell the picture's."""
    declared = struct.unpack("<2xI8x", take(file, 14, "header"))[0]
    header = struct.unpack("<I", take(file, 4, "header"))[0]
    if header == 12:
        width, height = struct.unpack("<HH", take(file, 4, "header"))
    else:
        width, height = struct.unpack("<ii", take(file, 8, "header"))
    if declared > size_of(file):
        raise Truncated(f"the header promises {declared} bytes; there are {size_of(file)}")
    # A negative height says that the rows come from top to bottom.
    return Image(width=abs(width), height=abs(height))


def read_webp(file: BinaryIO) -> Image:
    """WebP: a RIFF container around one of three chunks: lossy, lossless, extended."""
    size = struct.unpack("<4xI4x", take(file, 12, "header"))[0] + 8
    if size > size_of(file):
        raise Truncated(f"the header promises {size} bytes; there are {size_of(file)}")
    name = take(file, 8, "first chunk")[:4]
    data = take(file, 10, "first chunk")
    if name == b"VP8 " and data[3:6] == b"\x9d\x01\x2a":
        width, height = struct.unpack("<HH", data[6:10])
        return Image(width=width & 0x3FFF, height=height & 0x3FFF)
    if name == b"VP8L" and data[0] == 0x2F:
        bits = int.from_bytes(data[1:5], "little")
        return Image(width=(bits & 0x3FFF) + 1, height=(bits >> 14 & 0x3FFF) + 1)
    if name == b"VP8X":
        width, height = (int.from_bytes(data[at : at + 3], "little") + 1 for at in (4, 7))
        return Image(width=width, height=height)
    raise Corrupt("a WebP starts with a VP8, VP8L or VP8X chunk; this one does not")


_ALONE: Final = frozenset({0x01, *range(0xD0, 0xD9)})
"""JPEG markers that no data follows."""
_FRAMES: Final = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
"""JPEG markers of a frame, which tells the size; the others in this range are tables."""


def read_jpeg(file: BinaryIO) -> Image:
    """JPEG: segments up to the first scan, one of them a frame; then data, up to the end mark."""
    take(file, 2, "signature")
    image = None
    while True:
        marker = _marker(file)
        if marker in _ALONE:
            continue
        if marker == 0xD9:
            raise Corrupt("a JPEG without a picture")
        length = struct.unpack(">H", take(file, 2, "segments"))[0] - 2
        if length < 0:
            raise Corrupt("a JPEG segment shorter than its own length")
        if marker in _FRAMES:
            height, width = struct.unpack(">xHH", take(file, 5, "frame header"))
            image = Image(width=width, height=height)
            length -= 5
        skip(file, length, "segments")
        if marker == 0xDA:
            break
    if image is None:
        raise Corrupt("a JPEG whose data comes before its frame")
    _find(file, b"\xff\xd9", "picture: there is no end mark")
    return image


def _marker(file: BinaryIO) -> int:
    if take(file, 1, "segments") != b"\xff":
        raise Corrupt("a JPEG segment that does not start with its mark")
    while (marker := take(file, 1, "segments")[0]) == 0xFF:
        pass
    return marker


def _find(file: BinaryIO, mark: bytes, what: str) -> None:
    """Raise Truncated unless ``mark`` comes, after the current position."""
    rest = b""
    while block := file.read(BLOCK):
        if mark in rest + block:
            return
        rest = block[-len(mark) + 1 :]
    raise Truncated(f"the file ends within its {what}")


def check_pdf(file: BinaryIO) -> None:
    """Raise Truncated unless the PDF has its end mark near its end, where readers look for it."""
    file.seek(max(0, size_of(file) - 4096), os.SEEK_SET)
    if b"%%EOF" not in file.read():
        raise Truncated("the file ends before its %%EOF mark")


READERS: Final[Mapping[str, Callable[[BinaryIO], Image]]] = {
    "bmp": read_bmp,
    "gif": read_gif,
    "jpeg": read_jpeg,
    "png": read_png,
    "webp": read_webp,
}
"""By type; each wants the file at its start. Raise Truncated and Corrupt."""
