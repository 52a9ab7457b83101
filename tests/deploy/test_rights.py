"""The least rights in deploy/ are enough for what they are for, and for no more."""

from __future__ import annotations

import asyncio
import re
import secrets
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import psycopg
import pytest
from psycopg import sql

from jobbus import JobBus, Worker, load_settings
from jobbus.errors import BackendError, JobbusError
from jobbus.job import JobState
from tests.deploy.manifests import DEPLOY
from tests.services import PostgresServer, fresh_database

ROLES: Final = ("worker", "producer", "metrics")


@dataclass(frozen=True, slots=True)
class Granted:
    """A migrated database, and its address for each role."""

    roles: dict[str, str]

    def bus(self, role: str) -> JobBus:
        address = {"backend": self.roles[role]}
        return JobBus(load_settings(address, environ={}, directory=Path("/")))


@pytest.fixture(scope="module")
def granted(postgres_server: PostgresServer) -> Iterator[Granted]:
    """``grants.sql`` as psql runs it, for roles of these tests' own."""
    mark, password = secrets.token_hex(4), secrets.token_hex(8)
    names = {role: f"jobbus_test_{role}_{mark}" for role in ROLES}
    with fresh_database(postgres_server) as url:
        asyncio.run(_migrate(url))
        with psycopg.connect(url, autocommit=True) as owner:
            for name in names.values():
                role, word = sql.Identifier(name), sql.Literal(password)
                owner.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(role, word))
            try:
                _psql(url, names)
                yield Granted({role: _as(url, name, password) for role, name in names.items()})
            finally:
                for name in names.values():
                    owner.execute(sql.SQL("DROP OWNED BY {}").format(sql.Identifier(name)))
                    owner.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(name)))


async def _migrate(url: str) -> None:
    queue = JobBus(url).queue
    await queue.migrate()  # type: ignore[attr-defined]  # of the SQL backends only
    await queue.close()


