"""``jobbus demo`` as a user runs it: to its end, on either database, and over ``kill -9``."""

from __future__ import annotations

import asyncio
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from tests.backends.rabbitmq_broker import delete_all, new_prefix
from tests.emulators.servicebus import Emulator
from tests.services import RabbitMqServer, RedisServer, SqsServer, fresh_queues, own_prefix
from tests.services.sqs import CREDENTIALS, REGION

PATIENCE = 120
EMPTY: Mapping[str, str] = {}
QUEUES = ("default", "library")
"""Those that the demo uses, and that somebody makes or deletes at a broker."""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real folder, of a size that takes a few seconds: parts of Python's own library."""
    folder = tmp_path_factory.mktemp("library")
    stdlib = Path(sysconfig.get_path("stdlib"))
    for name in ("email", "json", "encodings", "asyncio"):
        shutil.copytree(
            stdlib / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "test*")
        )
    return folder


@pytest.fixture(scope="module")
def undisturbed(library: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output of a run that nobody disturbed."""
    output = tmp_path_factory.mktemp("undisturbed") / "output"
    done = run_demo(library, output)
    assert done.returncode == 0, done.stderr
    return output


def command(library: Path, output: Path, extra: Sequence[str] = ()) -> list[str]:
    return [
        *(sys.executable, "-m", "jobbus", "demo", str(library)),
        *("--output", str(output), *extra),
    ]


def environment() -> dict[str, str]:
    """Nothing of this machine's own settings."""
    return {k: v for k, v in os.environ.items() if not k.startswith(("JOBBUS_", "BACKGROUND_"))}


def run_demo(
    library: Path, output: Path, extra: Sequence[str] = (), variables: Mapping[str, str] = EMPTY
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(library, output, extra),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
        env={**environment(), **variables},
        stdin=subprocess.DEVNULL,
    )


def assert_same_report(output: Path, other: Path) -> None:
    """Byte for byte, but for the place that the samples were written to, which is not in it."""
    for name in ("report.json", "report.csv"):
        assert (output / name).read_bytes() == (other / name).read_bytes()


def test_off_a_terminal_it_runs_to_the_end_in_plain_lines(library: Path, tmp_path: Path) -> None:
    done = run_demo(library, tmp_path / "output")
    assert done.returncode == 0, done.stderr
    assert "\x1b" not in done.stdout
    assert "jobs/s" in done.stdout
    assert str(tmp_path / "output" / "report.json") in done.stdout


def test_it_names_the_dead_and_how_to_look_at_them(undisturbed: Path, library: Path) -> None:
    done = run_demo(library, undisturbed)
    assert "jobs in the dead letters" in done.stdout
    shown = next(line for line in done.stdout.splitlines() if "jobbus jobs show" in line)
    words = shown.split("jobbus ", 1)[1].split()
    look = subprocess.run(
        [sys.executable, "-m", "jobbus", *words, "-o", "json"],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=True,
        env=environment(),
    )
    job = json.loads(look.stdout)
    assert job["state"] == "failed"
    assert job["problem"]["kind"] in {"Truncated", "TooLarge", "Corrupt", "Unreadable"}


def test_the_report_tells_what_failed_and_how_often_it_was_tried(undisturbed: Path) -> None:
    report = json.loads((undisturbed / "report.json").read_bytes())
    failures = {failure["path"].rsplit("/", 1)[-1]: failure for failure in report["failures"]}
    assert failures["cut.png"]["error"] == "Truncated"
    assert failures["cut.png"]["attempts"] == 3
    assert failures["too-large.bin"]["error"] == "TooLarge"
    assert failures["too-large.bin"]["attempts"] == 1
    assert report["summary"]["analysed"] > 200


def test_the_report_is_the_same_on_postgres(
    library: Path, undisturbed: Path, tmp_path: Path, postgres_url: str
) -> None:
    done = run_demo(library, tmp_path / "output", ["--backend", postgres_url])
    assert done.returncode == 0, done.stderr
    assert_same_report(tmp_path / "output", undisturbed)


def test_the_report_is_the_same_on_redis(
    library: Path, undisturbed: Path, tmp_path: Path, owned_redis: RedisServer
) -> None:
    with own_prefix(owned_redis) as prefix:
        variables = {"BACKGROUND_JOBS__REDIS__PREFIX": prefix}
        done = run_demo(library, tmp_path / "output", ["--backend", owned_redis.url], variables)
    assert done.returncode == 0, done.stderr
    assert_same_report(tmp_path / "output", undisturbed)


def on_broker(backend: str, folder: Path) -> list[str]:
    """The options for a broker, with a ledger in the folder."""
    return ["--backend", backend, "--ledger", f"sqlite:///{folder / 'ledger.db'}"]


def test_the_report_is_the_same_on_rabbitmq(
    library: Path, undisturbed: Path, tmp_path: Path, rabbitmq_server: RabbitMqServer
) -> None:
    prefix = new_prefix()
    variables = {"BACKGROUND_JOBS__RABBITMQ__QUEUE_PREFIX": prefix}
    options = on_broker(rabbitmq_server.url, tmp_path)
    try:
        done = run_demo(library, tmp_path / "output", options, variables)
    finally:
        asyncio.run(delete_all(rabbitmq_server.url, prefix, QUEUES))
    assert done.returncode == 0, done.stderr
    assert_same_report(tmp_path / "output", undisturbed)


def test_the_report_is_the_same_on_sqs(
    library: Path, undisturbed: Path, tmp_path: Path, sqs_server: SqsServer
) -> None:
    with fresh_queues(sqs_server, QUEUES) as urls:
        variables = {
            **CREDENTIALS,
            "AWS_REGION": REGION,
            "BACKGROUND_JOBS__AWSSQS__QUEUEURL": urls["default"],
            "BACKGROUND_JOBS__AWSSQS__DEADLETTERQUEUEURL": urls["dlq"],
        }
        done = run_demo(library, tmp_path / "output", on_broker("AwsSqs", tmp_path), variables)
    assert done.returncode == 0, done.stderr
    assert_same_report(tmp_path / "output", undisturbed)


def test_the_report_is_the_same_on_service_bus_and_no_key_is_shown(
    library: Path, undisturbed: Path, tmp_path: Path
) -> None:
    with Emulator() as emulator:
        for name in QUEUES:
            emulator.create_queue(name, max_delivery_count=100)
        options = on_broker(emulator.connection_string, tmp_path)
        done = run_demo(library, tmp_path / "output", options)
    assert done.returncode == 0, done.stderr
    assert_same_report(tmp_path / "output", undisturbed)
    assert "SharedAccessKey" not in done.stdout + done.stderr


def test_a_broker_that_remembers_nothing_is_told_to_take_a_ledger(
    library: Path, tmp_path: Path
) -> None:
    done = run_demo(library, tmp_path / "output", ["--backend", "amqp://guest@127.0.0.1:1/"])
    assert done.returncode == 2
    assert "--ledger sqlite:///jobs.db" in done.stderr


@pytest.mark.crash
@pytest.mark.timeout(300)
def test_killed_ten_times_it_comes_to_the_report_of_an_undisturbed_run(
    library: Path, undisturbed: Path, tmp_path: Path
) -> None:
    output = tmp_path / "output"
    chance = random.Random(20261122)
    for _ in range(10):
        process = subprocess.Popen(
            command(library, output),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            stdin=subprocess.DEVNULL,
            env=environment(),
            start_new_session=True,
        )
        # The moment is the point of the test: anywhere from start-up to the middle of the work.
        time.sleep(chance.uniform(0.3, 1.6))
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    done = run_demo(library, output)
    assert done.returncode == 0, done.stderr
    assert_same_report(output, undisturbed)
