"""Versioned schema changes: plain SQL files per dialect, applied in order, each with a checksum."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, Final

from jobbus.errors import SchemaMismatch

from .statements import Naming

_NAME: Final = re.compile(r"^(\d{4})_(\w+)\.(up|down)\.sql$")


@dataclass(frozen=True, slots=True)
class Migration:
    """One step of the schema."""

    version: int
    name: str
    up: str
    down: str

    @property
    def checksum(self) -> str:
        return hashlib.sha256(self.up.encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class SchemaStatus:
    """What a database has, beside what this code brings."""

    applied: Mapping[int, str]
    """Version to checksum."""
    known: Sequence[Migration]

    @property
    def pending(self) -> Sequence[Migration]:
        return [m for m in self.known if m.version not in self.applied]

    def check(self) -> None:
        """Raise SchemaMismatch unless database and code fit exactly."""
        self.check_history()
        if self.pending:
            raise SchemaMismatch(
                f"the database lacks {len(self.pending)} migration(s) of jobbus: run "
                "`jobbus migrate up`"
            )

    def check_history(self) -> None:
        """Raise SchemaMismatch if the database is newer than this code, or its past differs."""
        newest = self.known[-1].version
        if newer := sorted(version for version in self.applied if version > newest):
            raise SchemaMismatch(
                f"the database has schema version {newer[-1]}, this jobbus knows {newest}: "
                "upgrade jobbus on this machine; nothing was written"
            )
        for migration in self.known:
            if self.applied.get(migration.version, migration.checksum) != migration.checksum:
                raise SchemaMismatch(
                    f"migration {migration.version} was changed after it had been applied here; "
                    "restore the file that came with jobbus"
                )


@lru_cache(maxsize=4)
def migrations(dialect: str) -> tuple[Migration, ...]:
    """All migrations of a dialect, oldest first."""
    texts: dict[tuple[int, str], dict[str, str]] = {}
    for entry in _folder(dialect).iterdir():
        if match := _NAME.match(entry.name):
            steps = texts.setdefault((int(match[1]), match[2]), {})
            steps[match[3]] = entry.read_text(encoding="utf-8")
    return tuple(
        Migration(version, name, steps["up"], steps["down"])
        for (version, name), steps in sorted(texts.items())
    )


def bookkeeping(naming: Naming) -> str:
    """The table that remembers what was applied, the same in both dialects."""
    return naming.apply_to_schema(
        "CREATE TABLE IF NOT EXISTS background_job_migrations ("
        "version integer PRIMARY KEY, name text NOT NULL, checksum text NOT NULL)"
    )


@dataclass(frozen=True, slots=True)
class Step:
    """One migration to run, up or down."""

    title: str
    sql: str
    bookkeeping: str
    parameters: Mapping[str, Any]


def plan(status: SchemaStatus, target: int | None = None) -> list[Step]:
    """The steps from where the database is to ``target``, the newest version if None.

    Raises SchemaMismatch where the database does not fit this code at all.
    """
    status.check_history()
    newest = status.known[-1].version if target is None else target
    up = [m for m in status.known if m.version <= newest and m.version not in status.applied]
    down = [m for m in status.known if m.version > newest and m.version in status.applied]
    return [
        Step(
            f"{m.version:04d} {m.name} up",
            m.up,
            "INSERT INTO background_job_migrations (version, name, checksum) "
            "VALUES (:version, :name, :checksum)",
            {"version": m.version, "name": m.name, "checksum": m.checksum},
        )
        for m in up
    ] + [
        Step(
            f"{m.version:04d} {m.name} down",
            m.down,
            "DELETE FROM background_job_migrations WHERE version = :version",
            {"version": m.version},
        )
        for m in reversed(down)
    ]


def script(dialect: str, naming: Naming) -> str:
    """The whole schema as one SQL text, for people who run their own migrations."""
    parts = [bookkeeping(naming) + ";"]
    for migration in migrations(dialect):
        parts.append(f"-- {migration.version:04d} {migration.name}")
        parts.append(naming.apply_to_schema(migration.up).strip())
        parts.append(
            naming.apply_to_schema(
                "INSERT INTO background_job_migrations (version, name, checksum) VALUES "  # noqa: S608
                f"({migration.version}, '{migration.name}', '{migration.checksum}');"
            )
        )
    return "\n\n".join(parts) + "\n"


def _folder(dialect: str) -> Traversable:
    """In the wheel the files are inside the package; in a checkout they are at its top level."""
    packaged = files("jobbus") / "migrations" / dialect
    if packaged.is_dir():
        return packaged
    return Path(__file__).parents[4] / "migrations" / dialect
