"""What a peer is asked to do, what it answers, and how it is timed."""

from __future__ import annotations

import json
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

PAYLOAD: Final = {"user": 184467, "kind": "report", "note": "x" * 140, "parts": [1, 2, 3]}
"""About 200 bytes of JSON."""


@dataclass(frozen=True, slots=True)
class Case:
    """One measurement: ``enqueue``, ``bulk``, ``drain`` or ``latency``, of so many jobs."""

    name: str
    url: str
    jobs: int
    setting: str
    """A peer's setting: ``default``, or one that it documents."""


@dataclass(slots=True)
class Stopwatch:
    """Wall seconds and this process's CPU seconds over a stretch."""

    seconds: float = 0.0
    cpu: float = 0.0

    @contextmanager
    def running(self) -> Iterator[None]:
        start, cpu = time.perf_counter(), time.process_time()
        try:
            yield
        finally:
            self.seconds = time.perf_counter() - start
            self.cpu = time.process_time() - cpu


def rate_answer(case: Case, watch: Stopwatch) -> dict[str, Any]:
    """What a peer prints for anything but a latency."""
    return {
        "rate": case.jobs / watch.seconds,
        "cpu_us_per_job": watch.cpu / case.jobs * 1e6,
        "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def latency_answer(seconds: list[float]) -> dict[str, Any]:
    """What a peer prints for pick-up latencies: percentiles in milliseconds."""
    ordered = sorted(seconds)

    def percentile(part: float) -> float:
        return ordered[min(int(len(ordered) * part), len(ordered) - 1)] * 1000

    return {"p50": percentile(0.50), "p95": percentile(0.95), "p99": percentile(0.99)}


def tell(answer: dict[str, Any]) -> None:
    """The one line that the harness reads."""
    print(json.dumps({"answer": answer}), flush=True)
