"""``jobbus bench``: what this machine and the chosen backend do, in a place of their own."""

from __future__ import annotations

import os
import platform
from typing import Annotated, Any

import typer

from jobbus.cli.measuring import Measured, Size, measure, temporary_bus
from jobbus.cli.options import Cli, command

Jobs = Annotated[
    int, typer.Option("--jobs", "-n", min=1, max=1_000_000, help="How many to enqueue and drain")
]
Samples = Annotated[
    int, typer.Option("--samples", min=1, max=100_000, help="How many pick-ups to time")
]
Concurrency = Annotated[int | None, typer.Option("--concurrency", "-c", min=1, help="Jobs at once")]


@command("backend", "output", "no_color", "debug")
def bench(
    cli: Cli, jobs: Jobs = 2_000, samples: Samples = 200, concurrency: Concurrency = None
) -> None:
    """Measure enqueueing, draining and pick-up times with empty jobs, in one process.

    On SQLite in a temporary file beside the real one, on Postgres in a temporary schema, on Redis
    under a temporary prefix.
    """
    settings = cli.settings()
    size = Size(jobs, samples, concurrency)

    async def work() -> tuple[str, Measured]:
        async with temporary_bus(settings) as bus:
            place = settings.provider
            return place, await measure(bus, size, _teller(cli))

    place, measured = cli.run(work())
    shape = _shape(place, size, measured)
    cli.console.record(shape, lambda: cli.console.facts(_facts(shape)), id_key="backend")


def _teller(cli: Cli) -> Any:
    return lambda text: cli.console.note(f"{text} ...")


def _shape(place: str, size: Size, measured: Measured) -> dict[str, Any]:
    return {
        "backend": place,
        "jobs": size.jobs,
        "enqueue_per_second": round(measured.enqueue_rate, 1),
        "bulk_per_second": round(measured.bulk_rate, 1),
        "drain_per_second": round(measured.drain_rate, 1),
        "pickup_ms": {
            name: round(measured.pick_up(share) * 1000, 3)
            for name, share in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99))
        },
        "pickup_samples": len(measured.pick_ups),
        "machine": {
            "processors": os.cpu_count(),
            "python": platform.python_version(),
            "platform": platform.platform(),
        },
    }


def _facts(shape: dict[str, Any]) -> list[tuple[str, object]]:
    pick_up, machine = shape["pickup_ms"], shape["machine"]
    return [
        ("backend", shape["backend"]),
        ("enqueue, one by one", f"{shape['enqueue_per_second']:,.0f} jobs/s"),
        ("enqueue, in bulk", f"{shape['bulk_per_second']:,.0f} jobs/s"),
        ("drain", f"{shape['drain_per_second']:,.0f} jobs/s"),
        ("pick-up p50", f"{pick_up['p50']:.1f} ms"),
        ("pick-up p95", f"{pick_up['p95']:.1f} ms"),
        ("pick-up p99", f"{pick_up['p99']:.1f} ms"),
        ("machine", f"{machine['processors']} processors, Python {machine['python']}"),
    ]
