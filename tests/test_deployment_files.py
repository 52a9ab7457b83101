"""The files in deploy/ say what they mean, to jobbus and to the service manager."""

from __future__ import annotations

import re
from datetime import timedelta
from pathlib import Path

import pytest

from jobbus.settings import Settings, load_settings

DEPLOY = Path(__file__).parent.parent / "deploy"


def settings_of(tier: str, directory: Path) -> Settings:
    lines = (DEPLOY / f"{tier}.env").read_text().splitlines()
    pairs = [line.split("=", 1) for line in lines if line and not line.startswith("#")]
    return load_settings(environ={name: value for name, value in pairs}, directory=directory)


@pytest.mark.parametrize(
    ("tier", "provider"),
    [("tier1-sqlite", "sqlite"), ("tier2-postgres", "postgres"), ("tier3-sqs", "aws_sqs")],
)
def test_the_environment_of_each_tier_is_accepted_and_chooses_its_provider(
    tier: str, provider: str, tmp_path: Path
) -> None:
    settings = settings_of(tier, tmp_path)
    assert settings.provider == provider
    assert settings.notes == ()


@pytest.mark.parametrize("tier", ["tier1-sqlite", "tier2-postgres", "tier3-sqs"])
def test_the_service_manager_waits_longer_than_a_worker_drains(tier: str, tmp_path: Path) -> None:
    unit = (DEPLOY / "systemd" / "jobbus-worker@.service").read_text()
    found = re.search(r"^TimeoutStopSec=(\d+)$", unit, re.MULTILINE)
    assert found is not None
    assert timedelta(seconds=int(found[1])) >= settings_of(tier, tmp_path).drain_timeout + (
        timedelta(seconds=5)
    )