def _psql(url: str, names: dict[str, str]) -> None:
    program = shutil.which("psql")
    if program is None:
        pytest.skip("psql is not installed, for which grants.sql is written")
    variables = [word for role, name in names.items() for word in ("-v", f"{role}={name}")]
    done = subprocess.run(
        [program, url, "--quiet", *variables, "-f", DEPLOY / "postgres/grants.sql"],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""


def _as(url: str, name: str, password: str) -> str:
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return parts._replace(netloc=f"{name}:{password}@{host}").geturl()


async def test_producer_and_worker_do_their_work_with_the_rights_they_have(
    granted: Granted,
) -> None:
    worker, producer = granted.bus("worker"), granted.bus("producer")

    @worker.job
    async def fine(number: int) -> int:
        return number

    @worker.job(max_attempts=1)
    async def bad(number: int) -> None:
        raise ValueError("bad")

    async with producer, worker:
        first = await producer.enqueue("fine", {"number": 1}, unregistered=True)
        last = await producer.enqueue(
            "fine", {"number": 2}, unregistered=True, depends_on=[first], group="g",
            unique_key="k",
        )  # fmt: skip
        dead = await producer.enqueue("bad", {"number": 3}, unregistered=True, max_attempts=1)
        third = await producer.enqueue("fine", {"number": 4}, unregistered=True, delay=3600)
        assert await producer.cancel(third)
        await worker.store.watch(lasting=timedelta(minutes=1))
        await Worker(worker, burst=True).run()
        assert await producer.get_status(last) is JobState.COMPLETED
        assert await producer.get_status(dead) is JobState.FAILED
        assert [event.type for event in await producer.history(dead)]
        await worker.redrive(dead)
        await worker.cancel(dead)
        await worker.discard(dead)


async def test_a_producer_can_neither_delete_nor_change_the_schema(granted: Granted) -> None:
    with psycopg.connect(granted.roles["producer"], autocommit=True) as connection:
        for statement in (
            "DELETE FROM background_jobs",
            "UPDATE background_job_claims SET lease_until = now()",
            "DROP TABLE background_jobs",
            "TRUNCATE background_jobs",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(statement.encode())


async def test_a_worker_cannot_change_the_schema(granted: Granted) -> None:
    with (
        psycopg.connect(granted.roles["worker"], autocommit=True) as connection,
        pytest.raises(psycopg.errors.InsufficientPrivilege),
    ):
        connection.execute("ALTER TABLE background_jobs ADD COLUMN x integer")


async def test_metrics_count_and_read_no_payload(granted: Granted) -> None:
    scaling = (DEPLOY / "kubernetes/components/postgres/scaling.yaml").read_text()
    found = re.search(r"query: (SELECT .*)", scaling)
    assert found is not None
    with psycopg.connect(granted.roles["metrics"], autocommit=True) as connection:
        assert connection.execute(found[1].encode()).fetchone() == (0,)
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("SELECT payload FROM background_jobs")


async def test_without_the_grants_nothing_is_allowed(granted: Granted) -> None:
    """The test of these tests: the role for metrics cannot work as a worker."""
    bus = granted.bus("metrics")
    with pytest.raises((BackendError, JobbusError)):
        async with bus:
            await bus.enqueue("fine", {"number": 1}, unregistered=True)


@pytest.fixture
def redis_cli(tmp_path: Path) -> Iterator[Callable[..., str]]:
    """A Redis of the test's own with ``users.acl``, and its command line."""
    server, client = shutil.which("redis-server"), shutil.which("redis-cli")
    if server is None or client is None:
        pytest.skip("redis-server is not installed, which reads users.acl")
    place = tmp_path / "redis.sock"
    command: list[str | Path] = [
        server,
        "--port",
        "0",
        "--unixsocket",
        place,
        "--save",
        "",
        "--dir",
        tmp_path,
    ]
    with (tmp_path / "redis.log").open("wb") as log:
        process = subprocess.Popen(
            [*command, "--aclfile", DEPLOY / "redis/users.acl"], stdout=log, stderr=log
        )

    def ask(user: str, password: str, *words: str) -> str:
        login = ["--no-auth-warning", "--user", user, "--pass", password]
        done = subprocess.run(
            [str(client), "-s", place, *login, *words], capture_output=True, text=True, timeout=30,
            check=False,
        )  # fmt: skip
        return f"{done.stdout}{done.stderr}".strip()

    try:
        for _ in range(600):
            if place.exists() or process.poll() is not None:
                break
            time.sleep(0.05)
        assert process.poll() is None, (tmp_path / "redis.log").read_text()
        yield ask
    finally:
        process.terminate()
        process.wait(30)


def test_redis_gives_workers_their_keys_and_nothing_else(redis_cli: Callable[..., str]) -> None:
    worker = ("jobbus-worker", "REPLACE-WITH-A-LONG-PASSWORD")
    key = "{jobbus}:x"
    assert redis_cli(*worker, "SET", key, "1") == "OK"
    assert redis_cli(*worker, "EVAL", "return redis.call('GET', KEYS[1])", "1", key) == "1"
    for words in (
        ("GET", "other"), ("SUBSCRIBE", "other"), ("SCAN", "0"), ("KEYS", "*"), ("FLUSHALL",),
        ("CONFIG", "SET", "save", ""), ("SCRIPT", "FLUSH"), ("CLIENT", "KILL", "TYPE", "normal"),
    ):  # fmt: skip
        assert "NOPERM" in redis_cli(*worker, *words), words
    beyond = redis_cli(*worker, "EVAL", "return redis.call('GET', 'other')", "0")
    assert "can't access" in beyond or "NOPERM" in beyond
    assert "NOPERM" in redis_cli("jobbus-metrics", "REPLACE-WITH-ANOTHER-ONE", "GET", key)
    assert "WRONGPASS" in redis_cli("default", "", "PING") or "NOAUTH" in redis_cli(
        "default", "x", "PING"
    )
