"""One queue: messages, locks, sessions, dead letters, and what becomes of them as time passes."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import timedelta
from enum import IntEnum
from typing import Any, Final

from tests.emulators.servicebus.codec import Int, Long, Symbol, Timestamp, UInt
from tests.emulators.servicebus.message import AmqpMessage

DEAD_LETTER_SUFFIX: Final = "/$deadletterqueue"
_SCHEDULED_FOR: Final = "x-opt-scheduled-enqueue-time"
_ERROR_TEXT_LIMIT: Final = 4096


class LockLost(Exception):
    """The lock ran out, or was settled."""


class MessageState(IntEnum):
    """As in the annotation ``x-opt-message-state``."""

    ACTIVE = 0
    DEFERRED = 1
    SCHEDULED = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueOptions:
    """What a queue is created with."""

    lock_duration: timedelta = timedelta(seconds=60)
    max_delivery_count: int = 10
    requires_session: bool = False
    partitioned: bool = False
    """One batch goes to one partition, and so may have one session only."""
    duplicate_window: timedelta | None = None
    """How long message ids are remembered; None detects no duplicates."""
    max_message_bytes: int = 256 * 1024


@dataclass(slots=True)
class Stored:
    """A message in the queue."""

    number: int
    message: AmqpMessage
    enqueued: int
    state: MessageState = MessageState.ACTIVE
    due: int = 0
    failures: int = 0
    """Deliveries that ended in an abandon or with a lock that ran out."""
    lock: uuid.UUID | None = None
    locked_until: int = 0
    owner: object = None

    def as_delivered(self) -> AmqpMessage:
        """The message with what the service adds."""
        added: dict[Any, Any] = {
            Symbol("x-opt-sequence-number"): Long(self.number),
            Symbol("x-opt-enqueued-time"): Timestamp(self.enqueued),
            Symbol("x-opt-message-state"): Int(self.state),
        }
        if self.lock is not None:
            added[Symbol("x-opt-locked-until")] = Timestamp(self.locked_until)
        header = (self.message.header + [None] * 5)[:5]
        header[4] = UInt(self.failures)
        return AmqpMessage(
            header=header,
            annotations={**self.message.annotations, **added},
            properties=self.message.properties,
            application=self.message.application,
            body=self.message.body,
        )


@dataclass(slots=True)
class Session:
    """A group of messages that one receiver at a time may have.

    A lock that runs out counts as a delivery for the messages that were out under it; one that ends
    with its link counts as none, whether or not they were settled. The state stays until somebody
    replaces it (https://learn.microsoft.com/azure/service-bus-messaging/message-sessions).
    """

    owner: object = None
    locked_until: int = 0
    state: bytes | None = None


class Queue:
    """Times are milliseconds by the clock that it is given."""

    def __init__(
        self, name: str, options: QueueOptions, clock: Callable[[], int], *, dead: Queue | None
    ) -> None:
        self.name = name
        self.options = options
        self.dead_letters = dead
        self.sessions: dict[str, Session] = {}
        self._clock = clock
        self._messages: dict[int, Stored] = {}
        self._locked: dict[uuid.UUID, Stored] = {}
        self._numbers = 0
        self._seen: dict[Any, int] = {}
        self._lock_ms = int(options.lock_duration / timedelta(milliseconds=1))

    def count(self, state: MessageState) -> int:
        return sum(one.state is state for one in self._messages.values())

    def clear(self) -> int:
        """Remove everything; how many messages were locked."""
        held = len(self._locked)
        self._messages.clear()
        self._locked.clear()
        self._seen.clear()
        for session in self.sessions.values():
            session.state = None
        return held

    # in

    def add(self, message: AmqpMessage) -> int:
        """Store a message, unless it is a duplicate; the sequence number it has, or would have."""
        now = self._clock()
        if self.options.duplicate_window is not None and message.message_id is not None:
            window = int(self.options.duplicate_window / timedelta(milliseconds=1))
            if self._seen.get(message.message_id, -window) > now - window:
                return self._numbers + 1
            self._seen[message.message_id] = now
        due = message.annotations.get(_SCHEDULED_FOR)
        state = MessageState.SCHEDULED if due is not None and due > now else MessageState.ACTIVE
        self._numbers += 1
        stored = Stored(self._numbers, message, now, state, due or 0)
        self._messages[stored.number] = stored
        return stored.number

    def cancel(self, numbers: Iterable[int]) -> bool:
        """Remove scheduled messages; False, and nothing is removed, if one is not there."""
        found = [self._messages.get(number) for number in numbers]
        if not all(one is not None and one.state is MessageState.SCHEDULED for one in found):
            return False
        for one in found:
            if one is not None:
                del self._messages[one.number]
        return True

    # out

    def take(self, owner: object, session_id: str | None = None) -> Stored | None:
        """Lock the first message that may be delivered; None when there is none."""
        for stored in self._messages.values():
            if stored.state is not MessageState.ACTIVE or stored.lock is not None:
                continue
            if not self.options.requires_session or stored.message.session_id == session_id:
                return self._lock(stored, owner)
        return None

    def take_deferred(self, number: int, owner: object) -> Stored | None:
        stored = self._messages.get(number)
        if stored is None or stored.state is not MessageState.DEFERRED or stored.lock is not None:
            return None
        return self._lock(stored, owner)

    def _lock(self, stored: Stored, owner: object) -> Stored:
        stored.lock, stored.owner = uuid.uuid4(), owner
        stored.locked_until = self._clock() + self._lock_ms
        self._locked[stored.lock] = stored
        return stored

    def peek(self, start: int, count: int, session_id: str | None = None) -> list[Stored]:
        found = [
            one
            for one in self._messages.values()
            if one.number >= start and session_id in (None, one.message.session_id)
        ]
        return sorted(found, key=lambda one: one.number)[:count]

    # settling; each raises LockLost

    def complete(self, token: uuid.UUID) -> None:
        del self._messages[self._unlock(token).number]

    def abandon(self, token: uuid.UUID) -> None:
        self._failed(self._unlock(token))

    def release(self, token: uuid.UUID) -> None:
        """Back to its place, as if it had not been delivered."""
        self._unlock(token)

    def defer(self, token: uuid.UUID) -> None:
        self._unlock(token).state = MessageState.DEFERRED

    def dead_letter(self, token: uuid.UUID, reason: str, description: str) -> None:
        self._bury(self._unlock(token), reason, description)

    def renew(self, token: uuid.UUID) -> int:
        stored = self._held(token)
        stored.locked_until = self._clock() + self._lock_ms
        return stored.locked_until

    def _held(self, token: uuid.UUID) -> Stored:
        stored = self._locked.get(token)
        if stored is None or self._lapsed(stored):
            raise LockLost(f"the lock {token} is not held")
        return stored

    def _unlock(self, token: uuid.UUID) -> Stored:
        stored = self._held(token)
        del self._locked[token]
        stored.lock = stored.owner = None
        return stored

    def _failed(self, stored: Stored) -> None:
        stored.failures += 1
        if self.dead_letters is not None and stored.failures >= self.options.max_delivery_count:
            count = self.options.max_delivery_count
            self._bury(stored, "MaxDeliveryCountExceeded", f"not consumed in {count} deliveries")

    def _bury(self, stored: Stored, reason: str, description: str) -> None:
        del self._messages[stored.number]
        if self.dead_letters is None:
            return
        message = stored.message
        message.application = {
            **message.application,
            "DeadLetterReason": reason[:_ERROR_TEXT_LIMIT],
            "DeadLetterErrorDescription": description[:_ERROR_TEXT_LIMIT],
        }
        message.annotations.pop(_SCHEDULED_FOR, None)
        self.dead_letters.add(message)

    # sessions

    def accept_session(self, owner: object, session_id: str | None) -> str | None:
        """Lock a session: the one named, else the first with work; None when it cannot be had."""
        wanted = session_id
        if wanted is None:
            waiting = (one for one in self._messages.values() if one.state is MessageState.ACTIVE)
            names = (one.message.session_id for one in waiting if one.lock is None)
            wanted = next((name for name in names if name and self._free(name)), None)
        if wanted is None or not self._free(wanted):
            return None
        session = self.sessions.setdefault(wanted, Session())
        session.owner, session.locked_until = owner, self._clock() + self._lock_ms
        return wanted

    def _free(self, session_id: str) -> bool:
        session = self.sessions.get(session_id)
        return session is None or session.owner is None or session.locked_until <= self._clock()

    def session_of(self, owner: object, session_id: str) -> Session:
        """The session that this owner has locked. Raises LockLost."""
        session = self.sessions.get(session_id)
        if session is None or session.owner is not owner or session.locked_until <= self._clock():
            raise LockLost(f"the session {session_id!r} is not locked by this link")
        return session

    def renew_session(self, owner: object, session_id: str) -> int:
        """Raises LockLost."""
        session = self.session_of(owner, session_id)
        session.locked_until = self._clock() + self._lock_ms
        return session.locked_until

    def leave_session(self, session_id: str, owner: object) -> None:
        """End the session's lock if it is this owner's; its messages go back, uncounted."""
        session = self.sessions.get(session_id)
        if session is not None and session.owner is owner:
            session.owner = None
            for token in [t for t, one in self._locked.items() if one.owner is owner]:
                self._locked.pop(token).lock = None

    # time

    def _lapsed(self, stored: Stored) -> bool:
        if self.options.requires_session:
            # The session's lock is the lock.
            session = self.sessions.get(stored.message.session_id or "")
            return session is None or session.owner is None or self._clock() >= session.locked_until
        return self._clock() >= stored.locked_until

    def pass_time(self) -> list[object]:
        """Do what is due; return the owners of sessions whose locks ran out."""
        now = self._clock()
        for stored in [one for one in self._locked.values() if self._lapsed(one)]:
            if stored.lock is not None:
                del self._locked[stored.lock]
            stored.lock = stored.owner = None
            self._failed(stored)
        lost = []
        for session in self.sessions.values():
            if session.owner is not None and session.locked_until <= now:
                lost.append(session.owner)
                session.owner = None
        self._activate(now)
        return lost

    def _activate(self, now: int) -> None:
        """Scheduled messages that are due get a new number, and the others' end of the queue."""
        due = [
            one
            for one in self._messages.values()
            if one.state is MessageState.SCHEDULED and one.due <= now
        ]
        for stored in sorted(due, key=lambda one: one.due):
            del self._messages[stored.number]
            self._numbers += 1
            stored.number, stored.enqueued = self._numbers, now
            stored.state = MessageState.ACTIVE
            self._messages[stored.number] = stored
        for stored in list(self._messages.values()):
            life = stored.message.time_to_live
            if life is not None and stored.lock is None and now >= stored.enqueued + life:
                self._bury(
                    stored, "TTLExpiredException", "The message expired and was dead lettered."
                )
