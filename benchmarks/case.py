"""What a peer is asked to do, what it answers, and how it is timed."""

from __future__ import annotations

import json
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

PAYLOAD: Final = {"user": 184467, "kind": "report", "note": "x" * 140, "parts": [1, 2, 3]}
"""About 200 bytes of JSON."""
WARM_UP: Final = 10
"""Pick-ups that are not counted."""
_SERVER: Final = """
SELECT pg_current_wal_insert_lsn() - '0/0', (pg_snapshot_xmax(pg_current_snapshot()))::text::bigint
"""


@dataclass(frozen=True, slots=True)
class Case:
    """One measurement of so many jobs; the harness lists the cases that there are."""

    name: str
    url: str
    jobs: int
    setting: str
    """A peer's setting: ``default``, or one that it documents."""


@dataclass(slots=True)
class Stopwatch:
    """Wall seconds, this process's CPU seconds, and what the database server did meanwhile."""

    case: Case
    seconds: float = 0.0
    cpu: float = 0.0
    server: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def running(self) -> Iterator[None]:
        before = _server_counters(self.case.url)
        start, cpu = time.perf_counter(), time.process_time()
        try:
            yield
        finally:
            self.seconds = time.perf_counter() - start
            self.cpu = time.process_time() - cpu
            after = _server_counters(self.case.url)
            self.server = {name: after[name] - value for name, value in before.items()}


def _server_counters(url: str) -> dict[str, float]:
    """What the server has done so far, as far as it tells, for a Postgres or a Redis.

    The whole server's: measure on one that does nothing else.
    """
    if url.startswith("postgres"):
        return _postgres_counters(url)
    if url.startswith("redis"):
        return _redis_counters(url)
    return {}


def _redis_counters(url: str) -> dict[str, float]:
    """Microseconds of CPU, commands from clients and scripts, and bytes of append-only file."""
    from redis import Redis

    with Redis.from_url(url) as client:
        told: dict[str, Any] = client.info("everything")
    seconds = told["used_cpu_user"] + told["used_cpu_sys"]
    return {
        "server_cpu_us": seconds * 1e6,
        "commands": float(told["total_commands_processed"]),
        "file_bytes": float(told["aof_current_size"]),
    }


def _postgres_counters(url: str) -> dict[str, float]:
    """Bytes of WAL and writing transactions, and statements where they are counted."""
    import psycopg

    with psycopg.connect(url, autocommit=True) as connection:
        row = connection.execute(_SERVER).fetchone()
        assert row is not None
        found = {"wal_bytes": float(row[0]), "write_transactions": float(row[1])}
        present = connection.execute("SELECT to_regclass('pg_stat_statements')").fetchone()
        if present and present[0]:
            calls = connection.execute("SELECT sum(calls) FROM pg_stat_statements").fetchone()
            found["statements"] = float(calls[0] or 0) if calls else 0.0
        return found


def rate_answer(watch: Stopwatch) -> dict[str, Any]:
    """What a peer prints for anything but a latency."""
    jobs = watch.case.jobs
    return {
        "rate": jobs / watch.seconds,
        "cpu_us_per_job": watch.cpu / jobs * 1e6,
        "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        **{f"{name}_per_job": value / jobs for name, value in watch.server.items()},
    }


def latency_answer(seconds: list[float]) -> dict[str, Any]:
    """What a peer prints for pick-up latencies: percentiles in milliseconds."""
    ordered = sorted(seconds[WARM_UP:])

    def percentile(part: float) -> float:
        return ordered[min(int(len(ordered) * part), len(ordered) - 1)] * 1000

    return {"p50": percentile(0.50), "p95": percentile(0.95), "p99": percentile(0.99)}


def resident_mb() -> float:
    """What this process holds in memory now, in MiB."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * resource.getpagesize() / 2**20


def tell(answer: dict[str, Any]) -> None:
    """The one line that the harness reads."""
    print(json.dumps({"answer": answer}), flush=True)
