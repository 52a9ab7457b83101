"""The commands that are different on Redis, against a real server."""

from __future__ import annotations

import pytest

from tests.cli.conftest import Run
from tests.services import RedisServer, own_prefix, own_redis
from tests.services.programs import free_port
from tests.services.redis import client

PREFIX = "BACKGROUND_JOBS__REDIS__PREFIX"


def test_jobs_in_redis_are_enqueued_shown_and_cancelled(
    run: Run, owned_redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    on = ("--backend", owned_redis.url)
    with own_prefix(owned_redis) as prefix:
        monkeypatch.setenv(PREFIX, prefix)
        (job_id,) = run("enqueue", "email.send", '{"to": 1}', "--unregistered", *on).lines
        assert run("jobs", "show", job_id, *on).json["state"] == "queued"
        assert [job["id"] for job in run("jobs", "ls", *on).json["jobs"]] == [job_id]
        assert run("jobs", "cancel", job_id, "--yes", *on).code == 0
        assert run("jobs", "show", job_id, *on).json["state"] == "cancelled"


def test_the_doctor_finds_a_good_server_well(
    run: Run, owned_redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with own_prefix(owned_redis) as prefix:
        monkeypatch.setenv(PREFIX, prefix)
        done = run("doctor", "--backend", owned_redis.url)
    assert done.code == 0, done.out
    levels = {one["check"]: one["level"] for one in done.json["checks"]}
    looked_at = ("backend", "version", "durability", "memory", "replicas")
    assert {levels[check] for check in looked_at} == {"ok"}


def test_the_doctor_names_what_a_server_lacks(run: Run, owned_redis: RedisServer) -> None:
    with own_redis({"appendonly": "no", "maxmemory-policy": "allkeys-lru"}) as server:
        done = run("doctor", "--backend", server.url)
        assert done.code == 1
        told = [one["message"] for one in done.json["checks"] if one["check"] == "durability"]
        assert ["appendonly yes" in one or "noeviction" in one for one in told] == [True, True]
        assert run("jobs", "ls", "--backend", server.url).code == 2


def test_a_server_that_is_not_there_is_told_without_its_password(run: Run) -> None:
    done = run("jobs", "ls", "--backend", f"redis://:hush@127.0.0.1:{free_port()}/0")
    assert done.code == 3
    assert "hush" not in done.out + done.err


def test_measuring_leaves_nothing_behind(run: Run, owned_redis: RedisServer) -> None:
    with client(owned_redis.url) as asking:
        before = asking.dbsize()
        done = run("bench", "--jobs", "50", "--samples", "3", "--backend", owned_redis.url)
        assert done.code == 0, done.err
        assert done.json["drain_per_second"] > 0
        assert asking.dbsize() == before
