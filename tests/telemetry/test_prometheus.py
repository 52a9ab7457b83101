"""A real Prometheus scrapes two workers: the queries and alerts of S2 find what they should."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

import pytest

from jobbus import JobBus, Message, load_settings
from jobbus.ids import new_id
from tests.services import PostgresServer, Prometheus, Promtool, fresh_database
from tests.services.programs import free_port
from tests.telemetry.asking import until
from tests.telemetry.programs import surroundings

T = TypeVar("T")
PATIENCE: Final = 60.0
DEPLOY: Final = Path(__file__).parents[2] / "deploy"
RULES: Final = ("background_jobs.yml", "jobbus.yml")
QUERIES: Final = (
    "background_jobs_queue_depth",
    "rate(background_jobs_completed_total[5m])",
    "rate(background_jobs_failed_total[5m])",
    "histogram_quantile(0.95, rate(background_jobs_duration_bucket[5m]))",
    "histogram_quantile(0.95, rate(background_jobs_queue_wait_time_bucket[5m]))",
)
NOT_HERE: Final = {"background_jobs_schedule_lag", "background_jobs_relay_lag"}
"""Nothing in jobbus schedules, and without a broker nothing is relayed."""
IDLE_HERE: Final = {"background_jobs_idempotency_total"}
JOBS: Final = 1001
FAILURES: Final = 90
"""``rate`` over five minutes divides by 300 s, whatever part of them is there: 0.3 a second."""

APPLICATION: Final = """
import asyncio
from jobbus import JobBus
bus = JobBus()

@bus.job
async def work() -> None:
    await asyncio.sleep(0.02)

@bus.job(max_attempts=1)
async def bad() -> None:
    raise ValueError("bad")
