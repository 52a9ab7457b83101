"""One endpoint for several worker processes: asks each at its socket, and joins the answers.

Their series stay apart, by the label ``process``: a sum would fall whenever a process is replaced,
which Prometheus takes for a reset of the whole.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator, Mapping
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Final

from .names import PROCESS_LABEL
from .prometheus import CONTENT_TYPE
from .server import Answer, Pages

_SECONDS: Final = 3.0
"""For the answer of one process."""
SOCKET_NAME: Final = "worker-{process}.sock"


class Processes:
    """The worker processes below a supervisor, at their sockets in ``folder``."""

    def __init__(self, folder: Path, number: int) -> None:
        self._sockets = [folder / SOCKET_NAME.format(process=index) for index in range(number)]

    def pages(self) -> Pages:
        """What a supervisor shows for all of them."""
        return {
            "/livez": lambda: self._agreed("/livez", all_of_them=True),
            "/readyz": lambda: self._agreed("/readyz", all_of_them=False),
            "/progress": self._progress,
            "/metrics": self._metrics,
        }

    def _agreed(self, path: str, *, all_of_them: bool) -> Answer:
        """Alive are we when every process that answers is; ready when one is.

        A process that does not answer is being replaced, or killed by whoever supervises it.
        """
        answers = self._ask(path)
        well = [answer.status == HTTPStatus.OK for answer in answers.values()]
        fine = all(well) if all_of_them else any(well)
        told = {index: answer.body.decode().strip() for index, answer in answers.items()}
        lines = [f"process {index}: {told.get(index, 'no answer')}" for index in self._indices()]
        status = HTTPStatus.OK if fine else HTTPStatus.SERVICE_UNAVAILABLE
        return Answer(status, "".join(f"{line}\n" for line in lines).encode())

    def _progress(self) -> Answer:
        told = {
            str(index): json.loads(answer.body) for index, answer in self._ask("/progress").items()
        }
        body = json.dumps({"processes": told}).encode() + b"\n"
        return Answer(HTTPStatus.OK, body, "application/json")

    def _metrics(self) -> Answer:
        answers = self._ask("/metrics")
        refusals = [one for one in answers.values() if one.status != HTTPStatus.OK]
        if refusals and len(refusals) == len(answers):
            return refusals[0]  # they all lack the same library
        texts = {
            str(index): answer.body.decode()
            for index, answer in answers.items()
            if answer.status == HTTPStatus.OK
        }
        return Answer(HTTPStatus.OK, merged(texts).encode(), CONTENT_TYPE)

    def _indices(self) -> range:
        return range(len(self._sockets))

    def _ask(self, path: str) -> dict[int, Answer]:
        answers = ((index, _get(self._sockets[index], path)) for index in self._indices())
        return {index: answer for index, answer in answers if answer is not None}


class _OnSocket(HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("worker", timeout=_SECONDS)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(_SECONDS)
        self.sock.connect(str(self._path))


def _get(path: Path, page: str) -> Answer | None:
    """What a process answers; None when it does not."""
    connection = _OnSocket(path)
    try:
        connection.request("GET", page)
        response = connection.getresponse()
        return Answer(HTTPStatus(response.status), response.read())
    except (OSError, HTTPException):
        return None
    finally:
        connection.close()


def merged(texts: Mapping[str, str]) -> str:
    """Several expositions as one, each series with the label of its process."""
    headers: dict[str, list[str]] = {}
    samples: dict[str, list[str]] = {}
    for process, text in texts.items():
        for family, heads, lines in _families(text):
            headers.setdefault(family, heads)
            samples.setdefault(family, []).extend(_labelled(line, process) for line in lines)
    whole = [line for family, heads in headers.items() for line in (*heads, *samples[family])]
    return "".join(f"{line}\n" for line in whole)


def _families(text: str) -> Iterator[tuple[str, list[str], list[str]]]:
    """Name, comments and samples of each family; its comments stand before its samples."""
    name, heads, lines = "", list[str](), list[str]()
    for line in text.splitlines():
        if line.startswith("# ") and line.split()[2] != name:
            if name:
                yield name, heads, lines
            name, heads, lines = line.split()[2], [], []
        if line:
            (heads if line.startswith("#") else lines).append(line)
    if name:
        yield name, heads, lines


def _labelled(sample: str, process: str) -> str:
    label = f'{PROCESS_LABEL}="{process}"'
    end = sample.find(" ")
    brace = sample.find("{", 0, end)
    if brace < 0:
        return f"{sample[:end]}{{{label}}}{sample[end:]}"
    comma = "" if sample[brace + 1] == "}" else ","
    return f"{sample[: brace + 1]}{label}{comma}{sample[brace + 1 :]}"
