"""The parts of the RabbitMQ backend that need no broker: delays, envelopes, options, addresses."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from aiormq import spec
from aiormq.abc import DeliveredMessage
from hypothesis import given
from hypothesis import strategies as st
from pamqp.header import ContentHeader

from jobbus import load_settings
from jobbus.backends.amqp.envelope import (
    HEADER,
    PROBLEM,
    Envelope,
    Undecodable,
    dead_letter_of,
    envelope_of,
    properties_of,
)
from jobbus.backends.amqp.link import address, readable, warnings_about
from jobbus.backends.amqp.rules import longest_job
from jobbus.backends.amqp.topology import LEVELS, MAX_DELAY, UNIT, Topology, delay_units
from jobbus.backends.rabbitmq import RabbitMqQueue
from jobbus.errors import ConfigurationError
from jobbus.job import Problem
from jobbus.message import Message
from jobbus.testing import message
from tests.flow.support import NOWHERE

NOW = datetime(2026, 5, 1, tzinfo=UTC).timestamp()


def envelope(sent: Message | None = None, **counters: int) -> Envelope:
    return Envelope(message=sent or message(), enqueued_at=NOW, available_at=NOW, **counters)


def delivered(headers: dict[str, Any] | None, body: bytes = b"{}") -> DeliveredMessage:
    header = ContentHeader(properties=spec.Basic.Properties(headers=headers))
    return DeliveredMessage(spec.Basic.Deliver("tag", 1), header, body, None)  # type: ignore[arg-type]  # nobody asks for its channel


def document(**changes: Any) -> str:
    headers = properties_of(envelope()).headers or {}
    return json.dumps({**json.loads(str(headers[HEADER])), **changes})


@given(st.timedeltas(min_value=timedelta(0), max_value=MAX_DELAY))
def test_a_delay_never_ends_early_and_hardly_late(delay: timedelta) -> None:
    waited = delay_units(delay) * UNIT
    assert delay <= waited <= delay * 33 / 32 + UNIT
    assert delay_units(delay).bit_count() <= 6
    assert delay_units(delay) < 2**LEVELS


def test_a_delay_enters_the_chain_at_its_highest_bit() -> None:
    topology = Topology("jobs")
    assert topology.route("mail", timedelta(0)) == ("", "jobs.queue.mail")
    exchange, key = topology.route("a.mail", timedelta(milliseconds=500))
    assert exchange == "jobs.delay.02"
    assert key == ".".join(["0"] * 17 + ["1", "0", "1"]) + ".a.mail"


@given(st.text(), st.dictionaries(st.text(), st.text(), max_size=3), st.binary())
def test_whatever_a_message_says_survives_the_envelope(
    tag: str, headers: dict[str, str], payload: bytes
) -> None:
    sent = message(tags=(tag, "half \ud800"), headers=headers, metadata={tag: [None, 1.5]})
    properties = properties_of(envelope(sent, failures=2))
    found = envelope_of(delivered(properties.headers, payload), "default")
    assert (found.message.tags, found.message.headers) == (sent.tags, headers)
    assert found.message.metadata == {tag: [None, 1.5]}
    assert (found.message.payload, found.failures) == (payload, 2)


def test_deliveries_that_nobody_settled_count_as_attempts_and_crashes() -> None:
    headers = {**(properties_of(envelope(attempts=4, crashes=1)).headers or {})}
    found = envelope_of(delivered({**headers, "x-delivery-count": 2}), "default")
    assert (found.attempts, found.crashes, found.failures) == (6, 3, 0)


@pytest.mark.parametrize(
    "text",
    [
        None, 7, b"\xff", "", "null", "[]", "{}", "[" * 100_000, "9" * 5_000,
        document(version=2), document(version=True), document(job_id="7"), document(job_id=None),
        document(job_type=7), document(attempts=-1), document(attempts=2**40),
        document(failures="1"), document(timeout="long"), document(timeout=1e300),
        document(tags="ab"), document(metadata=[]), document(headers={"a": 1}),
        document(enqueued_at=-1), document(enqueued_at=1e300), document(available_at=None),
        document(enqueued_at=float("nan")), document(enqueued_at=float("inf")),
        document(metadata={"x": "y" * 40_000}),
    ],
)  # fmt: skip
def test_an_envelope_that_jobbus_did_not_write_is_refused(text: object) -> None:
    """S-1, S-3: whoever may write to the queue may write anything."""
    with pytest.raises(Undecodable):
        envelope_of(delivered(None if text is None else {HEADER: text}), "default")


@given(st.binary(max_size=200), st.text(max_size=200))
def test_no_header_breaks_the_reader(raw: bytes, text: str) -> None:
    for value in (raw, text):
        with pytest.raises(Undecodable):
            envelope_of(delivered({HEADER: value}), "default")


@pytest.mark.parametrize(
    "told",
    [None, 7, b"\xff", "", "null", "[]", "{}", "[" * 100_000, '{"kind": 1}', '{"kind": "x"}'],
)
def test_a_dead_letter_with_a_reason_that_cannot_be_read_is_one_all_the_same(told: object) -> None:
    """S-1: what became of the job is not known, and the job is."""
    headers = {**(properties_of(envelope(attempts=4, crashes=1)).headers or {}), PROBLEM: told}
    found = dead_letter_of(delivered({**headers, "x-delivery-count": 9}), "default", 1)
    assert (found.problem.kind, found.timed_out) == ("unknown", False)
    assert (found.delivery.attempt, found.delivery.crashes, found.delivery.receipt) == (4, 1, 1)


def test_a_dead_letter_that_is_none_of_jobbuss_has_no_job_id() -> None:
    found = dead_letter_of(delivered({HEADER: "{}"}, b"\xff"), "default", 1)
    assert (found.delivery.job_id, found.delivery.message.payload) == ("", b"\xff")
    assert found.problem.kind == "undecodable"


def test_the_largest_envelope_with_a_problem_fits_into_a_frame() -> None:
    sent = message(metadata={"x": "é" * 16_000}, tags=("half \ud800",))
    trouble = Problem(kind="Error", message="é" * 9_000, traceback="\ud800" * 9_000)
    properties = properties_of(envelope(sent), trouble)
    assert len(properties.marshal()) < 131_072 - 100


@pytest.mark.parametrize(
    ("given_options", "told"),
    [
        ({}, "needs an address"),
        ({"url": "http://broker"}, "begins with amqp:// or amqps://"),
        ({"url": "amqp://me:s3cret@broker:port/"}, "cannot be read as a URL"),
        ({"url": "amqp://broker", "prefetch": "9"}, "there is no setting rabbitmq.prefetch"),
        ({"url": "amqp://broker", "create_topology": "maybe"}, "auto or never, not 'maybe'"),
        ({"url": "amqp://broker", "queue_prefix": "a b"}, "queue_prefix is 1 to 40"),
        ({"url": "amqp://broker", "heartbeat_seconds": "soon"}, "is a number, not 'soon'"),
        ({"url": "amqp://broker", "heartbeat_seconds": "0"}, "a number from 5 to 600"),
        ({"url": "amqp://broker", "consumer_timeout_minutes": "1"}, "a number from 6 on"),
    ],
)
def test_settings_that_cannot_work_are_refused_by_name(
    given_options: dict[str, str], told: str
) -> None:
    chosen = {f"rabbitmq.{name}": value for name, value in given_options.items()}
    settings = load_settings({"provider": "rabbitmq", **chosen}, environ={}, directory=NOWHERE)
    with pytest.raises(ConfigurationError, match=told) as caught:
        RabbitMqQueue.from_settings(settings)
    assert "s3cret" not in str(caught.value)


def test_the_settings_are_read_from_the_environment() -> None:
    environ = {
        "BACKGROUND_JOBS__RABBITMQ__URL": "amqps://me:s3cret@broker.example/shop",
        "BACKGROUND_JOBS__RABBITMQ__QUEUEPREFIX": "shop",
        "BACKGROUND_JOBS__RABBITMQ__CREATE_TOPOLOGY": "never",
        "BACKGROUND_JOBS__RABBITMQ__CONSUMER_TIMEOUT_MINUTES": "125",
        "BACKGROUND_JOBS__PROVIDER": "RabbitMq",
    }
    queue = RabbitMqQueue.from_settings(load_settings({}, environ=environ, directory=NOWHERE))
    assert queue.location == "amqps://broker.example:5671/shop"
    assert queue.max_job_timeout == timedelta(hours=2)
    assert "s3cret" not in repr(queue._options)


def test_an_address_is_shown_without_its_password() -> None:
    assert readable(address("rabbitmq://me:s3cret@broker/a%2Fb")) == "amqp://broker:5672/a%2Fb"


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("amqp://guest:guest@127.0.0.1/", []),
        ("amqp://localhost", []),
        ("amqps://me:pw@broker", []),
        ("amqp://me:pw@broker", ["not encrypted"]),
        ("amqps://guest:guest@broker", ["everybody's"]),
        ("amqp://broker", ["everybody's", "not encrypted"]),
        ("amqps://me:pw@broker?no_verify_ssl=1", ["not verified"]),
    ],
)
def test_an_unsafe_address_off_this_machine_is_warned_of(url: str, told: list[str]) -> None:
    """S-20."""
    found = warnings_about(address(url))
    assert len(found) == len(told)
    assert all(part in warning for part, warning in zip(told, found, strict=True))


def test_how_long_a_job_may_be_held_depends_on_the_server() -> None:
    """RM-2."""
    half_an_hour = timedelta(minutes=30)
    assert longest_job((3, 11, 28), half_an_hour) == timedelta(minutes=25)
    assert longest_job((3, 12, 0), half_an_hour) > timedelta(hours=23)
    assert longest_job((), half_an_hour) == timedelta(minutes=25)


def test_without_its_client_library_the_backend_names_the_command_that_helps() -> None:
    code = "import sys; sys.modules['aiormq'] = None; import jobbus.backends.rabbitmq"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert 'needs aiormq: pip install "jobbus[rabbitmq]"' in done.stderr
