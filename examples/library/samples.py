"""Makes a small folder of files, half of them broken, so that every library has some that fail.

The bytes are the same every time, and nothing of them is left to a compressor's mood: what PNG, ZIP
and GZIP would compress is stored.
"""

from __future__ import annotations

import io
import math
import struct
import wave
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final

from .files import replacing

BROKEN: Final[Mapping[str, str]] = MappingProxyType(
    {
        "cut.gz": "Truncated",
        "cut.gif": "Truncated",
        "cut.jpg": "Truncated",
        "cut.png": "Truncated",
        "cut.wav": "Truncated",
        "cut.zip": "Truncated",
        "damaged.gz": "Corrupt",
        "link-to-nothing.txt": "Unreadable",
        "too-large.bin": "TooLarge",
    }
)
"""The samples whose analysis fails, and how."""

EPOCH: Final = (1980, 1, 1, 0, 0, 0)
RATE: Final = 8000


def write_samples(folder: Path, *, limit_bytes: int) -> Path:
    """Make sure that the samples are in ``folder``, and return it.

    What is already as it should be stays untouched, so that this may be called again while somebody
    reads there. ``too-large.bin`` is a byte over ``limit_bytes`` and takes no room on the disk.
    Raises OSError where the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in _contents().items():
        place = folder / name
        if not place.is_file() or place.read_bytes() != data:
            # Written next door: a half-written sample must not be found by a scan.
            with replacing(place, workshop=folder.parent) as file:
                file.write(data)
    huge = folder / "too-large.bin"
    if not huge.is_file() or huge.stat().st_size != limit_bytes + 1:
        with replacing(huge, workshop=folder.parent) as file:
            file.truncate(limit_bytes + 1)
    nothing = folder / "link-to-nothing.txt"
    if not nothing.is_symlink():
        nothing.symlink_to("nothing.txt")
    return folder


def _contents() -> dict[str, bytes]:
    png, gif, jpeg = picture_png(32, 24), picture_gif(16, 16), picture_jpeg(2, 1)
    tone = tone_wav(seconds=1.0, hertz=440, loudness=0.5)
    packed, archive = stored_gzip(b"A text worth keeping.\n" * 50), stored_zip()
    return {
        "accents-latin-1.txt": "Käse, Brötchen und ein Café crème.\n".encode("latin-1"),
        "broken.json": b'{"title": "Never closed", "tracks": [1, 2, 3\n',
        "cut.gif": gif[:-4],
        "cut.gz": packed[:-200],
        "cut.jpg": jpeg[:-2],
        "cut.png": png[:-12],
        "cut.wav": tone[: len(tone) // 2],
        "cut.zip": archive[: len(archive) // 2],
        "damaged.gz": packed[:-8] + b"\0\0\0\0" + packed[-4:],
        "empty.txt": b"",
        "nested.json": b'{"albums": [{"title": "One", "tracks": [{"seconds": 241.5}]}]}\n',
        "notes.gz": packed,
        "picture.gif": gif,
        "picture.jpg": jpeg,
        "picture.png": png,
        "silence.wav": tone_wav(seconds=0.5, hertz=440, loudness=0.0),
        "texts.zip": archive,
        "tone.wav": tone,
        "tone-copy.wav": tone,
    }


def picture_png(width: int, height: int) -> bytes:
    """A grey ramp."""
    rows = b"".join(
        b"\0" + bytes((x * 8 + y * 4) % 256 for x in range(width)) for y in range(height)
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        (
            _png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)),
            _png_chunk(b"IDAT", zlib.compress(rows, level=0)),
            _png_chunk(b"IEND", b""),
        )
    )


def _png_chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def picture_gif(width: int, height: int) -> bytes:
    """Black. Its codes are 3 bits wide and start over often enough to stay so."""
    codes = []
    for start in range(0, width * height, 2):
        codes += [4, *[0] * min(2, width * height - start)]
    bits = sum(code << 3 * at for at, code in enumerate([*codes, 5]))
    data = bits.to_bytes((3 * (len(codes) + 1) + 7) // 8, "little")
    blocks = b"".join(
        bytes([len(data[at : at + 255])]) + data[at : at + 255] for at in range(0, len(data), 255)
    )
    return b"".join(
        (
            b"GIF89a" + struct.pack("<HHBBB", width, height, 0x80, 0, 0),
            b"\0\0\0\xff\xff\xff",
            b"\x2c" + struct.pack("<HHHHB", 0, 0, width, height, 0),
            b"\x02" + blocks + b"\0",
            b"\x3b",
        )
    )


def picture_jpeg(columns: int, rows: int) -> bytes:
    """Grey, in blocks of 8 x 8 pixels of two bits each: "no change" and "nothing more"."""
    blocks = columns * rows
    bits = "00" * blocks + "1" * (-2 * blocks % 8)
    one_code = bytes([1] + [0] * 15 + [0])
    return b"".join(
        (
            b"\xff\xd8",
            _jpeg_segment(0xE0, b"JFIF\0\1\1\0\0\1\0\1\0\0"),
            _jpeg_segment(0xDB, b"\0" + b"\1" * 64),
            _jpeg_segment(0xC0, struct.pack(">BHHB3B", 8, rows * 8, columns * 8, 1, 1, 0x11, 0)),
            _jpeg_segment(0xC4, b"\x00" + one_code),
            _jpeg_segment(0xC4, b"\x10" + one_code),
            _jpeg_segment(0xDA, b"\1\1\0\0\x3f\0"),
            int(bits, 2).to_bytes(len(bits) // 8),
            b"\xff\xd9",
        )
    )


def _jpeg_segment(marker: int, data: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(data) + 2) + data


def tone_wav(*, seconds: float, hertz: float, loudness: float) -> bytes:
    """A sine, 16 bit, one channel; ``loudness`` is its peak, where 1 is full scale."""
    samples = (
        round(32767 * loudness * math.sin(2 * math.pi * hertz * at / RATE))
        for at in range(round(seconds * RATE))
    )
    data = b"".join(struct.pack("<h", sample) for sample in samples)
    file = io.BytesIO()
    with wave.open(file, "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(RATE)
        sound.writeframes(data)
    return file.getvalue()


def stored_gzip(data: bytes) -> bytes:
    """GZIP without compression, name or time. At most 64 KiB."""
    header = b"\x1f\x8b\x08\0\0\0\0\0\0\xff"
    block = struct.pack("<BHH", 1, len(data), len(data) ^ 0xFFFF) + data
    return header + block + struct.pack("<II", zlib.crc32(data), len(data))


def stored_zip() -> bytes:
    """Two texts in a ZIP, without compression or times."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name in ("one.txt", "folder/two.txt"):
            entry = zipfile.ZipInfo(name, date_time=EPOCH)
            entry.create_system = 3
            archive.writestr(entry, f"This is {name}.\n" * 20)
    return file.getvalue()
