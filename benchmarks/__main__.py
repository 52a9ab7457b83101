"""Runs every case for every peer, in turn, each in a process and a database of its own.

Absolute numbers say little: other work on the machine halves them. What counts are the ratios, of
medians over alternating rounds within one run.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

from benchmarks.case import Case
from benchmarks.redis_server import APPENDFSYNC, redis_server
from benchmarks.sqs import queues

PEERS: Final = {
    "postgres": {
        "jobbus": ("jobbus_peer", "default"),
        "jobbus-best": ("jobbus_peer", "best"),
        "jobbus-telemetry": ("telemetry_peer", "on"),
        "jobbus-no-telemetry": ("telemetry_peer", "off"),
        "raw": ("raw_postgres", "default"),
        "pgqueuer": ("pgqueuer_peer", "best"),
        "chancy": ("chancy_peer", "best"),
        "procrastinate": ("procrastinate_peer", "best"),
    },
    "rabbitmq": {
        "jobbus": ("jobbus_peer", "default"),
        "jobbus-best": ("jobbus_peer", "best"),
        "jobbus-ledger-alone": ("jobbus_peer", "ledger-alone"),
        "raw": ("raw_rabbitmq", "default"),
        "raw-multiple": ("raw_rabbitmq", "best"),
        "raw-classic": ("raw_rabbitmq", "classic"),
        "faststream": ("faststream_peer", "best"),
        "celery": ("celery_peer", "best"),
        "dramatiq": ("dramatiq_peer", "best"),
        "taskiq": ("taskiq_peer", "best"),
    },
    "redis": {
        "jobbus": ("jobbus_peer", "default"),
        "jobbus-best": ("jobbus_peer", "best"),
        "jobbus-keys": ("jobbus_peer", "keys"),
        "raw": ("raw_redis", "default"),
        "raw-sync": ("raw_redis_sync", "default"),
        "bullmq": ("bullmq_peer", "100"),
        "bullmq-1": ("bullmq_peer", "1"),
        "bullmq-10": ("bullmq_peer", "10"),
        "bullmq-50": ("bullmq_peer", "50"),
        "bullmq-300": ("bullmq_peer", "300"),
        "huey": ("huey_peer", "best"),
        "taskiq": ("taskiq_peer", "best"),
        "saq": ("saq_peer", "best"),
        "arq": ("arq_peer", "best"),
        "dramatiq": ("dramatiq_peer", "best"),
    },
    "aws_sqs": {
        "jobbus": ("jobbus_peer", "default"),
        "jobbus-best": ("jobbus_peer", "best"),
        "jobbus-ledger-alone": ("jobbus_peer", "ledger-alone"),
        "raw": ("raw_sqs", "default"),
    },
    "sqlite": {
        "jobbus": ("jobbus_peer", "default"),
        "jobbus-telemetry": ("telemetry_peer", "on"),
        "jobbus-no-telemetry": ("telemetry_peer", "off"),
        "raw": ("raw_sqlite", "default"),
        "huey": ("huey_peer", "best"),
        "litequeue": ("litequeue_peer", "default"),
    },
}
BROKERS: Final = ("rabbitmq", "aws_sqs")
SLOW: Final = {
    "chancy": 4, "procrastinate": 20, "huey": 10, "litequeue": 10,
    "bullmq-1": 10, "saq": 10, "arq": 10, "dramatiq": 4, "taskiq": 4,
}  # fmt: skip
"""Peers that take so many times longer get so many times fewer jobs."""
CASES: Final = ("enqueue", "bulk", "drain", "latency")
SHARES: Final = {"enqueue": 20, "together": 4, "rest": 1000}
"""Cases of single jobs get that share of ``--jobs``."""
PICK_UPS: Final = 200
MEASURES: Final = {"latency": "p50", "across": "p50", "rest": "rss_mb", "steps": "cpu_us_per_job"}
SERVER: Final = "postgresql://postgres@127.0.0.1:5432/postgres"
RABBITMQ: Final = "amqp://guest:guest@127.0.0.1:5672/"
SECONDS: Final = 600


def main() -> int:
    asked = _arguments()
    if asked.one:
        _run_here(asked.one)
        return 0
    names = ["jobbus", *(n for n in asked.peers.split(",") if n not in ("jobbus", ""))]
    peers = {name: PEERS[asked.backend][name] for name in names if _known(asked.backend, name)}
    if "jobbus-ledger-alone" in peers and not asked.ledger:
        raise SystemExit("jobbus-ledger-alone needs --ledger postgres")
    found: dict[str, dict[str, list[Any]]] = {case: {} for case in asked.cases.split(",")}
    for number in range(asked.rounds):
        for case in found:
            for name, (module, setting) in peers.items():
                answer = _measure(asked, case, name, module, setting)
                if answer is None:
                    continue
                print(f"round {number + 1} {case:8} {name:12} {_short(answer)}", file=sys.stderr)
                found[case].setdefault(name, []).append(answer)
    _print_ratios(found)
    if asked.json:
        document = _document(found)
        if asked.backend == "redis":
            document["server"] = {"appendonly": "yes", "appendfsync": asked.appendfsync}
        Path(asked.json).write_text(json.dumps(document, indent=1) + "\n", "utf-8")
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks", description=__doc__)
    parser.add_argument("--backend", choices=sorted(PEERS), default="sqlite")
    parser.add_argument(
        "--ledger", choices=("postgres",), help="around jobbus's broker, on --server"
    )
    parser.add_argument("--peers", default="raw", help="comma list beside jobbus")
    parser.add_argument("--cases", default=",".join(CASES))
    parser.add_argument("--jobs", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--server", default=os.environ.get("TEST_DATABASE_CONNECTION", SERVER))
    parser.add_argument(
        "--appendfsync", choices=APPENDFSYNC, default="everysec", help="of every Redis"
    )
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.ledger and asked.backend not in BROKERS:
        parser.error(f"--ledger goes with a broker: {', '.join(BROKERS)}")
    return asked


def _known(backend: str, name: str) -> bool:
    if name not in PEERS[backend]:
        raise SystemExit(f"no peer {name!r} on {backend}; there are {', '.join(PEERS[backend])}")
    module = PEERS[backend][name][0]
    try:
        peer = _peer(module)
        if hasattr(peer, "prepare_backend"):
            peer.prepare_backend(backend)
    except ImportError as error:
        print(f"{name} is left out: {error}", file=sys.stderr)
        return False
    return True


def _peer(module: str) -> Any:
    """A module with a function for each case, or with ``run`` for all and the list ``CASES``.

    ``prepare_backend``, where it has one, raises ImportError if it cannot be had there.
    """
    return import_module(f"benchmarks.peers.{module}")


def _measure(
    asked: argparse.Namespace, case: str, name: str, module: str, setting: str
) -> dict[str, Any] | None:
    """What the peer answers in a process of its own; None where it has no such case."""
    peer = _peer(module)
    if case not in getattr(peer, "CASES", vars(peer)):
        return None
    jobs = PICK_UPS if MEASURES.get(case) == "p50" else asked.jobs // SHARES.get(case, 1)
    if case not in SHARES and MEASURES.get(case, "cpu_us_per_job") == "cpu_us_per_job":
        jobs = max(jobs // SLOW.get(name, 1) // 1000, 1) * 1000
    with _places(asked, setting) as (url, ledger):
        wish = json.dumps([module, case, url, jobs, setting])
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks", "--one", wish],
            env={**os.environ, "JOBBUS_BACKEND": url, "JOBBUS_LEDGER": ledger},
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
    if done.returncode:
        raise SystemExit(f"{module} failed at {case}:\n{done.stderr[-3000:]}")
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])["answer"]
    return answer


def _run_here(wish: str) -> None:
    module, case, url, jobs, setting = json.loads(wish)
    peer = _peer(module)
    measure = peer.run if hasattr(peer, "run") else getattr(peer, case)
    asyncio.run(measure(Case(case, url, jobs, setting)))


@contextmanager
def _places(asked: argparse.Namespace, setting: str) -> Iterator[tuple[str, str]]:
    """Backend and ledger of one measurement; the ledger is ``none`` where there is none."""
    if not asked.ledger:
        with _database(asked) as url:
            yield url, "none"
    elif setting == "ledger-alone":
        with _postgres(asked.server) as ledger:
            yield ledger, "none"
    else:
        with _database(asked) as url, _postgres(asked.server) as ledger:
            yield url, ledger


@contextmanager
def _database(asked: argparse.Namespace) -> Iterator[str]:
    """A fresh database, so that nobody inherits another's bloat."""
    if asked.backend == "sqlite":
        with tempfile.TemporaryDirectory() as folder:
            yield f"sqlite:///{folder}/bench.db"
        return
    if asked.backend == "rabbitmq":
        with _virtual_host() as url:
            yield url
        return
    if asked.backend == "aws_sqs":
        with queues() as address:
            yield address
        return
    if asked.backend == "redis":
        with redis_server(asked.appendfsync) as address:
            yield address
        return
    with _postgres(asked.server) as address:
        yield address


