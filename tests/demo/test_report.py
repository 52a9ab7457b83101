"""The report: what is in it, that it is the same bytes every time, and that it is written whole."""

from __future__ import annotations

import csv
import json
import random
from pathlib import Path
from typing import Any

import pytest

from examples.library import samples
from examples.library.analysis import Analysis, LibraryError, analyse
from examples.library.files import find_files
from examples.library.images import Image
from examples.library.report import COLUMNS, Failure, Report
from examples.library.sound import Sound
from examples.library.text import PythonSource, Text

SOURCE = Text(encoding="utf-8", lines=10, words=20, characters=300, longest_line=80)
OUTCOMES: list[tuple[str, Analysis | Failure]] = [
    ("music/b.py", Analysis(sha256="bb", size=300, type="python", text=SOURCE,
                            python=PythonSource(valid=True, functions=3, classes=1))),
    ("music/a.py", Analysis(sha256="aa", size=300, type="python", text=SOURCE)),
    ("music/z.png", Analysis(sha256="cc", size=50, type="png", image=Image(width=4, height=3))),
    ("music/y.png", Analysis(sha256="cc", size=50, type="png", image=Image(width=4, height=3))),
    ("music/x.png", Analysis(sha256="cc", size=50, type="png", image=Image(width=4, height=3))),
    ("music/copy.py", Analysis(sha256="aa", size=300, type="python", text=SOURCE)),
    ("music/tone.wav", Analysis(sha256="dd", size=9, type="wav", sound=Sound(
        channels=1, rate=8000, bits=16, seconds=1.5, peak_dbfs=-6.02, rms_dbfs=-9.03))),
    ("music/empty-1", Analysis(sha256="ee", size=0, type="empty")),
    ("music/empty-2", Analysis(sha256="ee", size=0, type="empty")),
    ("music/cut.wav", Failure(kind="Truncated", attempts=3, reason="it ends too soon")),
    ("music/c.bin", Failure(kind="HandlerCrashed", attempts=1)),
]  # fmt: skip


def document() -> dict[str, Any]:
    return Report.of(OUTCOMES).document()


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "report.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_totals_count_what_was_analysed_and_what_failed() -> None:
    assert document()["summary"] == {
        "files": 11,
        "analysed": 9,
        "failed": 2,
        "bytes": 1059,
        "lines_of_text": 30,
        "python_functions": 3,
        "python_classes": 1,
        "images": 3,
        "seconds_of_sound": 1.5,
    }


def test_types_are_counted_in_files_and_bytes() -> None:
    assert document()["types"] == {
        "empty": {"files": 2, "bytes": 0},
        "png": {"files": 3, "bytes": 150},
        "python": {"files": 3, "bytes": 900},
        "wav": {"files": 1, "bytes": 9},
    }


def test_the_largest_files_come_first_and_equal_ones_by_name() -> None:
    largest = [each["path"] for each in document()["largest"]]
    assert largest[:4] == ["music/a.py", "music/b.py", "music/copy.py", "music/x.png"]


def test_at_most_ten_files_are_the_largest() -> None:
    many = [(f"{n:03}", Analysis(sha256=str(n), size=n, type="text")) for n in range(30)]
    largest = Report.of(many).document()["largest"]
    assert [each["size"] for each in largest] == list(range(29, 19, -1))


def test_duplicates_are_grouped_and_those_that_waste_most_come_first() -> None:
    assert document()["duplicates"] == [
        {"sha256": "aa", "size": 300, "wasted": 300, "paths": ["music/a.py", "music/copy.py"]},
        {
            "sha256": "cc",
            "size": 50,
            "wasted": 100,
            "paths": ["music/x.png", "music/y.png", "music/z.png"],
        },
    ]


def test_failures_say_which_file_why_and_after_how_many_attempts() -> None:
    assert document()["failures"] == [
        {"path": "music/c.bin", "error": "HandlerCrashed", "reason": "", "attempts": 1},
        {
            "path": "music/cut.wav",
            "error": "Truncated",
            "reason": "it ends too soon",
            "attempts": 3,
        },
    ]


