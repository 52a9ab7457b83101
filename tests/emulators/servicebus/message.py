"""AMQP 1.0 messages: their sections, and the batches that the vendor's clients send."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

from tests.emulators.servicebus.codec import Described, Malformed, Reader, ULong, encode

BATCH_FORMAT: Final = 0x80013700
"""``message-format`` of a transfer whose data sections hold one encoded message each."""
_HEADER, _DELIVERY, _ANNOTATIONS, _PROPERTIES, _APPLICATION, _DATA, _VALUE = (
    0x70,
    0x71,
    0x72,
    0x73,
    0x74,
    0x75,
    0x77,
)
_MESSAGE_ID, _GROUP_ID = 0, 10


@dataclass(slots=True)
class AmqpMessage:
    """A message in parts. The body stays as it came."""

    header: list[Any] = field(default_factory=list)
    annotations: dict[Any, Any] = field(default_factory=dict)
    properties: list[Any] = field(default_factory=list)
    application: dict[Any, Any] = field(default_factory=dict)
    body: bytes = b""

    @property
    def message_id(self) -> Any:
        return self._property(_MESSAGE_ID)

    @property
    def session_id(self) -> str | None:
        found: str | None = self._property(_GROUP_ID)
        return found

    @property
    def time_to_live(self) -> int | None:
        """Milliseconds; None is for ever."""
        return self.header[2] if len(self.header) > 2 else None

    @property
    def value(self) -> Any:
        """What an amqp-value body holds. Raises Malformed for any other body."""
        section = Reader(self.body).value()
        if not isinstance(section, Described) or section.descriptor != _VALUE:
            raise Malformed("the body is no amqp-value")
        return section.value

    def encoded(self) -> bytes:
        parts = [(_HEADER, self.header), (_ANNOTATIONS, self.annotations)]
        parts += [(_PROPERTIES, self.properties), (_APPLICATION, self.application)]
        front = b"".join(encode(Described(ULong(code), part)) for code, part in parts if part)
        return front + self.body

    def _property(self, index: int) -> Any:
        return self.properties[index] if len(self.properties) > index else None


def value_message(
    value: Any, *, correlation_id: Any = None, application: dict[Any, Any] | None = None
) -> AmqpMessage:
    """A message with an amqp-value body, such as a reply."""
    properties = [None] * 5 + [correlation_id] + [None] * 7
    body = encode(Described(ULong(_VALUE), value))
    return AmqpMessage(properties=properties, application=application or {}, body=body)


def read_message(data: bytes) -> AmqpMessage:
    """Raises Malformed."""
    reader, found = Reader(data), AmqpMessage()
    while reader:
        start = reader.position
        section = reader.value()
        if not isinstance(section, Described):
            raise Malformed("a message consists of described sections")
        match section.descriptor:
            case 0x70:
                found.header = section.value
            case 0x71:
                pass  # delivery annotations are for the next hop only
            case 0x72:
                found.annotations = section.value
            case 0x73:
                found.properties = section.value
            case 0x74:
                found.application = section.value
            case _:
                found.body = data[start:]
                return found
    return found


def read_batch(data: bytes) -> list[AmqpMessage]:
    """The messages in the data sections of a batch. Raises Malformed."""
    reader, found = Reader(read_message(data).body), []
    while reader:
        section = reader.value()
        if not isinstance(section, Described) or section.descriptor != _DATA:
            raise Malformed("a batch consists of data sections")
        found.append(read_message(section.value))
    return found
