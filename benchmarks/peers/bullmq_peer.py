"""BullMQ on Node, one worker in one process; the setting is its concurrency.

Finished jobs stay (``removeOnComplete: false``), and commands travel together
(``enableAutoPipelining``).
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Final
from urllib.parse import urlsplit

from benchmarks.case import PAYLOAD, WARM_UP, Case, Stopwatch, latency_answer, rate_answer, tell

CASES: Final = ("enqueue", "bulk", "drain", "latency")
# Beside the interpreter, so that `make clean` takes it away, too.
FOLDER: Final = Path(sys.prefix) / "bench-bullmq"
PACKAGES: Final = ("bullmq@6", "ioredis@6")
SCRIPT: Final = Path(__file__).with_suffix(".mjs")


def prepare_backend(backend: str) -> None:
    """Install it, where it is not yet. Raises ImportError where that cannot be."""
    for program in ("node", "npm"):
        if shutil.which(program) is None:
            raise ImportError(f"there is no program {program}")
    if (FOLDER / "node_modules" / "bullmq").exists():
        return
    FOLDER.mkdir(exist_ok=True)
    (FOLDER / "package.json").write_text('{"private": true}\n', "utf-8")
    command = ["npm", "install", "--no-audit", "--no-fund", *PACKAGES]
    done = subprocess.run(command, cwd=FOLDER, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ImportError(f"npm could not install {' '.join(PACKAGES)}: {done.stderr[-500:]}")


async def run(case: Case) -> None:
    with _node(case) as (told, asking):
        _read(told)  # it has filled the queue, if that is not what is measured
        watch = Stopwatch(case)
        with watch.running():
            asking.write("begin\n")
            asking.flush()
            answer = _read(told)
        if case.name == "latency":
            tell(latency_answer(answer["latencies"]))
            return
        watch.seconds, watch.cpu = answer["seconds"], answer["cpu"]
        tell({**rate_answer(watch), "peak_rss_mb": answer["rss_mb"]})


@contextmanager
def _node(case: Case) -> Iterator[tuple[IO[str], IO[str]]]:
    """What a new process of Node says, and where it listens."""
    wish = {
        "folder": str(FOLDER),
        "port": urlsplit(case.url).port,
        "name": case.name,
        "jobs": case.jobs + (WARM_UP if case.name == "latency" else 0),
        "concurrency": int(case.setting),
        "payload": PAYLOAD,
    }
    with subprocess.Popen(
        ["node", str(SCRIPT), json.dumps(wish)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as node:
        assert node.stdout is not None
        assert node.stdin is not None
        try:
            yield node.stdout, node.stdin
        finally:
            node.kill()


def _read(told: IO[str]) -> Any:
    line = told.readline()
    if not line:
        raise RuntimeError("node ended without an answer")
    return json.loads(line)
