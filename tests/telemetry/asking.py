"""Asks a monitor, as a probe or Prometheus would."""

from __future__ import annotations

import json
import socket
import time
from http import HTTPStatus
from typing import Any, Final
from urllib.error import HTTPError, URLError
from urllib.request import urlopen

from jobbus.telemetry.server import Answer

PATIENCE: Final = 60.0


def ok(text: str) -> Answer:
    return Answer(HTTPStatus.OK, text.encode())


def ask(url: str) -> tuple[int, str]:
    """The status and the body."""
    try:
        with urlopen(url, timeout=10) as response:  # noqa: S310 - an address of ours
            return response.status, response.read().decode()
    except HTTPError as error:
        with error:
            return error.code, error.read().decode()


def ask_json(url: str) -> Any:
    return json.loads(ask(url)[1])


def say(port: int, request: bytes) -> bytes:
    """Everything that is answered to these bytes."""
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        connection.sendall(request)
        answer = b""
        while piece := connection.recv(65_536):
            answer += piece
    return answer


def until(url: str, status: int = 200) -> str:
    """Ask until this is the status; return the body then."""
    deadline = time.monotonic() + PATIENCE
    last: object = None
    while time.monotonic() < deadline:
        try:
            found, body = ask(url)
            if found == status:
                return body
            last = (found, body)
        except (URLError, OSError) as error:
            last = error
        time.sleep(0.05)
    raise AssertionError(f"{url} did not answer {status}; last: {last}")


def samples(text: str) -> dict[str, float]:
    """The series of an exposition, by name and labels as they are written."""
    pairs = (line.rpartition(" ") for line in text.splitlines() if line and line[0] != "#")
    return {name: float(value) for name, _, value in pairs}
