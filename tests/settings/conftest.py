"""Settings from an environment and a directory that hold only what a test puts there."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import pytest

from jobbus.settings import Settings, load_settings


class Load(Protocol):
    def __call__(
        self,
        overrides: Mapping[str, object] | None = None,
        environ: Mapping[str, str] | None = None,
        files: Mapping[str, str] | None = None,
    ) -> Settings: ...


@pytest.fixture
def load(tmp_path: Path) -> Load:
    def load_from(
        overrides: Mapping[str, object] | None = None,
        environ: Mapping[str, str] | None = None,
        files: Mapping[str, str] | None = None,
    ) -> Settings:
        for name, text in (files or {}).items():
            (tmp_path / name).write_text(text, encoding="utf-8")
        return load_settings(overrides, environ=environ or {}, directory=tmp_path)

    return load_from
