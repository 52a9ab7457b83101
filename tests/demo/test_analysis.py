"""What a file is, what is in its text, and which error each kind of broken file raises."""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import sqlite3
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from examples.library import errors, samples, text
from examples.library.analysis import (
    Analysis,
    Corrupt,
    TooLarge,
    Truncated,
    Unreadable,
    analyse,
)

LIMIT = 1024 * 1024


def look(folder: Path, name: str, data: bytes) -> Analysis:
    place = folder / name
    place.write_bytes(data)
    return analyse(place, limit_bytes=LIMIT)


def sqlite_file(folder: Path) -> bytes:
    place = folder / "made.db"
    connection = sqlite3.connect(place)
    connection.execute("create table one (two)")
    connection.close()
    return place.read_bytes()


@pytest.mark.parametrize(
    ("name", "data", "kind"),
    [
        ("song", b"ID3\x04\0\0\0\0\0\0", "mp3"),
        ("song.mp3", b"\xff\xfb\x90\x64" + bytes(32), "mp3"),
        ("song", b"OggS\0\2" + bytes(20), "ogg"),
        ("film", b"\0\0\0\x18ftypisom\0\0\2\0", "mp4"),
        ("photo", b"\0\0\0\x18ftypheic\0\0\0\0", "heif"),
        ("program", b"\x7fELF\2\1\1" + bytes(9), "elf"),
        ("program", b"MZ\x90\0\3\0", "windows executable"),
        ("module.pyc", b"\xa7\r\r\n" + bytes(12), "python bytecode"),
        ("sound", b"FORM\0\0\0\x20AIFFCOMM", "aiff"),
        ("nothing.png", b"", "empty"),
        ("letters", b"MZ, BM and ID3 begin words, too", "text"),
        ("noise", bytes(range(256)) * 4, "binary"),
        ("fake.txt", b"text\0with a NUL", "binary"),
        ("lying.png", b"I am no picture", "text"),
        ("data.csv", b"a,b\n1,2\n", "csv"),
        ("data.toml", b"a = 1\n", "toml"),
        ("data.yml", b"a: 1\n", "yaml"),
        ("data.xml", b"<a/>", "xml"),
        ("page.HTML", b"<p>", "html"),
        ("README.md", b"# Read me\n", "markdown"),
        ("main.c", b"int main(void) { return 0; }\n", "c"),
        ("run.sh", b"echo\n", "shell"),
        ("Makefile", b"all:\n", "makefile"),
        ("logo.svg", b"<svg/>", "svg"),
        ("run", b"#!/bin/sh\necho\n", "shell"),
        ("run", b"#!/usr/bin/env -S python3 -u\nprint()\n", "python"),
        ("run", b"#!/opt/odd/tool\n", "text"),
        ("page", b"\n<!DOCTYPE html>\n<p>", "html"),
        ("feed", b"<?xml version='1.0'?><rss/>", "xml"),
        ("logo", b"<?xml version='1.0'?><svg/>", "svg"),
        ("document", b' {"a": [1]}', "json"),
        ("config", b"[section]\nkey = value\n", "text"),
    ],
)
def test_a_file_is_known_by_its_bytes_then_its_name_then_its_text(
    tmp_path: Path, name: str, data: bytes, kind: str
) -> None:
    assert look(tmp_path, name, data).type == kind


def test_a_database_is_known_by_its_bytes(tmp_path: Path) -> None:
    assert look(tmp_path, "library", sqlite_file(tmp_path)).type == "sqlite"


def test_size_and_hash_are_those_of_the_whole_file(tmp_path: Path) -> None:
    data = b"0123456789" * 50_000
    found = look(tmp_path, "digits.txt", data)
    assert (found.size, found.sha256) == (len(data), hashlib.sha256(data).hexdigest())


def test_text_is_counted_in_lines_words_and_characters(tmp_path: Path) -> None:
    found = look(tmp_path, "poem.txt", "Über allen Gipfeln\r\nist Ruh,\n\nin".encode())
    assert found.text == text.Text(
        encoding="utf-8", lines=4, words=6, characters=31, longest_line=18
    )


