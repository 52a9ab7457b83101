"""The node ``$cbs``: takes the tokens by which clients are let in (AMQP claims-based security)."""

from __future__ import annotations

from typing import Final

from tests.emulators.servicebus.broker import Broker
from tests.emulators.servicebus.codec import Int, Malformed
from tests.emulators.servicebus.message import AmqpMessage, value_message

_TOKEN_TYPES: Final = ("servicebus.windows.net:sastoken", "jwt")


def answer(request: AmqpMessage, broker: Broker) -> AmqpMessage:
    """202 for anything that looks like a token: signatures are not checked."""
    status, text = _judge(request, broker)
    return value_message(
        None,
        correlation_id=request.message_id,
        application={"status-code": Int(status), "status-description": text},
    )


def _judge(request: AmqpMessage, broker: Broker) -> tuple[int, str]:
    asked = request.application
    name = str(asked.get("name") or "")
    if fault := broker.fault("token", name.rpartition("/")[2]):
        return 401, f"{fault.condition}: {fault.description}"
    if asked.get("operation") != "put-token" or asked.get("type") not in _TOKEN_TYPES:
        return 400, "only put-token is understood, with a SAS token or a JWT"
    try:
        token = request.value
    except Malformed as problem:
        return 400, str(problem)
    return (202, "Accepted") if token else (401, "the token is empty")
