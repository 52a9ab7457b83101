"""Looks into archives and compressed files: are they whole, and how much is in them?"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import BinaryIO, Final

from .errors import Corrupt, Truncated

UNPACK_LIMIT: Final = 256 * 1024 * 1024
"""Bytes. A small file can unpack to a petabyte; beyond this, nobody looks any further."""
BLOCK: Final = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Archive:
    """What is inside of a file."""

    entries: int | None = None
    """Files and folders in an archive; None for a single compressed stream."""
    unpacked: int | None = None
    """Bytes, by the archive's own word; of a single stream, counted, and None where there are more
    than ``UNPACK_LIMIT``."""


def read_zip(file: BinaryIO) -> tuple[str, Archive]:
    """A ZIP, and what it is beneath: a wheel, a document, a book, a Java archive."""
    if not zipfile.is_zipfile(file):
        raise Truncated("the file ends before its central directory")
    try:
        with zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError, ValueError, struct.error) as error:
        raise Corrupt(f"the ZIP's central directory cannot be read: {error}") from error
    kind = _kind([entry.filename for entry in entries])
    return kind, Archive(entries=len(entries), unpacked=sum(entry.file_size for entry in entries))


def _kind(names: list[str]) -> str:
    present = set(names)
    if "[Content_Types].xml" in present:
        for folder, kind in (("word/", "docx"), ("xl/", "xlsx"), ("ppt/", "pptx")):
            if any(name.startswith(folder) for name in names):
                return kind
    if "META-INF/container.xml" in present:
        return "epub"
    if {"mimetype", "content.xml"} <= present:
        return "opendocument"
    if any(name.count("/") == 1 and name.endswith(".dist-info/WHEEL") for name in names):
        return "whl"
    return "jar" if "META-INF/MANIFEST.MF" in present else "zip"


def read_tar(file: BinaryIO) -> tuple[str, Archive]:
    """A TAR that is not compressed, read header by header."""
    try:
        with tarfile.open(fileobj=file, mode="r:") as archive:
            members = archive.getmembers()
    except tarfile.ReadError as error:
        if "unexpected end" in str(error) or "truncated" in str(error):
            raise Truncated("the file ends within one of its members") from error
        raise Corrupt(f"the TAR cannot be read: {error}") from error
    except (tarfile.TarError, ValueError) as error:
        raise Corrupt(f"the TAR cannot be read: {error}") from error
    return "tar", Archive(entries=len(members), unpacked=sum(member.size for member in members))


def read_gzip(file: BinaryIO) -> tuple[str, Archive]:
    with gzip.GzipFile(fileobj=file, mode="rb") as stream:
        return "gzip", _unpack(stream)


def read_bzip2(file: BinaryIO) -> tuple[str, Archive]:
    with bz2.BZ2File(file) as stream:
        return "bzip2", _unpack(stream)


def read_xz(file: BinaryIO) -> tuple[str, Archive]:
    with lzma.LZMAFile(file) as stream:
        return "xz", _unpack(stream)


def _unpack(stream: io.BufferedIOBase) -> Archive:
    """Decompress to the end and throw it away: the only way to know that the end is there."""
    unpacked = 0
    try:
        while block := stream.read(BLOCK):
            unpacked += len(block)
            if unpacked > UNPACK_LIMIT:
                return Archive()
    except EOFError as error:
        raise Truncated("the file ends within its compressed data") from error
    except (zlib.error, lzma.LZMAError) as error:
        raise Corrupt(f"the compressed data is damaged: {error}") from error
    except OSError as error:
        # Decompressors raise it, without a number, for bad data; the system always gives one.
        if error.errno is not None:
            raise
        raise Corrupt(f"the compressed data is damaged: {error}") from error
    return Archive(unpacked=unpacked)


READERS: Final[Mapping[str, Callable[[BinaryIO], tuple[str, Archive]]]] = {
    "bzip2": read_bzip2,
    "gzip": read_gzip,
    "tar": read_tar,
    "xz": read_xz,
    "zip": read_zip,
}
"""By type; each wants the file at its start, and says more exactly what it is."""
