"""Runs what the documentation prints: programs, tests, and what is typed at a shell.

Marks behind the language of a fenced block say what it is:

* ``python runnable``: a whole program. A block ``text output`` behind it is what it prints.
* ``python runnable postgres``: the same, with the address of a database in ``DATABASE_URL`` and in
  jobbus's own setting.
* ``python runnable pytest``: a test file.
* ``python file=NAME``: written to a file, for the blocks after it on the page.
* ``console steps``: commands behind ``$``, each followed by what it prints; ``...`` is anything.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import signal
import struct
import subprocess
import sys
import termios
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Final

import jobbus
from tests.docs.pages import Block, blocks

SECONDS: Final = 50
COLUMNS: Final = 200
_EXPORT: Final = re.compile(r"export (\w+)=(\S+)")
_ESCAPE: Final = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


@dataclass(frozen=True, slots=True)
class Program:
    """A block that can be run, and what it is to print."""

    block: Block
    output: str

    @property
    def is_test(self) -> bool:
        return "pytest" in self.block.marks

    @property
    def needs_postgres(self) -> bool:
        return "postgres" in self.block.marks


def programs(page: Path) -> Iterator[Program]:
    """The programs of a page, each with the output that is printed behind it."""
    found = list(blocks(page))
    for block, after in zip_longest(found, found[1:]):
        if block.language == "python" and "runnable" in block.marks:
            told = after is not None and "output" in after.marks
            yield Program(block, after.text if after is not None and told else "")


def environment(folder: Path, **more: str) -> dict[str, str]:
    """That of a reader who has installed jobbus and set nothing."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.upper().startswith(("BACKGROUND_JOBS", "JOBBUS", "PYTEST", "COLUMNS", "LINES"))
    }
    shims = folder.parent / f"{folder.name}-bin"
    shims.mkdir(exist_ok=True)
    command = shims / "jobbus"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m jobbus "$@"\n')
    command.chmod(0o755)
    (shims / "python").unlink(missing_ok=True)
    (shims / "python").symlink_to(sys.executable)
    path = f"{shims}{os.pathsep}{Path(sys.executable).parent}{os.pathsep}{kept.get('PATH', '')}"
    source = str(Path(jobbus.__file__).resolve().parents[1])
    return {**kept, "PATH": path, "PYTHONPATH": source, "NO_COLOR": "1", **more}


def run_program(program: Program, folder: Path, env: Mapping[str, str]) -> None:
    """Run a block as a file of its own; raise AssertionError unless it does what is printed."""
    name = "test_snippet.py" if program.is_test else "snippet.py"
    (folder / name).write_text(program.block.text, encoding="utf-8")
    command = [sys.executable, name]
    if program.is_test:
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", name]
    ended = subprocess.run(
        command, cwd=folder, env=dict(env), capture_output=True, text=True, timeout=SECONDS,
        check=False,
    )  # fmt: skip
    told = f"{program.block.name}\n{ended.stdout}{ended.stderr}"
    assert ended.returncode == 0, told
    assert_printed(program.output, ended.stdout, told)


@dataclass(frozen=True, slots=True)
class Command:
    """One command, and what is printed below it."""

    line: str
    output: str


def commands(block: Block) -> Iterator[Command]:
    """The commands of a block; a backslash at the end of a line joins the next one."""
    line = ""
    output: list[str] = []
    for each in block.text.splitlines():
        if each.startswith(("$ ", "# ")) or line.endswith("\\"):
            if line and not line.endswith("\\"):
                yield Command(line, "\n".join(output))
                line, output = "", []
            joined = line.removesuffix("\\")
            line = joined + (each[2:] if each.startswith(("$ ", "# ")) else each.strip())
        else:
            output.append(each)
    if line:
        yield Command(line, "\n".join(output))


def has_walk(page: Path) -> bool:
    """Whether there is something on the page to be done step by step."""
    return any(block.language == "console" and "steps" in block.marks for block in blocks(page))


def walk(page: Path, folder: Path, env: Mapping[str, str]) -> None:
    """Do what a page says, from its first file to its last command."""
    now = dict(env)
    for block in blocks(page):
        name = block.mark("file")
        if name is not None:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(block.text, encoding="utf-8")
        elif block.language == "console" and "steps" in block.marks:
            for command in commands(block):
                said = _EXPORT.fullmatch(command.line)
                if said is not None:
                    now[said[1]] = said[2]
                else:
                    _run_command(command, block, folder, now)


def _run_command(command: Command, block: Block, folder: Path, env: Mapping[str, str]) -> None:
    """Run it on a terminal, as a reader would, and compare."""
    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, COLUMNS, 0, 0))
    with subprocess.Popen(
        ["bash", "-c", command.line],
        cwd=folder, env=dict(env), stdin=subprocess.DEVNULL, stdout=theirs, stderr=theirs,
        start_new_session=True,
    ) as process:  # fmt: skip
        os.close(theirs)
        alarm = threading.Timer(SECONDS, os.killpg, [process.pid, signal.SIGKILL])
        alarm.start()
        printed = _ESCAPE.sub("", _all_from(ours).decode(errors="replace"))
        code = process.wait()
        alarm.cancel()
    os.close(ours)
    told = f"{block.name}\n$ {command.line}\n{printed}"
    assert code == 0, f"{told}\nexit code {code}"
    assert_printed(command.output, printed, told)


def _all_from(terminal: int) -> bytes:
    read = b""
    # Linux reports the end of a terminal as an error.
    with contextlib.suppress(OSError):
        while piece := os.read(terminal, 65536):
            read += piece
    return read


def assert_printed(expected: str, printed: str, told: str) -> None:
    """Raise AssertionError unless the expected lines were printed, in that order."""
    lines = iter(printed.splitlines())
    for wanted in (line for line in expected.splitlines() if line.strip()):
        if wanted.strip() == "...":
            continue
        pattern = _pattern(wanted)
        if not any(pattern.fullmatch(" ".join(line.split())) for line in lines):
            raise AssertionError(f"{wanted!r} was not printed by {told}")


def _pattern(wanted: str) -> re.Pattern[str]:
    """What the line matches, however wide its columns are."""
    pieces = " ".join(wanted.split()).split("...")
    return re.compile(r".*".join(re.escape(piece.strip()) for piece in pieces))


def all_of(pages: Sequence[Path]) -> list[Program]:
    """The programs of all pages."""
    return [program for page in pages for program in programs(page)]
