"""Puts the outcomes of a library's analysis together: ``report.json`` and ``report.csv``.

The same library gives the same bytes, wherever and however often it is analysed, by however many
workers: no times, no ids, no absolute places, and everything in one order.
"""

from __future__ import annotations

import csv
import io
import json
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from .analysis import Analysis
from .files import replacing

LARGEST: Final = 10
COLUMNS: Final = (
    "path", "type", "size", "sha256", "lines", "words", "width", "height", "seconds", "peak_dbfs",
    "rms_dbfs", "entries", "error", "attempts",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Why there is no analysis of a file."""

    kind: str
    """The error's name, such as ``Truncated``."""
    attempts: int
    """How often it was tried."""
    reason: str = ""
    """What the error said; empty where that could differ from run to run."""


@dataclass(frozen=True, slots=True)
class ReportFiles:
    """Where the report is."""

    json: Path
    csv: Path


@dataclass(frozen=True, slots=True)
class Report:
    """What became of every file. Make it with :meth:`of`."""

    analyses: tuple[tuple[str, Analysis], ...]
    failures: tuple[tuple[str, Failure], ...]

    @classmethod
    def of(cls, outcomes: Iterable[tuple[str, Analysis | Failure]]) -> Report:
        """Names, in any order, with what became of them; the last one of a name counts."""
        analyses: dict[str, Analysis] = {}
        failures: dict[str, Failure] = {}
        for name, outcome in outcomes:
            analyses.pop(name, None)
            failures.pop(name, None)
            if isinstance(outcome, Analysis):
                analyses[name] = outcome
            else:
                failures[name] = outcome
        return cls(
            tuple(sorted(analyses.items(), key=_name)), tuple(sorted(failures.items(), key=_name))
        )

    def summary(self) -> dict[str, Any]:
        """The totals, in few lines."""
        analyses = [analysis for _, analysis in self.analyses]
        sounds = [each.sound for each in analyses if each.sound]
        return {
            "files": len(self.analyses) + len(self.failures),
            "analysed": len(self.analyses),
            "failed": len(self.failures),
            "bytes": sum(each.size for each in analyses),
            "lines_of_text": sum(each.text.lines for each in analyses if each.text),
            "python_functions": sum(each.python.functions for each in analyses if each.python),
            "python_classes": sum(each.python.classes for each in analyses if each.python),
            "images": sum(each.image is not None for each in analyses),
            "seconds_of_sound": round(sum(each.seconds or 0 for each in sounds), 3),
        }

    def document(self) -> dict[str, Any]:
        """All of it, as it stands in ``report.json``."""
        return {
            "format": 1,
            "summary": self.summary(),
            "types": self._types(),
            "largest": self._largest(),
            "duplicates": self._duplicates(),
            "failures": [
                {
                    "path": name,
                    "error": failure.kind,
                    "reason": failure.reason,
                    "attempts": failure.attempts,
                }
                for name, failure in self.failures
            ],
            "files": [{"path": name, **analysis.to_dict()} for name, analysis in self.analyses],
        }

    def write(self, folder: Path) -> ReportFiles:
        """Write both files into ``folder``, each whole or not at all, over older ones."""
        folder.mkdir(parents=True, exist_ok=True)
        places = ReportFiles(json=folder / "report.json", csv=folder / "report.csv")
        with replacing(places.json) as file:
            file.write(json.dumps(self.document(), indent=1).encode() + b"\n")
        with replacing(places.csv) as file:
            file.write(self._table().encode())
        return places

    def _types(self) -> dict[str, dict[str, int]]:
        types: dict[str, dict[str, int]] = defaultdict(lambda: {"files": 0, "bytes": 0})
        for _, analysis in self.analyses:
            types[analysis.type]["files"] += 1
            types[analysis.type]["bytes"] += analysis.size
        return dict(sorted(types.items()))

    def _largest(self) -> list[dict[str, Any]]:
        ordered = sorted(self.analyses, key=lambda each: (-each[1].size, each[0]))
        return [
            {"path": name, "size": analysis.size, "type": analysis.type}
            for name, analysis in ordered[:LARGEST]
        ]

    def _duplicates(self) -> list[dict[str, Any]]:
        """Files with the same bytes, those that waste most first. Empty files waste nothing."""
        alike: dict[tuple[str, int], list[str]] = defaultdict(list)
        for name, analysis in self.analyses:
            if analysis.size:
                alike[analysis.sha256, analysis.size].append(name)
        groups = [(digest, size, names) for (digest, size), names in alike.items() if names[1:]]
        groups.sort(key=lambda group: (-group[1] * (len(group[2]) - 1), group[2]))
        return [
            {"sha256": digest, "size": size, "wasted": size * (len(names) - 1), "paths": names}
            for digest, size, names in groups
        ]

    def _table(self) -> str:
        text = io.StringIO(newline="")
        table = csv.DictWriter(text, COLUMNS, restval="", lineterminator="\n")
        table.writeheader()
        rows = [_analysis_row(name, analysis) for name, analysis in self.analyses]
        rows += [
            {"path": name, "error": failure.kind, "attempts": failure.attempts}
            for name, failure in self.failures
        ]
        rows.sort(key=lambda row: str(row["path"]))
        for row in rows:
            table.writerow({**row, "path": _inert(str(row["path"]))})
        return text.getvalue()


def _name(item: tuple[str, object]) -> str:
    return item[0]


def _analysis_row(name: str, analysis: Analysis) -> dict[str, object]:
    row: dict[str, object] = {
        "path": name, "type": analysis.type, "size": analysis.size, "sha256": analysis.sha256,
    }  # fmt: skip
    if analysis.text:
        row |= {"lines": analysis.text.lines, "words": analysis.text.words}
    if analysis.image:
        row |= {"width": analysis.image.width, "height": analysis.image.height}
    if analysis.sound:
        sound = analysis.sound
        row |= {"seconds": sound.seconds, "peak_dbfs": sound.peak_dbfs, "rms_dbfs": sound.rms_dbfs}
    if analysis.archive:
        row["entries"] = analysis.archive.entries
    return row


def _inert(name: str) -> str:
    # Spreadsheets run a cell that begins like a formula; a file may be called what it likes.
    return f"'{name}" if name.startswith(("=", "+", "-", "@", "\t", "\r")) else name
