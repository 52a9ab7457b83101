"""The language that a worker and its handler processes speak: frames, errors, messages as data.

A frame is two lengths, a JSON object and raw bytes. Nothing in it can name code to run or a class
to build: what arrives is looked up in the fixed tables below.
"""

from __future__ import annotations

import base64
import json
import struct
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import datetime, timedelta
from types import TracebackType
from typing import Any, Final

from jobbus import errors
from jobbus.job import Problem
from jobbus.message import Dependency, Message, OnFailure

PREFIX: Final = struct.Struct("!II")
MAX_HEAD: Final = 8 * 1024 * 1024
"""Bytes of JSON in one frame; a flight of spawned messages with their payloads fits."""
MAX_RESULT: Final = 1024 * 1024
"""Bytes of an encoded result."""
MAX_MESSAGE: Final = 4 * 1024
MAX_TRACEBACK: Final = 16 * 1024
MAX_LOG: Final = 64 * 1024
MAX_LINEAGE: Final = 32
MAIN_ALIAS: Final = "__jobbus_main__"
"""What a handler process calls the script that the worker knows as ``__main__``."""

_MICROSECOND: Final = timedelta(microseconds=1)


class BrokenChannel(Exception):
    """What came through the channel is not a frame, or not one that belongs there."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One thing said."""

    kind: str
    fields: Mapping[str, Any] = field(default_factory=dict)
    body: bytes = b""


def pack(kind: str, body: bytes = b"", /, **said: Any) -> bytes:
    """The bytes of a frame. Raises PayloadError for values that are not JSON."""
    try:
        head = json.dumps({"kind": kind, **said}, separators=(",", ":")).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise errors.PayloadError(
            f"this cannot cross to the handler's process, as it is not JSON: {error}"
        ) from error
    if len(head) > MAX_HEAD:
        raise errors.PayloadTooLarge(
            f"{len(head)} bytes at once are too many for the channel to the handler's process; "
            f"{MAX_HEAD} fit: spawn fewer messages in one call"
        )
    return PREFIX.pack(len(head), len(body)) + head + body


def lengths(prefix: bytes, *, max_body: int | None) -> tuple[int, int]:
    """How many bytes of JSON and of body follow. Raises BrokenChannel for absurd ones."""
    head, body = PREFIX.unpack(prefix)
    if head > MAX_HEAD or (max_body is not None and body > max_body):
        raise BrokenChannel(f"a frame announced {head} + {body} bytes")
    return head, body


def unpack(head: bytes, body: bytes) -> Frame:
    """The frame. Raises BrokenChannel for anything else."""
    try:
        said = json.loads(head)
        return Frame(said.pop("kind"), said, body)
    except (ValueError, RecursionError, AttributeError, KeyError, TypeError) as error:
        raise BrokenChannel(f"a frame could not be read: {error}") from error


def span_out(value: timedelta | None) -> int | None:
    return None if value is None else value // _MICROSECOND


def span_in(value: Any) -> timedelta | None:
    return None if value is None else timedelta(microseconds=int(value))


class HandlerError(Exception):
    """What a handler raised in its own process, as data.

    ``kind`` is the class name, ``lineage`` the full names of the class and its bases; none of them
    is ever imported.
    """

    def __init__(
        self,
        kind: str,
        message: str,
        traceback: str | None = None,
        lineage: Sequence[str] = (),
    ) -> None:
        super().__init__(f"{kind}: {message}" if message else kind)
        self.kind = kind
        self.message = message
        self.traceback = traceback
        self.lineage = tuple(lineage)

    @property
    def problem(self) -> Problem:
        """The error in the form that the ledger keeps."""
        return Problem(kind=self.kind, message=self.message, traceback=self.traceback)

    def was(self, *classes: type[BaseException]) -> bool:
        """Whether it was an instance of one of these where it was raised, judged by name."""
        return any(_full_name(one) in self.lineage for one in classes)


_STEERING: Final[Mapping[str, type[errors.Signal]]] = {
    "Retry": errors.Retry,
    "Snooze": errors.Snooze,
    "RateLimited": errors.RateLimited,
    "PermanentError": errors.PermanentError,
    "Reject": errors.Reject,
    "Cancelled": errors.Cancelled,
}
_JUDGED: Final[Mapping[str, type[Exception]]] = {
    "ConfigurationError": errors.ConfigurationError,
    "Unsupported": errors.Unsupported,
    "PayloadError": errors.PayloadError,
    "PayloadTooLarge": errors.PayloadTooLarge,
    "TimeoutError": TimeoutError,
}
"""No signals, but their class decides what becomes of the job."""
_REFUSALS: Final[Mapping[str, type[Exception]]] = {
    **_JUDGED,
    **{
        one.__name__: one
        for one in (
            errors.BackendError,
            errors.BackendFull,
            errors.BackendUnavailable,
            errors.InvalidJob,
            errors.JobbusError,
            errors.LeaseLost,
            errors.UnknownJobType,
        )
    },
}
"""What the worker may answer to a handler process that spawns."""


