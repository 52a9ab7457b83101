"""One handler process, seen from the worker: starting it, talking to it, and ending it for good."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import site
import socket
import sys
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

from jobbus.context import JobContext, leave, run_in
from jobbus.errors import Cancelled, HandlerCrashed, JobbusError
from jobbus.job import Progress
from jobbus.worker import wire

log = logging.getLogger("jobbus.worker.isolation")

LAST_WORDS: Final = 1.0
"""Seconds for what a dead child had already said to be read, and for a mute one to die."""
NUDGE: Final = timedelta(seconds=0.25)
_MIB: Final = 1024 * 1024


@dataclass(slots=True, kw_only=True, eq=False)
class Visit:
    """One job's stay in a child. Whoever settles ``outcome`` first decides how it ends."""

    context: JobContext
    frame: bytes
    timeout: timedelta | None
    memory_limit: int | None
    outcome: asyncio.Future[bytes]
    started: bool = False
    """The handler itself has begun."""
    answered: bool = False
    """The child said how it ended, and is fit for another job."""
    cancelled: bool = False
    tell: Callable[[], object] | None = None
    """Passes a request to cancel on to the child, once there is one."""
    timers: dict[str, asyncio.TimerHandle] = field(default_factory=dict)

    def end(self, error: BaseException | None, result: bytes = b"") -> None:
        if self.outcome.done():
            return
        if error is not None:
            self.outcome.set_exception(error)
        else:
            self.outcome.set_result(result)

    def end_after(self, name: str, wait: timedelta, error: Exception) -> None:
        loop = self.outcome.get_loop()
        self.timers[name] = loop.call_later(wait.total_seconds(), self.end, error)

    def stop_timer(self, name: str) -> None:
        if name in self.timers:
            self.timers.pop(name).cancel()

    def begin(self) -> None:
        self.started = True
        self.stop_timer("start")
        if self.timeout is not None:
            late = f"the handler ran longer than its timeout of {self.timeout}, and was stopped"
            self.end_after("timeout", self.timeout, TimeoutError(late))

    def request_cancel(self) -> None:
        if not self.cancelled:
            self.cancelled = True
            if self.tell is not None:
                self.tell()

    def ended_in_crash(self, how: str, cause: BaseException | None = None) -> None:
        crash = HandlerCrashed(f"the handler's process {how}")
        crash.__cause__ = cause
        self.end(crash)


