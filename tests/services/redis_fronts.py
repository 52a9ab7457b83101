"""A Redis that speaks TLS, and a sentinel that knows where a Redis is."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import redis

from tests.services.programs import Scratch, ServiceBroken, await_answer, end, free_port, scratch
from tests.services.redis import DURABLE, RedisServer, client, program_for
from tests.services.report import ServiceMissing


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsRedis:
    """A server called localhost; its URL ends in the certificate that proves it."""

    url: str
    how: str


@contextmanager
def tls_redis() -> Iterator[TlsRedis]:
    """A server that speaks TLS only. Raises :class:`ServiceMissing` where none can."""
    openssl = shutil.which("openssl")
    if openssl is None:
        raise ServiceMissing("no openssl, to make a certificate with")
    with scratch("redis-tls") as place:
        named = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
        files = ["-keyout", "key.pem", "-out", "cert.pem"]
        place.run([openssl, "req", "-newkey", "rsa:2048", "-nodes", "-x509", *files, *named])
        port, certificate = free_port(), place.folder / "cert.pem"
        settings = {
            **DURABLE,
            "port": "0",
            "tls-port": str(port),
            "tls-cert-file": "cert.pem",
            "tls-key-file": "key.pem",
            "tls-ca-cert-file": "cert.pem",
            "tls-auth-clients": "no",
        }
        url = f"rediss://localhost:{port}/0?ssl_ca_certs={certificate}"
        with ExitStack() as stack:
            try:
                stack.enter_context(_running(place, _words(settings), url))
            except ServiceBroken as error:
                if "tls" not in str(error).casefold():
                    raise
                raise ServiceMissing("this Redis was built without TLS") from error
            yield TlsRedis(url=url, how="started here, with a certificate of its own")


@contextmanager
def sentinel_for(server: RedisServer) -> Iterator[str]:
    """The address of a server by the name ``main``, through a sentinel that watches it."""
    assert server.process is not None
    with scratch("sentinel") as place:
        port = free_port()
        file = place.folder / "sentinel.conf"
        file.write_text(
            f"port {port}\nbind 127.0.0.1\n"
            f"sentinel monitor main 127.0.0.1 {server.process.port} 1\n"
        )
        place.give(file)
        with _running(place, [str(file), "--sentinel"], f"redis://127.0.0.1:{port}"):
            yield f"redis+sentinel://127.0.0.1:{port}/main/0"


@contextmanager
def _running(place: Scratch, words: Sequence[str], url: str) -> Iterator[None]:
    log = place.folder / "redis.log"
    process = place.start([program_for(place), *words], log=log)
    try:
        with client(url) as asking:
            await_answer(process, lambda: _ping(asking), unless=redis.RedisError, log=log)
        yield
    finally:
        end(process, {signal.SIGTERM: 5, signal.SIGKILL: 5})


def _ping(asking: redis.Redis) -> None:
    asking.ping()


def _words(settings: Mapping[str, str]) -> list[str]:
    return [word for name, value in settings.items() for word in (f"--{name}", value)]
