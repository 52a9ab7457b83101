"""Links: to where clients send, from where they receive, and of the nodes that answer requests."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tests.emulators.servicebus.codec import Described, Malformed, UInt
from tests.emulators.servicebus.entity import Queue, Stored
from tests.emulators.servicebus.frames import Code, error, performative
from tests.emulators.servicebus.message import BATCH_FORMAT, AmqpMessage, read_batch, read_message

if TYPE_CHECKING:
    from tests.emulators.servicebus.session import AmqpSession

_CREDIT: Final = 1000
_WINDOW: Final = UInt(2**31 - 1)
_ENVELOPE: Final = 512
"""Bytes of a frame left for the performative in front of a payload."""


class Link:
    """What all links have; by default a link does nothing."""

    def __init__(self, session: AmqpSession, handle: int) -> None:
        self.handle = handle
        self.session = session
        self._active = session.broker.now()

    def idle_for(self) -> int:
        """Milliseconds since the last transfer."""
        return self.session.broker.now() - self._active

    def opened(self) -> None: ...

    def closed(self) -> None: ...

    def pump(self) -> None: ...

    def flowed(self, body: Described) -> None: ...

    def transferred(self, body: Described, payload: bytes) -> None: ...

    def touch(self) -> None:
        self._active = self.session.broker.now()


class _Receiving(Link):
    """The client sends: gathers the frames of each message."""

    def __init__(self, session: AmqpSession, handle: int) -> None:
        super().__init__(session, handle)
        self._parts: list[bytes] = []
        self._first: Described | None = None
        self._received = 0

    def opened(self) -> None:
        self._give_credit()

    def _give_credit(self) -> None:
        self.session.send(
            Code.FLOW,
            *(UInt(0), _WINDOW, UInt(0), _WINDOW),
            *(UInt(self.handle), UInt(self._received), UInt(_CREDIT)),
            *(UInt(0), False, False),
        )

    def transferred(self, body: Described, payload: bytes) -> None:
        self.touch()
        if self._first is None:
            self._first = body
        self._parts.append(payload)
        if body.field(5):
            return
        first, data = self._first, b"".join(self._parts)
        self._first, self._parts = None, []
        self._received += 1
        if self._received % (_CREDIT // 2) == 0:
            self._give_credit()
        if not body.field(9):  # not aborted
            outcome = self.arrived(first, data)
            if outcome is not None and not (first.field(4) or body.field(4)):
                number = UInt(first.field(1))
                self.session.send(Code.DISPOSITION, True, number, number, True, outcome)
        self.session.broker.changed()

    def arrived(self, first: Described, data: bytes) -> Described | None:
        """Take a message; the outcome, or None where there will be no answer."""
        raise NotImplementedError


class ProducerLink(_Receiving):
    """To a queue."""

    def __init__(self, session: AmqpSession, handle: int, queue: Queue) -> None:
        super().__init__(session, handle)
        self._queue = queue

    def arrived(self, first: Described, data: bytes) -> Described | None:
        fault = self.session.broker.fault("send", self._queue.name)
        if fault is not None and fault.condition == "cut":
            self.session.connection.cut()
            return None
        if fault is not None and fault.condition != "cut-after":
            return performative(Code.REJECTED, [error(fault.condition, fault.description)])
        if refusal := self._take(first.field(3) == BATCH_FORMAT, data):
            return refusal
        if fault is not None:
            self.session.connection.cut()
            return None
        return performative(Code.ACCEPTED, [])

    def _take(self, batch: bool, data: bytes) -> Described | None:
        if len(data) > self._queue.options.max_message_bytes:
            text = f"{len(data)} bytes, more than {self._queue.options.max_message_bytes}"
            return performative(Code.REJECTED, [error("amqp:link:message-size-exceeded", text)])
        try:
            messages = read_batch(data) if batch else [read_message(data)]
        except Malformed as problem:
            return performative(Code.REJECTED, [error("amqp:decode-error", str(problem))])
        if self._queue.options.requires_session and not all(one.session_id for one in messages):
            text = "messages to this queue need a session id"
            return performative(Code.REJECTED, [error("amqp:not-allowed", text)])
        if self._queue.options.partitioned and len({one.session_id for one in messages}) > 1:
            text = "batching messages with distinct SessionId is not supported on this entity"
            return performative(Code.REJECTED, [error("amqp:not-allowed", text)])
        for one in messages:
            self._queue.add(one)
        return None


class RequestLink(_Receiving):
    """To a node that answers."""

    def __init__(self, session: AmqpSession, handle: int, queue: Queue | None, path: str) -> None:
        super().__init__(session, handle)
        self._queue = queue
        self._path = path

    def arrived(self, first: Described, data: bytes) -> Described | None:
        from tests.emulators.servicebus import cbs, management

        try:
            request = read_message(data)
        except Malformed as problem:
            return performative(Code.REJECTED, [error("amqp:decode-error", str(problem))])
        if self._queue is None:
            reply = cbs.answer(request, self.session.broker)
        else:
            asker = self.session.link_named(request.application.get("associated-link-name"))
            if asker is not None:
                asker.touch()  # a link on whose behalf something is asked does not idle
            found = management.answer(request, self._queue, self.session.broker, asker)
            if found is None:
                self.session.connection.cut()
                return None
            reply = found
        if link := self.session.reply_link(self._path):
            link.put(reply)
        return performative(Code.ACCEPTED, [])

    def idle_for(self) -> int:
        return 0  # clients keep the nodes' links as long as the others


class _Sending(Link):
    """The client receives: has credit to count, and messages to cut into frames."""

    def __init__(self, session: AmqpSession, handle: int) -> None:
        super().__init__(session, handle)
        self._credit = 0
        self._sent = 0

    def flowed(self, body: Described) -> None:
        seen = body.field(5)
        self._credit = (body.field(6) or 0) + (self._sent if seen is None else seen) - self._sent
        self.pump()
        drain = bool(body.field(8))
        if drain:
            self._sent += max(self._credit, 0)
            self._credit = 0
        if drain or body.field(9):
            self.session.send(
                Code.FLOW,
                *(UInt(0), _WINDOW, UInt(0), _WINDOW),
                *(UInt(self.handle), UInt(self._sent), UInt(max(self._credit, 0))),
                *(UInt(0), drain, False),
            )

    def deliver(self, number: int, tag: bytes, settled: bool, data: bytes) -> None:
        self.touch()
        room = self.session.connection.frame_limit - _ENVELOPE
        for start in range(0, len(data), room):
            more = start + room < len(data)
            # Only the first frame of a delivery names it.
            names = (UInt(number), tag, UInt(0), settled) if start == 0 else (None,) * 4
            payload = data[start : start + room]
            self.session.send(Code.TRANSFER, UInt(self.handle), *names, more, payload=payload)
        self._credit -= 1
        self._sent += 1


class ConsumerLink(_Sending):
    """From a queue, or from one session of it."""

    def __init__(
        self, session: AmqpSession, handle: int, queue: Queue, *, presettled: bool
    ) -> None:
        super().__init__(session, handle)
        self.queue = queue
        self.name = ""
        self.session_id: str | None = None
        self._presettled = presettled

    def pump(self) -> None:
        while self._credit > 0:
            stored = self.queue.take(self, self.session_id)
            if stored is None or stored.lock is None:
                return
            self._hand_out(stored)

    def _hand_out(self, stored: Stored) -> None:
        token = stored.lock
        if token is None:
            raise AssertionError("what was taken is locked")
        data = stored.as_delivered().encoded()
        if self._presettled:
            self.queue.complete(token)
            self.deliver(self.session.next_delivery(), token.bytes_le, True, data)
        else:
            number = self.session.next_delivery(self, token)
            self.deliver(number, token.bytes_le, False, data)

    def closed(self) -> None:
        if self.session_id is not None:
            self.queue.leave_session(self.session_id, self)


class ReplyLink(_Sending):
    """From a node: answers wait here for credit."""

    def __init__(self, session: AmqpSession, handle: int, queue: Queue | None, path: str) -> None:
        super().__init__(session, handle)
        self.path = path
        self._answers: list[AmqpMessage] = []

    def put(self, answer: AmqpMessage) -> None:
        self._answers.append(answer)
        self.pump()

    def pump(self) -> None:
        while self._credit > 0 and self._answers:
            number = self.session.next_delivery()
            tag = number.to_bytes(4, "big")
            self.deliver(number, tag, True, self._answers.pop(0).encoded())

    def idle_for(self) -> int:
        return 0
