"""Reads the documentation: its pages, their fenced blocks, tables, headings and links."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]
DOCS: Final = ROOT / "docs"

_FENCE: Final = re.compile(r"^(\s*)```(.*)$")
_HEADING: Final = re.compile(r"^(#+) +(.+?) *$")
_LINK: Final = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")
_CODE: Final = re.compile(r"`[^`]*`")


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block: what stands behind the fence, and what is in it."""

    page: Path
    line: int
    """Of the fence, from 1."""
    language: str
    marks: tuple[str, ...]
    """The words after the language, such as ``runnable``."""
    text: str

    @property
    def name(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    def mark(self, key: str) -> str | None:
        """The value of a mark ``key=value``."""
        for word in self.marks:
            name, sign, value = word.partition("=")
            if sign and name == key:
                return value
        return None


def pages() -> list[Path]:
    """Every page that readers are sent to."""
    own = [ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")]
    found = [*DOCS.rglob("*.md"), *(ROOT / "examples").rglob("*.md"), ROOT / "deploy/README.md"]
    return [*own, *sorted(found)]


def blocks(page: Path) -> Iterator[Block]:
    """The fenced blocks of a page, in order."""
    opened: tuple[int, str, list[str]] | None = None
    indent = ""
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
        fence = _FENCE.match(line)
        if opened is None and fence:
            indent = fence[1]
            opened = (number, fence[2].strip(), [])
        elif opened is not None and fence and not fence[2].strip():
            start, said, lines = opened
            language, *marks = said.split() or [""]
            text = "".join(f"{one.removeprefix(indent)}\n" for one in lines)
            yield Block(page, start, language, tuple(marks), text)
            opened = None
        elif opened is not None:
            opened[2].append(line)


def prose(page: Path) -> list[str]:
    """The lines outside of fenced blocks."""
    kept: list[str] = []
    inside = False
    for line in page.read_text(encoding="utf-8").splitlines():
        if _FENCE.match(line):
            inside = not inside
        elif not inside:
            kept.append(line)
    return kept


def headings(page: Path, level: int | None = None) -> list[str]:
    """The headings of a page, those of one level if that is given."""
    found = [match for line in prose(page) if (match := _HEADING.match(line))]
    return [match[2] for match in found if level is None or len(match[1]) == level]


def anchor(heading: str) -> str:
    """The fragment by which GitHub links to a heading."""
    plain = re.sub(r"[^\w\- ]", "", heading.replace("`", "").lower())
    return plain.replace(" ", "-")


def links(page: Path) -> list[str]:
    """Targets of the links of a page."""
    return [target for line in prose(page) for target in _LINK.findall(_CODE.sub("`", line))]


def table(page: Path, heading: str) -> list[list[str]]:
    """The rows of the first table below a heading, without its own two."""
    lines = iter(prose(page))
    for line in lines:
        match = _HEADING.match(line)
        if match and match[2] == heading:
            break
    else:
        raise AssertionError(f"{page.relative_to(ROOT)} has no heading {heading!r}")
    rows: list[list[str]] = []
    for line in lines:
        if line.startswith("|"):
            rows.append(cells(line))
        elif rows:
            break
    return rows[2:]


def cells(row: str) -> list[str]:
    """What stands in the cells of a table's row; ``\\|`` is no border."""
    parts = re.split(r"(?<!\\)\|", row.strip().strip("|"))
    return [part.strip().replace("\\|", "|") for part in parts]


def plain(text: str) -> str:
    """A cell without the marks of code."""
    return text.replace("`", "")


def as_table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [titles, ["---"] * len(titles), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
