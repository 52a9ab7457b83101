"""The disk is full (F9): a named error, nothing half-written, and work goes on once there is room."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from jobbus.backends.postgres import PostgresQueue
from jobbus.backends.sql.program import Call, Program
from jobbus.backends.sqlite import SqliteQueue
from jobbus.errors import BackendError, BackendFull
from jobbus.job import JobState
from jobbus.message import Completion
from jobbus.store import JobFilter
from jobbus.testing import messages
from tests.crash.checker import EVERYBODY
from tests.crash.place import Place

pytestmark = pytest.mark.crash

BATCH: Final = 50
SIZE: Final = "96m"


async def limit_pages(queue: SqliteQueue, pages: int) -> None:
    """The limit of the writer's connection; SQLite keeps it no longer than that."""

    def make() -> Program[None]:
        yield Call("script", {}, f"PRAGMA max_page_count = {pages}")

    await queue._run(make, atomic=False)
