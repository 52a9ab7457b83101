"""The handler process's end of the channel to its worker: one thread reads, one writes."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from itertools import count
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Final, NoReturn

from jobbus.job import Progress
from jobbus.message import Message
from jobbus.worker import wire

if TYPE_CHECKING:
    from concurrent.futures import Future

PROGRESS_INTERVAL: Final = 0.05
"""Seconds between two reports of progress on the channel; what comes in between is coalesced."""
MAX_BACKLOG: Final = 1000
"""Frames; code that logs faster than the worker listens is slowed down at this point."""
TERMINATED: Final = 128 + signal.SIGTERM


class Running:
    """The job that the main thread is at, as the reader thread sees it."""

    def __init__(self, job_id: str) -> None:
        self.job_id = job_id
        self._lock = threading.Lock()
        self._cancelled = False
        self._action: Callable[[], object] | None = None

    @property
    def cancelled(self) -> bool:
        return self._cancelled

    def cancel(self) -> None:
        with self._lock:
            self._cancelled = True
            if self._action is not None:
                self._action()

    def on_cancel(self, action: Callable[[], object] | None) -> None:
        """Do ``action`` when the job is cancelled: at once if it has been."""
        with self._lock:
            self._action = action
            if action is not None and self._cancelled:
                action()


class Link:
    """The handler process's end of the channel."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._changed = threading.Condition()
        self._frames: deque[bytes] = deque()
        self._writing = False
        self._progress: bytes | None = None
        self._next_report = 0.0
        self._requests: dict[int, Future[list[str]]] = {}
        self._numbers = count(1)
        self._running = Running("")
        self.orders: SimpleQueue[tuple[wire.Frame, Running]] = SimpleQueue()
        threading.Thread(target=self._read, name="jobbus-read", daemon=True).start()
        threading.Thread(target=self._write, name="jobbus-write", daemon=True).start()

    def send(self, kind: str, body: bytes = b"", /, **said: Any) -> None:
        """Say something, after all that was said before. Never blocks; any thread."""
        frame = wire.pack(kind, body, **said)
        with self._changed:
            self._take_progress()
            self._frames.append(frame)
            self._changed.notify_all()

    def report(self, job_id: str, progress: Progress) -> None:
        """Pass progress on, soon; of what comes too quickly only the last. Any thread."""
        frame = wire.pack(
            "progress",
            job_id=job_id,
            percent=float(progress.percent),
            stage=str(progress.stage)[: wire.MAX_MESSAGE],
            message=str(progress.message)[: wire.MAX_MESSAGE],
        )
        with self._changed:
            self._progress = frame
            self._changed.notify_all()

    def wait_for_room(self, frames: int = MAX_BACKLOG) -> None:
        """Block while more than ``frames`` are on their way."""
        with self._changed:
            self._changed.wait_for(lambda: len(self._frames) + self._writing <= frames)

    def spawn(self, job_id: str, messages: Sequence[Message]) -> Future[list[str]]:
        """Ask the worker to enqueue; the future has the ids, or what the worker answered."""
        from concurrent.futures import Future

        answer: Future[list[str]] = Future()
        number = next(self._numbers)
        self._requests[number] = answer
        try:
            said = [wire.message_out(one) for one in messages]
            self.send("spawn", number=number, job_id=job_id, messages=said)
        except BaseException:
            self._requests.pop(number, None)
            raise
        return answer

    def _take_progress(self) -> None:
        if self._progress is not None:
            self._frames.append(self._progress)
            self._progress = None
            self._next_report = time.monotonic() + PROGRESS_INTERVAL

    def _write(self) -> None:
        while True:
            with self._changed:
                while not self._frames:
                    pause = None
                    if self._progress is not None:
                        pause = self._next_report - time.monotonic()
                        if pause <= 0:
                            self._take_progress()
                            break
                    self._changed.wait(pause)
                frame = self._frames.popleft()
                self._writing = True
            try:
                self._channel.sendall(frame)
            except OSError as error:
                self._lost(error)
            with self._changed:
                self._writing = False
                self._changed.notify_all()

    def _read(self) -> None:
        stream = self._channel.makefile("rb")
        while True:
            try:
                head, body = wire.lengths(_exactly(stream, wire.PREFIX.size), max_body=None)
                frame = wire.unpack(_exactly(stream, head), _exactly(stream, body))
            except OSError as error:
                self._lost(error)
            except wire.BrokenChannel:
                die()
            if frame.kind in ("run", "stop"):
                self._running = Running(str(frame.fields.get("job", {}).get("job_id")))
                self.orders.put((frame, self._running))
            elif frame.kind == "cancel" and frame.fields["job_id"] == self._running.job_id:
                self._running.cancel()
            elif frame.kind in ("spawned", "refused"):
                self._answer(frame)

    def _lost(self, error: OSError) -> NoReturn:
        if error.errno == errno.EBADF:
            with contextlib.suppress(OSError):
                os.write(2, b"jobbus: the handler has closed the channel to its worker\n")
        die()

    def _answer(self, frame: wire.Frame) -> None:
        answer = self._requests.pop(frame.fields["number"], None)
        if answer is None or not answer.set_running_or_notify_cancel():
            return
        if frame.kind == "spawned":
            answer.set_result(list(frame.fields["ids"]))
        else:
            answer.set_exception(wire.rebuild_from_worker(frame.fields))


def _exactly(stream: Any, size: int) -> bytes:
    read: bytes = stream.read(size)
    if len(read) < size:
        raise wire.BrokenChannel("the worker is gone")
    return read


def die() -> NoReturn:
    """The worker is gone or cannot be reached: end this process and all that it started."""
    if os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os._exit(TERMINATED)