"""


def eventually(what: str, look: Callable[[], T], expected: Callable[[T], bool]) -> T:
    """Look until it is as expected."""
    deadline = time.monotonic() + PATIENCE
    while not expected(seen := look()):
        assert time.monotonic() < deadline, f"{what} did not come; there is {seen!r}"
        time.sleep(0.1)
    return seen


@contextmanager
def workers(address: str, folder: Path, ports: Sequence[int]) -> Iterator[None]:
    """A worker at each port, all over one database."""
    (folder / "tasks.py").write_text(APPLICATION)
    environment = surroundings(
        JOBBUS_BACKEND=address, BACKGROUND_JOBS__MONITOR__INTERVAL_SECONDS="0.5"
    )
    with ExitStack() as stack:
        for port in ports:
            command = [sys.executable, "-m", "jobbus", "worker", "--monitor", str(port)]
            log = stack.enter_context((folder / f"{port}.log").open("wb"))
            process = subprocess.Popen(command, cwd=folder, env=environment, stderr=log)
            stack.callback(process.wait, timeout=PATIENCE)
            stack.callback(process.terminate)
        for port in ports:
            until(f"http://127.0.0.1:{port}/readyz")
        yield


class Scene:
    """A Prometheus, two workers, and the database between them."""

    def __init__(self, prometheus: Prometheus, address: str) -> None:
        self.prometheus = prometheus
        self._settings = load_settings({"backend": address}, environ={}, directory=Path("/"))

    def enqueue(self, job_type: str, number: int) -> None:
        async def put() -> None:
            messages = [
                Message(job_id=new_id(), job_type=job_type, payload=b"{}", max_attempts=1)
                for _ in range(number)
            ]
            async with JobBus(self._settings) as bus:
                await bus.enqueue_many(messages)

        asyncio.run(put())

    def pause(self, *, paused: bool) -> None:
        async def steer() -> None:
            async with JobBus(self._settings) as bus:
                await (bus.pause("default") if paused else bus.resume("default"))

        asyncio.run(steer())

    def depth(self) -> float:
        """As it was scraped last; -1 where nobody tells."""
        return max(self.prometheus.values("max(background_jobs_queue_depth)").values(), default=-1)

    def await_depth(self, number: int) -> None:
        eventually(f"a depth of {number}", self.depth, lambda seen: seen == number)

    def await_alert(self, name: str, state: str | None) -> None:
        told = lambda: self.prometheus.alerts().get(name)  # noqa: E731
        eventually(f"{name} {state}", told, lambda seen: seen == state)


def shortened(name: str) -> str:
    """A rule file whose alerts fire at once; all else is as it is deployed."""
    text = (DEPLOY / "prometheus" / name).read_text(encoding="utf-8")
    return re.sub(r"for: \d+m", "for: 1s", text)


@dataclass(frozen=True, slots=True)
class Story:
    """What was seen while a thousand jobs waited and one more came, were done, and many failed."""

    prometheus: Prometheus
    alerts_at_the_limit: Mapping[str, str]
    alerts_when_done: Mapping[str, str]


@pytest.fixture(scope="module")
def story(
    promtool: Promtool, postgres_server: PostgresServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Story]:
    ports = [free_port(), free_port()]
    with ExitStack() as stack:
        address = stack.enter_context(fresh_database(postgres_server))
        _migrate(address)
        stack.enter_context(workers(address, tmp_path_factory.mktemp("workers"), ports))
        targets = [f"127.0.0.1:{port}" for port in ports]
        rules = {name: shortened(name) for name in RULES}
        prometheus = stack.enter_context(promtool.serving(targets, rules))
        yield _told(Scene(prometheus, address))


def _told(scene: Scene) -> Story:
    scene.pause(paused=True)
    scene.enqueue("work", JOBS - 1)
    scene.await_depth(JOBS - 1)
    at_the_limit = scene.prometheus.alerts()
    scene.enqueue("work", 1)
    scene.await_alert("HighQueueDepth", "firing")
    scene.pause(paused=False)
    scene.await_depth(0)
    scene.await_alert("HighQueueDepth", None)
    done = scene.prometheus.alerts()
    scene.enqueue("bad", FAILURES)
    scene.await_alert("HighJobFailureRate", "firing")
    return Story(scene.prometheus, at_the_limit, done)


def _migrate(address: str) -> None:
    subprocess.run(
        [sys.executable, "-m", "jobbus", "migrate", "up", "--backend", address],
        env=surroundings(), check=True, capture_output=True, timeout=PATIENCE,
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_the_alert_for_depth_fires_above_a_thousand_jobs_and_clears_when_they_are_done(
    story: Story,
) -> None:
    """That it fired at 1,001, and cleared at none, the story could not have gone on without."""
    assert "HighQueueDepth" not in {**story.alerts_at_the_limit, **story.alerts_when_done}


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_the_alert_for_failures_fires_when_jobs_fail_and_not_before(story: Story) -> None:
    assert "HighJobFailureRate" not in {**story.alerts_at_the_limit, **story.alerts_when_done}
    assert story.prometheus.alerts()["HighJobFailureRate"] == "firing"


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_the_five_queries_find_what_was_done(story: Story) -> None:
    depth, completed, failed, duration, wait = (story.prometheus.values(one) for one in QUERIES)
    assert depth == {("default",): 0}, "one worker measures for both"
    assert set(completed) == {("bad", "default"), ("work", "default")}
    both = story.prometheus.query("rate(background_jobs_completed_total{job_type='work'}[5m])")
    assert [float(one["value"][1]) > 0 for one in both] == [True, True], "both workers worked"
    total = sum(story.prometheus.values("sum(background_jobs_completed_total)").values())
    assert total == JOBS
    # More than the alert's 0.1 when it fired; by now the window may hold more of the quiet before.
    assert max(failed.values()) > 0
    assert 0.02 <= duration["work", "completed", "default"] <= 60
    assert wait["work", "default"] > 0.02


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_every_metric_of_the_dashboard_and_of_the_rules_is_scraped(story: Story) -> None:
    texts = [(DEPLOY / "prometheus" / name).read_text() for name in RULES]
    texts.append((DEPLOY / "grafana/background-jobs.json").read_text())
    used = set(re.findall(r"\bbackground_jobs_[a-z0-9_]+\b", " ".join(texts)))
    missing = used - story.prometheus.metric_names() - NOT_HERE - IDLE_HERE
    assert not missing


def test_the_alerts_of_s2_stand_in_the_file_as_they_were_given() -> None:
    given = """groups:
  - name: background_jobs
    rules:
      - alert: HighQueueDepth
        expr: background_jobs_queue_depth > 1000
        for: 5m
        annotations:
          summary: "Background job queue depth is high"

      - alert: HighJobFailureRate
        expr: rate(background_jobs_failed_total[5m]) > 0.1
        for: 5m
        annotations:
          summary: "Background job failure rate is high"
"""
    assert (DEPLOY / "prometheus/background_jobs.yml").read_text(encoding="utf-8") == given
