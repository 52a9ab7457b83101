"""Reads the files in deploy/: YAML, environment files, and what kustomize makes of them."""

from __future__ import annotations

import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

DEPLOY: Final = Path(__file__).parents[2] / "deploy"
KUBERNETES: Final = DEPLOY / "kubernetes"
TIERS: Final = (
    "tier1-sqlite", "tier2-postgres",
    "tier3-redis", "tier3-aws-sqs", "tier3-rabbitmq", "tier3-azure-service-bus",
)  # fmt: skip


def documents(path: Path) -> list[Any]:
    """Every document of a YAML file."""
    return list(yaml.safe_load_all(path.read_text(encoding="utf-8")))


def environment_of(path: Path) -> dict[str, str]:
    """The variables of an environment file."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


@cache
def overlay(tier: str) -> tuple[Any, ...]:
    """The documents of a tier's overlay. Skips the test where there is no kubectl."""
    program = shutil.which("kubectl")
    if program is None:
        pytest.skip("kubectl is not installed, which builds the overlays")
    built = subprocess.run(
        [program, "kustomize", KUBERNETES / "overlays" / tier],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert built.returncode == 0, built.stderr
    return tuple(yaml.safe_load_all(built.stdout))
