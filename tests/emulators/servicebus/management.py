"""The node ``<queue>/$management``: peek, renew, schedule, settle by lock token, sessions.

A request names the link on whose behalf it is made (``associated-link-name``,
https://learn.microsoft.com/azure/service-bus-messaging/service-bus-amqp-request-response). What is
asked of a session is done for the link that has locked it, and refused to all others. Renewing
keeps that link from idling (https://github.com/Azure/azure-sdk-for-net/issues/30310).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from tests.emulators.servicebus.broker import Broker
from tests.emulators.servicebus.codec import Array, Int, Long, Malformed, Symbol, Timestamp
from tests.emulators.servicebus.entity import LockLost, Queue, Stored
from tests.emulators.servicebus.message import AmqpMessage, read_message, value_message

_PREFIX: Final = "com.microsoft:"
_LOCK_LOST: Final = "com.microsoft:message-lock-lost"
_SESSION_LOST: Final = "com.microsoft:session-lock-lost"
_NOT_FOUND: Final = "com.microsoft:message-not-found"
_BAD_REQUEST: Final = "com.microsoft:argument-error"
_OWNER: Final = "management"
"""Who holds what was received through this node."""


@dataclass(slots=True)
class Refusal(Exception):
    status: int
    condition: str
    description: str


def answer(request: AmqpMessage, queue: Queue, broker: Broker, asker: object) -> AmqpMessage | None:
    """The reply to the link ``asker``; None to cut the connection instead."""
    operation = str(request.application.get("operation") or "").removeprefix(_PREFIX)
    fault = broker.fault(operation, queue.name)
    if fault is not None and fault.condition == "cut":
        return None
    try:
        if fault is not None and fault.condition != "cut-after":
            raise Refusal(_STATUS.get(fault.condition, 500), fault.condition, fault.description)
        status, value = _perform(operation, request, queue, asker)
    except Refusal as refusal:
        return _reply(request, refusal.status, refusal.description, {}, refusal.condition)
    return None if fault is not None else _reply(request, status, "OK", value)


_STATUS: Final = {
    "com.microsoft:server-busy": 503,
    "com.microsoft:timeout": 408,
    "amqp:unauthorized-access": 401,
    "amqp:not-found": 404,
    _LOCK_LOST: 410,
    _SESSION_LOST: 410,
}


def _reply(
    request: AmqpMessage, status: int, text: str, value: Any, condition: str | None = None
) -> AmqpMessage:
    application: dict[Any, Any] = {"statusCode": Int(status), "statusDescription": text}
    if condition is not None:
        application["errorCondition"] = Symbol(condition)
    return value_message(value, correlation_id=request.message_id, application=application)


def _perform(operation: str, request: AmqpMessage, queue: Queue, asker: object) -> tuple[int, Any]:
    act, of_session = _OPERATIONS.get(operation), _OF_SESSIONS.get(operation)
    try:
        if of_session is not None:
            value = of_session(request.value or {}, queue, asker)
        elif act is not None:
            value = act(request.value or {}, queue)
        else:
            raise Refusal(501, "amqp:not-implemented", f"no operation {operation!r} here")
    except LockLost as lost:
        condition = _SESSION_LOST if "session" in operation else _LOCK_LOST
        raise Refusal(410, condition, str(lost)) from lost
    except (KeyError, Malformed) as problem:
        raise Refusal(400, _BAD_REQUEST, f"the request lacks {problem}") from problem
    return (204 if value is None else 200), ({} if value is None else value)


def _renew(body: dict[str, Any], queue: Queue) -> Any:
    moments = [Timestamp(queue.renew(_uuid(token))) for token in body["lock-tokens"]]
    return {"expirations": Array(Timestamp, moments)}


def _uuid(token: Any) -> UUID:
    return token if isinstance(token, UUID) else UUID(str(token))


def _peek(body: dict[str, Any], queue: Queue) -> Any:
    found = queue.peek(
        int(body["from-sequence-number"]), int(body["message-count"]), body.get("session-id")
    )
    messages = [{"message": one.as_delivered().encoded()} for one in found]
    return {"messages": messages} if messages else None


def _schedule(body: dict[str, Any], queue: Queue) -> Any:
    numbers = [Long(queue.add(read_message(one["message"]))) for one in body["messages"]]
    return {"sequence-numbers": Array(Long, numbers)}


def _cancel(body: dict[str, Any], queue: Queue) -> Any:
    if not queue.cancel(body["sequence-numbers"]):
        raise Refusal(404, _NOT_FOUND, "no such scheduled message: it may have become active")
    return {}


def _receive_deferred(body: dict[str, Any], queue: Queue) -> Any:
    found: list[Stored] = []
    for number in body["sequence-numbers"]:
        stored = queue.take_deferred(number, _OWNER)
        if stored is None:
            raise Refusal(404, _NOT_FOUND, f"no deferred message has the number {number}")
        found.append(stored)
    messages = [{"lock-token": one.lock, "message": one.as_delivered().encoded()} for one in found]
    if not body.get("receiver-settle-mode"):  # received and deleted in one
        for one in found:
            if one.lock is not None:
                queue.complete(one.lock)
    return {"messages": messages}


def _settle(body: dict[str, Any], queue: Queue) -> Any:
    reason = str(body.get("deadletter-reason") or "")
    description = str(body.get("deadletter-description") or "")
    acts: dict[str, Callable[[UUID], None]] = {
        "completed": queue.complete,
        "abandoned": queue.abandon,
        "defered": queue.defer,  # the protocol's own spelling
        "suspended": lambda token: queue.dead_letter(token, reason, description),
    }
    act = acts[body["disposition-status"]]
    for token in body["lock-tokens"]:
        act(_uuid(token))
    return {}


def _renew_session(body: dict[str, Any], queue: Queue, asker: object) -> Any:
    return {"expiration": Timestamp(queue.renew_session(asker, body["session-id"]))}


def _get_state(body: dict[str, Any], queue: Queue, asker: object) -> Any:
    return {"session-state": queue.session_of(asker, body["session-id"]).state}


def _set_state(body: dict[str, Any], queue: Queue, asker: object) -> Any:
    queue.session_of(asker, body["session-id"]).state = body.get("session-state")
    return {}


def _list_sessions(body: dict[str, Any], queue: Queue) -> Any:
    skip, top = int(body.get("skip") or 0), int(body.get("top") or 100)
    with_work = {one.message.session_id for one in queue.peek(0, 10_000)} - {None}
    names = sorted({*map(str, with_work), *(n for n, s in queue.sessions.items() if s.state)})
    page = names[skip : skip + top]
    return {"skip": Int(skip + len(page)), "sessions-ids": page} if page else None


_OPERATIONS: Final[dict[str, Callable[[dict[str, Any], Queue], Any]]] = {
    "renew-lock": _renew,
    "peek-message": _peek,
    "schedule-message": _schedule,
    "cancel-scheduled-message": _cancel,
    "receive-by-sequence-number": _receive_deferred,
    "update-disposition": _settle,
    "get-message-sessions": _list_sessions,
}
_OF_SESSIONS: Final[dict[str, Callable[[dict[str, Any], Queue, object], Any]]] = {
    "renew-session-lock": _renew_session,
    "get-session-state": _get_state,
    "set-session-state": _set_state,
}
