"""Rules, alerts and dashboard: promtool accepts them, and every alert has a runbook and a test."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from jobbus.telemetry.names import INSTRUMENTS, Instrument
from tests.deploy.manifests import DEPLOY, documents
from tests.services import Promtool

RULES: Final = ("background_jobs.yml", "jobbus.yml")
FOLDER: Final = DEPLOY / "prometheus"
DASHBOARD: Final = DEPLOY / "grafana/background-jobs.json"
RUNBOOKS: Final = DEPLOY.parent / "docs/runbooks"
SERIES: Final = {series: one for one in INSTRUMENTS for series in one.series}


def rules() -> list[Any]:
    files = (documents(FOLDER / name)[0] for name in RULES)
    return [rule for file in files for group in file["groups"] for rule in group["rules"]]


def alerts() -> list[Any]:
    return [rule for rule in rules() if "alert" in rule]


def expressions() -> list[str]:
    """Every query of the dashboard, with its variables filled in."""
    text = DASHBOARD.read_text(encoding="utf-8")
    return [one.replace("$queue", ".*").replace("$job_type", ".*") for one in _found(text, "expr")]


def _found(text: str, key: str) -> list[str]:
    return list(_walk(json.loads(text), key))


def _walk(node: Any, key: str) -> Iterator[str]:
    if isinstance(node, dict):
        for name, value in node.items():
            if name == key and isinstance(value, str):
                yield value
            else:
                yield from _walk(value, key)
    elif isinstance(node, list):
        for each in node:
            yield from _walk(each, key)


def runbook(alert: str) -> Path:
    """``HighQueueDepth`` is ``high-queue-depth.md``."""
    return RUNBOOKS / f"{re.sub(r'(?<!^)(?=[A-Z])', '-', alert).lower()}.md"


def test_the_rules_are_rules(promtool: Promtool) -> None:
    promtool.check("check", "rules", *RULES, folder=FOLDER)


def test_the_alerts_fire_when_they_should_and_not_before(promtool: Promtool) -> None:
    promtool.check("test", "rules", "tests.yml", folder=FOLDER)


def test_the_configuration_is_one(promtool: Promtool) -> None:
    promtool.check("check", "config", "prometheus.yml", folder=FOLDER)


def test_every_alert_has_a_test() -> None:
    (tests,) = documents(FOLDER / "tests.yml")
    fired = {
        case["alertname"]
        for test in tests["tests"]
        for case in test.get("alert_rule_test", ())
        if case.get("exp_alerts")
    }
    assert fired == {rule["alert"] for rule in alerts()}


@pytest.mark.parametrize("rule", alerts(), ids=lambda rule: str(rule["alert"]))
def test_every_alert_has_a_runbook(rule: Any) -> None:
    page = runbook(rule["alert"])
    assert page.read_text(encoding="utf-8").startswith(f"# {rule['alert']}\n")
    if rule["alert"] not in ("HighQueueDepth", "HighJobFailureRate"):  # given, byte for byte
        assert rule["annotations"]["runbook_url"] == f"docs/runbooks/{page.name}"
        assert rule["labels"]["severity"] in ("warning", "critical")


def test_every_runbook_has_an_alert() -> None:
    assert {page for page in RUNBOOKS.glob("*.md")} == {runbook(one["alert"]) for one in alerts()}


def test_every_query_of_the_dashboard_can_be_read(promtool: Promtool, tmp_path: Path) -> None:
    found = [{"record": f"panel:{n}", "expr": one} for n, one in enumerate(expressions())]
    assert len(found) > 20
    file = tmp_path / "panels.yml"
    file.write_text(json.dumps({"groups": [{"name": "panels", "rules": found}]}))
    promtool.check("check", "rules", file)


def test_queries_name_series_and_labels_that_there_are() -> None:
    recorded = {rule["record"] for rule in rules() if "record" in rule}
    texts = [*expressions(), *(rule["expr"] for rule in rules())]
    for text in texts:
        for name in re.findall(r"background_jobs[a-z0-9_:]+", text):
            assert name in recorded if ":" in name else name in SERIES, f"{name} in {text}"
    for text in texts:
        for name, labels in re.findall(r"(background_jobs_\w+)\{([^}]*)\}", text):
            assert set(re.findall(r"(\w+)=", labels)) <= _labels(SERIES[name]), text


def _labels(one: Instrument) -> set[str]:
    return {*one.labels, "le", "instance", "process"}


def test_every_metric_is_on_the_dashboard() -> None:
    shown = " ".join(expressions())
    missing = [one.name for one in INSTRUMENTS if not any(name in shown for name in one.series)]
    assert missing == []


def test_the_dashboard_is_where_s2_looks_for_it() -> None:
    other = DEPLOY.parent / "dashboards/background-jobs.json"
    assert json.loads(other.read_text()) == json.loads(DASHBOARD.read_text())


def test_panels_do_not_overlap_and_each_says_what_it_shows() -> None:
    panels = json.loads(DASHBOARD.read_text())["panels"]
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        taken |= cells
        assert panel["type"] in ("row", "table") or panel["description"]
    assert len({panel["id"] for panel in panels}) == len(panels)
