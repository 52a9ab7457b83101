"""A broker, a ledger, and the clock that both go by."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from jobbus.testing.clock import VirtualClock
from tests.tracked.stage import Stage


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    stage = Stage(tmp_path / "jobs.db", VirtualClock())
    yield stage
    await stage.close()
