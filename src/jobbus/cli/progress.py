"""Progress on standard error: a bar on a terminal, a line at each step elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

from jobbus.cli.console import Console
from jobbus.cli.text import plain

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID


class Bar(Protocol):
    """Something that shows how far along a piece of work is."""

    def update(self, done: float, text: str = "") -> None: ...


class _Silent:
    def update(self, done: float, text: str = "") -> None:
        """Nobody looks."""


class _Lines:
    """Tells a step in a line, and not the same one twice."""

    def __init__(self, console: Console, title: str) -> None:
        self._console = console
        self._title = title
        self._last = ""

    def update(self, done: float, text: str = "") -> None:
        line = f"{self._title} {done:.0f}% {text}".rstrip()
        if line != self._last:
            self._console.note(line)
            self._last = line


@contextmanager
def counting(console: Console, title: str, total: int | None) -> Iterator[Bar]:
    """A bar for a number of things; nothing off a terminal."""
    if not sys.stderr.isatty():
        yield _Silent()
        return
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TaskProgressColumn,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TaskProgressColumn(show_speed=True),
        TimeRemainingColumn(),
    )
    screen = console.rich(sys.stderr)
    with Progress(*columns, console=screen, transient=True, redirect_stdout=False) as progress:
        yield _RichBar(progress, progress.add_task(plain(title), total=total))


@contextmanager
def percentage(console: Console, title: str) -> Iterator[Bar]:
    """A bar for one job's own percentage; lines off a terminal."""
    if not sys.stderr.isatty():
        yield _Lines(console, title)
        return
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        TimeElapsedColumn(),
        TextColumn("{task.fields[text]}"),
    )
    screen = console.rich(sys.stderr)
    with Progress(*columns, console=screen, transient=True, redirect_stdout=False) as progress:
        yield _RichBar(progress, progress.add_task(plain(title), total=100, text=""))


class _RichBar:
    def __init__(self, progress: Progress, task: TaskID) -> None:
        self._progress = progress
        self._task = task

    def update(self, done: float, text: str = "") -> None:
        self._progress.update(self._task, completed=done, text=plain(text))