class ChildRunner:
    """One handler process, from its start to its end. Runs one job at a time."""

    def __init__(self, *, term_grace: timedelta, cancel_grace: timedelta) -> None:
        self.served = 0
        self._term_grace = term_grace
        self._cancel_grace = cancel_grace
        self._process: asyncio.subprocess.Process | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._visit: Visit | None = None
        self._ended = asyncio.Event()
        self._doomed = False
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def pid(self) -> int | None:
        return None if self._process is None else self._process.pid

    @property
    def alive(self) -> bool:
        return self._process is not None and not self._ended.is_set()

    @property
    def fit(self) -> bool:
        """Whether another job may be given to it."""
        return self.alive and not self._doomed

    async def start(self) -> None:
        """Start the process; returns before it is ready. Raises OSError when there is none."""
        ours, theirs = socket.socketpair()
        lifeline_end, lifeline = os.pipe()
        try:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                *("-P", "-m", "jobbus.worker.child"),
                *(str(theirs.fileno()), str(lifeline_end), str(os.getpid())),
                stdin=asyncio.subprocess.DEVNULL,
                pass_fds=(theirs.fileno(), lifeline_end),
                start_new_session=True,
                env=_child_environment(),
            )
            reader, self._writer = await asyncio.open_connection(sock=ours)
        except BaseException:
            # Without these, a process that has been started ends itself.
            ours.close()
            os.close(lifeline)
            raise
        finally:
            theirs.close()
            os.close(lifeline_end)
        self._keep(self._watch(self._process, reader, self._writer, lifeline))

    async def run(self, visit: Visit, *, start_timeout: timedelta) -> bytes:
        """The encoded result. When this ends without an answer of the child's, the child and all
        that it started in its process group are dead.
        """
        late = f"the handler's process was not ready within {start_timeout}, and was stopped"
        self._visit = visit
        self.served += 1
        visit.end_after("start", start_timeout, TimeoutError(late))
        visit.tell = self._tell_to_cancel
        try:
            self._send(visit.frame)
            if visit.cancelled:
                self._tell_to_cancel()
            return await visit.outcome
        finally:
            visit.tell = None
            for name in tuple(visit.timers):
                visit.stop_timer(name)
            if not visit.answered:
                await self.terminate()
            self._visit = None

    async def stop(self) -> None:
        """Ask an idle child to leave; one that does not within the grace is killed."""
        if self.fit:
            self._doomed = True
            self._send(wire.pack("stop"))
            try:
                await self._end_within(self._term_grace)
            finally:
                self._signal(signal.SIGKILL)
        await self._ended.wait()

    async def terminate(self) -> None:
        """End the child and its process group: SIGTERM, the grace, SIGKILL.

        Cancelled while it waits, it sends SIGKILL at once.
        """
        if not self.alive:
            return
        self._doomed = True
        self._signal(signal.SIGTERM)
        try:
            nudge = min(NUDGE, self._term_grace)
            await self._end_within(nudge)
            self._nudge()
            await self._end_within(self._term_grace - nudge)
        finally:
            self._signal(signal.SIGKILL)
        await self._ended.wait()

    def _nudge(self) -> None:
        """SIGTERM once more: one that comes just before a call that blocks does not end the call.

        To the child alone: other programs may take a second signal for a sign of impatience.
        """
        if self.alive and self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(signal.SIGTERM)

    async def _end_within(self, grace: timedelta) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(grace.total_seconds()):
                await self._ended.wait()

    def _signal(self, number: signal.Signals) -> None:
        if self.alive and self._process is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, number)

    def _send(self, frame: bytes) -> None:
        # Not drained: a child that does not read must not hold up those who wait with a deadline.
        if self._writer is not None and not self._writer.is_closing():
            self._writer.write(frame)

    def _keep(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _tell_to_cancel(self) -> None:
        if self._visit is not None:
            grace = self._cancel_grace
            late = f"the job was asked to stop; its handler had not after {grace}, and was killed"
            self._send(wire.pack("cancel", job_id=self._visit.context.job_id))
            self._visit.end_after("cancel", grace, Cancelled(late))

    async def _watch(
        self,
        process: asyncio.subprocess.Process,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        lifeline: int,
    ) -> None:
        """See the process to its end, and clear up behind it."""
        exited = asyncio.create_task(process.wait())
        reading = asyncio.create_task(self._read(reader))
        how = ""
        try:
            await asyncio.wait({exited, reading}, return_when=asyncio.FIRST_COMPLETED)
            await asyncio.wait({exited}, timeout=LAST_WORDS)
            if not exited.done():
                how = "closed its channel to the worker"
                self._signal(signal.SIGKILL)
            how = how or describe_exit(await exited)
            # Whatever it started in its group goes with it.
            self._signal(signal.SIGKILL)
            await asyncio.wait({reading}, timeout=LAST_WORDS)
        finally:
            exited.cancel()
            reading.cancel()
            os.close(lifeline)
            writer.close()
            self._ended.set()
        if (visit := self._visit) is not None:
            limit = visit.memory_limit
            visit.ended_in_crash(
                how if limit is None else f"{how}; its memory limit was {limit // _MIB} MiB"
            )
        with contextlib.suppress(OSError):
            await writer.wait_closed()

    async def _read(self, reader: asyncio.StreamReader) -> None:
        try:
            while True:
                prefix = await reader.readexactly(wire.PREFIX.size)
                head, body = wire.lengths(prefix, max_body=wire.MAX_RESULT)
                frame = wire.unpack(await reader.readexactly(head), await reader.readexactly(body))
                self._hear(frame)
        except (asyncio.IncompleteReadError, OSError):
            return
        except Exception as error:
            log.debug("handler process %s is not understood", self.pid, exc_info=True)
            if self._visit is not None:
                self._visit.ended_in_crash("said what the worker does not understand", error)
            self._signal(signal.SIGKILL)

    def _hear(self, frame: wire.Frame) -> None:
        said, visit = frame.fields, self._visit
        if frame.kind == "log":
            _log_for_child(said, visit)
        elif frame.kind == "spawn":
            self._keep(self._spawn(said, visit))
        elif visit is None or (frame.kind == "progress" and said["job_id"] != visit.context.job_id):
            return  # A thread that a handler left behind, speaking of a job that has ended.
        elif frame.kind == "progress":
            progress = Progress(
                percent=float(said["percent"]),
                stage=str(said["stage"]),
                message=str(said["message"]),
            )
            visit.context.last_progress = progress
            visit.context.host.report(progress)
        elif frame.kind == "started":
            visit.begin()
        elif frame.kind == "done":
            visit.answered = True
            visit.end(None, frame.body)
        elif frame.kind == "failed":
            visit.answered = True
            visit.end(wire.rebuild_from_handler(said))
        elif frame.kind == "memory":
            limit = (visit.memory_limit or 0) // _MIB
            error = wire.rebuild_from_handler(said)
            visit.ended_in_crash(f"ran out of its memory limit of {limit} MiB", error)
        else:
            raise wire.BrokenChannel(f"there is no {frame.kind!r} message")

    async def _spawn(self, said: Mapping[str, Any], visit: Visit | None) -> None:
        number = said["number"]
        try:
            if visit is None or said["job_id"] != visit.context.job_id:
                raise JobbusError("the job that spawns has already ended")
            messages = [wire.message_in(one) for one in said["messages"]]
            ids: Sequence[str] = await visit.context.host.enqueue(messages)
        except Exception as error:
            self._send(wire.pack("refused", number=number, **wire.capture(error)))
        else:
            self._send(wire.pack("spawned", number=number, ids=list(ids)))


def describe_exit(code: int) -> str:
    """How a process ended, given its return code."""
    if code >= 0:
        return f"exited with code {code}"
    try:
        return f"was killed by signal {-code} ({signal.Signals(-code).name})"
    except ValueError:
        return f"was killed by signal {-code}"


def _child_environment() -> dict[str, str]:
    """The worker's own, in which a child also finds this very jobbus."""
    environment = dict(os.environ)
    root = str(Path(__file__).resolve().parents[2])
    if root not in (*site.getsitepackages(), site.getusersitepackages()):
        before = environment.get("PYTHONPATH", "")
        # The child puts this back, so that what handlers start does not inherit it.
        environment["JOBBUS_CHILD_PYTHONPATH"] = before
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [root, before]))
    return environment


def _log_for_child(said: Mapping[str, Any], visit: Visit | None) -> None:
    logger = logging.getLogger(str(said["name"]))
    level = int(said["level"])
    if not logger.isEnabledFor(level):
        return
    record = logger.makeRecord(
        logger.name,
        level,
        str(said["path"]),
        int(said["line"]),
        str(said["text"]),
        (),
        None,
        str(said["function"]),
    )
    token = None if visit is None else run_in(lambda: visit.context)
    try:
        logger.handle(record)
    finally:
        if token is not None:
            leave(token)
