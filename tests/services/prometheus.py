"""Prometheus and its promtool, as this machine has them: the server on a port of the tests' own."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.error import URLError
from urllib.parse import urlencode
from urllib.request import urlopen

from tests.services.programs import Scratch, await_answer, end, free_port, scratch
from tests.services.report import ServiceMissing

SECONDS: Final = 30


@dataclass(frozen=True, slots=True)
class Prometheus:
    """A running server."""

    url: str

    def query(self, expression: str) -> list[dict[str, Any]]:
        """What an instant query finds: ``metric`` and ``value`` of each series."""
        return list(self._get("query", query=expression)["result"])

    def values(self, expression: str) -> dict[tuple[str, ...], float]:
        """The same, by the values of all labels but those that Prometheus adds."""
        return {
            tuple(text for name, text in sorted(one["metric"].items()) if name not in _ADDED): (
                float(one["value"][1])
            )
            for one in self.query(expression)
        }

    def alerts(self) -> dict[str, str]:
        """The alerts that are pending or firing, by name; firing where one of several is."""
        found = self._get("alerts")["alerts"]
        # "firing" comes before "pending", and the last one stays.
        found.sort(key=lambda one: one["state"], reverse=True)
        return {one["labels"]["alertname"]: one["state"] for one in found}

    def metric_names(self) -> frozenset[str]:
        """Every metric that was ever scraped."""
        return frozenset(self._get("label/__name__/values"))

    def _get(self, path: str, **parameters: str) -> Any:
        address = f"{self.url}/api/v1/{path}?{urlencode(parameters)}"
        with urlopen(address, timeout=SECONDS) as response:  # noqa: S310 - an address of ours
            return json.load(response)["data"]


_ADDED: Final = frozenset({"__name__", "instance", "job"})


@dataclass(frozen=True, slots=True)
class Promtool:
    """The programs ``promtool`` and ``prometheus``."""

    program: str
    server: str
    how: str

    def check(self, *words: str | Path, folder: Path | None = None) -> str:
        """Run promtool; return what it says. Raises AssertionError with it when it objects."""
        done = subprocess.run(
            [self.program, *words], cwd=folder, capture_output=True, text=True, timeout=SECONDS,
            check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{done.stdout}{done.stderr}"
        return done.stdout

    @contextmanager
    def serving(self, targets: Sequence[str], rules: Mapping[str, str]) -> Iterator[Prometheus]:
        """A server that scrapes these targets twice a second, with these rule files."""
        port = free_port()
        with scratch("prometheus") as place:
            for name, text in rules.items():
                place.give(_written(place.folder / name, text))
            config = place.give(_written(place.folder / "prometheus.yml", _config(targets, rules)))
            log = place.folder / "prometheus.log"
            process = place.start(self._command(place, config, port), log=log)
            server = Prometheus(f"http://127.0.0.1:{port}")
            try:
                await_answer(process, lambda: _ready(server), unless=URLError, log=log)
                yield server
            finally:
                end(process, {signal.SIGTERM: 10, signal.SIGKILL: 5})

    def _command(self, place: Scratch, config: Path, port: int) -> list[str]:
        return [
            self.server,
            f"--config.file={config}",
            f"--storage.tsdb.path={place.folder}/data",
            f"--web.listen-address=127.0.0.1:{port}",
        ]


@contextmanager
def promtool_here() -> Iterator[Promtool]:
    """The programs of this machine. Raises :class:`ServiceMissing` where there are none."""
    program, server = shutil.which("promtool"), shutil.which("prometheus")
    if program is None or server is None:
        raise ServiceMissing("install the Debian package prometheus")
    yield Promtool(program, server, f"{server} on a port of its own")


def _config(targets: Sequence[str], rules: Mapping[str, str]) -> str:
    # JSON is YAML, too.
    return json.dumps(
        {
            "global": {"scrape_interval": "500ms", "evaluation_interval": "500ms"},
            "rule_files": list(rules),
            "scrape_configs": [
                {"job_name": "workers", "static_configs": [{"targets": list(targets)}]}
            ],
        }
    )


def _written(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def _ready(server: Prometheus) -> None:
    urlopen(f"{server.url}/-/ready", timeout=SECONDS).close()  # noqa: S310 - an address of ours