@given(st.text(alphabet="ab \n\té", max_size=60), st.integers(min_value=1, max_value=9))
def test_counting_does_not_depend_on_where_blocks_end(written: str, block: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text, "BLOCK", block)
        counted = text.measure(io.BytesIO(written.encode()), ["utf-8"])
    lines = written.split("\n")
    assert counted == text.Text(
        encoding="utf-8",
        lines=len(lines) - (lines[-1] == ""),
        words=len(written.split()),
        characters=len(written),
        longest_line=max(map(len, lines)),
    )


@pytest.mark.parametrize(
    ("name", "data", "encoding"),
    [
        ("plain.txt", b"plain", "utf-8"),
        ("marked.txt", b"\xef\xbb\xbfmarked", "utf-8-sig"),
        ("wide.txt", "wide".encode("utf-16"), "utf-16"),
        ("wider.txt", "wider".encode("utf-32"), "utf-32"),
        ("west.txt", "Käse und Brötchen".encode("latin-1"), "latin-1"),
        ("quotes.txt", "“Curly” quotes of Windows".encode("cp1252"), "cp1252"),
        ("declared.py", "# coding: koi8-r\nимя = 1\n".encode("koi8-r"), "koi8-r"),
        ("declared.py", b"# coding: rot13\nk = 1\n", "utf-8"),
    ],
)
def test_the_encoding_of_a_text_is_found(
    tmp_path: Path, name: str, data: bytes, encoding: str
) -> None:
    found = look(tmp_path, name, data)
    assert found.text is not None
    assert found.text.encoding == encoding


def test_a_letter_cut_by_the_end_of_the_head_does_not_change_the_encoding(tmp_path: Path) -> None:
    found = look(tmp_path, "long.txt", b"x" + "é".encode() * 40_000)
    assert found.text is not None
    assert (found.text.encoding, found.text.characters) == ("utf-8", 40_001)


def test_a_text_that_turns_binary_after_its_head_is_binary(tmp_path: Path) -> None:
    found = look(tmp_path, "late.txt", b"x" * 70_000 + b"\0")
    assert (found.type, found.text) == ("binary", None)


def test_functions_and_classes_of_python_source_are_counted(tmp_path: Path) -> None:
    source = b"class A:\n def f(self): pass\n async def g(self): return lambda: '\\d'\n"
    found = look(tmp_path, "module.py", source)
    assert found.python == text.PythonSource(valid=True, functions=2, classes=1)


@pytest.mark.parametrize("source", [b"def broken(:\n", b"x = " + b"-" * 5000 + b"1", b"(" * 500])
def test_python_that_does_not_parse_is_a_finding_and_no_failure(
    tmp_path: Path, source: bytes
) -> None:
    found = look(tmp_path, "module.py", source)
    assert found.type == "python"
    assert found.python == text.PythonSource(valid=False)


@pytest.mark.parametrize(
    ("data", "document"),
    [
        (b"1", text.JsonDocument(valid=True, depth=0)),
        (b"[]", text.JsonDocument(valid=True, depth=1)),
        (b'{"a": [1, {"b": [[]]}], "c": []}', text.JsonDocument(valid=True, depth=5)),
        (b"9" * 5000, text.JsonDocument(valid=True, depth=0)),
        (b"\xef\xbb\xbf[]", text.JsonDocument(valid=True, depth=1)),
        (b"[1, 2", text.JsonDocument(valid=False)),
        (b"[NaN]", text.JsonDocument(valid=False)),
        (b"[" * 100_000 + b"]" * 100_000, text.JsonDocument(valid=False)),
    ],
)
def test_json_is_checked_strictly_and_measured_in_depth(
    tmp_path: Path, data: bytes, document: text.JsonDocument
) -> None:
    assert look(tmp_path, "data.json", data).json == document


def test_sources_too_large_to_parse_are_counted_as_text_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("examples.library.analysis.PYTHON_LIMIT", 5)
    found = look(tmp_path, "module.py", b"x = 12\n")
    assert (found.type, found.python) == ("python", None)
    assert found.text is not None


def test_a_file_at_the_limit_is_read_and_one_byte_more_is_too_large(tmp_path: Path) -> None:
    (tmp_path / "exact.txt").write_bytes(b"x" * 100)
    (tmp_path / "over.txt").write_bytes(b"x" * 101)
    assert analyse(tmp_path / "exact.txt", limit_bytes=100).size == 100
    with pytest.raises(TooLarge, match="101 bytes; the limit is 100"):
        analyse(tmp_path / "over.txt", limit_bytes=100)


