"""A worker under systemd and in Kubernetes: it says how it stands, and its end costs no attempt.

The same signals as theirs, and the same variables: what they do besides is their own.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from jobbus import JobBus
from jobbus.job import Job, JobState
from tests.deploy.manifests import KUBERNETES, documents
from tests.services.programs import free_port
from tests.telemetry.asking import until
from tests.telemetry.programs import surroundings

PATIENCE: Final = 60.0
APPLICATION: Final = """
import asyncio
from pathlib import Path
from jobbus import JobBus
bus = JobBus("sqlite:///jobs.db")

@bus.job
async def wait(name: str) -> None:
    Path(name + ".started").touch()
    while not Path("go").exists():
        await asyncio.sleep(0.02)
"""


class ServiceManager:
    """Hears what services say of themselves, as systemd does."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "notify"
        self._heard: list[str] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(self.path))
        self._socket.settimeout(PATIENCE)

    def hear(self, state: str) -> list[str]:
        """Everything that was said, up to this for the first time from now on."""
        while True:
            said = self._socket.recv(4096).decode()
            self._heard.append(said)
            if said == state:
                return self._heard

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[ServiceManager]:
    manager = ServiceManager(tmp_path)
    yield manager
    manager.close()


class Stage:
    """A worker process over a SQLite file, and the jobs in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "tasks.py").write_text(APPLICATION)
        self._processes: list[subprocess.Popen[bytes]] = []

    def start(self, *words: str, **environment: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "jobbus", "worker", *words]
        process = subprocess.Popen(
            command, cwd=self.folder, env=surroundings(**environment), start_new_session=True
        )
        self._processes.append(process)
        return process

    async def enqueue(self, *names: str) -> list[str]:
        async with self.bus() as bus:
            return [await bus.enqueue("wait", {"name": name}, unregistered=True) for name in names]

    async def job(self, job_id: str) -> Job:
        async with self.bus() as bus:
            job = await bus.get(job_id)
        assert job is not None
        return job

    def bus(self) -> JobBus:
        return JobBus(f"sqlite:///{self.folder}/jobs.db")

    def await_started(self, name: str) -> None:
        deadline = time.monotonic() + PATIENCE
        while not (self.folder / f"{name}.started").exists():
            assert time.monotonic() < deadline, f"{name} did not start"
            time.sleep(0.02)

    def let_go(self) -> None:
        (self.folder / "go").touch()

    def clear_away(self) -> None:
        for process in self._processes:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    stage = Stage(tmp_path)
    yield stage
    stage.clear_away()


async def test_under_systemd_a_worker_says_ready_and_stopping_and_burns_no_attempt(
    stage: Stage, manager: ServiceManager
) -> None:
    first, second = await stage.enqueue("first", "second")
    worker = stage.start("--concurrency", "1", NOTIFY_SOCKET=str(manager.path))
    manager.hear("READY=1")
    stage.await_started("first")
    worker.send_signal(signal.SIGTERM)  # KillMode=mixed: the worker alone
    manager.hear("STOPPING=1")
    stage.let_go()
    assert worker.wait(PATIENCE) == 0
    done, waiting = await stage.job(first), await stage.job(second)
    assert (done.state, done.attempt, done.failures, done.crashes) == (JobState.COMPLETED, 1, 0, 0)
    assert (waiting.state, waiting.failures, waiting.crashes) == (JobState.QUEUED, 0, 0)


async def test_what_does_not_finish_within_the_drain_goes_back_and_burns_no_attempt(
    stage: Stage, manager: ServiceManager
) -> None:
    (job_id,) = await stage.enqueue("endless")
    worker = stage.start("--drain-timeout", "0.5s", NOTIFY_SOCKET=str(manager.path))
    stage.await_started("endless")
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(PATIENCE) == 0
    job = await stage.job(job_id)
    assert (job.state, job.failures, job.crashes) == (JobState.QUEUED, 0, 0)


async def test_a_worker_gives_signs_of_life_while_it_works_and_drains(
    stage: Stage, manager: ServiceManager
) -> None:
    await stage.enqueue("first")
    worker = stage.start(NOTIFY_SOCKET=str(manager.path), WATCHDOG_USEC="600000")
    stage.await_started("first")
    manager.hear("READY=1")
    manager.hear("WATCHDOG=1")
    worker.send_signal(signal.SIGTERM)
    manager.hear("STOPPING=1")
    manager.hear("WATCHDOG=1")
    stage.let_go()
    assert worker.wait(PATIENCE) == 0


async def test_a_supervisor_speaks_for_its_workers(stage: Stage, manager: ServiceManager) -> None:
    port = free_port()
    supervisor = stage.start(
        "--processes", "2", "--monitor", str(port),
        NOTIFY_SOCKET=str(manager.path), WATCHDOG_USEC="600000",
    )  # fmt: skip
    manager.hear("READY=1")
    manager.hear("WATCHDOG=1")
    page = until(f"http://127.0.0.1:{port}/readyz")
    while page.count("taking jobs") < 2:
        page = until(f"http://127.0.0.1:{port}/readyz")
    metrics = until(f"http://127.0.0.1:{port}/metrics")
    supervisor.send_signal(signal.SIGTERM)
    heard = manager.hear("STOPPING=1")
    assert supervisor.wait(PATIENCE) == 0
    assert heard.count("READY=1") == 1, "the workers themselves are not to speak"
    for process in ("0", "1"):
        assert f'background_jobs_worker_slots{{process="{process}",state="free"}} 10' in metrics


async def test_in_kubernetes_the_hook_and_the_signal_burn_no_attempt(stage: Stage) -> None:
    """What the kubelet does: the hook to its end, SIGTERM, and SIGKILL after the grace period."""
    (deployment,) = documents(KUBERNETES / "base/worker.yaml")
    pod = deployment["spec"]["template"]["spec"]
    container = pod["containers"][0]
    first, second = await stage.enqueue("first", "second")
    port = free_port()
    assert container["command"] == ["jobbus", "worker"]
    worker = stage.start("--concurrency", "1", "--monitor", str(port))
    until(f"http://127.0.0.1:{port}{container['readinessProbe']['httpGet']['path']}")
    stage.await_started("first")
    began = time.monotonic()
    hook = container["lifecycle"]["preStop"]["exec"]["command"]
    await asyncio.to_thread(subprocess.run, hook, check=True)
    worker.send_signal(signal.SIGTERM)
    not_ready = until(f"http://127.0.0.1:{port}/readyz", 503)
    until(f"http://127.0.0.1:{port}{container['livenessProbe']['httpGet']['path']}")
    stage.let_go()
    assert worker.wait(pod["terminationGracePeriodSeconds"] - (time.monotonic() - began)) == 0
    done, waiting = await stage.job(first), await stage.job(second)
    assert "draining" in not_ready
    assert (done.state, done.attempt, done.failures, done.crashes) == (JobState.COMPLETED, 1, 0, 0)
    assert (waiting.state, waiting.failures, waiting.crashes) == (JobState.QUEUED, 0, 0)
