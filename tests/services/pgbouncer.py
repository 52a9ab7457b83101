"""A pgbouncer in transaction mode before a database: few connections, shared by many clients."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psycopg
from psycopg.conninfo import conninfo_to_dict

from tests.services.addresses import with_place
from tests.services.programs import Scratch, await_answer, end, free_port, scratch
from tests.services.report import ServiceMissing

POOL_SIZE: Final = 2
CARRIED: Final = ("host", "port", "dbname", "user", "password")


@dataclass(frozen=True, slots=True, kw_only=True)
class PgBouncer:
    """A running pooler."""

    url: str
    """The database, through the pooler."""
    how: str


@contextmanager
def pgbouncer_before(url: str) -> Iterator[PgBouncer]:
    """A pooler of the tests' own before the database of ``url``.

    Raises :class:`ServiceMissing` where there is no such program.
    """
    # Not on everyone's PATH: Debian counts it among the administrator's programs.
    search = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/usr/local/sbin"])
    program = shutil.which("pgbouncer", path=search)
    if program is None:
        raise ServiceMissing("install the Debian package pgbouncer")
    port = free_port()
    pooled = with_place(url, "127.0.0.1", port)
    with scratch("pgbouncer") as place:
        log = place.folder / "pgbouncer.log"
        process = place.start([program, _configured(place, url, port)], log=log)
        try:
            await_answer(process, lambda: _ask(pooled), unless=psycopg.OperationalError, log=log)
            yield PgBouncer(
                url=pooled, how=f"{program} in transaction mode, {POOL_SIZE} connections"
            )
        finally:
            end(process, {signal.SIGTERM: 5, signal.SIGKILL: 5})


def _configured(place: Scratch, url: str, port: int) -> Path:
    target = {key: str(value) for key, value in conninfo_to_dict(url).items()}
    database = " ".join(
        f"{key}='{value.replace(chr(39), chr(39) * 2)}'"
        for key, value in target.items()
        if key in CARRIED
    )
    lines = [
        "[databases]",
        f"{target['dbname']} = {database}",
        "[pgbouncer]",
        "listen_addr = 127.0.0.1",
        f"listen_port = {port}",
        "unix_socket_dir =",
        "auth_type = any",
        "pool_mode = transaction",
        f"default_pool_size = {POOL_SIZE}",
        "max_client_conn = 200",
    ]
    path = place.folder / "pgbouncer.ini"
    path.write_text("\n".join(lines) + "\n")
    # The file holds the server's password.
    path.chmod(0o600)
    return place.give(path)


def _ask(url: str) -> None:
    psycopg.connect(url, connect_timeout=3).close()
