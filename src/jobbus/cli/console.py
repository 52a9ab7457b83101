"""Where output goes and what it looks like: tables for people, JSON for programs."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final, TextIO

from jobbus.cli.text import plain, shortened, to_json

if TYPE_CHECKING:
    from rich.console import Console as RichConsole

Item = Mapping[str, Any]
_WIDE: Final = 240
_GAP: Final = 2
_READABLE: Final = 12
"""Columns of a table that is not shown on a terminal, so that nothing is cut."""


class Format(StrEnum):
    """What standard output looks like."""

    TABLE = "table"
    JSON = "json"
    NDJSON = "ndjson"
    ID = "id"


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a table: its title, and each item's text in it."""

    title: str
    text: Callable[[Item], object]
    style: Callable[[Item], str] | str = ""
    right: bool = False
    whole: bool = False
    """Never cut, and never wrapped."""


class Console:
    """Standard output in the chosen format, and notes for people on standard error.

    Without a choice: tables on a terminal, JSON elsewhere. ``NO_COLOR`` and ``FORCE_COLOR`` count.
    """

    def __init__(self, *, output: Format | None = None, no_color: bool = False) -> None:
        self.chosen = output
        self._no_color = no_color

    @property
    def format(self) -> Format:
        """What was chosen, else what suits the place that the output goes to."""
        if self.chosen is not None:
            return self.chosen
        return Format.TABLE if sys.stdout.isatty() else Format.JSON

    def listing(
        self,
        name: str,
        items: Sequence[Item],
        columns: Sequence[Column],
        *,
        more: Item | None = None,
        empty: str = "",
        id_key: str = "id",
    ) -> None:
        """Show items; in JSON under ``name``, with ``more`` beside them."""
        match self.format:
            case Format.TABLE:
                if items:
                    self._table(items, columns)
                elif empty:
                    self.note(empty)
            case Format.JSON:
                self.write_json({name: list(items), **(more or {})})
            case Format.NDJSON:
                self.write_lines(items)
            case Format.ID:
                self.write_ids(str(item[id_key]) for item in items)

    def record(self, item: Item, page: Callable[[], None], *, id_key: str = "id") -> None:
        """Show one item: ``page`` writes it for people."""
        match self.format:
            case Format.TABLE:
                page()
            case Format.ID:
                write_line(plain(item.get(id_key, "")))
            case Format.NDJSON:
                write_line(to_json(item))
            case Format.JSON:
                self.write_json(item)

    def write_json(self, value: Any) -> None:
        """A JSON document: indented on a terminal, on one line elsewhere."""
        write_line(to_json(value, indent=2 if sys.stdout.isatty() else None))

    def write_lines(self, items: Iterable[Item]) -> None:
        """A JSON document a line."""
        for item in items:
            write_line(to_json(item))

    def write_ids(self, ids: Iterable[str]) -> None:
        """An id a line."""
        for each in ids:
            write_line(plain(each))

    def facts(self, pairs: Sequence[tuple[str, object]]) -> None:
        """Names and values for people, one pair a line; pairs with an empty value are left out."""
        shown = [(name, plain(value)) for name, value in pairs if value not in ("", None)]
        width = max((len(name) for name, _ in shown), default=0)
        for name, value in shown:
            write_line(f"{self.styled(name.ljust(width), '2')}  {value}")

    def heading(self, text: str) -> None:
        """Above a part of a page for people."""
        write_line("")
        write_line(self.styled(plain(text), "1"))

    def note(self, text: str) -> None:
        """Something for people, on standard error."""
        sys.stderr.write(plain(text) + "\n")
        sys.stderr.flush()

    def styled(self, text: str, codes: str, *, stream: TextIO | None = None) -> str:
        """``text`` in ANSI style where the stream shows colours."""
        return f"\x1b[{codes}m{text}\x1b[0m" if self.colours(stream or sys.stdout) else text

    def colours(self, stream: TextIO) -> bool:
        """Whether this stream gets colours."""
        if self._no_color or os.environ.get("NO_COLOR"):
            return False
        return bool(os.environ.get("FORCE_COLOR")) or stream.isatty()

    def rich(self, stream: TextIO) -> RichConsole:
        """A console of rich's for one of the two streams, under the same rules."""
        from rich.console import Console as RichConsole

        colours = self.colours(stream)
        terminal = stream.isatty()
        return RichConsole(
            file=stream,
            force_terminal=terminal,
            color_system="auto" if colours and terminal else "standard" if colours else None,
            no_color=not colours,
            width=None if terminal else _width_elsewhere(),
            markup=False,
            highlight=False,
            emoji=False,
        )

    def _table(self, items: Sequence[Item], columns: Sequence[Column]) -> None:
        from rich.table import Table
        from rich.text import Text

        console = self.rich(sys.stdout)
        room = _room_for_last(console.width, columns, items)
        table = Table(box=None, pad_edge=False, padding=(0, _GAP, 0, 0), header_style="bold")
        for column in columns:
            table.add_column(
                column.title,
                justify="right" if column.right else "left",
                no_wrap=True,
                overflow="ellipsis",
                min_width=_widest(column, items) if column.whole else None,
            )
        for item in items:
            table.add_row(
                *(
                    Text(
                        shortened(column.text(item), room if column is columns[-1] else _WIDE),
                        style=column.style(item) if callable(column.style) else column.style,
                    )
                    for column in columns
                )
            )
        with console.capture() as captured:
            console.print(table)
        sys.stdout.write(captured.get())


def write_line(text: str) -> None:
    """A line on standard output."""
    sys.stdout.write(text + "\n")


def _widest(column: Column, items: Sequence[Item]) -> int:
    return max(len(column.title), *(len(plain(column.text(item))) for item in items))


def _room_for_last(width: int, columns: Sequence[Column], items: Sequence[Item]) -> int:
    """The last column, which explains, gives way to the others, which identify."""
    taken = sum(_widest(column, items) + _GAP for column in columns[:-1])
    return max(width - taken, _READABLE)


def _width_elsewhere() -> int:
    return shutil.get_terminal_size(fallback=(_WIDE, 24)).columns