def test_what_cannot_be_opened_is_unreadable_and_the_reason_is_said(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("nothing")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(Unreadable, match="link to nothing"):
        analyse(tmp_path / "link")
    with pytest.raises(Unreadable, match="not a regular file"):
        analyse(tmp_path / "pipe")
    with pytest.raises(Unreadable, match="not a regular file"):
        analyse(tmp_path)
    with pytest.raises(Unreadable, match="No such file") as caught:
        analyse(tmp_path / "vanished")
    assert isinstance(caught.value.__cause__, FileNotFoundError)
    assert str(tmp_path) not in str(caught.value)


def test_a_file_without_permission_is_unreadable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    (tmp_path / "secret").write_bytes(b"secret")
    # Mode 000 would not stop a superuser.
    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(Unreadable, match="Permission denied"):
        analyse(tmp_path / "secret")


@pytest.mark.parametrize(
    ("name", "cut"),
    [
        ("picture.png", 12),
        ("picture.png", 850),
        ("picture.gif", 1),
        ("picture.gif", 165),
        ("picture.jpg", 2),
        ("picture.jpg", 100),
        ("tone.wav", 1),
        ("tone.wav", 16_020),
        ("texts.zip", 22),
        ("notes.gz", 1),
        ("notes.gz", 1120),
    ],
)
def test_a_file_that_ends_too_soon_is_truncated(tmp_path: Path, name: str, cut: int) -> None:
    whole = (samples.write_samples(tmp_path / "samples", limit_bytes=LIMIT) / name).read_bytes()
    look(tmp_path, name, whole)
    with pytest.raises(Truncated):
        look(tmp_path, name, whole[:-cut])


@pytest.mark.parametrize(
    "data",
    [
        b"%PDF-1.7\n" + b"x" * 9000,
        b"RIFF\xff\0\0\0WEBPVP8L",
        b"BM" + (500).to_bytes(4, "little") + bytes(8) + (40).to_bytes(4, "little") + bytes(40),
        b"fLaC\0\0\0\x22",
        b"BZh91AY&SY" + bytes(3),
        b"\xfd7zXZ\0\0",
        b"RIFF\0\0\0\0WAVEfmt \xf0\xff\xff\xff",
    ],
)
def test_a_header_that_promises_more_than_there_is_is_truncated(
    tmp_path: Path, data: bytes
) -> None:
    with pytest.raises(Truncated):
        look(tmp_path, "file", data)


def test_a_whole_pdf_is_no_failure(tmp_path: Path) -> None:
    assert look(tmp_path, "paper", b"%PDF-1.7\n" + b"x" * 9000 + b"%%EOF\n").type == "pdf"


@pytest.mark.parametrize(
    "data",
    [
        b"\x89PNG\r\n\x1a\n" + bytes(20),
        b"GIF89a" + bytes(7) + b"\x99",
        b"\xff\xd8\xff\xd9" + bytes(8),
        b"\xff\xd8\xff\xe0\0\2nonsense",
        b"RIFF\x20\0\0\0WEBPnone" + bytes(24),
        b"RIFF\0\0\0\0WAVEdata\0\0\0\0",
        b"RIFF\0\0\0\0WAVEfmt \x10\0\0\0" + bytes(16) + b"data\0\0\0\0",
        b"fLaC" + bytes(38),
        b"\x1f\x8b\x08" + bytes(7) + b"\xff" * 40,
        b"\xfd7zXZ\0" + b"\xff" * 40,
        b"BZh91AY&SY" + b"\xff" * 40,
    ],
)
def test_bytes_that_contradict_their_format_are_corrupt(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(Corrupt):
        look(tmp_path, "file", data)


def test_only_what_would_not_change_is_permanent() -> None:
    assert set(errors.PERMANENT) == {TooLarge, Corrupt}
    assert set(errors.KINDS) == {"Unreadable", "Truncated", "Corrupt", "TooLarge"}


def test_an_analysis_survives_its_way_through_json_and_pickle(tmp_path: Path) -> None:
    folder = samples.write_samples(tmp_path / "samples", limit_bytes=LIMIT)
    for place in folder.iterdir():
        if place.name not in samples.BROKEN:
            found = analyse(place, limit_bytes=LIMIT)
            assert Analysis.from_dict(found.to_dict()) == found
            assert pickle.loads(pickle.dumps(found)) == found  # noqa: S301
