"""Environment files and systemd units say what they mean, to jobbus and to the service manager."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest

from jobbus.settings import Settings, load_settings
from tests.deploy.manifests import DEPLOY, TIERS, environment_of

UNITS = ("jobbus-worker@.service", "jobbus-migrate.service", "jobbus.target")


def settings_of(tier: str, directory: Path) -> Settings:
    return load_settings(environ=environment_of(DEPLOY / f"{tier}.env"), directory=directory)


@pytest.mark.parametrize("tier", TIERS)
def test_the_environment_of_each_tier_is_accepted_and_chooses_its_provider(
    tier: str, tmp_path: Path
) -> None:
    settings = settings_of(tier, tmp_path)
    assert settings.provider == tier.split("-", 1)[1].replace("-", "_")
    assert settings.monitor.address == "127.0.0.1:9464"
    assert settings.notes == ()


@pytest.mark.parametrize("tier", TIERS)
def test_the_service_manager_waits_longer_than_a_worker_drains(tier: str, tmp_path: Path) -> None:
    unit = (DEPLOY / "systemd" / "jobbus-worker@.service").read_text()
    found = re.search(r"^TimeoutStopSec=(\d+)$", unit, re.MULTILINE)
    assert found is not None
    assert timedelta(seconds=int(found[1])) >= settings_of(tier, tmp_path).drain_timeout + (
        timedelta(seconds=5)
    )


def test_systemd_accepts_the_units(tmp_path: Path) -> None:
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("systemd-analyze is not installed")
    for name in UNITS:
        text = (DEPLOY / "systemd" / name).read_text(encoding="utf-8")
        # The verifier wants to see the program itself.
        (tmp_path / name).write_text(text.replace("/opt/jobbus/bin/jobbus", sys.executable))
    asked = subprocess.run(
        [program, "verify", *(tmp_path / name for name in UNITS)],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    told = [line for line in asked.stderr.splitlines() if line.startswith("jobbus")]
    assert told == []


def test_the_unit_believes_what_a_worker_says_of_itself() -> None:
    unit = (DEPLOY / "systemd" / "jobbus-worker@.service").read_text()
    for line in ("Type=notify", "NotifyAccess=main", "KillMode=mixed", "WatchdogSec=120"):
        assert f"\n{line}\n" in unit
