"""``jobbus jobs``: list, show, cancel, retry."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest

from jobbus import JobBus
from jobbus.ids import new_id
from tests.cli.conftest import Backlog, Run

NOWHERE = "0190a0b0-0000-7000-8000-000000000000"


def types(result: Any) -> list[str]:
    return [job["type"] for job in result.json["jobs"]]


def test_jobs_are_listed_newest_first_and_filtered(run: Run, backlog: Backlog) -> None:
    (parent,) = backlog.put("email.send", tags=("vip",))
    backlog.put("email.digest", queue="slow", parent_id=parent)
    backlog.put("video.render", delay=timedelta(hours=1), group="tenant-1")
    assert types(run("jobs", "ls")) == ["video.render", "email.digest", "email.send"]
    assert types(run("jobs", "ls", "--type", "email.*")) == ["email.digest", "email.send"]
    assert types(run("jobs", "ls", "--queue", "slow")) == ["email.digest"]
    assert types(run("jobs", "ls", "--tag", "vip")) == ["email.send"]
    assert types(run("jobs", "ls", "--group", "tenant-1")) == ["video.render"]
    assert types(run("jobs", "ls", "--parent", parent)) == ["email.digest"]
    assert types(run("jobs", "ls", "--state", "delayed")) == ["video.render"]
    assert types(run("jobs", "ls", "--state", "waiting,scheduled")) == types(run("jobs", "ls"))
    assert types(run("jobs", "ls", "--since", "1h")) == types(run("jobs", "ls"))
    assert types(run("jobs", "ls", "--before", "1h")) == []
    assert types(run("jobs", "ls", "--type", "email.*", "--queue", "default")) == ["email.send"]


def test_a_long_list_comes_in_pages(run: Run, backlog: Backlog) -> None:
    ids = backlog.put(number=5)
    found: list[str] = []
    cursor: list[str] = []
    for _ in range(3):
        page = run("jobs", "ls", "--limit", "2", *cursor).json
        found += [job["id"] for job in page["jobs"]]
        cursor = ["--cursor", page["cursor"] or ""]
    assert found == ids[::-1]
    assert cursor == ["--cursor", ""]
    told = run("jobs", "ls", "--limit", "2", "-o", "id")
    assert "there are more: --cursor" in told.err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--state", "runing"], "did you mean running?"),
        (["--cursor", "nonsense"], "--cursor is not one"),
        (["--parent", "nonsense"], "job ids are UUIDs"),
        (["--type", "e*mail"], "no prefix"),
        (["--queue", "a b"], "name of a queue"),
        (["--tag", "a\x1b"], "name of a tag"),
        (["--since", "yesterday"], "--since takes a moment"),
        (["--since", "2030-01-01T00:00:00"], "time zone"),
    ],
)
def test_filters_that_cannot_be_are_refused(
    words: list[str], told: str, run: Run, backlog: Backlog
) -> None:
    backlog.put()
    done = run("jobs", "ls", *words)
    assert done.code == 2
    assert told in done.err


def test_a_backend_that_is_not_there_is_named(run: Run) -> None:
    done = run("jobs", "ls", "--backend", "sqlite:///nowhere.db")
    assert done.code == 3
    assert "nowhere.db" in done.err
    assert run("jobs", "ls").code == 3


def test_a_dead_job_is_shown_with_all_there_is(run: Run, backlog: Backlog) -> None:
    (job_id,) = backlog.put_dead(text="no paper")
    shown = run("jobs", "show", job_id).json
    assert shown["state"] == "failed"
    assert shown["payload"] == {"number": 0}
    assert shown["problem"]["kind"] == "ValueError"
    assert "raise ValueError" in shown["problem"]["traceback"]
    assert [event["event"] for event in shown["history"]] == ["created", "started", "failed"]
    assert shown["next"] == [f"jobbus jobs retry {job_id}", f"jobbus dlq discard {job_id}"]
    page = run("jobs", "show", job_id, "-o", "table").out
    for text in ("no paper", "raise ValueError", "running → failed", '"number": 0', "Next"):
        assert text in page
    assert run("dlq", "show", job_id).json == shown


def test_a_completed_job_is_shown_with_its_result(run: Run, backlog: Backlog) -> None:
    job_id = backlog.put_done()
    shown = run("jobs", "show", job_id).json
    assert (shown["state"], shown["result"]) == ("completed", {"twice": 42})
    assert '"twice": 42' in run("jobs", "show", job_id, "-o", "table").out


def test_children_are_counted_and_pointed_at(run: Run, backlog: Backlog) -> None:
    (parent,) = backlog.put()
    backlog.put("email.digest", number=2, parent_id=parent)
    shown = run("jobs", "show", parent).json
    assert shown["children"] == {"total": 2, "unfinished": 2, "dead": 0}
    assert f"jobbus jobs ls --parent {parent}" in shown["next"]


def test_what_is_no_json_is_shown_in_base64(run: Run, backlog: Backlog) -> None:
    async def put(bus: JobBus) -> str:
        from jobbus import Message

        raw = Message(job_id=new_id(), job_type="raw", payload=b"\xff\x00")
        return (await bus.enqueue_many([raw]))[0]

    job_id = backlog.do(put)
    shown = run("jobs", "show", job_id).json
    assert (shown["payload"], shown["payload_base64"]) == (None, "/wA=")
    assert "/wA=" in run("jobs", "show", job_id, "-o", "table").out


@pytest.mark.parametrize(
    ("job_id", "why"), [(NOWHERE, "holds none of this id"), ("x\x1b[1m", "UUIDs")]
)
def test_showing_an_unknown_job_is_not_found(
    job_id: str, why: str, run: Run, backlog: Backlog
) -> None:
    backlog.put()
    done = run("jobs", "show", job_id)
    assert done.code == 4
    assert why in done.err
    assert "\x1b" not in done.err


def test_suggested_commands_look_at_the_same_backend(run: Run, backlog: Backlog) -> None:
    (job_id,) = backlog.put()
    shown = run("jobs", "show", job_id, "--backend", "sqlite:///jobbus.db").json
    assert shown["next"] == [f"jobbus jobs cancel {job_id} --backend sqlite:///jobbus.db"]


def test_one_job_is_cancelled_without_a_question(run: Run, backlog: Backlog) -> None:
    ids = backlog.put(number=2)
    done = run("jobs", "cancel", ids[0], "--reason", "not needed")
    assert done.code == 0
    assert done.json == {
        "cancelled": 1, "requested": 0, "finished": 0, "not_found": 0,
        "jobs": [{"id": ids[0], "outcome": "cancelled"}],
    }  # fmt: skip
    assert backlog.states(ids) == ["cancelled", "queued"]
    history = run("jobs", "show", ids[0]).json["history"]
    assert history[-1]["reason"] == "not needed"


def test_cancelling_what_has_ended_is_a_conflict(run: Run, backlog: Backlog) -> None:
    job_id = backlog.put_done()
    done = run("jobs", "cancel", job_id)
    assert done.code == 5
    assert f"{job_id} is completed" in done.err
    assert done.json["finished"] == 1


def test_cancelling_an_unknown_job_is_not_found(run: Run, backlog: Backlog) -> None:
    (job_id,) = backlog.put()
    done = run("jobs", "cancel", job_id, NOWHERE, "--yes")
    assert done.code == 4
    assert done.json["cancelled"] == 1
    assert done.json["not_found"] == 1
    assert NOWHERE in done.err


def test_children_are_cancelled_where_it_is_asked_for(run: Run, backlog: Backlog) -> None:
    (parent,) = backlog.put()
    children = backlog.put("email.digest", number=2, parent_id=parent)
    assert run("jobs", "cancel", parent, "--children").json["cancelled"] == 3
    assert backlog.states([parent, *children]) == ["cancelled"] * 3


def test_many_jobs_need_a_yes(run: Run, backlog: Backlog) -> None:
    ids = backlog.put(number=3)
    for words in (["cancel", *ids], ["cancel", "--all-matching", "--type", "email.*"]):
        done = run("jobs", *words)
        assert done.code == 2
        assert "this would cancel 3 jobs" in done.err
        assert "--yes" in done.err
    assert backlog.states(ids) == ["queued"] * 3


def test_a_dry_run_counts_and_does_nothing(run: Run, backlog: Backlog) -> None:
    ids = backlog.put(number=3)
    done = run("jobs", "cancel", "--all-matching", "--dry-run")
    assert done.code == 0
    assert "would cancel 3 jobs" in done.err
    assert backlog.states(ids) == ["queued"] * 3


def test_all_matching_jobs_are_cancelled(run: Run, backlog: Backlog) -> None:
    ids = backlog.put(number=450)
    others = backlog.put("video.render")
    done = run("jobs", "cancel", "--all-matching", "--type", "email.*", "--yes")
    assert (done.code, done.json["cancelled"]) == (0, 450)
    assert set(backlog.states(ids)) == {"cancelled"}
    assert backlog.states(others) == ["queued"]


def test_nothing_that_matches_is_no_error(run: Run, backlog: Backlog) -> None:
    backlog.put()
    done = run("jobs", "cancel", "--all-matching", "--type", "video.*", "--yes")
    assert (done.code, done.err) == (0, "no job matches; nothing was done\n")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["cancel"], "no job was named"),
        (["cancel", "--type", "email.*"], "--all-matching"),
        (["cancel", NOWHERE, "--all-matching"], "not both"),
        (["cancel", NOWHERE, "--type", "x"], "filters go with --all-matching"),
        (["cancel", "--all-matching", "--state", "completed"], "have ended"),
        (["retry"], "no job was named"),
    ],
)
def test_a_selection_that_is_unclear_is_refused(
    words: list[str], told: str, run: Run, backlog: Backlog
) -> None:
    backlog.put()
    done = run("jobs", *words)
    assert done.code == 2
    assert told in done.err


def test_a_dead_job_is_retried_anew(run: Run, backlog: Backlog) -> None:
    (job_id,) = backlog.put_dead()
    done = run("jobs", "retry", job_id)
    assert (done.code, done.json) == (0, {"retried": 1, "ids": [job_id]})
    assert backlog.states([job_id]) == ["queued"]
    assert run("jobs", "show", job_id).json["generation"] == 2


def test_a_job_that_is_due_later_is_made_due_now(run: Run, backlog: Backlog) -> None:
    ids = backlog.put(delay=timedelta(hours=1))
    assert run("jobs", "retry", *ids, "-o", "id").lines == ids
    assert backlog.states(ids) == ["queued"]


@pytest.mark.parametrize("state", ["queued", "completed"])
def test_what_cannot_be_retried_is_a_conflict(state: str, run: Run, backlog: Backlog) -> None:
    job_id = backlog.put_done() if state == "completed" else backlog.put()[0]
    done = run("jobs", "retry", job_id)
    assert done.code == 5
    assert f"{job_id} is {state}" in done.err
    assert "fix:" in done.err
    assert done.json == {"retried": 0, "ids": []}


def test_retrying_an_unknown_job_is_not_found(run: Run, backlog: Backlog) -> None:
    backlog.put()
    assert run("jobs", "retry", NOWHERE).code == 4


def test_all_dead_jobs_are_retried(run: Run, backlog: Backlog) -> None:
    ids = backlog.put_dead(3)
    waiting = backlog.put(delay=timedelta(hours=1))
    assert run("jobs", "retry", "--all-matching").code == 2
    done = run("jobs", "retry", "--all-matching", "--yes")
    assert json.loads(done.out)["retried"] == 3
    assert backlog.states(ids) == ["queued"] * 3
    assert backlog.states(waiting) == ["scheduled"]
