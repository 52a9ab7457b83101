"""Runs the command line: as a program of its own, on a terminal of its own, or in this process."""

from __future__ import annotations

import json
import os
import pty
import select
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import jobbus

SOURCE: Final = Path(jobbus.__file__).parents[1]
PATIENCE: Final = 30.0
INTERRUPT: Final = "\x03"
"""What Ctrl-C types."""
_AGAIN: Final = 5.0
"""Seconds after which a person presses it once more."""
_ON_TERMINAL: Final = "import os, sys; os.login_tty(0); os.execv(sys.argv[1], sys.argv[1:])"
_OURS: Final = ("BACKGROUND_JOBS", "JOBBUS", "PG", "DOTNET_", "ASPNETCORE_", "NO_COLOR", "FORCE_")

APPLICATION: Final = """
import asyncio
from jobbus import JobBus, JobContext

bus = JobBus()

@bus.job
async def greet(name: str) -> str:
    return f"Hello, {name}!"

@bus.job(max_attempts=1)
async def boom(text: str = "bad") -> None:
    raise ValueError(text)

@bus.job
async def steps(ctx: JobContext) -> dict[str, int]:
    for percent in (25, 50, 75):
        ctx.progress(percent, "stage", f"step {percent}")
        await asyncio.sleep(0.7)
    return {"steps": 3}

@bus.job
async def endless(ctx: JobContext) -> None:
    await asyncio.sleep(3600)
"""


@dataclass(frozen=True, slots=True)
class Result:
    """What a program wrote, and how it ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()


@dataclass(slots=True)
class Program:
    """``jobbus`` as a program, in a directory of its own and an environment without surprises."""

    directory: Path
    environment: dict[str, str] = field(default_factory=dict)

    def __call__(self, *words: str, input: str | bytes = "", **environment: str) -> Result:
        """Run to the end, with pipes on all sides."""
        data = input.encode() if isinstance(input, str) else input
        done = subprocess.run(
            command(words),
            input=data,
            capture_output=True,
            cwd=self.directory,
            env=self.surroundings(environment),
            timeout=PATIENCE,
            check=False,
        )
        return Result(done.returncode, done.stdout.decode(), done.stderr.decode())

    def start(self, *words: str, **environment: str) -> subprocess.Popen[str]:
        """Start, and leave it running."""
        return subprocess.Popen(
            command(words),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=self.directory,
            env=self.surroundings(environment),
        )

    def on_terminal(
        self, *words: str, typed: str = "", after: str = "", **environment: str
    ) -> Result:
        """Run on a terminal, and type when ``after`` is seen. ``out`` is all that was written."""
        ours, theirs = pty.openpty()
        process = subprocess.Popen(
            # Makes the terminal the one whose keys send signals, and becomes the program.
            [sys.executable, "-c", _ON_TERMINAL, *command(words)],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            cwd=self.directory,
            env=self.surroundings(environment),
        )
        os.close(theirs)
        try:
            written = _read_until(ours, after.encode()) if after else b""
            os.write(ours, typed.encode())
            if typed == INTERRUPT and not _ends(process):
                # Readline misses a signal that comes between its prompt and its wait for a key.
                os.write(ours, typed.encode())
            written += _read_until(ours, None)
            code = process.wait(timeout=PATIENCE)
        finally:
            process.kill()
            process.wait()
            os.close(ours)
        return Result(code, written.decode(errors="replace").replace("\r\n", "\n"), "")

    def surroundings(self, more: Mapping[str, str] | None = None) -> dict[str, str]:
        kept = {name: text for name, text in os.environ.items() if not name.startswith(_OURS)}
        paths = [str(SOURCE), *filter(None, [kept.get("PYTHONPATH")])]
        return {
            **kept,
            "PYTHONPATH": os.pathsep.join(paths),
            "COLUMNS": "200",
            "TERM": "xterm",
            **self.environment,
            **(more or {}),
        }


def _ends(process: subprocess.Popen[bytes]) -> bool:
    try:
        process.wait(timeout=_AGAIN)
    except subprocess.TimeoutExpired:
        return False
    return True


def command(words: Sequence[str]) -> list[str]:
    return [sys.executable, "-m", "jobbus", *words]


def _read_until(terminal: int, text: bytes | None) -> bytes:
    """What is written up to this text; None is the end."""
    written = b""
    deadline = time.monotonic() + PATIENCE
    while text is None or text not in written:
        ready, _, _ = select.select([terminal], [], [], deadline - time.monotonic())
        if not ready:
            raise TimeoutError(f"the program wrote only {written!r}")
        try:
            piece = os.read(terminal, 65_536)
        except OSError:  # how Linux says that the other side has closed its end
            return written
        if not piece:
            return written
        written += piece
    return written


def wait_for_line(process: subprocess.Popen[str], text: str) -> str:
    """Read the program's standard error up to a line with ``text`` in it."""
    assert process.stderr is not None
    seen = []
    for line in process.stderr:
        seen.append(line)
        if text in line:
            return line
    raise AssertionError(f"{text!r} did not come; there was {''.join(seen)!r}")
