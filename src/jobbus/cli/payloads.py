"""Payloads from the command line, a file, or standard input; all checked before one is used."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Final

from jobbus.cli.failures import BadUsage
from jobbus.cli.text import plain
from jobbus.codec import HARD_LIMIT, decode
from jobbus.errors import PayloadError, PayloadTooLarge

_IN_MEMORY: Final = 8 * 1024 * 1024
"""Bytes of input that are held in memory before a temporary file takes over."""
STANDARD_INPUT: Final = "-"


def read_payload(given: str | None) -> Any:
    """The payload in an argument, or in the file of ``@file``; None when there is none.

    Raises PayloadError for what is no JSON within the limits, BadUsage for an unreadable file.
    """
    if given is None:
        return None
    if given.startswith("@"):
        return decode(_read_file(Path(given[1:])), what=f"the file {plain(given[1:])}")
    try:
        return decode(given.encode(), what="the payload")
    except UnicodeEncodeError as error:
        raise PayloadError("the payload is not UTF-8") from error


def _read_file(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(HARD_LIMIT + 1)
    except OSError as error:
        raise BadUsage(
            f"the payload's file cannot be read: {plain(path)}",
            why=error.strerror or str(error),
            fix="write @ and the path of a file with one JSON document in it",
        ) from error


class Lines:
    """Payloads, one a line, kept where they can be read more than once."""

    def __init__(self, kept: IO[bytes]) -> None:
        self._kept = kept
        self.count = 0

    def keep(self, line: bytes) -> None:
        self._kept.write(line.rstrip(b"\r\n") + b"\n")
        self.count += 1

    def __iter__(self) -> Iterator[tuple[str, bytes]]:
        """Where each came from, and its bytes."""
        self._kept.seek(0)
        for number, line in enumerate(self._kept, 1):
            if line.strip():
                yield f"line {number}", line


@contextmanager
def read_lines() -> Iterator[Lines]:
    """The lines of standard input, read to the end. Raises PayloadTooLarge for one without an end.

    An interactive terminal is refused: it would look as if the command hung.
    """
    if sys.stdin.isatty():
        raise BadUsage(
            "standard input is a terminal",
            why="- reads one JSON payload a line from a file or a program",
            fix="jobbus enqueue TYPE - < payloads.ndjson",
        )
    with tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY) as kept:
        lines = Lines(kept)
        while line := sys.stdin.buffer.readline(HARD_LIMIT + 2):
            if len(line) > HARD_LIMIT + 1:
                raise PayloadTooLarge(
                    f"line {lines.count + 1}: more than {HARD_LIMIT:,} bytes, which is the limit"
                )
            lines.keep(line)
        yield lines
