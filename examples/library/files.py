"""Finds the files of a library, in the same order every time, and replaces files whole."""

from __future__ import annotations

import json
import os
import secrets
import stat
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from .errors import Unreadable

SKIPPED_FOLDERS: Final = frozenset(
    {
        ".direnv", ".eggs", ".git", ".hg", ".hypothesis", ".mypy_cache", ".nox", ".pytest_cache",
        ".ruff_cache", ".svn", ".tox", ".venv", "__pycache__", "dist-packages", "node_modules",
        "site-packages",
    }
)  # fmt: skip
"""Version control, caches, and what package managers install: not part of anybody's library."""

COMPANIONS: Final = ("", "-wal", "-shm", "-journal")
"""A database file that is left out takes the files that SQLite keeps beside it along."""

CACHE_TAG: Final = "CACHEDIR.TAG"
CACHE_SIGNATURE: Final = b"Signature: 8a477f597d28d172789f06886806bc55"
"""Folders that hold such a file hold nothing but generated data (bford.info/cachedir)."""


@dataclass(frozen=True, slots=True)
class FoundFile:
    """A file, named so that the name means the same on every machine."""

    root: str
    """The folder it was found under, as it was given, and :func:`portable`."""
    path: str
    """Relative to the root, with forward slashes, and :func:`portable`. Empty for the root itself,
    where that is a file."""

    @property
    def place(self) -> Path:
        """Where to open it."""
        return Path(native(self.root), native(self.path))


def find_files(roots: Iterable[Path], *, exclude: Iterable[Path] = ()) -> Iterator[FoundFile]:
    """Every file under ``roots``, by root and then by name; folders that roots share come once.

    Leaves out ``exclude`` (files or whole folders; databases with their companions), folders of
    ``SKIPPED_FOLDERS``, virtual environments, folders tagged as generated, and whatever is not a
    file: sockets, pipes, devices. Links to folders are not followed, so that no loop can form; a
    link to nothing counts as a file, and so does a folder that cannot be listed: reading them
    fails, and then somebody hears of it. Raises Unreadable for a root that does not exist.
    """
    left_out = {
        os.path.realpath(place) + companion for place in exclude for companion in COMPANIONS
    }
    walked: set[str] = set()
    for root in roots:
        real = os.path.realpath(root)
        if os.path.isdir(real):
            for relative in _walk(real, left_out, walked):
                yield FoundFile(portable(str(root)), portable(relative))
        elif os.path.lexists(root):
            yield FoundFile(portable(str(root)), "")
        else:
            raise Unreadable(f"there is no file or folder {str(root)!r}")


def _walk(root: str, left_out: set[str], walked: set[str]) -> Iterator[str]:
    waiting = [("", root)]
    while waiting:
        relative, place = waiting.pop()
        if place in walked:
            continue
        try:
            mode = os.lstat(place).st_mode
        except FileNotFoundError:
            continue
        if not stat.S_ISDIR(mode):
            yield relative
            continue
        walked.add(place)
        try:
            inner = list(_entries(relative, place, left_out))
        except OSError:
            # Not lost: whoever analyses this "file" finds out why, and the report says so.
            yield relative
            continue
        waiting.extend(reversed(inner))


def _entries(relative: str, place: str, left_out: set[str]) -> Iterator[tuple[str, str]]:
    """The names in one folder that are worth a look, sorted."""
    with os.scandir(place) as listing:
        entries = sorted(listing, key=lambda entry: entry.name)
    for entry in entries:
        if entry.path in left_out:
            continue
        if entry.is_dir(follow_symlinks=False):
            wanted = entry.name not in SKIPPED_FOLDERS and not _generated(entry.path)
        else:
            wanted = _is_file(entry)
        if wanted:
            yield (f"{relative}/{entry.name}" if relative else entry.name), entry.path


def _is_file(entry: os.DirEntry[str]) -> bool:
    """Whether it is a file, or claims to be one: a link to nothing and a vanished file do."""
    try:
        mode = entry.stat().st_mode
    except FileNotFoundError:
        return True
    except OSError:
        # Most likely a ring of links. Anything else that cannot be asked is no link.
        return not entry.is_symlink()
    return stat.S_ISREG(mode)


def _generated(folder: str) -> bool:
    if os.path.exists(os.path.join(folder, "pyvenv.cfg")):
        return True
    try:
        with open(os.path.join(folder, CACHE_TAG), "rb") as file:
            return file.read(len(CACHE_SIGNATURE)) == CACHE_SIGNATURE
    except OSError:
        return False


def mark_generated(folder: Path) -> None:
    """Tag a folder as holding generated data; :func:`find_files` then leaves it out."""
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / CACHE_TAG) as file:
        file.write(CACHE_SIGNATURE + b"\n# Written by the jobbus demo; can be made again.\n")


def portable(path: str) -> str:
    r"""A file name as text that any database and any JSON can hold.

    File names are bytes and need not be text: a byte that is not becomes ``\xff``, and a backslash
    is doubled. All other names stay as they are.
    """
    if os.sep == "\\":
        return path.replace("\\", "/")
    return "".join(
        "\\\\" if letter == "\\" else f"\\x{ord(letter) - 0xDC00:02x}"
        if "\udc80" <= letter <= "\udcff" else letter
        for letter in path
    )  # fmt: skip


def native(path: str) -> str:
    """The file name that :func:`portable` was given."""
    if os.sep == "\\" or "\\" not in path:
        return path
    text, position = [], 0
    while position < len(path):
        if path.startswith("\\x", position):
            text.append(chr(0xDC00 + int(path[position + 2 : position + 4], 16)))
            position += 4
        else:
            position += path[position] == "\\"
            text.append(path[position])
            position += 1
    return "".join(text)


def labels(roots: Sequence[str]) -> dict[str, str]:
    """A short name for each root, without its place on this machine: its last part.

    Roots with the same last part are told apart by a number: ``music``, ``music-2``.
    """
    names: dict[str, str] = {}
    for root in roots:
        if root in names:
            continue
        plain = portable(os.path.basename(os.path.realpath(native(root)))) or "root"
        taken, name, number = set(names.values()), plain, 1
        while name in taken:
            number += 1
            name = f"{plain}-{number}"
        names[root] = name
    return names


def listing_once(
    store: Path, run: str, roots: Sequence[str], *, exclude: Iterable[Path]
) -> list[FoundFile]:
    """What :func:`find_files` found when this ``run`` first asked; kept in the file ``store``.

    Files come and go. A job that is interrupted and starts over must go by the same list as
    before, or its second half would not fit its first. The roots are :func:`portable`.
    """
    if store.is_file():
        known = json.loads(store.read_bytes())
        if known["run"] == run:
            return [FoundFile(root, path) for root, path in known["files"]]
    found = list(find_files([Path(native(root)) for root in roots], exclude=exclude))
    listing = {"run": run, "files": [[each.root, each.path] for each in found]}
    with replacing(store) as file:
        file.write(json.dumps(listing).encode())
    return found


@contextmanager
def replacing(path: Path, *, workshop: Path | None = None) -> Iterator[BinaryIO]:
    """A file to write that takes the place of ``path`` when the block ends without an error.

    Readers see the old bytes or the new ones, never a part. The new ones grow under a name of
    their own in ``workshop``, which is on the same file system; by default, beside ``path``.
    """
    folder = workshop if workshop is not None else path.parent
    partial = folder / f".{path.name}.{secrets.token_hex(4)}.partial"
    try:
        with partial.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
