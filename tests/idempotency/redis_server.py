"""A Redis for these tests: the one that answers here, and one of their own to take down."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.services.programs import Scratch, ServiceBroken, await_answer, end, free_port, scratch
from tests.services.report import ServiceMissing

ADDRESS_VARIABLE: Final = "TEST_REDIS_CONNECTION"
STANDARD_URL: Final = "redis://127.0.0.1:6379/0"


@dataclass(frozen=True, slots=True, kw_only=True)
class RedisPlace:
    """A server, and how it was got."""

    url: str
    how: str
    process: RedisProcess | None = None
    """The server itself, where the tests started it and may take it down."""


class RedisProcess:
    """One server that keeps what it is given, over one folder."""

    def __init__(self, place: Scratch, settings: Mapping[str, str]) -> None:
        program = shutil.which("redis-server") or shutil.which("valkey-server")
        if program is None:
            raise ServiceMissing("no redis-server in PATH: install the Debian package")
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._log = place.folder / "redis.log"
        self._place = place
        options = {
            "bind": "127.0.0.1",
            "port": str(self.port),
            "dir": str(place.folder),
            "save": "",
            "appendonly": "yes",
            "appendfsync": "always",
            **settings,
        }
        self._command: list[str | Path] = [program]
        for name, value in options.items():
            self._command += [f"--{name}", value]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start, on the same port as ever, and return once it answers. Harmless when running."""
        if self._process is None or self._process.poll() is not None:
            self._process = self._place.start(self._command, log=self._log)
            await_answer(
                self._process, lambda: ask(self.url), unless=redis.RedisError, log=self._log
            )

    def stop(self) -> None:
        """Shut down in good order. Harmless when not running."""
        self._end({signal.SIGTERM: 10, signal.SIGKILL: 5})

    def crash(self) -> None:
        """Kill it."""
        self._end({signal.SIGKILL: 10})

    def _end(self, signals: Mapping[signal.Signals, float]) -> None:
        if self._process is not None:
            end(self._process, signals)


def ask(url: str) -> None:
    with client(url) as asking:
        asking.ping()


def client(url: str) -> redis.Redis:
    """A client that asks once."""
    return redis.Redis.from_url(
        url, socket_timeout=5, socket_connect_timeout=3, retry=Retry(NoBackoff(), 0)
    )


@contextmanager
def default_redis() -> Iterator[RedisPlace]:
    """The address in the environment, else what answers on the standard port, else our own."""
    given = os.environ.get(ADDRESS_VARIABLE)
    try:
        ask(given or STANDARD_URL)
    except redis.RedisError as error:
        if given:
            raise ServiceBroken(f"{ADDRESS_VARIABLE} is set, but: {error}") from error
        with own_redis() as server:
            yield server
        return
    yield RedisPlace(
        url=given or STANDARD_URL,
        how=f"from {ADDRESS_VARIABLE}" if given else "answering on 127.0.0.1:6379",
    )


@contextmanager
def own_redis(settings: Mapping[str, str] | None = None) -> Iterator[RedisPlace]:
    """A server of the tests' own, running."""
    with scratch("redis") as place:
        process = RedisProcess(place, settings or {})
        try:
            process.start()
            yield RedisPlace(url=process.url, how="started from redis-server", process=process)
        finally:
            process.stop()
