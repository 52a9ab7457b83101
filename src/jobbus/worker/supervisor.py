"""Keeps several worker processes running, and restarts them when their code changes.

The supervisor imports no application code and holds no connection: what it starts may crash, it
does not.
"""

from __future__ import annotations

import contextlib
import logging
import os
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from types import FrameType
from typing import Any, Final

from jobbus.errors import ConfigurationError

log = logging.getLogger("jobbus.worker.supervisor")

SKIPPED: Final = frozenset({".venv", "venv", "node_modules", ".git", "__pycache__"})
POLL_INTERVAL: Final = timedelta(seconds=0.5)
STOP_WITHIN: Final = timedelta(seconds=35)
"""A little more than the 30 seconds within which a worker promises to have stopped."""
HOPELESS: Final = 2
"""The exit code of a worker whose settings cannot work: starting it again would not help."""
_TOLD_TO: Final = (128 + signal.SIGTERM, 128 + signal.SIGINT)
STOP_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_PR_SET_PDEATHSIG: Final = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class RestartPolicy:
    """How long a worker that died stays down: doubling, and forgotten after a healthy life."""

    first: timedelta = timedelta(seconds=1)
    cap: timedelta = timedelta(seconds=30)
    healthy_after: timedelta = timedelta(seconds=60)

    def pause(self, deaths: int) -> timedelta:
        """The wait after the ``deaths``-th early death in a row (1 is the first)."""
        return min(self.first * (1 << min(max(deaths - 1, 0), 20)), self.cap)


class FileWatch:
    """Notices Python files that were changed, added or removed below some directories."""

    def __init__(self, directories: Sequence[Path]) -> None:
        for directory in directories:
            if not directory.is_dir():
                raise ConfigurationError(
                    f"cannot watch {directory} for changes: there is no such directory"
                )
        self._directories = tuple(directories)
        self._seen = self._look()

    def changed(self) -> list[Path]:
        """The files that differ from the last call's, or from construction."""
        now = self._look()
        before, self._seen = self._seen, now
        return sorted(Path(one) for one in {name for name, _ in before.items() ^ now.items()})

    def _look(self) -> dict[str, tuple[int, int]]:
        return dict(found for directory in self._directories for found in _python_files(directory))


def _python_files(directory: Path) -> Iterator[tuple[str, tuple[int, int]]]:
    for folder, below, names in os.walk(directory):
        below[:] = [
            one
            for one in below
            if one not in SKIPPED and not os.path.exists(os.path.join(folder, one, "pyvenv.cfg"))
        ]
        for name in names:
            if name.endswith(".py"):
                path = os.path.join(folder, name)
                # A file may go between being listed and being looked at.
                with contextlib.suppress(FileNotFoundError):
                    found = os.stat(path)
                    yield path, (found.st_mtime_ns, found.st_size)


class _Place:
    """One of the N workers: the process that fills it now, and when the next one may."""

    def __init__(self, index: int) -> None:
        self.index = index
        self.process: subprocess.Popen[bytes] | None = None
        self.started_at = 0.0
        self.start_at: float | None = 0.0
        """When to start the next process; None: not again."""
        self.kill_at: float | None = None
        """When to stop waiting for the process to leave; None: it was not asked to."""
        self.deaths = 0
        self.exit_code = 0

    def signal(self, number: int) -> None:
        if self.process is not None:
            self.process.send_signal(number)

    def kill(self) -> None:
        if self.process is not None:
            # Its group, too: what a worker leaves behind must not outlive it.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.process.pid, signal.SIGKILL)