@contextmanager
def _postgres(address: str) -> Iterator[str]:
    import psycopg
    from psycopg import sql

    name = f"jobbus_bench_{uuid4().hex[:12]}"
    with psycopg.connect(address, autocommit=True) as server:
        server.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        try:
            yield address.rpartition("/")[0] + f"/{name}"
        finally:
            server.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


@contextmanager
def _virtual_host() -> Iterator[str]:
    """One of this machine's own broker; whoever runs this may use rabbitmqctl."""
    name = f"jobbus_bench_{uuid4().hex[:12]}"
    subprocess.run(["rabbitmqctl", "-q", "add_vhost", name], check=True)
    try:
        rights = ["set_permissions", "-p", name, "guest", ".*", ".*", ".*"]
        subprocess.run(["rabbitmqctl", "-q", *rights], check=True)
        yield RABBITMQ + name
    finally:
        subprocess.run(["rabbitmqctl", "-q", "delete_vhost", name], check=True)


def _short(answer: dict[str, Any]) -> str:
    return "  ".join(f"{name} {value:,.1f}" for name, value in answer.items())


def _print_ratios(found: dict[str, dict[str, list[Any]]]) -> None:
    for case, peers in found.items():
        measure = MEASURES.get(case, "rate")
        medians = {
            n: statistics.median(a[measure] for a in answers) for n, answers in peers.items()
        }
        for name, value in medians.items():
            if name == "jobbus":
                print(f"{case:8} jobbus: {measure} {value:,.1f}")
                continue
            ratio = medians["jobbus"] / value
            print(f"{case:8} jobbus is {ratio:.2f} of {name} ({measure}: {value:,.1f})")
            for other in ("cpu_us_per_job", "requests_per_job"):
                ours, theirs = (_median(peers[n], other) for n in ("jobbus", name))
                if ours and theirs:
                    print(f"{case:8}   {other} {ours:,.2f}, {ours / theirs:.2f} of {name}'s")


def _median(answers: list[Any], measure: str) -> float:
    return float(statistics.median(answer.get(measure, 0.0) for answer in answers))


def _document(found: dict[str, dict[str, list[Any]]]) -> dict[str, Any]:
    cases: dict[str, Any] = {}
    for case, peers in found.items():
        if MEASURES.get(case) == "p50":
            cases[f"{case}_ms"] = {
                name: {
                    key: statistics.median(answer[key] for answer in answers)
                    for key in ("p50", "p95", "p99")
                }
                for name, answers in peers.items()
            }
        else:
            measure = MEASURES.get(case, "rate")
            cases[case] = {name: [a[measure] for a in answers] for name, answers in peers.items()}
            cases[f"{case}_detail"] = peers
    machine = {
        "python": platform.python_version(),
        "system": platform.platform(),
        "cores": os.cpu_count(),
    }
    return {"machine": machine, "cases": cases}


if __name__ == "__main__":
    sys.exit(main())
