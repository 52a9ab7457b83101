"""Loads named SQL statements from ``.sql`` files, under the configured schema and table prefix."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from typing import Final

from jobbus.errors import ConfigurationError

DEFAULT_PREFIX: Final = "background_job"
_IDENTIFIER: Final = re.compile(r"^[a-z_][a-z0-9_]{0,40}$")
_HEADING: Final = re.compile(r"^-- (\w+): .*$", re.MULTILINE)
_TABLE: Final = re.compile(rf"\b{DEFAULT_PREFIX}(\w*)")
_FRAGMENT: Final = re.compile(r"%([a-z]+_[a-z]+)%")
_RECOVER: Final = "recover_stuck_background_jobs"
_PARAMETER: Final = re.compile(r"(?<![:\w]):([a-z_][a-z0-9_]*)")


@dataclass(frozen=True, slots=True)
class Naming:
    """Where the tables are: an optional schema, and the prefix of their names."""

    schema: str | None = None
    prefix: str = DEFAULT_PREFIX

    def __post_init__(self) -> None:
        for what, name in (("schema", self.schema), ("table prefix", self.prefix)):
            if name is not None and not _IDENTIFIER.match(name):
                raise ConfigurationError(
                    f"{what} {name!r} is not a plain SQL name: use lower-case letters, digits and _"
                )

    def apply(self, sql: str) -> str:
        """``sql`` with every table named as configured."""
        if self.schema is None and self.prefix == DEFAULT_PREFIX:
            return sql
        qualifier = f'"{self.schema}".' if self.schema else ""
        renamed = _TABLE.sub(lambda match: f"{qualifier}{self.prefix}{match[1]}", sql)
        return renamed.replace(f"FUNCTION {_RECOVER}", f"FUNCTION {qualifier}{_RECOVER}")

    def apply_to_schema(self, sql: str) -> str:
        """Like :meth:`apply`, for DDL: an index takes its table's schema and must not name it."""
        renamed = self.apply(sql)
        if self.schema is None:
            return renamed
        return re.sub(r'(CREATE (?:UNIQUE )?INDEX )"\w+"\.', r"\1", renamed)


@lru_cache(maxsize=16)
def load(dialect: str, naming: Naming) -> Mapping[str, str]:
    """All statements of ``dialect`` by name, with ``:name`` parameters."""
    found: dict[str, str] = {}
    for entry in sorted(files(__package__).joinpath(dialect).iterdir(), key=lambda e: e.name):
        if entry.name.endswith(".sql"):
            found |= _split(entry.read_text(encoding="utf-8"))
    return {
        name: naming.apply(_FRAGMENT.sub(lambda used: found[used[1]], sql))
        for name, sql in found.items()
    }


@lru_cache(maxsize=256)
def to_pyformat(sql: str) -> str:
    """``:name`` parameters as psycopg writes them, ``%(name)s``."""
    return _PARAMETER.sub(r"%(\1)s", sql.replace("%", "%%"))


def _split(text: str) -> dict[str, str]:
    headings = list(_HEADING.finditer(text))
    ends = [heading.start() for heading in headings[1:]] + [len(text)]
    return {
        heading[1]: text[heading.end() : end].strip()
        for heading, end in zip(headings, ends, strict=True)
    }
