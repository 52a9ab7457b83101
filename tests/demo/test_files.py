"""Which files are found, in which order, under which names; and how files are replaced."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from examples.library.analysis import analyse
from examples.library.errors import Unreadable
from examples.library.files import (
    FoundFile,
    find_files,
    labels,
    listing_once,
    mark_generated,
    native,
    portable,
    replacing,
)


def make(root: Path, *names: str) -> Path:
    for name in names:
        place = root / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(name)
    return root


def paths(*roots: Path, exclude: tuple[Path, ...] = ()) -> list[str]:
    return [found.path for found in find_files(roots, exclude=exclude)]


def test_files_come_in_the_order_of_their_names_with_forward_slashes(tmp_path: Path) -> None:
    make(tmp_path, "b/z.txt", "a.txt", "b/a/deep.txt", "c.txt", "B.txt")
    assert paths(tmp_path) == ["B.txt", "a.txt", "b/a/deep.txt", "b/z.txt", "c.txt"]


def test_a_found_file_knows_its_place(tmp_path: Path) -> None:
    make(tmp_path, "album/song.txt")
    [found] = find_files([tmp_path])
    assert found == FoundFile(str(tmp_path), "album/song.txt")
    assert found.place.read_text() == "album/song.txt"


def test_folders_that_are_nobodys_library_are_left_out(tmp_path: Path) -> None:
    make(
        tmp_path,
        ".git/config",
        ".venv/bin/python",
        "__pycache__/a.pyc",
        "node_modules/x/index.js",
        "lib/site-packages/x.py",
        "environment/pyvenv.cfg",
        "environment/bin/activate",
        ".gitignore",
        "kept.py",
    )
    assert paths(tmp_path) == [".gitignore", "kept.py"]


def test_a_folder_named_on_purpose_is_walked_whatever_it_is_called(tmp_path: Path) -> None:
    make(tmp_path, "site-packages/x.py")
    assert paths(tmp_path / "site-packages") == ["x.py"]


def test_a_folder_tagged_as_generated_is_left_out_unless_it_is_a_root(tmp_path: Path) -> None:
    mark_generated(tmp_path / "report")
    make(tmp_path, "report/report.json", "song.txt", "untagged/CACHEDIR.TAG")
    assert paths(tmp_path) == ["song.txt", "untagged/CACHEDIR.TAG"]
    assert paths(tmp_path / "report") == ["CACHEDIR.TAG", "report.json"]


def test_excluded_files_and_folders_are_left_out_and_databases_with_what_belongs_to_them(
    tmp_path: Path,
) -> None:
    make(tmp_path, "jobs.db", "jobs.db-wal", "jobs.db-shm", "out/report.json", "jobs.dbx")
    assert paths(tmp_path, exclude=(tmp_path / "jobs.db", tmp_path / "out")) == ["jobs.dbx"]


def test_exclusion_sees_through_links_and_relative_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(tmp_path, "real/out/report.json", "real/song.txt")
    (tmp_path / "link").symlink_to("real")
    monkeypatch.chdir(tmp_path)
    assert paths(Path("link"), exclude=(Path("real/../real/out"),)) == ["song.txt"]


def test_rings_of_links_end_and_linked_folders_are_not_followed(tmp_path: Path) -> None:
    make(tmp_path, "music/song.txt")
    (tmp_path / "music" / "again").symlink_to(tmp_path)
    (tmp_path / "ring").symlink_to("ring")
    assert paths(tmp_path) == ["music/song.txt"]


def test_a_link_to_a_file_is_a_file_and_so_is_a_link_to_nothing(tmp_path: Path) -> None:
    make(tmp_path, "song.txt")
    (tmp_path / "copy.txt").symlink_to("song.txt")
    (tmp_path / "lost.txt").symlink_to("nothing")
    assert paths(tmp_path) == ["copy.txt", "lost.txt", "song.txt"]


def test_sockets_and_pipes_are_no_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path, "song.txt")
    os.mkfifo(tmp_path / "pipe")
    # The names of sockets are short.
    monkeypatch.chdir(tmp_path)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("socket")
        assert paths(tmp_path) == ["song.txt"]


def test_a_folder_that_cannot_be_listed_is_reported_by_its_analysis(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(tmp_path, "closed/song.txt", "open.txt")
    plain = os.scandir

    def refuse(place: str) -> object:
        if str(place).endswith("closed"):
            raise PermissionError(13, "Permission denied")
        return plain(place)

    # Mode 000 would not stop a superuser.
    monkeypatch.setattr(os, "scandir", refuse)
    monkeypatch.setattr(os, "listdir", refuse)
    found = list(find_files([tmp_path]))
    assert [each.path for each in found] == ["closed", "open.txt"]
    with pytest.raises(Unreadable):
        analyse(found[0].place)


def test_a_root_may_be_a_file(tmp_path: Path) -> None:
    make(tmp_path, "song.txt")
    [found] = find_files([tmp_path / "song.txt"])
    assert (found.path, found.place.read_text()) == ("", "song.txt")


def test_a_root_that_does_not_exist_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(Unreadable, match="missing"):
        list(find_files([tmp_path / "missing"]))


def test_a_folder_that_two_roots_share_is_walked_once(tmp_path: Path) -> None:
    make(tmp_path, "a/one.txt", "two.txt")
    assert paths(tmp_path, tmp_path / "a", tmp_path) == ["a/one.txt", "two.txt"]


def test_a_name_that_is_no_text_can_be_stored_and_opened_again(tmp_path: Path) -> None:
    name = b"caf\xe9 \\x41\\.txt"
    (tmp_path / os.fsdecode(name)).write_text("found")
    [found] = find_files([tmp_path])
    assert found.path == "caf\\xe9 \\\\x41\\\\.txt"
    assert found.place.read_text() == "found"


@given(st.binary(max_size=20))
def test_every_name_comes_back_from_its_portable_form(name: bytes) -> None:
    path = os.fsdecode(name)
    text = portable(path)
    assert native(text) == path
    text.encode("utf-8")


def test_roots_are_called_by_their_last_part_and_told_apart(tmp_path: Path) -> None:
    make(tmp_path, "a/music/x", "b/music/x", "films/x")
    roots = [str(tmp_path / part) for part in ("a/music", "films", "b/music")]
    assert list(labels(roots).values()) == ["music", "films", "music-2"]
    assert labels(["/"]) == {"/": "root"}


def test_a_listing_is_made_once_for_each_run(tmp_path: Path) -> None:
    root = make(tmp_path / "library", "one.txt")
    store = tmp_path / "listing.json"

    def listing(run: str) -> list[str]:
        return [each.path for each in listing_once(store, run, [str(root)], exclude=())]

    assert listing("first") == ["one.txt"]
    make(root, "two.txt")
    assert listing("first") == ["one.txt"]
    assert listing("second") == ["one.txt", "two.txt"]


def test_a_replaced_file_is_the_old_one_until_the_new_one_is_whole(tmp_path: Path) -> None:
    place = tmp_path / "report.json"
    place.write_bytes(b"old")
    with replacing(place) as file:
        file.write(b"new")
        file.flush()
        assert place.read_bytes() == b"old"
    assert place.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [place]


def test_a_replacement_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    def fail(place: Path) -> None:
        with replacing(place) as file:
            file.write(b"half")
            raise RuntimeError("the disk is on fire")

    place = tmp_path / "report.json"
    place.write_bytes(b"old")
    with pytest.raises(RuntimeError):
        fail(place)
    assert [each.read_bytes() for each in tmp_path.iterdir()] == [b"old"]