def test_every_file_is_in_the_document_with_all_that_is_known_of_it() -> None:
    files = {each.pop("path"): each for each in document()["files"]}
    assert list(files) == sorted(files)
    expected = {name: each.to_dict() for name, each in OUTCOMES if isinstance(each, Analysis)}
    assert files == expected


def test_the_table_has_a_row_for_every_file_failed_ones_included(tmp_path: Path) -> None:
    places = Report.of(OUTCOMES).write(tmp_path)
    assert places.csv.read_text().splitlines()[0] == ",".join(COLUMNS)
    table = rows(tmp_path)
    assert [row["path"] for row in table] == sorted(name for name, _ in OUTCOMES)
    by_path = {row["path"]: row for row in table}
    assert (
        by_path["music/cut.wav"] | {"error": "Truncated", "attempts": "3", "size": ""}
        == (by_path["music/cut.wav"])
    )
    assert by_path["music/tone.wav"]["peak_dbfs"] == "-6.02"
    assert by_path["music/x.png"]["width"] == "4"


def test_the_order_in_which_jobs_end_does_not_show_in_the_report(tmp_path: Path) -> None:
    shuffled = OUTCOMES[:]
    random.Random(7).shuffle(shuffled)
    one, other = (
        Report.of(OUTCOMES).write(tmp_path / "1"),
        Report.of(shuffled).write(tmp_path / "2"),
    )
    assert one.json.read_bytes() == other.json.read_bytes()
    assert one.csv.read_bytes() == other.csv.read_bytes()


def test_a_library_gives_the_same_report_wherever_it_lies(tmp_path: Path) -> None:
    reports = []
    for home in (tmp_path / "here", tmp_path / "far" / "away"):
        folder = samples.write_samples(home / "samples", limit_bytes=100_000)
        outcomes: list[tuple[str, Analysis | Failure]] = []
        for found in find_files([folder]):
            try:
                outcomes.append((found.path, analyse(found.place, limit_bytes=100_000)))
            except LibraryError as error:
                failure = Failure(kind=type(error).__name__, attempts=1, reason=str(error))
                outcomes.append((found.path, failure))
        places = Report.of(outcomes).write(home)
        reports.append((places.json.read_bytes(), places.csv.read_bytes()))
        assert str(tmp_path).encode() not in b"".join(reports[-1])
    assert reports[0] == reports[1]


def test_the_last_outcome_of_a_file_counts() -> None:
    found = Analysis(sha256="aa", size=1, type="text")
    redriven = Report.of([("a", Failure(kind="Truncated", attempts=3)), ("a", found)])
    assert (redriven.analyses, redriven.failures) == ((("a", found),), ())


def test_an_empty_library_has_a_report_too(tmp_path: Path) -> None:
    places = Report.of([]).write(tmp_path / "new" / "folder")
    assert json.loads(places.json.read_bytes())["summary"]["files"] == 0
    assert rows(places.csv.parent) == []


def test_names_cannot_break_the_table_or_run_in_a_spreadsheet(tmp_path: Path) -> None:
    found = Analysis(sha256="aa", size=1, type="text")
    names = ['=HYPERLINK("evil")', "comma, and\nnew line", "plain"]
    Report.of([(name, found) for name in names]).write(tmp_path)
    assert sorted(row["path"] for row in rows(tmp_path)) == sorted(["'" + names[0], *names[1:]])


def test_a_report_that_cannot_be_written_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Report.of(OUTCOMES).write(tmp_path)
    before = {place.name: place.read_bytes() for place in tmp_path.iterdir()}

    def fail(self: Report) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Report, "_table", fail)
    with pytest.raises(OSError, match="No space left"):
        Report.of(OUTCOMES).write(tmp_path)
    assert {place.name: place.read_bytes() for place in tmp_path.iterdir()} == before
