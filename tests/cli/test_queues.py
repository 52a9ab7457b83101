"""``jobbus queues``: list, pause, resume, purge."""

from __future__ import annotations

from datetime import timedelta

import pytest

from tests.cli.commands import INTERRUPT, Program
from tests.cli.conftest import Backlog, Run


def test_queues_are_listed_with_their_jobs_by_state(run: Run, backlog: Backlog) -> None:
    backlog.put_dead()
    backlog.put(number=2)
    backlog.put(queue="slow", delay=timedelta(hours=1))
    found = {queue["name"]: queue for queue in run("queues", "ls").json["queues"]}
    assert found["default"]["counts"]["queued"] == 2
    assert found["default"]["counts"]["failed"] == 1
    assert found["slow"]["counts"]["scheduled"] == 1
    assert found["slow"]["paused"] is False
    table = run("queues", "ls", "-o", "table").lines
    assert table[0].split()[:2] == ["QUEUE", "QUEUED"]


def test_a_queue_is_paused_and_resumed(run: Run, backlog: Backlog) -> None:
    backlog.put()
    assert run("queues", "pause", "default", "--reason", "deploy").json == {
        "name": "default", "paused": True,
    }  # fmt: skip
    (queue,) = run("queues", "ls").json["queues"]
    assert (queue["paused"], queue["reason"]) == (True, "deploy")
    assert "deploy" in run("queues", "ls", "-o", "table").out
    assert run("queues", "resume", "default").json["paused"] is False
    assert run("queues", "ls").json["queues"][0]["paused"] is False


def test_a_queue_may_be_paused_before_it_has_jobs(run: Run, backlog: Backlog) -> None:
    backlog.put()
    done = run("queues", "pause", "defualt")
    assert done.code == 0
    assert "did you mean default?" in done.err


@pytest.mark.parametrize("verb", ["resume", "purge"])
def test_an_unknown_queue_is_not_found(verb: str, run: Run, backlog: Backlog) -> None:
    backlog.put()
    done = run("queues", verb, "defualt")
    assert done.code == 4
    assert "did you mean default?" in done.err


def test_a_purge_off_a_terminal_needs_a_yes(run: Run, backlog: Backlog) -> None:
    ids = backlog.put(number=2)
    refused = run("queues", "purge", "default")
    assert refused.code == 2
    assert "this would delete 2 jobs of queue default for good" in refused.err
    dry = run("queues", "purge", "default", "--dry-run")
    assert (dry.code, dry.json["waiting"], dry.json["purged"]) == (0, 2, 0)
    assert backlog.states(ids) == ["queued"] * 2


def test_a_purge_deletes_what_has_not_started(run: Run, backlog: Backlog) -> None:
    (dead,) = backlog.put_dead()
    backlog.put(number=2)
    other = backlog.put(queue="slow")
    done = run("queues", "purge", "default", "--yes")
    assert done.json == {"name": "default", "waiting": 2, "purged": 2, "dry_run": False}
    assert backlog.states([dead, *other]) == ["failed", "queued"]


@pytest.mark.parametrize(("typed", "left"), [("default\n", 0), ("yes\n", 2), ("\n", 2)])
def test_a_purge_on_a_terminal_asks_for_the_name(
    typed: str, left: int, program: Program, backlog: Backlog
) -> None:
    backlog.put(number=2)
    shown = program.on_terminal("queues", "purge", "default", typed=typed)
    assert "Type the name default" in shown.out
    assert "2 jobs" in shown.out
    assert shown.code == (0 if left == 0 else 2)
    assert backlog.count() == left


@pytest.mark.parametrize(
    ("typed", "code"), [("y\n", 0), ("YES\n", 0), ("n\n", 2), ("\x04", 2), (INTERRUPT, 130)]
)
def test_many_jobs_are_cancelled_on_a_terminal_after_a_yes(
    typed: str, code: int, program: Program, backlog: Backlog
) -> None:
    ids = backlog.put(number=2)
    shown = program.on_terminal("jobs", "cancel", *ids, typed=typed, after="[y/N]")
    assert "This will cancel 2 jobs. Go on? [y/N]" in shown.out
    assert shown.code == code
    assert backlog.states(ids) == ["cancelled" if code == 0 else "queued"] * 2
