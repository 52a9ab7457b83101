"""Finds out what a file is and what is in it, from its real bytes."""

from __future__ import annotations

import hashlib
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

from . import archives, images, kinds, sound
from .archives import Archive
from .errors import Corrupt, LibraryError, TooLarge, Truncated, Unreadable
from .images import Image
from .reading import size_of
from .sound import Sound
from .text import (
    JSON_LIMIT,
    PYTHON_LIMIT,
    JsonDocument,
    PythonSource,
    Text,
    measure,
    read_json,
    read_python,
)

__all__ = [
    "DEFAULT_LIMIT_BYTES",
    "Analysis",
    "Corrupt",
    "LibraryError",
    "TooLarge",
    "Truncated",
    "Unreadable",
    "analyse",
]

DEFAULT_LIMIT_BYTES: Final = 32 * 1024 * 1024
BLOCK: Final = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Analysis:
    """What is known of one file. The parts are None where they do not apply."""

    sha256: str
    size: int
    """Bytes."""
    type: str
    """One word or two, such as ``png``, ``python`` or ``python bytecode``; see ``kinds.py``."""
    text: Text | None = None
    python: PythonSource | None = None
    json: JsonDocument | None = None
    image: Image | None = None
    sound: Sound | None = None
    archive: Archive | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, without the parts that do not apply."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Analysis:
        """What :meth:`to_dict` was called on."""
        parts = {
            name: _PARTS[name](**value) if name in _PARTS else value
            for name, value in values.items()
        }
        return cls(**parts)


_PARTS: Final[Mapping[str, Any]] = {
    "text": Text,
    "python": PythonSource,
    "json": JsonDocument,
    "image": Image,
    "sound": Sound,
    "archive": Archive,
}


def analyse(path: Path, *, limit_bytes: int = DEFAULT_LIMIT_BYTES) -> Analysis:
    """Read the file, all of it, and say what it is.

    Raises Unreadable, TooLarge (for files of more than ``limit_bytes``), Truncated and Corrupt. The
    messages do not name the file, and so are the same wherever the library lies.
    """
    try:
        with _opened(path, limit_bytes) as file:
            digest = _digest(file)
            file.seek(0)
            return _look(file, path.name, digest)
    except OSError as error:
        raise Unreadable(f"the file cannot be read: {_reason(error, path)}") from error


@contextmanager
def _opened(path: Path, limit_bytes: int) -> Iterator[BinaryIO]:
    status = path.stat()
    if stat.S_ISDIR(status.st_mode):
        # Only folders that could not be listed come here, and this says why not.
        list(path.iterdir())
    if not stat.S_ISREG(status.st_mode):
        # Opening a pipe would wait for somebody to write into it.
        raise Unreadable("the file cannot be read: it is not a regular file")
    if status.st_size > limit_bytes:
        raise TooLarge(f"the file has {status.st_size} bytes; the limit is {limit_bytes}")
    with path.open("rb") as file:
        yield file


def _reason(error: OSError, path: Path) -> str:
    if isinstance(error, FileNotFoundError) and path.is_symlink():
        return "it is a link to nothing"
    return error.strerror or str(error)


def _digest(file: BinaryIO) -> str:
    digest = hashlib.sha256()
    while block := file.read(BLOCK):
        digest.update(block)
    return digest.hexdigest()


def _look(file: BinaryIO, name: str, digest: str) -> Analysis:
    head = file.read(kinds.HEAD_BYTES)
    size = size_of(file)
    kind = kinds.by_bytes(head, name)
    file.seek(0)
    if kind is None:
        return _look_at_text(file, name, head, digest)
    if kind in archives.READERS:
        kind, archive = archives.READERS[kind](file)
        return Analysis(sha256=digest, size=size, type=kind, archive=archive)
    if kind == "pdf":
        images.check_pdf(file)
    return Analysis(
        sha256=digest,
        size=size,
        type=kind,
        image=images.READERS[kind](file) if kind in images.READERS else None,
        sound=sound.READERS[kind](file) if kind in sound.READERS else None,
    )


def _look_at_text(file: BinaryIO, name: str, head: bytes, digest: str) -> Analysis:
    size = size_of(file)
    text = measure(file, kinds.encodings(head, name))
    if text is None:
        return Analysis(sha256=digest, size=size, type=kinds.BINARY)
    kind = kinds.by_text(head.decode(text.encoding, errors="replace"), name)
    file.seek(0)
    python = document = None
    if kind == "python" and size <= PYTHON_LIMIT:
        python = read_python(file.read())
    elif size <= JSON_LIMIT and (
        kind == "json" or (kind == kinds.TEXT and head.lstrip()[:1] in (b"{", b"["))
    ):
        document = read_json(file.read(), text.encoding)
        if kind == kinds.TEXT:
            # Nothing but its brackets said JSON: when they lied, it is a text like any other.
            kind, document = ("json", document) if document.valid else (kinds.TEXT, None)
    return Analysis(sha256=digest, size=size, type=kind, text=text, python=python, json=document)
