"""An application with an OpenTelemetry SDK of its own gets everything there; one without, here."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from tests.telemetry.asking import samples
from tests.telemetry.programs import run

OWN_SDK: Final = """
import asyncio, json
from opentelemetry import metrics
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
reader = InMemoryMetricReader()
metrics.set_meter_provider(MeterProvider(metric_readers=[reader]))
from jobbus import JobBus, Worker

bus = JobBus("memory")

@bus.job
async def fine(): ...

@bus.job(max_attempts=1)
async def bad():
    raise ValueError("bad")

async def main():
    await bus.enqueue_many([fine.message(), fine.message(), bad.message()])
    await Worker(bus, burst=True).run()
    points = {}
    for resource in reader.get_metrics_data().resource_metrics:
        for scope in resource.scope_metrics:
            for metric in scope.metrics:
                for point in metric.data.data_points:
                    labels = ",".join(point.attributes[key] for key in sorted(point.attributes))
                    value = getattr(point, "count", None) or getattr(point, "value", None)
                    points[f"{metric.name} {labels}".strip()] = [metric.unit, value]
    await bus.close()
    print(json.dumps(points))

asyncio.run(main())
"""

NO_SDK: Final = """
import asyncio, json, urllib.request
from jobbus import JobBus, Worker
from opentelemetry import metrics

bus = JobBus("memory")
orders = metrics.get_meter("shop").create_counter("shop.orders")

@bus.job
async def measure():
    orders.add(1)

async def main():
    worker = Worker(bus, monitor="0")
    running = asyncio.create_task(worker.run())
    await bus.wait(await measure.enqueue())
    url = f"{worker.monitor.address}/metrics"
    text = await asyncio.to_thread(lambda: urllib.request.urlopen(url).read().decode())
    worker.stop()
    await running
    await bus.close()
    print(json.dumps(text))

asyncio.run(main())
"""


def test_an_sdk_of_the_applications_own_collects_every_count_and_duration(tmp_path: Path) -> None:
    found = run(OWN_SDK, tmp_path)
    assert found["background_jobs.enqueued fine,default"] == ["{job}", 2]
    assert found["background_jobs.completed fine,default"] == ["{job}", 2]
    assert found["background_jobs.failed bad,default"] == ["{job}", 1]
    assert found["background_jobs.duration fine,completed,default"] == ["{second}", 2]
    assert found["background_jobs.queue_wait_time fine,default"] == ["{second}", 2]


def test_what_handlers_measure_through_opentelemetry_is_on_the_workers_page(tmp_path: Path) -> None:
    found = samples(run(NO_SDK, tmp_path))
    (orders,) = [value for name, value in found.items() if name.startswith("shop_orders_total")]
    assert orders == 1
    assert found['background_jobs_completed_total{job_type="measure",queue="default"}'] == 1
