"""Runs handlers in a process of their own, told what to do by the worker that started it.

Started by :mod:`jobbus.worker.isolation` as ``python -m jobbus.worker.child``. The main thread runs
one handler at a time.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import signal
import socket
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from jobbus.context import JobContext, leave, run_in
from jobbus.errors import Cancelled, PayloadTooLarge, Unsupported
from jobbus.job import Progress
from jobbus.message import Message
from jobbus.worker import wire
from jobbus.worker.child_link import TERMINATED, Link, Running, die
from jobbus.worker.reference import HandlerReference, Resolver


class Terminated(SystemExit):
    """SIGTERM came: unwind, so that handlers can tidy up, and go."""


class PipeHost:
    """Stands behind the context of a handler that runs here: all of it is the worker's doing."""

    def __init__(self, link: Link, running: Running) -> None:
        self._link = link
        self._running = running

    def report(self, progress: Progress) -> None:
        self._link.report(self._running.job_id, progress)

    def cancel_requested(self) -> bool:
        return self._running.cancelled

    async def enqueue(self, messages: Sequence[Message]) -> Sequence[str]:
        from asyncio import wrap_future

        return await wrap_future(self._link.spawn(self._running.job_id, messages))

    def enqueue_sync(self, messages: Sequence[Message]) -> Sequence[str]:
        return self._link.spawn(self._running.job_id, messages).result()

    def complete_with(self, connection: Any, result: object) -> Any:
        raise self._no_transactions("ctx.complete_in()")

    def transaction(self, result: object) -> Any:
        raise self._no_transactions("ctx.transaction()")

    @staticmethod
    def _no_transactions(what: str) -> Unsupported:
        return Unsupported(
            f'{what} needs the worker\'s own process, and this handler has isolation="process": '
            'give its job type isolation="thread" (def) or isolation="loop" (async def)'
        )


class WorkerLogs(logging.Handler):
    """Hands log records to the worker, whose handlers and formats then apply."""

    def __init__(self, link: Link) -> None:
        super().__init__()
        self._link = link

    def emit(self, record: logging.LogRecord) -> None:
        try:
            text = record.getMessage()
            if record.exc_info and record.exc_info[1] is not None:
                text += "\n" + wire.capture(record.exc_info[1])["traceback"].rstrip()
            self._link.wait_for_room()
            self._link.send(
                "log",
                name=record.name,
                level=record.levelno,
                text=text[: wire.MAX_LOG],
                path=record.pathname,
                line=record.lineno,
                function=record.funcName,
            )
        except Exception:
            self.handleError(record)


class Limit:
    """Holds the process to its job type's memory while the handler runs. Linux only."""

    def __init__(self, allowed: int | None) -> None:
        self._allowed = allowed
        self._before: tuple[int, int] | None = None

    def set(self) -> None:
        if self._allowed is None or sys.platform != "linux":
            return
        import resource

        with open("/proc/self/statm", encoding="ascii") as statm:
            reserved, resident = (int(one) for one in statm.read().split()[:2])
        # Address space that is only reserved (thread stacks, arenas) is not memory in use.
        ceiling = (reserved - resident) * resource.getpagesize() + self._allowed
        self._before = resource.getrlimit(resource.RLIMIT_AS)
        for bound in self._before:
            if bound != resource.RLIM_INFINITY:
                ceiling = min(ceiling, bound)
        resource.setrlimit(resource.RLIMIT_AS, (ceiling, self._before[1]))

    def lift(self) -> None:
        if self._before is not None:
            import resource

            resource.setrlimit(resource.RLIMIT_AS, self._before)
            self._before = None

    def broken_by(self, error: BaseException) -> bool:
        return self._allowed is not None and isinstance(error, MemoryError)


