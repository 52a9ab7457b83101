"""Messages and jobs as rows of a database, and back: nothing is lost on the way, or made up."""

from __future__ import annotations

import json
from dataclasses import FrozenInstanceError, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobbus.backends.sql.document import batch_document
from jobbus.backends.sql.inspection import decode_cursor, encode_cursor
from jobbus.backends.sql.program import Dialect
from jobbus.backends.sql.rows import (
    Receipt,
    delivery_from,
    mended,
    message_row,
    problem_from,
    problem_text,
    progress_from,
    progress_text,
)
from jobbus.backends.sql.sqlite_dialect import SQLITE, from_milliseconds, to_milliseconds
from jobbus.backends.sql.statements import Naming, load, to_pyformat
from jobbus.errors import ConfigurationError
from jobbus.ids import new_id
from jobbus.job import Problem, Progress
from jobbus.message import Delivery, Dependency, Message

MESSAGE: Final = Message(job_id=new_id(), job_type="work", payload=b"{}")
MOMENT: Final = datetime(2031, 5, 6, 7, 8, 9, 123000, tzinfo=UTC)


def row(**asked: Any) -> dict[str, Any]:
    return message_row(replace(MESSAGE, **asked), SQLITE)


def test_a_plain_message_fills_no_more_of_its_row_than_it_must() -> None:
    assert set(row()) == {
        "id", "queue", "job_type", "priority", "attempt", "max_attempts", "max_crashes",
        "delay_ms", "blocked", "payload",
    }  # fmt: skip
    assert row()["blocked"] is False
    assert row()["delay_ms"] == 0


def test_a_claimed_row_becomes_the_same_frozen_values_as_any_other_way_of_making_them() -> None:
    due = MOMENT - timedelta(seconds=2)
    claimed = (
        MESSAGE.job_id, 4, 7, 1, 2, 8, "work", b"{}", '{"a": "b"}', 90_000, 5, 6, MOMENT, due, due,
        MOMENT, "g", None, "order-7", '["t"]', '{"tenant": 7}', True,
    )  # fmt: skip
    delivery = delivery_from(claimed, "default", 1.5, Dialect("any", _as_is, str, True))
    message = replace(
        MESSAGE, headers={"a": "b"}, priority=8, group="g", expires_at=MOMENT, max_attempts=5,
        max_crashes=6, timeout=timedelta(seconds=90), unique_key="order-7", tags=("t",),
        metadata={"tenant": 7}, prior_attempts=3,
    )  # fmt: skip
    assert delivery == Delivery(
        message=message, receipt=Receipt(7, True), attempt=4, failures=1, crashes=2,
        enqueued_at=due, wait=timedelta(seconds=2), received_at=1.5,
    )  # fmt: skip
    assert (type(delivery), type(delivery.message)) == (Delivery, Message)
    for value in (delivery, delivery.message):
        with pytest.raises(FrozenInstanceError):
            setattr(value, next(iter(value.__slots__)), None)


def _as_is(value: Any) -> Any:
    return value


def test_what_is_asked_for_stands_in_its_column() -> None:
    made = row(
        delay=timedelta(seconds=1.5),
        run_at=MOMENT,
        timeout=timedelta(minutes=1),
        tags=("a", "b"),
        headers={"traceparent": "00"},
        metadata={"tenant": 7},
        unique_key="order-7",
        group="g",
        prior_attempts=2,
    )
    assert (made["delay_ms"], made["timeout_ms"], made["attempt"]) == (1500, 60_000, 2)
    assert from_milliseconds(made["run_at"]) == MOMENT
    assert [json.loads(made[name]) for name in ("tags", "headers", "metadata")] == [
        ["a", "b"], {"traceparent": "00"}, {"tenant": 7},
    ]  # fmt: skip
    assert (made["unique_lock"], made["group_name"]) == ("work/order-7", "g")


def test_a_key_is_unique_within_its_job_type() -> None:
    assert (
        row(unique_key="k")["unique_lock"] != row(job_type="other", unique_key="k")["unique_lock"]
    )


@pytest.mark.parametrize("asked", [{"group": "g"}, {"depends_on": (Dependency(new_id()),)}])
def test_what_waits_for_others_begins_blocked(asked: dict[str, Any]) -> None:
    assert row(**asked)["blocked"] is True


def test_a_wait_is_rounded_up_so_that_no_job_starts_early() -> None:
    assert row(delay=timedelta(microseconds=1))["delay_ms"] == 1
    assert row(delay=timedelta(microseconds=1001))["delay_ms"] == 2


