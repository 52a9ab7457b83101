"""Server programs on this machine: the account, the port and the folder that they run with."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

START_SECONDS: Final = 30.0
POLL_SECONDS: Final = 0.02


class ServiceBroken(RuntimeError):
    """A server that should work does not; the message ends with what it said."""


@dataclass(frozen=True, slots=True)
class Account:
    """Whom servers run as when the tests run as root, which servers refuse."""

    uid: int
    gid: int

    @classmethod
    def for_servers(cls) -> Account | None:
        """``postgres`` or else ``nobody``; None when we are not root and stay who we are."""
        if os.geteuid() != 0:
            return None
        for name in ("postgres", "nobody"):
            try:
                entry = pwd.getpwnam(name)
            except KeyError:
                continue
            return cls(entry.pw_uid, entry.pw_gid)
        raise ServiceBroken("running as root, and there is neither a user postgres nor nobody")


@dataclass(frozen=True, slots=True)
class Scratch:
    """A temporary folder that the servers' account owns and can reach."""

    folder: Path
    account: Account | None

    def run(self, command: Sequence[str | Path]) -> None:
        """Run a program to its end. Raises :class:`ServiceBroken` with its output."""
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, **self._environment()
        )
        if done.returncode != 0:
            raise ServiceBroken(f"{command[0]} failed:\n{done.stdout}{done.stderr}")

    def start(self, command: Sequence[str | Path], *, log: Path) -> subprocess.Popen[bytes]:
        """Start a server apart from the terminal: a Ctrl-C is for the tests, not for it."""
        with log.open("ab") as output:
            return subprocess.Popen(
                command,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                **self._environment(),
            )

    def give(self, path: Path) -> Path:
        """Hand a file or folder over to the servers' account."""
        if self.account is not None:
            os.chown(path, self.account.uid, self.account.gid)
        return path

    def _environment(self) -> dict[str, Any]:
        # The caller's PGHOST, PGDATA and the like would reach into a server that is not theirs.
        variables = {key: value for key, value in os.environ.items() if not key.startswith("PG")}
        options: dict[str, Any] = {
            "cwd": self.folder,
            "env": {**variables, "LC_ALL": "C", "HOME": str(self.folder)},
            "stdin": subprocess.DEVNULL,
        }
        if self.account is not None:
            options |= {"user": self.account.uid, "group": self.account.gid, "extra_groups": []}
        return options


@contextmanager
def scratch(purpose: str) -> Iterator[Scratch]:
    """A folder for one server, removed at the end."""
    # Not pytest's tmp_path: its parents are closed to other accounts.
    folder = Path(tempfile.mkdtemp(prefix=f"jobbus-test-{purpose}-"))
    try:
        place = Scratch(folder, Account.for_servers())
        place.give(folder)
        yield place
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody listened on a moment ago."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def await_answer(
    process: subprocess.Popen[bytes],
    ask: Callable[[], None],
    *,
    unless: type[Exception],
    log: Path,
) -> None:
    """Return once ``ask`` no longer raises ``unless``.

    Raises :class:`ServiceBroken` with the end of the log if the server dies or takes too long.
    """
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            return ask()
        except unless as error:
            if time.monotonic() > deadline:
                raise ServiceBroken(f"no answer in {START_SECONDS} s:\n{tail(log)}") from error
        try:
            process.wait(timeout=POLL_SECONDS)
        except subprocess.TimeoutExpired:
            continue
        raise ServiceBroken(f"{process.args!r} ended instead of answering:\n{tail(log)}")


def end(process: subprocess.Popen[bytes], signals: Mapping[signal.Signals, float]) -> None:
    """Send each signal in turn, with its seconds of patience, until the process has ended."""
    for number, patience in signals.items():
        if process.poll() is not None:
            return
        process.send_signal(number)
        try:
            process.wait(timeout=patience)
        except subprocess.TimeoutExpired:
            continue


def tail(log: Path, lines: int = 15) -> str:
    """The last lines of a log; empty when there is none yet."""
    if not log.exists():
        return ""
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])
