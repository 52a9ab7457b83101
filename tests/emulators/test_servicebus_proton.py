"""The emulator as a second AMQP stack sees it: Qpid Proton, which shares nothing with the SDK."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.emulators.conftest import LOCK
from tests.emulators.servicebus import Emulator
from tests.emulators.servicebus.codec import Reader, encode
from tests.emulators.servicebus.message import read_message

proton = pytest.importorskip(
    "proton", reason="no python-qpid-proton: it has no wheels, and takes a C compiler to install"
)
utils = pytest.importorskip("proton.utils")

WAIT = 15.0
A_WHILE = 0.3


def eventually(probe: Callable[[], bool]) -> None:
    """Return once it holds: this client does not wait for what becomes of its settlements."""
    deadline = time.monotonic() + WAIT
    while not probe():
        assert time.monotonic() < deadline, "it never came to hold"
        time.sleep(0.01)


@pytest.fixture
def connection(emulator: Emulator) -> Iterator[Any]:
    connection = utils.BlockingConnection(
        f"amqp://127.0.0.1:{emulator.port}", allowed_mechs="ANONYMOUS", timeout=WAIT
    )
    yield connection
    connection.close()


def test_a_message_travels_and_is_accepted(
    connection: Any, entity: str, emulator: Emulator
) -> None:
    sent = proton.Message(
        body=b"\x00 work " * 30_000, id="m-1", subject="s", properties={"n": 7, "text": "é"}
    )
    connection.create_sender(entity).send(sent)
    receiver = connection.create_receiver(entity)
    got = receiver.receive(timeout=WAIT)
    assert (got.body, got.id, got.subject) == (sent.body, "m-1", "s")
    assert got.properties == {"n": 7, "text": "é"}
    assert got.delivery_count == 0
    receiver.accept()
    receiver.close()
    eventually(lambda: emulator.count(entity) == 0)


def test_released_is_not_counted_and_modified_is(
    connection: Any, entity: str, emulator: Emulator
) -> None:
    connection.create_sender(entity).send(proton.Message(body="x"))
    receiver = connection.create_receiver(entity)
    receiver.receive(timeout=WAIT)
    receiver.release(delivered=False)
    assert receiver.receive(timeout=WAIT).delivery_count == 0
    receiver.release(delivered=True)
    assert receiver.receive(timeout=WAIT).delivery_count == 1
    receiver.reject()
    receiver.close()
    eventually(lambda: len(emulator.dead_letters(entity)) == 1)
    assert emulator.count(entity) == 0


def test_a_lock_that_ran_out_brings_the_message_to_another_link(
    connection: Any, entity: str, emulator: Emulator
) -> None:
    connection.create_sender(entity).send(proton.Message(body="x"))
    late = connection.create_receiver(entity)
    late.receive(timeout=WAIT)
    taker = connection.create_receiver(entity, name="taker")
    with pytest.raises(proton.Timeout):
        taker.receive(timeout=A_WHILE)
    emulator.advance(LOCK * 1.1)
    assert taker.receive(timeout=WAIT).delivery_count == 1
    taker.accept()
    taker.close()
    eventually(lambda: emulator.count(entity) == 0)


def test_no_more_is_sent_than_there_is_credit_for(connection: Any, entity: str) -> None:
    sender = connection.create_sender(entity)
    for number in range(3):
        sender.send(proton.Message(body=number))
    receiver = connection.create_receiver(entity)
    receiver.link.flow(2)
    other = connection.create_receiver(entity, name="other")
    assert other.receive(timeout=WAIT).body == 2
    assert [receiver.receive(timeout=WAIT).body for _ in range(2)] == [0, 1]


def test_the_management_node_answers(connection: Any, entity: str) -> None:
    connection.create_sender(entity).send(proton.Message(body=b"x"))
    node = f"{entity}/$management"
    requests, replies = connection.create_sender(node), connection.create_receiver(node, credit=1)
    asked = proton.Message(
        id=uuid.uuid4(),
        reply_to=node,
        properties={"operation": "com.microsoft:peek-message"},
        body={"from-sequence-number": 1, "message-count": proton.int32(5)},
    )
    requests.send(asked)
    reply = replies.receive(timeout=WAIT)
    assert reply.correlation_id == asked.id
    assert reply.properties["statusCode"] == 200
    [peeked] = reply.body["messages"]
    inner = proton.Message()
    inner.decode(peeked["message"])
    assert inner.body == b"x"


def test_an_unknown_queue_is_refused(connection: Any) -> None:
    with pytest.raises(utils.LinkDetached, match="not-found"):
        connection.create_receiver("nowhere")


VALUES = {
    "null": None,
    "true": True,
    "ints": [proton.int32(-1), proton.int32(2**31 - 1), proton.byte(-5), proton.short(-300)],
    "unsigned": [proton.ubyte(9), proton.ushort(9), proton.uint(0), proton.uint(300)],
    "longs": [proton.ulong(0), proton.ulong(7), proton.ulong(2**60), 2**50, -3],
    "floats": [proton.float32(0.5), 1.25],
    "timestamp": proton.timestamp(1_700_000_000_000),
    "uuid": uuid.UUID(int=77),
    "binary": [b"", b"short", b"long" * 100],
    "text": ["", "é" * 10, "long" * 100],
    "symbol": proton.symbol("x-opt-thing"),
    "nested": {"a": [1, {"b": []}], "c": {}},
    "array": proton.Array(proton.UNDESCRIBED, proton.Data.SYMBOL, proton.symbol("a")),
}


@pytest.mark.parametrize("kind", sorted(VALUES))
def test_values_of_every_type_are_read_and_written_as_proton_does(kind: str) -> None:
    theirs = proton.Data()
    theirs.put_object(VALUES[kind])
    value = Reader(theirs.encode()).value()
    again = proton.Data()
    again.decode(encode(value))
    again.rewind()
    again.next()
    theirs.rewind()
    theirs.next()
    assert again.get_object() == theirs.get_object()
    assert again.type() == theirs.type()


def test_the_sections_of_a_message_are_told_apart() -> None:
    sent = proton.Message(
        id="i", group_id="g", ttl=2.0, properties={"k": "v"}, annotations={"x-opt-a": 1}, body=b"x"
    )
    read = read_message(sent.encode())
    assert (read.message_id, read.session_id, read.time_to_live) == ("i", "g", 2000)
    assert (read.application, read.annotations) == ({"k": "v"}, {"x-opt-a": 1})
    again = proton.Message()
    again.decode(read.encoded())
    assert (again.body, again.id, again.properties) == (b"x", "i", {"k": "v"})