def capture(error: BaseException) -> dict[str, Any]:
    """An error as data. Never fails, whatever the error's own methods do."""
    kind = type(error)
    said: dict[str, Any] = {
        "error": kind.__name__,
        "message": _text(error)[:MAX_MESSAGE],
        "traceback": _traceback(error)[-MAX_TRACEBACK:],
        "lineage": [_full_name(one) for one in kind.__mro__[:MAX_LINEAGE]],
    }
    known = {**_STEERING, **_REFUSALS}
    base = next((one for one in kind.__mro__ if known.get(one.__name__) is one), None)
    if base is not None:
        said["base"] = base.__name__
        after = getattr(error, "retry_after" if base is errors.RateLimited else "after", None)
        said["after"] = span_out(after) if isinstance(after, timedelta) else None
    return said


def rebuild_from_handler(said: Mapping[str, Any]) -> Exception:
    """What a handler raised: its signal, or a :class:`HandlerError`.

    A signal has the :class:`HandlerError` as its cause, so that no traceback is lost.
    """
    plain = _plain(said)
    base = said.get("base")
    after = span_in(said.get("after"))
    rebuilt: Exception | None = None
    if base == "Retry":
        rebuilt = errors.Retry(plain.message, after=after)
    elif base == "Snooze" and after is not None:
        rebuilt = errors.Snooze(after, plain.message)
    elif base == "RateLimited" and after is not None:
        rebuilt = errors.RateLimited(after, plain.message)
    elif base in ("PermanentError", "Reject", "Cancelled"):
        rebuilt = _STEERING[base](plain.message)
    elif isinstance(base, str) and base in _JUDGED:
        rebuilt = _JUDGED[base](plain.message)
    if rebuilt is None:
        return plain
    rebuilt.__cause__ = plain
    return rebuilt


def rebuild_from_worker(said: Mapping[str, Any]) -> Exception:
    """What the worker answered to a handler process: an error of jobbus."""
    plain = _plain(said)
    rebuilt = _REFUSALS.get(str(said.get("base")), errors.JobbusError)(
        plain.message if "base" in said else str(plain)
    )
    rebuilt.__cause__ = plain
    return rebuilt


def _plain(said: Mapping[str, Any]) -> HandlerError:
    return HandlerError(
        str(said.get("error", "Exception")),
        str(said.get("message", "")),
        str(said.get("traceback") or "") or None,
        [str(one) for one in said.get("lineage", ())],
    )


def _full_name(kind: type) -> str:
    module = "__main__" if kind.__module__ == MAIN_ALIAS else kind.__module__
    return f"{module}.{kind.__qualname__}"


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except Exception as broken:
        return f"<the text of this {type(error).__name__} raises {type(broken).__name__}>"


def _traceback(error: BaseException) -> str:
    try:
        start = _handlers_own(error.__traceback__)
        return "".join(traceback.format_exception(type(error), error, start))
    except Exception as broken:
        return f"<the traceback cannot be formatted: {type(broken).__name__}>"


def _handlers_own(start: TracebackType | None) -> TracebackType | None:
    """The traceback without the frames of jobbus and asyncio that led to the handler."""
    step = start
    while step is not None:
        module = str(step.tb_frame.f_globals.get("__name__", ""))
        if module != "__main__" and module.partition(".")[0] not in ("jobbus", "asyncio"):
            return step
        step = step.tb_next
    return start


def message_out(message: Message) -> dict[str, Any]:
    """A message as JSON values; :func:`message_in` gives an equal one back."""
    said = {one.name: getattr(message, one.name) for one in fields(message)}
    said["payload"] = base64.b64encode(message.payload).decode()
    said["headers"] = dict(message.headers)
    said["metadata"] = dict(message.metadata)
    said["priority"] = int(message.priority)
    said["delay"] = span_out(message.delay)
    said["timeout"] = span_out(message.timeout)
    for moment in ("run_at", "expires_at"):
        said[moment] = said[moment].isoformat() if said[moment] is not None else None
    said["depends_on"] = [[one.job_id, one.on_failure.value] for one in message.depends_on]
    return said


def message_in(said: Mapping[str, Any]) -> Message:
    """Raises BrokenChannel for what :func:`message_out` never makes."""
    try:
        return Message(
            **{
                **said,
                "payload": base64.b64decode(said["payload"], validate=True),
                "delay": span_in(said["delay"]) or timedelta(0),
                "timeout": span_in(said["timeout"]),
                "run_at": _moment(said["run_at"]),
                "expires_at": _moment(said["expires_at"]),
                "depends_on": tuple(
                    Dependency(job_id, OnFailure(word)) for job_id, word in said["depends_on"]
                ),
                "tags": tuple(said["tags"]),
            }
        )
    except (KeyError, TypeError, ValueError) as error:
        raise BrokenChannel(f"a spawned message could not be read: {error}") from error


def _moment(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)
