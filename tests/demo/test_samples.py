"""The generated samples fail as they are meant to, and the example's code is found."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

import jobbus.demo
from examples.library import samples
from examples.library.analysis import LibraryError, analyse
from examples.library.files import find_files
from jobbus.errors import ConfigurationError

LIMIT = 100_000


def outcomes(folder: Path) -> dict[str, str]:
    """How the analysis of each file that fails does so."""
    failed = {}
    for found in find_files([folder]):
        try:
            analyse(found.place, limit_bytes=LIMIT)
        except LibraryError as error:
            failed[found.path] = type(error).__name__
    return failed


def test_exactly_the_broken_samples_fail_each_in_its_way(tmp_path: Path) -> None:
    folder = samples.write_samples(tmp_path / "samples", limit_bytes=LIMIT)
    assert outcomes(folder) == dict(samples.BROKEN)


def test_every_error_of_the_library_has_its_sample() -> None:
    assert set(samples.BROKEN.values()) == {"Truncated", "Corrupt", "Unreadable", "TooLarge"}


def test_samples_are_the_same_every_time_and_are_left_alone_when_they_are_there(
    tmp_path: Path,
) -> None:
    folder = samples.write_samples(tmp_path / "samples", limit_bytes=LIMIT)
    before = {place.name: place.lstat().st_ino for place in folder.iterdir()}
    damaged = folder / "picture.png"
    right = damaged.read_bytes()
    damaged.write_bytes(b"half")
    samples.write_samples(folder, limit_bytes=LIMIT)
    after = {place.name: place.lstat().st_ino for place in folder.iterdir()}
    assert damaged.read_bytes() == right
    assert {name for name in before if before[name] != after[name]} <= {"picture.png"}
    assert list(tmp_path.iterdir()) == [folder]


def test_the_large_sample_follows_the_limit_and_takes_no_room(tmp_path: Path) -> None:
    samples.write_samples(tmp_path / "samples", limit_bytes=LIMIT)
    folder = samples.write_samples(tmp_path / "samples", limit_bytes=LIMIT * 2)
    status = (folder / "too-large.bin").stat()
    assert status.st_size == LIMIT * 2 + 1
    assert status.st_blocks * 512 < LIMIT


def test_the_example_is_found_and_importable_by_the_demo() -> None:
    assert (jobbus.demo.locate() / "jobs.py").is_file()
    module = importlib.import_module("jobbus.demo.library.files")
    assert Path(str(module.__file__)).parent == jobbus.demo.locate()


def test_an_installation_without_the_example_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobbus.demo, "__file__", str(tmp_path / "a" / "b" / "c" / "__init__.py"))
    with pytest.raises(ConfigurationError, match="install it from its wheel"):
        jobbus.demo.locate()
