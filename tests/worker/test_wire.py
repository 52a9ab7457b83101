"""What crosses between a worker and its handler processes arrives whole, or not at all."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobbus.errors import (
    BackendUnavailable,
    InvalidJob,
    JobbusError,
    PayloadError,
    PayloadTooLarge,
    PermanentError,
    UnknownJobType,
)
from jobbus.message import Dependency, Message, OnFailure
from jobbus.worker import wire

TEXT = st.text(max_size=8)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=5,
)
SPANS = st.timedeltas(timedelta(0), timedelta(days=4000))
MOMENTS = st.none() | st.datetimes(timezones=st.just(UTC))
MESSAGES = st.builds(
    Message,
    job_id=TEXT,
    job_type=TEXT,
    payload=st.binary(max_size=40),
    queue=TEXT,
    headers=st.dictionaries(TEXT, TEXT, max_size=3),
    priority=st.integers(1, 10),
    group=st.none() | TEXT,
    delay=SPANS,
    run_at=MOMENTS,
    expires_at=MOMENTS,
    max_attempts=st.integers(1, 99),
    timeout=st.none() | SPANS,
    unique_key=st.none() | TEXT,
    depends_on=st.lists(st.builds(Dependency, TEXT, st.sampled_from(OnFailure)), max_size=3).map(
        tuple
    ),
    parent_id=st.none() | TEXT,
    tags=st.lists(TEXT, max_size=3).map(tuple),
    metadata=st.dictionaries(TEXT, JSON, max_size=3),
    prior_attempts=st.integers(0, 99),
)


def parse(data: bytes) -> wire.Frame:
    size = wire.PREFIX.size
    head, body = wire.lengths(data[:size], max_body=None)
    assert len(data) == size + head + body
    return wire.unpack(data[size : size + head], data[size + head :])


@given(st.dictionaries(TEXT.filter(lambda key: key != "kind"), JSON, max_size=3), st.binary())
def test_a_frame_arrives_as_it_was_packed(said: dict[str, Any], body: bytes) -> None:
    assert parse(wire.pack("kind", body, **said)) == wire.Frame("kind", said, body)


@given(MESSAGES)
def test_a_message_arrives_as_it_was_spawned(message: Message) -> None:
    crossed = json.loads(json.dumps(wire.message_out(message)))
    assert wire.message_in(crossed) == message


@given(st.binary(max_size=60))
def test_noise_is_never_more_than_a_broken_channel(noise: bytes) -> None:
    try:
        wire.unpack(noise, b"")
    except wire.BrokenChannel:
        return
    assert "kind" in json.loads(noise)


@pytest.mark.parametrize("head", [b"[" * 100_000, b'{"kind":' + b"9" * 5000 + b"}", b"{}", b"3"])
def test_json_that_is_no_frame_is_a_broken_channel(head: bytes) -> None:
    with pytest.raises(wire.BrokenChannel):
        wire.unpack(head, b"")


def test_absurd_lengths_are_a_broken_channel_before_anything_is_read() -> None:
    for head, body in ((wire.MAX_HEAD + 1, 0), (2, wire.MAX_RESULT + 1)):
        with pytest.raises(wire.BrokenChannel, match="announced"):
            wire.lengths(wire.PREFIX.pack(head, body), max_body=wire.MAX_RESULT)


@given(st.dictionaries(st.sampled_from(["job_id", "payload", "delay", "tags", "depends_on"]), JSON))
def test_a_spawned_message_that_is_none_is_a_broken_channel(said: dict[str, Any]) -> None:
    with pytest.raises(wire.BrokenChannel):
        wire.message_in({**wire.message_out(Message(job_id="", job_type="", payload=b"")), "x": 1})
    with pytest.raises(wire.BrokenChannel):
        wire.message_in(said)


def test_what_is_no_json_or_too_much_of_it_cannot_be_packed() -> None:
    with pytest.raises(PayloadError, match="not JSON"):
        wire.pack("spawn", value=object())
    with pytest.raises(PayloadTooLarge, match="spawn fewer"):
        wire.pack("spawn", value="x" * wire.MAX_HEAD)


@pytest.mark.parametrize(
    "error",
    [InvalidJob("bad"), UnknownJobType("who"), BackendUnavailable("down"), PayloadTooLarge("big")],
)
def test_the_workers_refusal_is_the_same_error_in_the_handler(error: JobbusError) -> None:
    rebuilt = wire.rebuild_from_worker(wire.capture(error))
    assert type(rebuilt) is type(error)
    assert str(rebuilt) == str(error)


def test_a_refusal_of_another_kind_is_an_error_of_jobbus_that_names_it() -> None:
    rebuilt = wire.rebuild_from_worker(wire.capture(ZeroDivisionError("none left")))
    assert type(rebuilt) is JobbusError
    assert str(rebuilt) == "ZeroDivisionError: none left"


def test_the_name_of_a_class_builds_nothing_that_is_not_in_the_table() -> None:
    said = {"error": "system", "message": "rm", "base": "os.system", "lineage": ["os.system"]}
    assert type(wire.rebuild_from_handler(said)) is wire.HandlerError
    assert type(wire.rebuild_from_worker(said)) is JobbusError


def test_a_backends_failure_in_a_handler_is_not_taken_for_the_workers_own() -> None:
    rebuilt = wire.rebuild_from_handler(wire.capture(BackendUnavailable("the handler's database")))
    assert type(rebuilt) is wire.HandlerError
    assert rebuilt.kind == "BackendUnavailable"


def test_the_cause_of_a_rebuilt_signal_keeps_what_was_raised() -> None:
    class Full(PermanentError):
        pass

    rebuilt = wire.rebuild_from_handler(wire.capture(Full("no room")))
    assert type(rebuilt) is PermanentError
    cause = rebuilt.__cause__
    assert isinstance(cause, wire.HandlerError)
    assert cause.was(Full)
    assert cause.problem.traceback is not None


@given(st.datetimes(timezones=st.just(UTC)))
def test_moments_keep_their_microseconds(moment: datetime) -> None:
    message = Message(job_id="", job_type="", payload=b"", run_at=moment)
    assert wire.message_in(wire.message_out(message)).run_at == moment