class Supervisor:
    """Runs ``processes`` copies of ``command`` and replaces those that die.

    SIGTERM, SIGINT and SIGHUP are passed on to every worker (SIGHUP as SIGTERM), the second one
    too; workers that have not left ``stop_within`` after the first are killed. With ``reload``,
    the workers are restarted whenever a Python file below one of these directories changes. On
    Linux, workers get SIGTERM when the supervisor dies. Each worker finds its number, from 0, in
    ``JOBBUS_PROCESS_INDEX``.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        processes: int = 1,
        reload: Sequence[Path] = (),
        until_done: bool = False,
        environment: Mapping[str, str] | None = None,
        restart: RestartPolicy | None = None,
        stop_within: timedelta = STOP_WITHIN,
    ) -> None:
        if processes < 1:
            raise ConfigurationError(f"at least 1 worker process is needed, not {processes}")
        self._command = list(command)
        self._places = [_Place(index) for index in range(processes)]
        self._watch = FileWatch(reload) if reload else None
        self._until_done = until_done
        self._environment = dict(os.environ if environment is None else environment)
        self._restart = restart or RestartPolicy()
        self._stop_within = stop_within.total_seconds()
        self._signals: deque[int] = deque()
        self._stopping = False
        self._look_at = 0.0

    def run(self) -> int:
        """Run until told to stop, or until the workers are done; return the worst exit code.

        A worker killed by signal N counts as 128 + N. A worker that ends with code 2 before it has
        lived for long cannot work as configured: the others are stopped, and 2 is returned, unless
        ``reload`` is on. With ``until_done``, a worker that ends with code 0 is not replaced.
        Main thread only.
        """
        if threading.current_thread() is not threading.main_thread():
            raise ConfigurationError("a supervisor must run in the main thread, which has signals")
        with _signals_as_input(self._signals) as wakeup, selectors.DefaultSelector() as selector:
            selector.register(wakeup, selectors.EVENT_READ)
            try:
                while self._step():
                    if selector.select(self._patience()):
                        _drain(wakeup)
            finally:
                for place in self._places:
                    place.kill()
        return max(place.exit_code for place in self._places)

    def _step(self) -> bool:
        """Do what is due; whether there is anything left to wait for."""
        while self._signals:
            self._pass_on(self._signals.popleft())
        for place in self._places:
            self._bury(place)
        self._notice_changes()
        now = time.monotonic()
        for place in self._places:
            if place.process is not None and place.kill_at is not None and now >= place.kill_at:
                log.warning("worker %s did not stop in time, and is killed", place.process.pid)
                place.kill()
                place.kill_at = now + self._stop_within
            elif place.process is None and place.start_at is not None and now >= place.start_at:
                self._start(place)
        return any(one.process is not None or one.start_at is not None for one in self._places)

    def _patience(self) -> float | None:
        due = [
            moment
            for place in self._places
            for moment in (place.kill_at if place.process is not None else place.start_at,)
            if moment is not None
        ]
        if self._watch is not None and not self._stopping:
            due.append(self._look_at)
        return max(0.0, min(due) - time.monotonic()) if due else None

    def _start(self, place: _Place) -> None:
        place.started_at = time.monotonic()
        place.kill_at = None
        try:
            place.process = subprocess.Popen(  # noqa: S603 - the command is the operator's own
                self._command,
                stdin=subprocess.DEVNULL,
                env={**self._environment, "JOBBUS_PROCESS_INDEX": str(place.index)},
                # Of its own, so that Ctrl-C reaches each worker once, through the supervisor.
                process_group=0,
                preexec_fn=_die_with(os.getpid()),
            )
        except OSError as error:
            log.error("a worker could not be started: %s", error)
            self._plan_restart(place, exit_code=1)

    def _bury(self, place: _Place) -> None:
        code = None if place.process is None else place.process.poll()
        if code is None or place.process is None:
            return
        pid, place.process = place.process.pid, None
        asked = place.kill_at is not None
        place.kill_at = None
        code = code if code >= 0 else 128 - code
        if asked and code in _TOLD_TO:
            code = 0  # it was told to end before it had begun to listen for that
        if asked and not self._stopping:
            place.start_at, place.deaths = 0.0, 0
            return
        log.log(logging.INFO if code == 0 else logging.WARNING, "worker %s ended: %s", pid, code)
        self._plan_restart(place, exit_code=code)

    def _plan_restart(self, place: _Place, *, exit_code: int) -> None:
        now = time.monotonic()
        healthy = now - place.started_at >= self._restart.healthy_after.total_seconds()
        place.exit_code = exit_code
        place.deaths = 1 if healthy else place.deaths + 1
        if self._stopping or (self._until_done and exit_code == 0):
            place.start_at = None
        elif exit_code == HOPELESS and not healthy and self._watch is None:
            log.error("a worker cannot run as configured: stopping all of them")
            place.start_at = None
            self._pass_on(signal.SIGTERM)
        else:
            place.start_at = now + self._restart.pause(place.deaths).total_seconds()

    def _pass_on(self, number: int) -> None:
        self._stopping = True
        give_up = time.monotonic() + self._stop_within
        for place in self._places:
            place.start_at = None
            if place.process is not None:
                place.kill_at = give_up if place.kill_at is None else place.kill_at
                place.signal(signal.SIGTERM if number == signal.SIGHUP else number)

    def _notice_changes(self) -> None:
        if self._watch is None or self._stopping or time.monotonic() < self._look_at:
            return
        began = time.monotonic()
        changed = self._watch.changed()
        now = time.monotonic()
        # A tree so large that looking takes long is looked at less often.
        self._look_at = now + max(POLL_INTERVAL.total_seconds(), 5 * (now - began))
        if not changed:
            return
        more = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
        log.info("%s%s changed: restarting the workers", changed[0], more)
        for place in self._places:
            place.deaths = 0
            if place.process is None:
                place.start_at = 0.0
            elif place.kill_at is None:
                place.kill_at = now + self._stop_within
                place.signal(signal.SIGTERM)


@contextlib.contextmanager
def _signals_as_input(into: deque[int]) -> Iterator[socket.socket]:
    """Put stop signals into ``into``, and wake whoever reads the socket for these and SIGCHLD."""

    def note(number: int, frame: FrameType | None) -> None:
        if number != signal.SIGCHLD:
            into.append(number)

    wakeup, written = socket.socketpair()
    wakeup.setblocking(False)
    written.setblocking(False)
    watched = (*STOP_SIGNALS, signal.SIGCHLD)
    before: dict[signal.Signals, Any] = {one: signal.signal(one, note) for one in watched}
    old = signal.set_wakeup_fd(written.fileno(), warn_on_full_buffer=False)
    try:
        yield wakeup
    finally:
        signal.set_wakeup_fd(old)
        for number, handler in before.items():
            signal.signal(number, handler)
        wakeup.close()
        written.close()


def _drain(wakeup: socket.socket) -> None:
    with contextlib.suppress(BlockingIOError):
        while wakeup.recv(4096):
            pass


def _die_with(parent: int) -> Callable[[], None] | None:
    """What a new worker does first: ask the kernel for SIGTERM when the supervisor dies."""
    if sys.platform != "linux":
        return None
    import ctypes

    # Found before the fork: between fork and exec as little as possible should happen.
    prctl = ctypes.CDLL(None).prctl

    def ask() -> None:
        prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0)
        if os.getppid() != parent:
            os._exit(128 + signal.SIGTERM)

    return ask
