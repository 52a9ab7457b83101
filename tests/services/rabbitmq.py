"""A RabbitMQ for the tests: the one that is there, or a node of their own."""

from __future__ import annotations

import asyncio
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import aiormq
from yarl import URL

from tests.services.programs import (
    Scratch,
    ServiceBroken,
    await_answer,
    free_port,
    scratch,
    tail,
)
from tests.services.report import ServiceMissing

ADDRESS_VARIABLE: Final = "TEST_RABBITMQ_CONNECTION"
STANDARD_ADDRESS: Final = "amqp://guest:guest@127.0.0.1:5672/"
LIBRARIES: Final = (Path("/usr/lib/rabbitmq/lib"),)
REMEDY: Final = f"set {ADDRESS_VARIABLE}, or install the Debian package rabbitmq-server"
_ANSWER_SECONDS: Final = 15
_SETTINGS: Final[Mapping[str, str]] = {
    "loopback_users.guest": "false",
    "log.console": "false",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class RabbitMqServer:
    """A broker on which the tests may make queues under a prefix of their own."""

    url: str
    version: str
    how: str
    node: RabbitMqNode | None = None

    def own(self) -> RabbitMqNode:
        """The node behind it, to stop and to kill."""
        if self.node is None:
            raise RuntimeError(f"not ours to stop: {self.how}; ask for the fixture owned_rabbitmq")
        return self.node


class RabbitMqNode:
    """A broker process of the tests' own. Runs as whoever runs the tests."""

    def __init__(self, programs: Path, place: Scratch, settings: Mapping[str, str]) -> None:
        self._programs = programs
        self._folder = place.folder
        self._port = free_port()
        self._distribution_port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self._log = self._folder / "console.log"
        lines = [f"{name} = {value}" for name, value in {**_SETTINGS, **settings}.items()]
        (self._folder / "rabbitmq.conf").write_text("\n".join(lines) + "\n")
        (self._folder / "enabled_plugins").write_text("[].\n")
        cookie = self._folder / ".erlang.cookie"
        cookie.write_text(secrets.token_hex(20))
        cookie.chmod(0o400)

    @property
    def url(self) -> str:
        return f"amqp://guest:guest@127.0.0.1:{self._port}/"

    def start(self) -> None:
        """Start, on the same port as ever, and return once it answers. Harmless when running."""
        if self._process is not None and self._process.poll() is None:
            return
        with self._log.open("ab") as output:
            self._process = subprocess.Popen(
                [self._programs / "rabbitmq-server"],
                env=self._environment(),
                cwd=self._folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        await_answer(self._process, self._ask, unless=OSError, log=self._log)

    def kill(self) -> None:
        """End every process of the node at once, as a power cut would."""
        if self._process is not None and self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait(timeout=10)

    def freeze(self) -> None:
        """Stop every process of the node where it stands."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None and self._process.poll() is None:
            os.killpg(self._process.pid, number)

    def control(self, *command: str) -> str:
        """Run ``rabbitmqctl``; return what it says. Raises ServiceBroken when it fails."""
        done = subprocess.run(
            [self._programs / "rabbitmqctl", "--quiet", *command],
            env=self._environment(),
            cwd=self._folder,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        if done.returncode != 0:
            raise ServiceBroken(f"rabbitmqctl {command[0]} failed:\n{done.stdout}{done.stderr}")
        return done.stdout

    def log_tail(self) -> str:
        return tail(self._log)

    def _ask(self) -> None:
        # The client library writes to the log each time that it cannot connect.
        socket.create_connection(("127.0.0.1", self._port), timeout=1).close()
        _version_at(self.url)

    def _environment(self) -> dict[str, str]:
        folder = self._folder
        inherited = {
            name: value for name, value in os.environ.items() if not name.startswith("RABBITMQ_")
        }
        return {
            **inherited,
            "HOME": str(folder),
            "LC_ALL": "C.UTF-8",
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODENAME": f"jobbus{self._port}@localhost",
            "RABBITMQ_NODE_PORT": str(self._port),
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_DIST_PORT": str(self._distribution_port),
            "RABBITMQ_MNESIA_BASE": str(folder / "data"),
            "RABBITMQ_LOG_BASE": str(folder / "log"),
            "RABBITMQ_LOGS": str(folder / "log" / "node.log"),
            "RABBITMQ_PID_FILE": str(folder / "pid"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "enabled_plugins"),
            "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq.conf"),
            "RABBITMQ_CONF_ENV_FILE": str(folder / "none"),
            # Two cores are enough for a node that a few tests share.
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+S 1:1",
        }


Offer = AbstractContextManager[RabbitMqServer]


@contextmanager
def default_rabbitmq() -> Iterator[RabbitMqServer]:
    """The first broker to be had. Raises :class:`ServiceMissing` naming all that was tried."""
    address = os.environ.get(ADDRESS_VARIABLE)
    if address:
        try:
            version = _version_at(address)
        except ConnectionError as error:
            raise RuntimeError(f"{ADDRESS_VARIABLE} is set, but: {error}") from error
        yield RabbitMqServer(url=address, version=version, how=f"{version} from {ADDRESS_VARIABLE}")
        return
    problems: list[str] = []
    offers: Sequence[Callable[[], Offer]] = (_on_standard_port, own_rabbitmq)
    for offer in offers:
        with ExitStack() as stack:
            try:
                server = stack.enter_context(offer())
            except ServiceMissing as missing:
                problems.append(str(missing))
                continue
            yield server
            return
    raise ServiceMissing(f"{'; '.join(problems)}. To get one, {REMEDY}")


@contextmanager
def own_rabbitmq(settings: Mapping[str, str] | None = None) -> Iterator[RabbitMqServer]:
    """A node that the tests may stop and kill, with these lines of configuration."""
    programs = machine_programs()
    with scratch("rabbitmq") as place:
        node = RabbitMqNode(programs, place, settings or {})
        try:
            node.start()
            version = _version_at(node.url)
            how = f"{version} started from programs in {programs}"
            yield RabbitMqServer(url=node.url, version=version, how=how, node=node)
        finally:
            node.kill()


def machine_programs() -> Path:
    """The folder of the newest server's programs. Raises :class:`ServiceMissing`.

    Not those on the PATH of a Debian machine: they change to a user of their own first.
    """
    found = [
        folder / "sbin"
        for library in LIBRARIES
        for folder in library.glob("rabbitmq_server-*")
        if (folder / "sbin" / "rabbitmq-server").exists()
    ]
    if not found:
        raise ServiceMissing(f"no server programs in {LIBRARIES[0]}")
    if shutil.which("erl") is None:
        raise ServiceMissing("the server's programs are there, but Erlang is not")
    return max(found, key=lambda folder: [int(n) for n in re.findall(r"\d+", folder.parent.name)])


@contextmanager
def _on_standard_port() -> Iterator[RabbitMqServer]:
    try:
        version = _version_at(STANDARD_ADDRESS)
    except ConnectionError as error:
        raise ServiceMissing(f"nothing on 127.0.0.1:5672 takes guest: {error}") from error
    yield RabbitMqServer(
        url=STANDARD_ADDRESS, version=version, how=f"{version} answering on 127.0.0.1:5672"
    )


def _version_at(address: str) -> str:
    """Such as ``3.10.8``. Raises ConnectionError where no broker lets us in."""
    return asyncio.run(_ask(URL(address).update_query(timeout=str(_ANSWER_SECONDS))))


async def _ask(url: URL) -> str:
    try:
        async with asyncio.timeout(_ANSWER_SECONDS), aiormq.connect(url) as connection:
            return str(connection.server_properties["version"])
    except (TimeoutError, OSError, EOFError, aiormq.AMQPError) as error:
        raise ConnectionError(str(error) or type(error).__name__) from error
