"""An AMQP session: attaches links, routes what is sent to them, and settles deliveries."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, cast
from urllib.parse import urlsplit
from uuid import UUID

from tests.emulators.servicebus.broker import MANAGEMENT_SUFFIX, NoSuchQueue
from tests.emulators.servicebus.codec import Described, Symbol, UInt, ULong
from tests.emulators.servicebus.entity import LockLost, Queue
from tests.emulators.servicebus.frames import Code, Frame, error, performative
from tests.emulators.servicebus.links import (
    ConsumerLink,
    Link,
    ProducerLink,
    ReplyLink,
    RequestLink,
)

if TYPE_CHECKING:
    from tests.emulators.servicebus.broker import Broker
    from tests.emulators.servicebus.connection import Connection

SESSION_FILTER: Final = "com.microsoft:session-filter"
CBS: Final = "$cbs"
_LOCKED_UNTIL: Final = Symbol("com.microsoft:locked-until-utc")
_TIMEOUT: Final = "com.microsoft:timeout"
_TICKS_TO_1970: Final = 621_355_968_000_000_000
_NEXT_SESSION_WAIT_MS: Final = 65_000
_FOREVER: Final = 2**63


@dataclass(slots=True)
class Attach:
    """A client's wish for a link."""

    name: str
    handle: int
    client_receives: bool
    settle_mode: int
    body: Described
    path: str

    def terminus(self, index: int) -> Described | None:
        return cast("Described | None", self.body.field(index))


@dataclass(slots=True)
class _Waiting:
    """An attach to the next session that has work."""

    attach: Attach
    queue: Queue
    until: int


