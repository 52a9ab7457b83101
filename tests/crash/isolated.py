"""Job types whose handlers run in child processes, which find them here by name."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from jobbus.context import JobContext
from jobbus.handlers import Handlers
from tests.crash.history import History

ISOLATED = Handlers()


def _note(folder: str, event: str, context: JobContext) -> None:
    history = History(Path(folder), f"child-{os.getpid()}")
    history.note(event, context.job_id, context.attempt)
    history.close()


@ISOLATED.job(isolation="process")
def isolated_killer(context: JobContext, folder: str) -> None:
    """Ends its process as a fault in a native library would."""
    _note(folder, "started", context)
    _note(folder, "dying", context)
    os._exit(9)


@ISOLATED.job(isolation="process")
def isolated_victim(context: JobContext, folder: str) -> None:
    """Is killed from outside, as by the kernel when memory is short."""
    _note(folder, "started", context)
    _note(folder, "dying", context)
    os.kill(os.getpid(), signal.SIGKILL)


@ISOLATED.job(isolation="process")
def isolated_plain(context: JobContext, folder: str) -> int:
    """Has one effect."""
    _note(folder, "started", context)
    _note(folder, "effect", context)
    return context.attempt
