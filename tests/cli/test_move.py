"""``jobbus move``: from one backend to another, as an operator does it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Iterator
from datetime import timedelta
from functools import partial
from pathlib import Path

import pytest

from jobbus import JobBus, JobState, Worker
from jobbus.backends.amqp.topology import Topology
from jobbus.backends.rabbitmq import RabbitMqQueue
from jobbus.job import EventType
from jobbus.services.move import BATCH
from jobbus.settings import backends
from jobbus.store import JobFilter
from jobbus.testing.make import dead, message
from tests.backends.rabbitmq_broker import channel_to, delete_all, new_prefix
from tests.cli.commands import Program
from tests.cli.conftest import Run
from tests.flow.support import eventually
from tests.services import RabbitMqServer
from tests.tracked.post_office import ENTRY

OLD, NEW = "sqlite:///old.db", "sqlite:///new.db"
WAY = ("move", "--from", OLD, "--to", NEW)
PREFIX = "BACKGROUND_JOBS__RABBITMQ__QUEUE_PREFIX"
MINUTE = timedelta(minutes=1)


def enqueue(run: Run, *options: str, on: str = OLD) -> str:
    (job_id,) = run(
        "enqueue", "greet", '{"name": "Ann"}', "--unregistered", *options, "--backend", on
    ).lines
    return job_id


def states(run: Run, place: str) -> dict[str, str]:
    return {job["id"]: job["state"] for job in run("jobs", "ls", "--backend", place).json["jobs"]}


def test_a_dry_run_says_what_would_move(run: Run) -> None:
    enqueue(run)
    enqueue(run, "--in", "2h")
    plan = run(*WAY, "--dry-run")
    assert plan.code == 0
    assert plan.json["moving"] == [
        {"queue": "default", "state": "queued", "jobs": 1},
        {"queue": "default", "state": "scheduled", "jobs": 1},
    ]
    assert not Path("new.db").exists()


def test_jobs_move_are_verified_and_come_back(run: Run) -> None:
    ids = {enqueue(run): "queued", enqueue(run, "--in", "2h"): "scheduled"}
    told = {"moved": 2, "staying": {}, "refused": {}, "homeless": [], "apart": []}
    assert run(*WAY, "--yes").json == told
    assert (states(run, OLD), states(run, NEW)) == ({}, ids)
    verdict = run(*WAY, "--verify")
    assert (verdict.code, verdict.json["equal"], verdict.json["found"]) == (0, True, 2)
    assert run(*WAY, "--rollback", "--yes").json["moved"] == 2
    assert (states(run, OLD), states(run, NEW)) == (ids, {})


def test_unequal_counts_are_an_error(run: Run) -> None:
    job_id = enqueue(run)
    assert run(*WAY, "--yes").code == 0
    assert run("queues", "purge", "default", "--backend", NEW, "--yes").code == 0
    verdict = run(*WAY, "--verify")
    assert (verdict.code, verdict.json["missing"]) == (1, [job_id])
    assert job_id in verdict.err
    assert run(*WAY, "--finish").code == 1


def test_finishing_forgets_the_journal(run: Run) -> None:
    enqueue(run)
    assert run(*WAY, "--yes").code == 0
    assert run(*WAY, "--finish").code == 0
    assert run(*WAY, "--verify").json["moved"] == 0


def test_a_move_asks_first(run: Run) -> None:
    job_id = enqueue(run)
    refused = run(*WAY)
    assert refused.code == 2
    assert "--yes" in refused.err
    assert states(run, OLD) == {job_id: "queued"}


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--verify", "--bridge"), "do not go together"),
        (("--until-drained",), "belongs to --bridge"),
        (("--state", "running"), "end where they are"),
        (("--state", "lost"), "no job state"),
        (("--queue", "a b"), "queue"),
        (("--to", OLD), "the same place"),
        (("--to", "memory"), "inside one process"),
        (("--from", "sqlite:///nowhere.db"), "no SQLite file"),
        (("--from", "carrier-pigeon"), "no backend named"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_moves(
    run: Run, words: tuple[str, ...], told: str
) -> None:
    job_id = enqueue(run)
    refused = run(*WAY, *words, "--yes")
    assert refused.code in (2, 3)
    assert told in refused.err
    assert states(run, OLD) == {job_id: "queued"}
    assert not Path("nowhere.db").exists()


def test_a_broker_and_its_ledger_are_one_place(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "BUILT_IN", (*backends.BUILT_IN, ENTRY))
    job_id = enqueue(run)
    to = ("move", "--from", OLD, "--to", "PostOffice")
    assert run(*to, "--to-ledger", "sqlite:///ledger.db", "--yes").json["moved"] == 1
    on = ("--backend", "PostOffice", "--ledger", "sqlite:///ledger.db")
    assert run("jobs", "show", job_id, *on).json["state"] == "created"
    events = [event["event"] for event in run("jobs", "show", job_id, *on).json["history"]]
    assert events == ["created", "moved"]


def test_a_bridge_takes_what_comes_until_the_old_one_is_drained(program: Program) -> None:
    assert enqueue(program) is not None
    done = program(*WAY, "--bridge", "--until-drained", "--yes")
    assert done.code == 0, done.err
    assert "drained" in done.err
    assert list(states(program, NEW).values()) == ["queued"]


async def test_a_bridge_goes_on_until_it_is_told_to_stop(program: Program) -> None:
    first = await asyncio.to_thread(enqueue, program)
    process = program.start(*WAY, "--bridge", "--yes")
    try:
        async with (
            JobBus(f"sqlite:///{program.directory}/old.db") as old,
            JobBus(f"sqlite:///{program.directory}/new.db") as new,
        ):
            await eventually(lambda: new.get(first), "the first to arrive")
            second = await old.enqueue("greet", {"name": "Bob"}, unregistered=True)
            await eventually(lambda: new.get(second), "the second to arrive")
        process.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(process.wait, 20) == 0
    finally:
        process.kill()
        process.communicate()


async def test_a_move_that_is_killed_again_and_again_loses_no_job_and_runs_none_twice(
    program: Program,
) -> None:
    number, ran = 6 * BATCH, []
    async with (
        JobBus(f"sqlite:///{program.directory}/old.db") as old,
        JobBus(f"sqlite:///{program.directory}/new.db") as new,
    ):

        @new.job
        async def count(number: int) -> None:
            ran.append(number)

        await old.enqueue_many(
            [await new.message_for("count", {"number": n}) for n in range(number)]
        )
        worker = Worker(new)
        working = asyncio.create_task(worker.run())
        for kill in range(4):
            process = program.start(*WAY, "--yes")
            arrived = kill * BATCH + 1
            await eventually(partial(more_than, new, arrived), f"{arrived} jobs to arrive")
            process.kill()
            process.communicate()
        assert (await asyncio.to_thread(program, *WAY, "--yes")).code == 0
        await eventually(lambda: completed(new, number), "all jobs to run")
        worker.stop()
        await working
        assert await old.count() == 0
    assert sorted(ran) == list(range(number))
    verdict = await asyncio.to_thread(program, *WAY, "--verify")
    assert json.loads(verdict.out)["equal"]


async def more_than(bus: JobBus, number: int) -> bool:
    return await bus.count() >= number


async def completed(bus: JobBus, number: int) -> bool:
    return await bus.count(JobFilter(states=frozenset({JobState.COMPLETED}))) == number


@pytest.fixture
def amqp(
    rabbitmq_server: RabbitMqServer, run: Run, monkeypatch: pytest.MonkeyPatch
) -> Iterator[str]:
    prefix = new_prefix()
    monkeypatch.setenv(PREFIX, prefix)
    yield rabbitmq_server.url
    asyncio.run(delete_all(rabbitmq_server.url, prefix))


@pytest.mark.services
def test_jobs_go_to_a_real_broker_and_come_back(run: Run, amqp: str) -> None:
    plain, urgent = enqueue(run), enqueue(run, "--priority", "9")
    way = ("move", "--from", OLD, "--to", amqp)
    plan = run(*way, "--dry-run").json
    assert [line["jobs"] for line in plan["moving"]] == [1]
    assert "priority 9" in plan["staying"][0]["reason"]
    moved = run(*way, "--yes").json
    assert (moved["moved"], list(moved["refused"])) == (1, [urgent])
    assert run(*way, "--verify").json["found"] is None
    home = run(*way, "--rollback", "--yes").json
    assert home["moved"] == 1
    events = run("jobs", "show", plain, "--backend", OLD).json["history"]
    assert [event["event"] for event in events] == ["created", EventType.MOVED.value]
    assert events[-1]["reason"].startswith("from rabbitmq amqp")


@pytest.mark.services
def test_dead_letters_of_a_real_broker_become_the_stores_and_strangers_are_told(
    run: Run, amqp: str
) -> None:
    dead_id = asyncio.run(_bury(amqp, Topology(os.environ[PREFIX]).dead("default")))
    way = ("move", "--from", amqp, "--to", NEW)
    plan = run(*way, "--dry-run").json
    assert [(line["state"], line["jobs"]) for line in plan["moving"]] == [("failed", 2)]
    moved = run(*way, "--yes")
    assert moved.json["moved"] == 1
    [line] = moved.json["apart"]
    assert (line["queue"], line["messages"]) == ("default", 1)
    assert states(run, NEW) == {dead_id: "failed"}
    assert run("dlq", "redrive", dead_id, "--backend", NEW, "--yes").code == 0
    assert states(run, NEW) == {dead_id: "queued"}


async def _bury(url: str, place: str) -> str:
    """A dead letter, and a message of somebody else's beside it."""
    queue = RabbitMqQueue(url, queue_prefix=os.environ[PREFIX])
    await queue.open()
    await queue.enqueue([message("greet", payload=b'{"name": "Ann"}')])
    [held] = await queue.receive("default", limit=1, wait=MINUTE, lease=MINUTE)
    await queue.dead_letter([dead(held)])
    await queue.close()
    async with channel_to(url) as channel:
        await channel.basic_publish(b"strange", routing_key=place, mandatory=True)
    return held.job_id
