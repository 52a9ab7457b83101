"""Several processes behind one address: their series side by side, each family told once."""

from __future__ import annotations

import socket
from http import HTTPStatus
from pathlib import Path

import pytest

from jobbus.errors import ConfigurationError
from jobbus.telemetry.merging import SOCKET_NAME, Processes, merged
from jobbus.telemetry.server import Address, Answer, MonitorServer, Pages
from tests.telemetry.asking import ok

ONE = """# HELP jobs_total Jobs
# TYPE jobs_total counter
jobs_total{queue="a { b"} 3.0
# HELP up_jobs Slots
# TYPE up_jobs gauge
up_jobs 1.0
empty{} 2.0
"""


def test_each_series_gets_the_label_of_its_process() -> None:
    assert merged({"0": ONE, "1": ONE}).splitlines() == [
        "# HELP jobs_total Jobs",
        "# TYPE jobs_total counter",
        'jobs_total{process="0",queue="a { b"} 3.0',
        'jobs_total{process="1",queue="a { b"} 3.0',
        "# HELP up_jobs Slots",
        "# TYPE up_jobs gauge",
        'up_jobs{process="0"} 1.0',
        'empty{process="0"} 2.0',
        'up_jobs{process="1"} 1.0',
        'empty{process="1"} 2.0',
    ]


def serve(folder: Path, process: int, pages: Pages) -> MonitorServer:
    address = Address(path=str(folder / SOCKET_NAME.format(process=process)))
    server = MonitorServer(address, pages)
    server.start()
    return server


def test_a_process_that_does_not_answer_does_not_silence_the_others(tmp_path: Path) -> None:
    server = serve(tmp_path, 1, {"/metrics": lambda: ok("slots 4\n"), "/readyz": lambda: ok("yes")})
    try:
        pages = Processes(tmp_path, 2).pages()
        assert pages["/metrics"]().body == b""  # no family without its comments
        ready = pages["/readyz"]()
    finally:
        server.stop()
    assert ready.status == 200
    assert ready.body.decode().splitlines() == ["process 0: no answer", "process 1: yes"]


def test_nobody_is_ready_when_no_process_is(tmp_path: Path) -> None:
    assert Processes(tmp_path, 2).pages()["/readyz"]().status == 503


def test_one_process_that_is_blocked_makes_all_of_them_unwell(tmp_path: Path) -> None:
    pages: list[Pages] = [
        {"/livez": lambda: ok("alive")},
        {"/livez": lambda: Answer(HTTPStatus.SERVICE_UNAVAILABLE, b"blocked\n")},
    ]
    servers = [serve(tmp_path, index, each) for index, each in enumerate(pages)]
    try:
        assert Processes(tmp_path, 2).pages()["/livez"]().status == 503
    finally:
        for server in servers:
            server.stop()
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_socket_is_left_where_it_is(tmp_path: Path) -> None:
    """An address such as ``unix:/etc/passwd`` is a mistake, and must not become a loss."""
    (tmp_path / SOCKET_NAME.format(process=0)).write_text("precious")
    with pytest.raises(ConfigurationError, match="nothing can listen"):
        serve(tmp_path, 0, {})
    assert (tmp_path / SOCKET_NAME.format(process=0)).read_text() == "precious"


def test_the_socket_of_a_predecessor_that_was_killed_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / SOCKET_NAME.format(process=0)
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    server = serve(tmp_path, 0, {"/readyz": lambda: ok("yes")})
    ready = Processes(tmp_path, 1).pages()["/readyz"]()
    server.stop()
    assert ready.status == 200
