"""Reads exactly as many bytes as a format promises, or says that the file is cut short."""

from __future__ import annotations

import os
from typing import BinaryIO, Final

from .errors import Truncated

BLOCK: Final = 4096


def take(file: BinaryIO, count: int, what: str) -> bytes:
    """The next ``count`` bytes. Raises Truncated, naming ``what`` is missing."""
    # A damaged length must not make us ask for gigabytes of memory.
    if count > BLOCK and file.tell() + count > size_of(file):
        raise Truncated(f"the file ends within its {what}")
    data = file.read(count)
    if len(data) < count:
        raise Truncated(f"the file ends within its {what}")
    return data


def skip(file: BinaryIO, count: int, what: str) -> None:
    """Go ``count`` bytes on. Raises Truncated where the file has no such place."""
    if file.tell() + count > size_of(file):
        raise Truncated(f"the file ends within its {what}")
    file.seek(count, os.SEEK_CUR)


def size_of(file: BinaryIO) -> int:
    """The size in bytes; the position stays."""
    return os.fstat(file.fileno()).st_size