@given(st.datetimes(min_value=datetime(1970, 1, 2), max_value=datetime(9999, 1, 1)))
def test_a_moment_survives_to_the_millisecond(naive: datetime) -> None:
    moment = naive.replace(tzinfo=UTC)
    back = from_milliseconds(to_milliseconds(moment))
    assert back is not None
    assert abs(back - moment) <= timedelta(milliseconds=1)


@given(st.text(), st.text(), st.none() | st.text(min_size=1))
def test_a_problem_survives(kind: str, message: str, traceback: str | None) -> None:
    problem = Problem(kind=kind, message=message, traceback=traceback)
    text = problem_text(problem)
    assert text is not None
    assert text.isascii(), "whatever the error said, any database keeps it"
    assert problem_from(text) == problem
    assert problem_text(None) is None
    assert problem_from(None) is None


@given(st.floats(0, 100), st.text(), st.text())
def test_progress_survives_but_for_what_no_database_keeps(
    percent: float, stage: str, message: str
) -> None:
    back = progress_from(progress_text(Progress(percent=percent, stage=stage, message=message)))
    assert back == Progress(percent=percent, stage=mended(stage), message=mended(message))
    assert progress_from(None) is None


@given(st.text())
def test_a_mended_text_can_be_kept_by_any_database_and_sound_ones_are_left_alone(
    text: str,
) -> None:
    kept = mended(text)
    assert "\0" not in kept
    kept.encode()
    assert mended(kept) == kept
    if "\0" not in text:
        assert kept == text


def test_half_a_character_is_mended() -> None:
    assert mended("half \ud83d of it") == "half ? of it"
    assert mended("a\0b") == "a\N{SYMBOL FOR NULL}b"


@given(st.binary(max_size=200))
def test_any_payload_travels_to_postgres_as_text_or_in_base64(payload: bytes) -> None:
    import base64

    [made] = json.loads(batch_document([{"id": "x", "payload": payload}]))
    encoded = made.get("payload_base64")
    if encoded is None:
        assert made["payload"].encode() == payload
        assert b"\0" not in payload
    else:
        assert base64.b64decode(encoded) == payload


def test_a_cursor_leads_back_to_its_job_and_strangers_lead_nowhere() -> None:
    job_id = new_id()
    assert decode_cursor(encode_cursor(job_id)) == job_id
    for strange in ("", "x", "!!!", encode_cursor("nobody"), "MTpub2JvZHk", "a" * 5000, "\ud83d"):
        with pytest.raises(ValueError, match="is no cursor"):
            decode_cursor(strange)


@pytest.mark.parametrize("dialect", ["sqlite", "postgres"])
def test_every_statement_follows_the_naming_of_the_tables(dialect: str) -> None:
    usual, renamed = load(dialect, Naming()), load(dialect, Naming(None, "acme_job"))
    assert usual.keys() == renamed.keys()
    for name, sql in renamed.items():
        assert "background_job" not in sql, name
        assert sql.replace("acme_job", "background_job") == usual[name]


def test_a_schema_stands_before_every_table() -> None:
    for sql in load("postgres", Naming("jobs", "background_job")).values():
        assert sql.count("background_job") == sql.count('"jobs".background_job')


@pytest.mark.parametrize("name", ["Jobs", "jobs; drop table x", "1jobs", "", 'a"b', "x" * 60])
def test_a_name_that_is_not_plain_sql_is_refused(name: str) -> None:
    with pytest.raises(ConfigurationError, match="not a plain SQL name"):
        Naming(None, name)
    with pytest.raises(ConfigurationError, match="not a plain SQL name"):
        Naming(name)


def test_parameters_become_psycopgs_and_casts_and_percent_signs_stay() -> None:
    assert to_pyformat("SELECT x::text, '50%' WHERE a = :a AND b = :b_c") == (
        "SELECT x::text, '50%%' WHERE a = %(a)s AND b = %(b_c)s"
    )


def test_both_databases_know_the_same_statements_but_for_those_that_differ_by_design() -> None:
    ours = {
        "sqlite": load("sqlite", Naming()).keys(),
        "postgres": load("postgres", Naming()).keys(),
    }
    assert "claim" in ours["postgres"]
    assert {"pick", "open_claim", "start"} <= ours["sqlite"]
    shared = ours["sqlite"] & ours["postgres"]
    assert {"enqueue", "complete", "extend", "move", "tell", "look", "promote", "get"} <= shared