class Runner:
    """Runs one job after the other, until told to stop."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._resolver = Resolver()
        self._terminating = False

    def serve(self) -> None:
        self._listen_to_sigterm()
        while True:
            frame, running = self._link.orders.get()
            if frame.kind == "stop":
                self._link.wait_for_room(0)
                return
            self._listen_to_sigterm()
            self._attempt(frame, running)

    def _listen_to_sigterm(self) -> None:
        def terminate(number: int, frame: Any) -> None:
            if not self._terminating:
                self._terminating = True
                raise Terminated(TERMINATED)

        signal.signal(signal.SIGTERM, terminate)

    def _attempt(self, frame: wire.Frame, running: Running) -> None:
        limit = Limit(frame.fields["memory_limit"])
        try:
            result = self._result(frame, running, limit)
        except BaseException as error:
            limit.lift()
            if self._terminating:
                raise Terminated(TERMINATED) from error
            if limit.broken_by(error):
                self._link.send("memory", **wire.capture(error))
            else:
                self._link.send("failed", **wire.capture(error))
        else:
            self._link.send("done", result)

    def _result(self, frame: wire.Frame, running: Running, limit: Limit) -> bytes:
        said = frame.fields
        job_type = self._resolver.find(HandlerReference.from_fields(said["handler"]))
        self._send_logs(said["log_level"])
        args, kwargs = job_type.decode_arguments(frame.body)
        context = _context(said["job"], PipeHost(self._link, running))
        self._link.send("started")
        context.raise_if_cancelled()
        token = run_in(lambda: context)
        limit.set()
        try:
            if job_type.is_async:
                value = _run_async(lambda: job_type.call(context, args, kwargs), running)
            else:
                value = job_type.call(context, args, kwargs)
            result = job_type.encode_result(value)
        finally:
            limit.lift()
            leave(token)
        if len(result) > wire.MAX_RESULT:
            raise PayloadTooLarge(
                f"the result has {len(result)} bytes, the limit is {wire.MAX_RESULT}: "
                "store it elsewhere and return where"
            )
        return result

    def _send_logs(self, level: int) -> None:
        # Code that sets up logging of its own when imported is left with what it set up.
        root = logging.getLogger()
        if not root.handlers:
            root.addHandler(WorkerLogs(self._link))
        if isinstance(root.handlers[0], WorkerLogs):
            root.setLevel(level)


def _run_async(start: Callable[[], Any], running: Running) -> Any:
    import asyncio

    async def run() -> Any:
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        if task is not None:
            running.on_cancel(lambda: loop.call_soon_threadsafe(task.cancel))
        try:
            return await start()
        except asyncio.CancelledError:
            if running.cancelled:
                raise Cancelled("the job was asked to stop") from None
            raise
        finally:
            running.on_cancel(None)

    return asyncio.run(run())


def _context(said: Mapping[str, Any], host: PipeHost) -> JobContext:
    told = {**said, "tags": tuple(said["tags"]), "timeout": wire.span_in(said["timeout"])}
    return JobContext(**told, host=host)


def _die_with_parent(lifeline: int, parent: int) -> None:
    """Let the kernel end this process and its group when the worker dies, however it dies."""
    if sys.platform != "linux":
        return
    import fcntl

    # When the other end of the pipe closes, SIGKILL goes to the whole group: also while a handler
    # keeps the interpreter to itself, and other than a parent-death signal, also to programs that
    # the handler started.
    fcntl.fcntl(lifeline, fcntl.F_SETOWN, -os.getpgrp())
    fcntl.fcntl(lifeline, fcntl.F_SETSIG, signal.SIGKILL)
    flags = fcntl.fcntl(lifeline, fcntl.F_GETFL)
    fcntl.fcntl(lifeline, fcntl.F_SETFL, flags | os.O_ASYNC)
    # A fork of the worker that outlives it keeps that other end open: hence the second watch.
    with contextlib.suppress(OSError):
        worker = os.pidfd_open(parent)
        threading.Thread(target=_die_after, args=(worker,), name="jobbus-end", daemon=True).start()
    gone, _, _ = select.select([lifeline], [], [], 0)
    if gone or os.getppid() != parent:
        die()


def _die_after(worker: int) -> None:
    select.select([worker], [], [])
    die()


def main(arguments: Sequence[str]) -> None:
    """Serve the worker at the other end of the channel until it says stop."""
    channel, lifeline, parent = (int(one) for one in arguments)
    for inherited in (channel, lifeline):
        os.set_inheritable(inherited, False)
    _die_with_parent(lifeline, parent)
    original = os.environ.pop("JOBBUS_CHILD_PYTHONPATH", None)
    if original == "":
        os.environ.pop("PYTHONPATH", None)
    elif original is not None:
        os.environ["PYTHONPATH"] = original
    Runner(Link(socket.socket(fileno=channel))).serve()


if __name__ == "__main__":
    main(sys.argv[1:])
