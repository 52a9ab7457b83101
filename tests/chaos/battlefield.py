"""What a run takes place on: a database that may be crashed, behind a network that may be cut."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol
from urllib.parse import urlsplit

import psycopg

from tests.chaos.plan import POSTGRES, REDIS, SQLITE
from tests.crash.checker import EVERYBODY
from tests.crash.place import Place, opened
from tests.services.addresses import with_place
from tests.services.postgres import fresh_database, own_postgres
from tests.services.proxy import Proxy, proxy_before
from tests.services.redis import own_redis

DURABLE: Final = {"fsync": "on", "full_page_writes": "on"}
KEEPING: Final = {
    "appendonly": "yes",
    "appendfsync": "always",
    "maxmemory-policy": "noeviction",
}
"""A Redis that has on disk whatever it answered."""


class Server(Protocol):
    """What can be taken down, and comes back with what it had."""

    def start(self) -> None: ...

    def stop(self) -> None: ...

    def crash(self) -> None: ...


@dataclass(kw_only=True)
class Battlefield:
    """The database as its workers see it, and what can be done to it."""

    place: Place
    address: str
    """What workers connect to."""
    where: str
    server: Server | None = None
    shuts_down: bool = True
    """Whether the server is also taken down in good order; else it only crashes."""
    proxy: Proxy | None = None
    commit: bytes = b"COMMIT"
    """What passes the proxy when something is made to last."""
    _foreign: psycopg.Connection[Any] | None = None

    async def restart(self, *, crash: bool) -> None:
        """Take the server down and up again."""
        assert self.server is not None
        self.note_cut()
        await asyncio.to_thread(self.server.crash if crash else self.server.stop)
        await asyncio.to_thread(self.server.start)
        self.note_cut()
        self.hold_transaction()

    def hold_transaction(self) -> None:
        """On Postgres somebody else's stays open: no dead row can be cleared away meanwhile."""
        self.let_go()
        if not self.place.address.startswith("postgresql://"):
            return
        self._foreign = psycopg.connect(self.place.address)
        self._foreign.execute("SELECT txid_current()")

    def let_go(self) -> None:
        """End it."""
        if self._foreign is not None:
            with contextlib.suppress(psycopg.Error):  # the server went away under it
                self._foreign.close()

    def note_cut(self) -> None:
        self.place.note("cut", process=EVERYBODY)


@contextmanager
def battlefield(backend: str) -> Iterator[Battlefield]:
    """A new one, removed at the end."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="jobbus-chaos-")))
        yield stack.enter_context(_GROUNDS[backend](folder))


@contextmanager
def _on_sqlite(folder: Path) -> Iterator[Battlefield]:
    address = str(folder / "jobs.db")
    with _closing(opened(address, folder)) as place, closing(sqlite3.connect(address)) as foreign:
        # Somebody reads, and goes on reading: what was there when they began has to be kept.
        foreign.execute("BEGIN")
        foreign.execute("SELECT count(*) FROM background_jobs").fetchone()
        yield Battlefield(place=place, address=address, where=f"SQLite {sqlite3.sqlite_version}")


@contextmanager
def _on_postgres(folder: Path) -> Iterator[Battlefield]:
    with ExitStack() as stack:
        server = stack.enter_context(own_postgres(DURABLE))
        url = stack.enter_context(fresh_database(server))
        proxy = stack.enter_context(_proxy_to(url))
        place = stack.enter_context(_closing(opened(url, folder)))
        field = Battlefield(
            place=place,
            address=with_place(url, "127.0.0.1", proxy.port),
            where=f"PostgreSQL {server.how}, fsync on",
            server=server,
            proxy=proxy,
        )
        proxy.on_cut = field.note_cut
        field.hold_transaction()
        stack.callback(field.let_go)
        yield field


@contextmanager
def _on_redis(folder: Path) -> Iterator[Battlefield]:
    with ExitStack() as stack:
        server = stack.enter_context(own_redis(KEEPING))
        proxy = stack.enter_context(_proxy_to(server.url))
        place = stack.enter_context(_closing(opened(f"{server.url}#chaos", folder)))
        field = Battlefield(
            place=place,
            address=f"{with_place(server.url, '127.0.0.1', proxy.port)}#chaos",
            where=f"Redis {server.how}, appendfsync always",
            server=server.process,
            shuts_down=False,
            proxy=proxy,
            commit=b"EVALSHA",
        )
        proxy.on_cut = field.note_cut
        yield field


def _proxy_to(url: str) -> AbstractContextManager[Proxy]:
    parts = urlsplit(url)
    assert parts.hostname is not None
    assert parts.port is not None
    return proxy_before(parts.hostname, parts.port)


_GROUNDS: Final[Mapping[str, Callable[[Path], AbstractContextManager[Battlefield]]]] = {
    POSTGRES: _on_postgres,
    SQLITE: _on_sqlite,
    REDIS: _on_redis,
}


@contextmanager
def _closing(place: Place) -> Iterator[Place]:
    try:
        yield place
    finally:
        place.close()
