"""jobbus with its telemetry off, or on as in production: counting, measuring, and listening."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Final

from benchmarks.case import Case

SETTINGS: Final[Mapping[str, tuple[str, str]]] = {
    "off": ("BACKGROUND_JOBS__MONITOR__ENABLED", "false"),
    "on": ("BACKGROUND_JOBS__MONITOR__ADDRESS", "0"),
}


CASES: Final = ("enqueue", "bulk", "drain", "latency")


async def run(case: Case) -> None:
    name, value = SETTINGS[case.setting]
    os.environ[name] = value
    # Only now: its bus reads the settings when its first job type is declared.
    from benchmarks.peers import jobbus_peer

    await getattr(jobbus_peer, case.name)(case)
