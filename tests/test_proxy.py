"""The TCP proxy of the tests does to connections what it is told to, and nothing else."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator

import pytest

from tests.services.proxy import Proxy, Way, proxy_before

PATIENCE = 10.0


class Echo:
    """A server that sends everything back, and remembers it."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.got = b""
        self.heard = threading.Condition()
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._talk, args=(connection,), daemon=True).start()

    def _talk(self, connection: socket.socket) -> None:
        with connection:
            try:
                while data := connection.recv(4096):
                    with self.heard:
                        self.got += data
                        self.heard.notify_all()
                    connection.sendall(data)
            except OSError:
                return

    def has_got(self, data: bytes) -> bool:
        with self.heard:
            return self.heard.wait_for(lambda: data in self.got, PATIENCE)

    def close(self) -> None:
        self._listener.close()


@pytest.fixture
def echo() -> Iterator[Echo]:
    server = Echo()
    yield server
    server.close()


@pytest.fixture
def proxy(echo: Echo) -> Iterator[Proxy]:
    with proxy_before("127.0.0.1", echo.port) as made:
        yield made


@pytest.fixture
def client(proxy: Proxy) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", proxy.port), timeout=PATIENCE) as made:
        yield made


def exchange(client: socket.socket, data: bytes) -> bytes:
    client.sendall(data)
    return client.recv(4096)


def test_everything_passes_through_a_good_network(client: socket.socket, proxy: Proxy) -> None:
    assert exchange(client, b"hello") == b"hello"
    assert proxy.cuts == 0


def test_every_connection_is_reset_at_once(client: socket.socket, proxy: Proxy) -> None:
    exchange(client, b"hello")
    proxy.cut_all()
    with pytest.raises(ConnectionResetError):
        client.recv(1)
    assert proxy.cuts == 1


def test_a_request_with_a_pattern_never_arrives(
    client: socket.socket, proxy: Proxy, echo: Echo
) -> None:
    proxy.cut_at(b"COMMIT", forward=False)
    exchange(client, b"hello")
    with pytest.raises(ConnectionResetError):
        exchange(client, b"a COMMIT now")
    assert b"COMMIT" not in echo.got


def test_a_request_with_a_pattern_arrives_and_its_reply_is_lost(
    client: socket.socket, proxy: Proxy, echo: Echo
) -> None:
    proxy.cut_at(b"COMMIT", forward=True)
    with pytest.raises(ConnectionResetError):
        exchange(client, b"COMMIT")
    assert echo.has_got(b"COMMIT")


def test_a_trap_is_sprung_as_often_as_it_was_set(proxy: Proxy) -> None:
    proxy.cut_at(b"x", way=Way.REPLY, forward=False, times=1)
    place = ("127.0.0.1", proxy.port)
    with socket.create_connection(place, PATIENCE) as first, pytest.raises(ConnectionResetError):
        exchange(first, b"x")
    with socket.create_connection(place, PATIENCE) as second:
        assert exchange(second, b"x") == b"x"


def test_a_black_hole_swallows_and_gives_back_when_it_is_healed(
    client: socket.socket, proxy: Proxy
) -> None:
    proxy.swallow()
    client.settimeout(0.3)
    with pytest.raises(TimeoutError):
        exchange(client, b"hello")
    proxy.flow()
    client.settimeout(PATIENCE)
    assert client.recv(4096) == b"hello"


def test_a_slow_network_takes_its_time(client: socket.socket, proxy: Proxy) -> None:
    proxy.slow_down(0.1)
    began = time.monotonic()
    assert exchange(client, b"hello") == b"hello"
    assert time.monotonic() - began >= 0.2
