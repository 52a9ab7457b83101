"""The compose files name services, volumes and files that there are, and let workers end."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from jobbus.settings import load_settings
from tests.deploy.manifests import DEPLOY, TIERS, documents, environment_of

COMPOSE = DEPLOY / "compose"
BROKERS = TIERS[3:]
LEDGER = "BACKGROUND_JOBS__LEDGER"


def composed(tier: str) -> Any:
    (document,) = documents(COMPOSE / f"{tier}.yml")
    return document


def given(tier: str) -> dict[str, str]:
    """The environment of its worker."""
    service = composed(tier)["services"]["worker"]
    return {**environment_of(COMPOSE / service["env_file"]), **_filled(service["environment"])}


@pytest.mark.parametrize("tier", TIERS)
def test_what_a_service_needs_is_there(tier: str) -> None:
    document = composed(tier)
    services = document["services"]
    for service in services.values():
        assert set(service.get("depends_on", ())) <= set(services)
        for volume in service.get("volumes", ()):
            source = volume.partition(":")[0]
            if source.startswith("."):
                assert (COMPOSE / source).exists(), source
            else:
                assert source in document["volumes"]
        if "env_file" in service:
            assert (COMPOSE / service["env_file"]).exists()


@pytest.mark.parametrize("tier", TIERS)
def test_the_worker_is_configured_for_its_tier(tier: str, tmp_path: Path) -> None:
    service = composed(tier)["services"]["worker"]
    settings = load_settings(environ=given(tier), directory=tmp_path)
    assert settings.provider == _provider(tier)
    assert settings.monitor.address == "0.0.0.0:9464"
    drain = settings.drain_timeout.total_seconds()
    assert float(service["stop_grace_period"].removesuffix("s")) > drain + 5


@pytest.mark.parametrize("tier", BROKERS)
def test_a_broker_has_a_ledger_whose_schema_is_there_before_its_workers(
    tier: str, tmp_path: Path
) -> None:
    services = composed(tier)["services"]
    ledger = load_settings(environ=given(tier), directory=tmp_path).ledger_settings
    assert ledger is not None
    assert ledger.provider == "postgres"
    assert urlsplit(services["migrate"]["environment"][LEDGER]).hostname in services
    assert "postgres" in services["worker"]["build"]["args"]["EXTRAS"].split(",")
    assert services["worker"]["depends_on"]["migrate"] == {
        "condition": "service_completed_successfully"
    }


@pytest.mark.parametrize("tier", TIERS)
def test_the_extras_of_the_image_are_those_of_jobbus(tier: str) -> None:
    pyproject = (DEPLOY.parent / "pyproject.toml").read_text(encoding="utf-8")
    for extra in composed(tier)["services"]["worker"]["build"]["args"]["EXTRAS"].split(","):
        assert re.search(rf"^{extra} = \[", pyproject, re.MULTILINE), extra


@pytest.mark.parametrize("tier", TIERS)
def test_nothing_is_published_beyond_this_machine(tier: str) -> None:
    for service in composed(tier)["services"].values():
        for port in service.get("ports", ()):
            assert port.startswith("127.0.0.1:")


@pytest.mark.parametrize("tier", TIERS)
def test_compose_itself_accepts_the_file(tier: str) -> None:
    program = shutil.which("docker")
    known = program and subprocess.run(
        [program, "compose", "version"], capture_output=True, check=False, timeout=20
    )
    if not known or known.returncode:
        pytest.skip("there is no docker compose here to ask")
    asked = subprocess.run(
        [str(program), "compose", "-f", COMPOSE / f"{tier}.yml", "config", "--quiet"],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert asked.returncode == 0, asked.stderr


def test_the_image_gives_the_signal_to_the_worker_and_runs_as_nobody_special() -> None:
    text = (DEPLOY / "docker/Dockerfile").read_text(encoding="utf-8")
    last = text.split("\nFROM ")[-1]
    assert 'ENTRYPOINT ["jobbus"]' in last
    assert "USER 10001:10001" in last
    assert "/livez" in last


def _provider(tier: str) -> str:
    return tier.split("-", 1)[1].replace("-", "_")


def _filled(environment: dict[str, str]) -> dict[str, str]:
    """The variables, with the defaults that compose would put in."""
    return {name: re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text) for name, text in environment.items()}
