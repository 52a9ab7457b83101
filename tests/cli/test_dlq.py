"""``jobbus dlq``: list, show, redrive, discard."""

from __future__ import annotations

import pytest

from tests.cli.conftest import Backlog, Run

NOWHERE = "0190a0b0-0000-7000-8000-000000000000"


def test_only_dead_letters_are_listed_with_why_they_died(run: Run, backlog: Backlog) -> None:
    (dead,) = backlog.put_dead(text="no paper")
    backlog.put()
    assert run("dlq", "ls", "-o", "id").lines == [dead]
    assert "ValueError: no paper" in run("dlq", "ls", "-o", "table").out
    assert run("dlq", "ls", "--type", "video.*").json["jobs"] == []
    assert "--state" not in run("dlq", "ls", "--help").out


def test_one_dead_letter_is_redriven_without_a_question(run: Run, backlog: Backlog) -> None:
    ids = backlog.put_dead(2)
    done = run("dlq", "redrive", ids[0])
    assert (done.code, done.json) == (0, {"redriven": 1, "ids": [ids[0]]})
    assert backlog.states(ids) == ["queued", "failed"]


def test_many_are_redriven_after_a_yes_only(run: Run, backlog: Backlog) -> None:
    ids = backlog.put_dead(3)
    refused = run("dlq", "redrive", "--all")
    assert refused.code == 2
    assert "this would redrive 3 jobs" in refused.err
    dry = run("dlq", "redrive", "--all-matching", "--dry-run")
    assert (dry.code, dry.err) == (
        0, "would redrive 3 jobs (state failed/timed_out); nothing was done\n",
    )  # fmt: skip
    assert backlog.states(ids) == ["failed"] * 3
    assert run("dlq", "redrive", "--all", "--yes").json["redriven"] == 3
    assert backlog.states(ids) == ["queued"] * 3


def test_discarding_even_one_needs_a_yes(run: Run, backlog: Backlog) -> None:
    ids = backlog.put_dead(2)
    refused = run("dlq", "discard", ids[0])
    assert refused.code == 2
    assert backlog.states(ids) == ["failed", "failed"]
    done = run("dlq", "discard", ids[0], "--yes")
    assert done.json == {"discarded": 1, "ids": [ids[0]]}
    assert backlog.states(ids) == ["None", "failed"]
    assert run("dlq", "discard", "--all", "--yes").json["discarded"] == 1
    assert backlog.count() == 0


@pytest.mark.parametrize("verb", ["redrive", "discard"])
def test_what_is_no_dead_letter_is_left_alone(verb: str, run: Run, backlog: Backlog) -> None:
    job_id = backlog.put_done()
    done = run("dlq", verb, job_id, "--yes")
    assert done.code == 5
    assert f"{job_id} is completed" in done.err
    assert backlog.states([job_id]) == ["completed"]


def test_the_dead_among_others_are_dealt_with_and_the_others_told(
    run: Run, backlog: Backlog
) -> None:
    (dead,) = backlog.put_dead()
    (waiting,) = backlog.put()
    done = run("dlq", "discard", dead, waiting, NOWHERE, "--yes")
    assert done.code == 4
    assert done.json["ids"] == [dead]
    assert waiting in done.err
    assert NOWHERE in done.err
    assert backlog.states([waiting]) == ["queued"]


@pytest.mark.parametrize("verb", ["redrive", "discard"])
def test_it_must_be_clear_which_are_meant(verb: str, run: Run, backlog: Backlog) -> None:
    backlog.put_dead()
    assert run("dlq", verb).code == 2
    assert run("dlq", verb, "--queue", "default").code == 2
    assert run("dlq", verb, NOWHERE, "--all").code == 2
