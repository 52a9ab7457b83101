"""The endpoint of a worker: what it answers, to whom, and that it answers in any case."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from jobbus import JobBus, Worker, load_settings
from jobbus.errors import ConfigurationError
from jobbus.telemetry.names import INSTRUMENTS
from jobbus.telemetry.server import Address, Answer, MonitorServer
from tests.telemetry.asking import ask, ask_json, ok, samples, say, until

PATIENCE = 60


def make_bus(**monitor: object) -> JobBus:
    asked = {f"monitor.{name}": value for name, value in monitor.items()}
    settings = load_settings({"backend": "memory", **asked}, environ={}, directory=Path("/"))
    return JobBus(settings)


@asynccontextmanager
async def working(bus: JobBus, monitor: str = "0", **options: object) -> AsyncIterator[Worker]:
    worker = Worker(bus, monitor=monitor, **options)  # type: ignore[arg-type]  # the caller's
    running = asyncio.create_task(worker.run())
    while worker.phase != "running" and not running.done():  # noqa: ASYNC110 - nothing tells
        await asyncio.sleep(0.01)
    try:
        yield worker
    finally:
        worker.stop()
        async with asyncio.timeout(PATIENCE):
            await running
        await bus.close()


def address(worker: Worker) -> str:
    found = worker.monitor.address
    assert found is not None
    return found


async def asked(url: str) -> tuple[int, str]:
    return await asyncio.to_thread(ask, url)


async def test_a_worker_says_that_it_lives_and_takes_jobs() -> None:
    async with working(make_bus()) as worker:
        assert await asked(f"{address(worker)}/livez") == (200, "alive\n")
        assert await asked(f"{address(worker)}/readyz") == (200, "taking jobs\n")


async def test_a_worker_that_drains_is_alive_and_not_ready() -> None:
    bus = make_bus()
    started, go = asyncio.Event(), asyncio.Event()

    @bus.job
    async def wait() -> None:
        started.set()
        await go.wait()

    async with working(bus) as worker:
        await wait.enqueue()
        await started.wait()
        worker.stop()
        ready = await asyncio.to_thread(until, f"{address(worker)}/readyz", 503)
        alive, _ = await asked(f"{address(worker)}/livez")
        go.set()
    assert ready == "not taking jobs: draining\n"
    assert alive == 200


async def test_progress_tells_numbers_and_no_names_of_jobs() -> None:
    bus = make_bus()
    started, go = asyncio.Event(), asyncio.Event()

    @bus.job
    async def wait(secret: str) -> None:
        started.set()
        await go.wait()

    async with working(bus, concurrency=3) as worker:
        job_id = await wait.enqueue("canary")
        await started.wait()
        _, text = await asked(f"{address(worker)}/progress")
        found = await asyncio.to_thread(ask_json, f"{address(worker)}/progress")
        go.set()
    assert (found["phase"], found["slots"], found["busy"]) == ("running", 3, 1)
    assert found["queues"] == ["default"]
    assert job_id not in text
    assert "canary" not in text


async def test_it_answers_while_a_handler_blocks_the_event_loop() -> None:
    bus = make_bus()
    answers: list[tuple[int, str]] = []
    urls: list[str] = []

    @bus.job
    async def block() -> None:
        answers.append(ask(f"{urls[0]}/livez"))  # on the event loop, which stands still meanwhile

    async with working(bus) as worker:
        urls.append(address(worker))
        await bus.wait(await block.enqueue())
    assert answers == [(200, "alive\n")]


async def test_a_loop_that_was_blocked_for_a_minute_is_not_alive(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bus = make_bus()
    answers: list[int] = []
    urls: list[str] = []

    @bus.job
    async def block() -> None:
        time.sleep(0.05)  # noqa: ASYNC251 - that is the point
        answers.append(ask(f"{urls[0]}/livez")[0])

    monkeypatch.setattr("jobbus.worker.monitor._STALLED_AFTER", 0.01)
    async with working(bus) as worker:
        urls.append(address(worker))
        await bus.wait(await block.enqueue())
    assert answers == [503]


async def test_what_was_done_is_counted_and_every_instrument_is_there() -> None:
    bus = make_bus(interval_seconds=0.1)

    @bus.job
    async def fine() -> None: ...

    @bus.job(max_attempts=1)
    async def bad() -> None:
        raise ValueError("bad")

    async with working(bus) as worker:
        for _ in range(3):
            await bus.wait(await fine.enqueue())
        await bus.wait(await bad.enqueue())
        text = await _until_told(
            address(worker), 'background_jobs_dead_letters{queue="default"}', 1
        )
    found = samples(text)
    fine_labels = '{job_type="fine",queue="default"}'
    assert found[f"background_jobs_enqueued_total{fine_labels}"] == 3
    assert found[f"background_jobs_completed_total{fine_labels}"] == 3
    assert found['background_jobs_failed_total{job_type="bad",queue="default"}'] == 1
    assert found["background_jobs_workers"] == 1
    assert found[f"background_jobs_queue_wait_time_count{fine_labels}"] == 3
    families = {line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")}
    wanted = {one.family + ("_total" if one.kind == "counter" else "") for one in INSTRUMENTS}
    assert wanted - {"background_jobs_schedule_lag"} <= families
    told = {series.partition("{")[0] for series in found}
    nothing_to_tell = {"background_jobs_schedule_lag", "background_jobs_relay_lag"}
    assert not nothing_to_tell & told, "there is no scheduler, and here no relay: no zeros for them"


async def _until_told(url: str, series: str, value: float) -> str:
    async with asyncio.timeout(PATIENCE):
        while True:
            _, text = await asked(f"{url}/metrics")
            if samples(text).get(series) == value:
                return text
            await asyncio.sleep(0.05)


async def test_nothing_is_counted_where_that_is_switched_off() -> None:
    bus = make_bus(enabled=False)

    @bus.job
    async def fine() -> None: ...

    async with working(bus) as worker:
        await bus.wait(await fine.enqueue())
        assert worker.monitor.address is None
    assert bus.tally is None


async def test_a_port_that_is_taken_is_named() -> None:
    async with working(make_bus()) as worker:
        port = address(worker).rpartition(":")[2]
        with pytest.raises(ConfigurationError, match=rf"127\.0\.0\.1:{port}.*monitor\.address"):
            await Worker(make_bus(), monitor=port).run()


async def test_a_wrong_address_for_a_worker_is_refused_before_it_starts() -> None:
    bus = make_bus()
    with pytest.raises(ConfigurationError, match="takes a port, HOST:PORT or unix:/PATH"):
        await Worker(bus, monitor="everywhere").run()
    await bus.close()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("9464", "http://127.0.0.1:9464"),
        (":9464", "http://127.0.0.1:9464"),
        ("0.0.0.0:9464", "http://0.0.0.0:9464"),
        ("[::1]:9464", "http://[::1]:9464"),
        ("unix:/run/w.sock", "unix:/run/w.sock"),
    ],
)
def test_an_address_is_read(text: str, told: str) -> None:
    assert str(Address.parse(text)) == told


@pytest.mark.parametrize("text", ["", "port", "1:2:port", "65536", "unix:relative", "-1", "٣"])
def test_a_wrong_address_is_refused_when_settings_are_read(text: str) -> None:
    with pytest.raises(ConfigurationError):
        make_bus(address=text or "x").settings  # noqa: B018 - reading them is the test


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"POST /livez HTTP/1.1\r\n\r\n", b"405"),
        (b"GET /nothing HTTP/1.1\r\n\r\n", b"404"),
        (b"GET /../etc/passwd HTTP/1.1\r\n\r\n", b"404"),
        (b"nonsense\r\n\r\n", b"400"),
        (b"\xff\xfe\x00 / HTTP/1.1\r\n\r\n", b"405"),
        (b"GET /livez?x=1 HTTP/1.1\r\nA: " + b"b" * 4000 + b"\r\n\r\n", b"200"),
        (b"GET /broken HTTP/1.1\r\n\r\n", b"500"),
    ],
)
def test_strangers_requests_are_answered_or_refused(request_: bytes, status: bytes) -> None:
    server = MonitorServer(Address("127.0.0.1", 0), {"/livez": lambda: ok("yes"), "/broken": fail})
    server.start()
    try:
        answer = say(server.address.port, request_)
    finally:
        server.stop()
    assert answer.split()[1] == status
    assert b"secret" not in answer


def fail() -> Answer:
    raise RuntimeError("secret")


def test_a_head_without_end_is_cut_off() -> None:
    server = MonitorServer(Address("127.0.0.1", 0), {"/livez": lambda: ok("yes")})
    server.start()
    try:
        assert say(server.address.port, b"GET /livez HTTP/1.1\r\nA: " + b"x" * 20_000) == b""
    finally:
        server.stop()


def test_a_head_request_is_answered_without_a_body() -> None:
    server = MonitorServer(Address("127.0.0.1", 0), {"/livez": lambda: ok("yes")})
    server.start()
    try:
        answer = say(server.address.port, b"HEAD /livez HTTP/1.1\r\n\r\n")
    finally:
        server.stop()
    assert b"Content-Length: 3" in answer
    assert answer.endswith(b"\r\n\r\n")


def test_a_page_that_takes_long_does_not_hold_the_others_up() -> None:
    release = threading.Event()

    def slow() -> Answer:
        assert release.wait(PATIENCE)
        return ok("slow")

    pages = {"/slow": slow, "/livez": lambda: ok("yes")}
    server = MonitorServer(Address("127.0.0.1", 0), pages)
    server.start()
    try:
        with ThreadPoolExecutor(1) as thread:
            asked_first = thread.submit(ask, f"{server.address}/slow")
            alive = ask(f"{server.address}/livez")
            release.set()
            assert asked_first.result(PATIENCE) == (200, "slow")
    finally:
        server.stop()
    assert alive == (200, "yes")
