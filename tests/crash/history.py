"""What every process of a test saw and did, in one file that a ``kill -9`` cannot spoil."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

FILE_NAME = "history.jsonl"
_NONE: Mapping[str, Any] = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One thing that happened in one process."""

    process: str
    event: str
    job: str = ""
    attempt: int = 0
    monotonic: float = field(default_factory=time.monotonic)
    """The machine's clock, which its processes share and nobody sets."""
    wall: float = field(default_factory=time.time)
    detail: Mapping[str, Any] = field(default_factory=dict)


class History:
    """Appends records to the file, each with one write, so that lines of processes do not mix."""

    def __init__(self, folder: Path, process: str) -> None:
        self.process = process
        self._file = os.open(folder / FILE_NAME, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def note(self, event: str, job: str = "", attempt: int = 0, **detail: Any) -> None:
        record = Record(process=self.process, event=event, job=job, attempt=attempt, detail=detail)
        os.write(self._file, json.dumps(asdict(record)).encode() + b"\n")

    def close(self) -> None:
        os.close(self._file)


class Reader:
    """Reads what has been appended since it last looked."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / FILE_NAME
        self._offset = 0
        self._records: list[Record] = []

    def read(self) -> list[Record]:
        """All records so far, in the order in which they were written."""
        if self._path.exists():
            with self._path.open("rb") as file:
                file.seek(self._offset)
                for line in file:
                    if not line.endswith(b"\n"):
                        break  # it is being written
                    self._offset += len(line)
                    self._records.append(_read(line))
        return list(self._records)


def _read(line: bytes) -> Record:
    told = json.loads(line)
    # The same few words, a million times.
    for name in ("process", "event", "job"):
        told[name] = sys.intern(told[name])
    told["detail"] = {sys.intern(name): value for name, value in told["detail"].items()} or _NONE
    return Record(**told)