class AmqpSession:
    """One channel of a connection."""

    def __init__(self, connection: Connection, channel: int) -> None:
        self.connection = connection
        self.broker: Broker = connection.broker
        self.links: dict[int, Link] = {}
        self._channel = channel
        self._next_delivery = 0
        self._unsettled: dict[int, tuple[ConsumerLink, UUID]] = {}
        self._waiting: list[_Waiting] = []

    def handle(self, frame: Frame) -> None:
        """A performative of the client's that belongs to this session."""
        if frame.body is None:
            return
        match frame.body.descriptor:
            case Code.ATTACH:
                self._attach(frame.body)
            case Code.FLOW:
                self._flow(frame.body)
            case Code.TRANSFER:
                if link := self.links.get(frame.body.field(0)):
                    link.transferred(frame.body, frame.payload)
            case Code.DISPOSITION:
                self._dispose(frame.body)
            case Code.DETACH:
                self._detached(frame.body)

    def pump(self) -> None:
        """Deliver, accept sessions, and detach what idles."""
        for wish in list(self._waiting):
            self._try_session(wish)
        for link in list(self.links.values()):
            link.pump()
            limit = self.broker.idle_link_timeout
            if limit is not None and link.idle_for() > limit.total_seconds() * 1000:
                self.detach(link, "amqp:link:detach-forced", "the link was idle for too long")

    def lose_sessions(self, owners: list[object]) -> None:
        for link in [one for one in self.links.values() if one in owners]:
            self.detach(link, "com.microsoft:session-lock-lost", "the session's lock ran out")

    def end(self) -> None:
        """Let go of everything. Locks of messages stay; locks of sessions do not."""
        for link in self.links.values():
            link.closed()
        self.links.clear()
        self._waiting.clear()

    def send(self, code: Code, *fields: Any, payload: bytes = b"") -> None:
        self.connection.send(self._channel, code, *fields, payload=payload)

    def next_delivery(self, link: ConsumerLink | None = None, token: UUID | None = None) -> int:
        """A delivery id; with a token, one that the client will settle."""
        number = self._next_delivery
        self._next_delivery += 1
        if link is not None and token is not None:
            self._unsettled[number] = (link, token)
        return number

    def reply_link(self, path: str) -> ReplyLink | None:
        """Where answers of a node go."""
        wanted = path.casefold()
        found = (one for one in self.links.values() if isinstance(one, ReplyLink))
        return next((one for one in found if one.path.casefold() == wanted), None)

    def link_named(self, name: object) -> ConsumerLink | None:
        """The client's receiving link of this name."""
        found = (one for one in self.links.values() if isinstance(one, ConsumerLink))
        return next((one for one in found if one.name == name), None)

    # links

    def _attach(self, body: Described) -> None:
        receives = bool(body.field(2))
        terminus = body.field(5 if receives else 6)
        address = terminus.field(0) if terminus is not None else None
        path = urlsplit(str(address or "")).path.strip("/")
        settle_mode = body.field(3) or 0
        wish = Attach(body.field(0), body.field(1), receives, settle_mode, body, path)
        if path == CBS or path.casefold().endswith(MANAGEMENT_SUFFIX):
            self._attach_node(wish)
            return
        try:
            queue = self.broker.queue(path)
        except NoSuchQueue:
            self._refuse(wish, "amqp:not-found", f"no queue is named {path!r}")
            return
        if fault := self.broker.fault("attach", path):
            self._refuse(wish, fault.condition, fault.description)
        elif not receives:
            self._confirm(wish, ProducerLink(self, wish.handle, queue), queue)
        elif queue.options.requires_session:
            self._attach_to_session(wish, queue)
        elif SESSION_FILTER in self._filters(wish):
            text = "no sessionful receiver on a queue that does not require sessions"
            self._refuse(wish, "amqp:not-allowed", text)
        else:
            presettled = wish.settle_mode == 1
            self._confirm(
                wish, ConsumerLink(self, wish.handle, queue, presettled=presettled), queue
            )

    def _attach_node(self, wish: Attach) -> None:
        entity = wish.path[: -len(MANAGEMENT_SUFFIX)] if wish.path != CBS else None
        try:
            queue = self.broker.queue(entity) if entity is not None else None
        except NoSuchQueue:
            self._refuse(wish, "amqp:not-found", f"no queue is named {entity!r}")
            return
        make: Callable[..., Link] = ReplyLink if wish.client_receives else RequestLink
        self._confirm(wish, make(self, wish.handle, queue, wish.path), queue)

    def _attach_to_session(self, wish: Attach, queue: Queue) -> None:
        filters = self._filters(wish)
        if SESSION_FILTER not in filters:
            text = "a queue that requires sessions has no non-sessionful receiver"
            self._refuse(wish, "amqp:not-allowed", text)
            return
        patience = (wish.body.field(13) or {}).get(_TIMEOUT) or _NEXT_SESSION_WAIT_MS
        waiting = _Waiting(wish, queue, self.broker.now() + patience)
        self._waiting.append(waiting)
        self._try_session(waiting)

    def _filters(self, wish: Attach) -> dict[Any, Any]:
        source = wish.terminus(5)
        return dict((source.field(7) if source is not None else None) or {})

    def _try_session(self, waiting: _Waiting) -> None:
        wish, queue = waiting.attach, waiting.queue
        wanted = self._filters(wish)[SESSION_FILTER]
        session_id = wanted.value if isinstance(wanted, Described) else wanted
        link = ConsumerLink(self, wish.handle, queue, presettled=wish.settle_mode == 1)
        link.name = wish.name
        link.session_id = queue.accept_session(link, session_id)
        if link.session_id is not None:
            self._waiting.remove(waiting)
            self._confirm(wish, link, queue)
        elif session_id is not None:
            self._waiting.remove(waiting)
            text = f"the session {session_id!r} is locked by another receiver"
            self._refuse(wish, "com.microsoft:session-cannot-be-locked", text)
        elif self.broker.now() >= waiting.until:
            self._waiting.remove(waiting)
            self._refuse(wish, _TIMEOUT, "no session had work in time")

    def _confirm(self, wish: Attach, link: Link, queue: Queue | None) -> None:
        self.links[wish.handle] = link
        source, target = wish.terminus(5), wish.terminus(6)
        properties: dict[Any, Any] = {}
        if isinstance(link, ConsumerLink) and link.session_id is not None and source is not None:
            until = link.queue.sessions[link.session_id].locked_until
            properties[_LOCKED_UNTIL] = until * 10_000 + _TICKS_TO_1970
            filters = {**self._filters(wish), Symbol(SESSION_FILTER): link.session_id}
            fields = (source.value + [None] * 11)[:11]
            fields[7] = filters
            source = performative(Code.SOURCE, fields)
        size = queue.options.max_message_bytes if queue is not None else 1024 * 1024
        body = wish.body
        count = UInt(0) if wish.client_receives else None
        self.send(
            Code.ATTACH,
            *(wish.name, UInt(wish.handle), not wish.client_receives),
            *(body.field(3), body.field(4), source, target, None, None),
            *(count, ULong(size), None, None, properties),
        )
        link.opened()

    def _refuse(self, wish: Attach, condition: str, description: str) -> None:
        if condition.startswith("cut"):
            self.connection.cut()
            return
        handle = UInt(wish.handle)
        settle = (wish.body.field(3), wish.body.field(4))
        count = UInt(0) if wish.client_receives else None
        nothing = (None, None, None, None)
        names = (wish.name, handle, not wish.client_receives)
        self.send(Code.ATTACH, *names, *settle, *nothing, count)
        self.send(Code.DETACH, handle, True, error(condition, description))

    def detach(self, link: Link, condition: str, description: str) -> None:
        """End a link from this side."""
        self.links.pop(link.handle, None)
        link.closed()
        self.send(Code.DETACH, UInt(link.handle), True, error(condition, description))

    def _detached(self, body: Described) -> None:
        handle = body.field(0)
        self._waiting = [one for one in self._waiting if one.attach.handle != handle]
        if link := self.links.pop(handle, None):
            link.closed()
            self.send(Code.DETACH, UInt(handle), bool(body.field(1)))

    def _flow(self, body: Described) -> None:
        handle = body.field(4)
        if handle is None:
            return
        if link := self.links.get(handle):
            link.flowed(body)

    # settling

    def _dispose(self, body: Described) -> None:
        if not body.field(0):
            return  # the client's word on messages that it sent, which are settled already
        first = body.field(1)
        last = body.field(2) if body.field(2) is not None else first
        outcome, settled = body.field(4), bool(body.field(3))
        for number in range(first, last + 1):
            found = self._unsettled.pop(number, None)
            if found is None or outcome is None:
                continue
            link, token = found
            answer = self._settle(link.queue, token, outcome)
            if answer is not None and not settled:
                numbers = (UInt(number), UInt(number))
                self.send(Code.DISPOSITION, False, *numbers, True, answer)
        self.broker.changed()

    def _settle(self, queue: Queue, token: UUID, outcome: Described) -> Described | None:
        fault = self.broker.fault("settle", queue.name)
        if fault is not None and fault.condition == "cut":
            self.connection.cut()
            return None
        if fault is not None and fault.condition != "cut-after":
            return performative(Code.REJECTED, [error(fault.condition, fault.description)])
        try:
            self._apply(queue, token, outcome)
        except LockLost as lost:
            return performative(
                Code.REJECTED, [error("com.microsoft:message-lock-lost", str(lost))]
            )
        if fault is not None:
            self.connection.cut()
            return None
        if outcome.descriptor == Code.REJECTED:
            return performative(Code.REJECTED, [None])
        return outcome

    def _apply(self, queue: Queue, token: UUID, outcome: Described) -> None:
        match outcome.descriptor:
            case Code.ACCEPTED:
                queue.complete(token)
            case Code.RELEASED:
                queue.release(token)
            case Code.MODIFIED if outcome.field(1):
                queue.defer(token)
            case Code.MODIFIED:
                queue.abandon(token)
            case Code.REJECTED:
                info = (outcome.field(0).field(2) if outcome.field(0) is not None else None) or {}
                reason = str(info.get("DeadLetterReason") or "")
                queue.dead_letter(token, reason, str(info.get("DeadLetterErrorDescription") or ""))
