"""A Redis to measure against: one server for each measurement, that nobody else talks to."""

from __future__ import annotations

import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

APPENDFSYNC: Final = ("everysec", "always")
"""How soon a server has its file on the disk: within the second, or before it answers."""
_PATIENCE: Final = 10


@contextmanager
def redis_server(appendfsync: str) -> Iterator[str]:
    """The address of an empty server with an append-only file, the same settings for every peer."""
    program = shutil.which("redis-server")
    if program is None:
        raise SystemExit("to measure Redis, install the Debian package redis-server")
    port = _free_port()
    settings = {
        "bind": "127.0.0.1", "port": str(port), "save": "", "appendonly": "yes",
        "appendfsync": appendfsync,
        # A rewrite would fall into some measurements and not into others.
        "auto-aof-rewrite-percentage": "0",
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        command = [program, "--dir", folder]
        for name, value in settings.items():
            command += [f"--{name}", value]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL) as server:
            try:
                _await(port, server)
                yield f"redis://127.0.0.1:{port}/0"
            finally:
                # Its data is of no use to anybody, so there is nothing to wait for.
                server.kill()


def _await(port: int, server: subprocess.Popen[bytes]) -> None:
    from redis import ConnectionError, Redis

    deadline = time.monotonic() + _PATIENCE
    while True:
        try:
            with Redis(port=port) as client:
                client.ping()
            return
        except ConnectionError:
            if server.poll() is not None or time.monotonic() > deadline:
                raise
            time.sleep(0.02)


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
