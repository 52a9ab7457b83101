"""A directory, a SQLite file, an application, and three ways to run the command line on them."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Callable, Coroutine, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pytest
from typer.testing import CliRunner

from jobbus import JobBus, Message, Worker
from jobbus.cli.root import app
from jobbus.ids import new_id
from tests.cli.commands import APPLICATION, Program, Result

T = TypeVar("T")
Run = Callable[..., Result]


@pytest.fixture
def program(tmp_path: Path) -> Program:
    """``jobbus`` as a program, in an empty directory."""
    return Program(tmp_path)


@pytest.fixture
def application(tmp_path: Path) -> Path:
    """A ``tasks.py`` in the directory."""
    path = tmp_path / "tasks.py"
    path.write_text(APPLICATION, encoding="utf-8")
    return path


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    """The command line in this process, in an empty directory; quick, and without a terminal."""
    monkeypatch.chdir(tmp_path)
    for name in list(os.environ):
        if name.startswith(("BACKGROUND_JOBS", "JOBBUS", "NO_COLOR", "FORCE_COLOR")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("COLUMNS", "200")
    modules, path = set(sys.modules), list(sys.path)

    def invoke(*words: str, input: str | None = None) -> Result:
        done = CliRunner().invoke(app, list(words), input=input)
        return Result(done.exit_code, done.stdout, done.stderr)

    yield invoke
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        module = sys.modules[name]
        if str(getattr(module, "__file__", "") or "").startswith(str(tmp_path)):
            del sys.modules[name]


class Backlog:
    """Fills the directory's SQLite file, the way an application would."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def do(self, work: Callable[[JobBus], Coroutine[Any, Any, T]]) -> T:
        """Something with a bus on the file."""

        async def whole() -> T:
            async with JobBus(f"sqlite:///{self._path}") as bus:
                return await work(bus)

        return asyncio.run(whole())

    def put(self, job_type: str = "email.send", number: int = 1, **fields: Any) -> list[str]:
        """Enqueue jobs, whose payloads have a number in them; return their ids."""
        payload = fields.pop("payload", None)
        messages = [
            Message(
                job_id=new_id(),
                job_type=job_type,
                payload=json.dumps(payload or {"number": index}).encode(),
                **fields,
            )
            for index in range(number)
        ]
        return self.do(lambda bus: bus.enqueue_many(messages))

    def put_dead(self, number: int = 1, *, text: str = "it broke") -> list[str]:
        """Enqueue jobs and let a worker fail them for good; return their ids."""

        async def work(bus: JobBus) -> list[str]:
            @bus.job(name="report.make", max_attempts=1)
            async def report(number: int) -> None:
                raise ValueError(text)

            @bus.job(name="report.fine")
            async def fine(number: int) -> dict[str, int]:
                return {"twice": number * 2}

            ids = [await report.enqueue(number=index) for index in range(number)]
            await Worker(bus, burst=True).run()
            return ids

        return self.do(work)

    def put_done(self) -> str:
        """Enqueue a job and let a worker complete it; return its id."""

        async def work(bus: JobBus) -> str:
            @bus.job(name="report.fine")
            async def fine(number: int) -> dict[str, int]:
                return {"twice": number * 2}

            job_id = await fine.enqueue(number=21)
            await Worker(bus, burst=True).run()
            return job_id

        return self.do(work)

    def states(self, ids: Sequence[str]) -> list[str]:
        async def work(bus: JobBus) -> list[str]:
            return [str(await bus.get_status(job_id)) for job_id in ids]

        return self.do(work)

    def count(self) -> int:
        if not self._path.exists():
            return 0
        return self.do(lambda bus: bus.count())


@pytest.fixture
def backlog(tmp_path: Path) -> Backlog:
    """What waits, and what failed, in ``jobbus.db`` of the directory."""
    return Backlog(tmp_path / "jobbus.db")
