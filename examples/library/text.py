"""Measures text: lines, words, letters; functions in Python; depth in JSON."""

from __future__ import annotations

import ast
import io
import json
import threading
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import BinaryIO, Final, NoReturn

BLOCK: Final = 1024 * 1024
PYTHON_LIMIT: Final = 1024 * 1024
JSON_LIMIT: Final = 8 * 1024 * 1024
"""Bytes. A parsed source takes a hundred times its size in memory, so larger ones are left be."""

_parsing = threading.Lock()


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    """A text as one counts it."""

    encoding: str
    lines: int
    words: int
    characters: int
    """Line ends count as one, however they are written."""
    longest_line: int
    """Characters, without the line end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PythonSource:
    """Python source, as the running Python understands it."""

    valid: bool
    functions: int = 0
    """Methods and nested ones included; lambdas not."""
    classes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class JsonDocument:
    """A JSON document."""

    valid: bool
    depth: int = 0
    """How many arrays and objects stand one within the other; 0 for a plain value."""


class _Counter:
    """Counts a text that comes in blocks, whose edges fall anywhere."""

    def __init__(self) -> None:
        self.lines = self.words = self.characters = self.longest = 0
        self._open_line = 0
        self._in_word = False

    def add(self, block: str) -> None:
        self.characters += len(block)
        self.words += len(block.split())
        if self._in_word and not block[0].isspace():
            self.words -= 1
        self._in_word = not block[-1].isspace()
        first, *others = block.split("\n")
        self._open_line += len(first)
        if others:
            self.lines += len(others)
            closed = max(self._open_line, max(map(len, others[:-1]), default=0))
            self.longest = max(self.longest, closed)
            self._open_line = len(others[-1])

    def result(self, encoding: str) -> Text:
        return Text(
            encoding=encoding,
            # A last line without a line end is a line.
            lines=self.lines + (self._open_line > 0),
            words=self.words,
            characters=self.characters,
            longest_line=max(self.longest, self._open_line),
        )


def measure(file: BinaryIO, encodings: Sequence[str]) -> Text | None:
    """Count the text, in the first of ``encodings`` that fits all of it.

    None where none fits, or where there are NULs: then it is no text after all.
    """
    for encoding in encodings:
        file.seek(0)
        try:
            return _count(file, encoding)
        except (UnicodeError, LookupError):
            continue
    return None


def _count(file: BinaryIO, encoding: str) -> Text | None:
    counter = _Counter()
    reader = io.TextIOWrapper(file, encoding=encoding, errors="strict", newline=None)
    try:
        while block := reader.read(BLOCK):
            if "\0" in block:
                return None
            counter.add(block)
        return counter.result(encoding)
    finally:
        # Else the reader would close the file, which is not its own.
        reader.detach()


def read_python(source: bytes) -> PythonSource:
    """Count what is defined in the source. Source that does not parse is not valid, no error."""
    try:
        # The parser warns of odd escapes; filters are the whole process's, so one at a time.
        with _parsing, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return PythonSource(valid=False)
    functions = classes = 0
    for node in ast.walk(tree):
        functions += isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        classes += isinstance(node, ast.ClassDef)
    return PythonSource(valid=True, functions=functions, classes=classes)


def read_json(data: bytes, encoding: str) -> JsonDocument:
    """Parse strictly: NaN and Infinity, which Python would take, are not JSON."""
    try:
        document = json.loads(
            data.decode(encoding),
            parse_constant=_refuse,
            # Numbers are not looked at, and huge ones would be refused.
            parse_int=len,
            parse_float=len,
        )
    except (ValueError, RecursionError):
        return JsonDocument(valid=False)
    return JsonDocument(valid=True, depth=_depth(document))


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


def _depth(document: object) -> int:
    depth = 0
    level = [document]
    while level := [each for each in level if isinstance(each, dict | list)]:
        depth += 1
        level = [
            inner for each in level for inner in (each.values() if isinstance(each, dict) else each)
        ]
    return depth
