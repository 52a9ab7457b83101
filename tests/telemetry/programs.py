"""Runs programs of their own for what is set once in a process: OpenTelemetry's providers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import jobbus

SOURCE: Final = Path(jobbus.__file__).parents[1]
SECONDS: Final = 50
_OURS: Final = ("BACKGROUND_JOBS", "JOBBUS", "OTEL_")


def surroundings(**more: str) -> dict[str, str]:
    """An environment in which nothing of jobbus's or OpenTelemetry's is set but this."""
    kept = {name: text for name, text in os.environ.items() if not name.startswith(_OURS)}
    return {**kept, "PYTHONPATH": str(SOURCE), **more}


def run(code: str, folder: Path, *words: str, **environment: str) -> Any:
    """Run a program; return the JSON in the last line that it printed."""
    done = subprocess.run(
        [sys.executable, "-c", code, *words],
        cwd=folder,
        env=surroundings(**environment),
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])
