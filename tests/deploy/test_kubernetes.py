"""The overlays build, are what the API takes, and let workers end in peace."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import kubernetes_validate
import pytest

from jobbus.settings import load_settings
from tests.deploy.manifests import (
    DEPLOY,
    KUBERNETES,
    TIERS,
    documents,
    environment_of,
    overlay,
)

VERSION: Final = "1.31"
KEDA_TRIGGERS: Final = {
    "postgresql": {"query", "targetQueryValue", "activationTargetQueryValue"},
    "prometheus": {"serverAddress", "query", "threshold", "activationThreshold"},
}
"""The fields of each scaler that are used here, of https://keda.sh/docs/latest/scalers/."""
BROKERS: Final = TIERS[3:]
HAND_BACK: Final = 5
"""Seconds that a worker needs beyond its drain to hand back what did not finish."""


def of_kind(tier: str, kind: str) -> list[Any]:
    return [one for one in overlay(tier) if one["kind"] == kind]


def worker(tier: str) -> Any:
    (deployment,) = of_kind(tier, "Deployment")
    return deployment


def configured(tier: str) -> dict[str, str]:
    (config,) = of_kind(tier, "ConfigMap")
    return dict(config["data"])


def validate(document: Any) -> None:
    if not document["apiVersion"].startswith(("keda.sh/", "kustomize.config.k8s.io/")):
        kubernetes_validate.validate(document, VERSION, strict=True)


@pytest.mark.parametrize(
    "path", sorted(KUBERNETES.rglob("*.yaml")), ids=lambda path: str(path.relative_to(KUBERNETES))
)
def test_every_file_is_what_the_api_takes(path: Path) -> None:
    for document in documents(path):
        validate(document)


@pytest.mark.parametrize("tier", TIERS)
def test_every_document_of_a_tier_is_what_the_api_takes(tier: str) -> None:
    for document in overlay(tier):
        validate(document)


def test_a_misspelt_field_is_noticed() -> None:
    (deployment,) = documents(KUBERNETES / "base/worker.yaml")
    deployment["spec"]["template"]["spec"]["terminationGracePeriod"] = 40
    with pytest.raises(kubernetes_validate.ValidationError):
        validate(deployment)


@pytest.mark.parametrize("tier", TIERS)
def test_the_settings_are_those_of_the_tiers_environment_file(tier: str, tmp_path: Path) -> None:
    given = environment_of(DEPLOY / f"{tier}.env")
    mine = configured(tier)
    settings = load_settings(environ={**given, **mine}, directory=tmp_path)
    assert settings.provider == load_settings(environ=given, directory=tmp_path).provider
    assert settings.mode == load_settings(environ=given, directory=tmp_path).mode
    assert settings.monitor.address == "0.0.0.0:9464"
    assert settings.notes == ()


@pytest.mark.parametrize("tier", TIERS)
def test_the_kubelet_waits_longer_than_a_worker_drains(tier: str, tmp_path: Path) -> None:
    pod = worker(tier)["spec"]["template"]["spec"]
    hook = pod["containers"][0]["lifecycle"]["preStop"]["exec"]["command"]
    assert hook[0] == "sleep", "a hook that signals would make SIGTERM the second signal"
    drain = float(configured(tier)["BACKGROUND_JOBS__DRAIN_TIMEOUT_SECONDS"])
    assert pod["terminationGracePeriodSeconds"] > float(hook[1]) + drain + HAND_BACK


@pytest.mark.parametrize("tier", TIERS)
def test_the_probes_ask_the_port_at_which_the_worker_listens(tier: str) -> None:
    container = worker(tier)["spec"]["template"]["spec"]["containers"][0]
    port = int(configured(tier)["BACKGROUND_JOBS__MONITOR__ADDRESS"].rpartition(":")[2])
    assert {one["name"]: one["containerPort"] for one in container["ports"]} == {"metrics": port}
    paths = {
        name: container[name]["httpGet"]["path"]
        for name in ("startupProbe", "livenessProbe", "readinessProbe")
    }
    assert paths == {
        "startupProbe": "/livez",
        "livenessProbe": "/livez",
        "readinessProbe": "/readyz",
    }


@pytest.mark.parametrize("tier", TIERS)
def test_containers_run_without_rights(tier: str) -> None:
    for document in (*of_kind(tier, "Deployment"), *of_kind(tier, "Job")):
        pod = document["spec"]["template"]["spec"]
        assert pod["securityContext"]["runAsNonRoot"] is True
        for container in pod["containers"]:
            rights = container["securityContext"]
            assert rights["allowPrivilegeEscalation"] is False
            assert rights["readOnlyRootFilesystem"] is True
            assert rights["capabilities"] == {"drop": ["ALL"]}


@pytest.mark.parametrize("tier", TIERS)
def test_no_secret_is_in_what_is_committed(tier: str) -> None:
    assert of_kind(tier, "Secret") == []
    assert not [name for name in configured(tier) if "URL" in name and "QUEUE_URL" not in name]


@pytest.mark.parametrize("tier", TIERS[1:])
def test_the_scaler_scales_the_worker_by_fields_that_it_knows(tier: str) -> None:
    (scaled,) = of_kind(tier, "ScaledObject")
    assert scaled["spec"]["scaleTargetRef"]["name"] == worker(tier)["metadata"]["name"]
    assert 1 <= scaled["spec"]["minReplicaCount"] < scaled["spec"]["maxReplicaCount"]
    known = {one["metadata"]["name"] for one in of_kind(tier, "TriggerAuthentication")}
    for trigger in scaled["spec"]["triggers"]:
        assert set(trigger["metadata"]) <= KEDA_TRIGGERS[trigger["type"]]
        assert all(isinstance(text, str) for text in trigger["metadata"].values())
        named = trigger.get("authenticationRef", {}).get("name")
        assert named is None or named in known


@pytest.mark.parametrize("tier", BROKERS)
def test_no_worker_over_a_broker_starts_without_the_ledger(tier: str) -> None:
    (container,) = worker(tier)["spec"]["template"]["spec"]["containers"]
    (variable,) = container["env"]
    wanted = variable["valueFrom"]["secretKeyRef"]
    assert variable["name"] == wanted["key"] == "BACKGROUND_JOBS__LEDGER"
    assert not wanted.get("optional", False)


@pytest.mark.parametrize("tier", ["tier2-postgres", *BROKERS])
def test_the_image_that_migrates_is_the_one_that_works(tier: str) -> None:
    (job,) = of_kind(tier, "Job")
    containers = [one["spec"]["template"]["spec"]["containers"] for one in (job, worker(tier))]
    assert len({container["image"] for (container,) in containers}) == 1


@pytest.mark.parametrize("tier", TIERS)
def test_no_more_than_one_worker_is_taken_away_at_a_time(tier: str) -> None:
    (budget,) = of_kind(tier, "PodDisruptionBudget")
    labels = worker(tier)["spec"]["template"]["metadata"]["labels"]
    assert budget["spec"]["maxUnavailable"] == 1
    assert budget["spec"]["selector"]["matchLabels"].items() <= labels.items()


def test_two_workers_never_have_the_sqlite_file_of_a_pod() -> None:
    assert worker("tier1-sqlite")["spec"]["replicas"] == 1
    assert worker("tier1-sqlite")["spec"]["strategy"] == {"type": "Recreate"}
