"""A batch of rows as one JSON document, which is how batches travel to Postgres."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

_BYTES = ("payload", "result")


def batch_document(batch: Sequence[Mapping[str, Any]]) -> str:
    """The rows; bytes as text where they are text, else as base64 under another name.

    Postgres text holds no NUL, so bytes with one travel as base64 as well.
    """
    from pydantic_core import PydanticSerializationError, to_json

    try:
        document = to_json(batch)
    except (PydanticSerializationError, UnicodeError):
        return _careful(batch)
    # Also true of a harmless backslash before u0000; then the careful way does no harm.
    return _careful(batch) if b"\\u0000" in document else document.decode("utf-8")


def as_text(data: bytes) -> str | bytes:
    """The text that these bytes are in UTF-8; the bytes where they are none."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return data


def _careful(batch: Sequence[Mapping[str, Any]]) -> str:
    return json.dumps([_row(row) for row in batch], ensure_ascii=False, default=_value)


def _row(row: Mapping[str, Any]) -> dict[str, Any]:
    made = dict(row)
    for name in _BYTES:
        value = made.get(name)
        if value is None:
            continue
        text = value if isinstance(value, str) else as_text(value)
        if isinstance(text, bytes) or "\0" in text:
            data = text.encode() if isinstance(text, str) else text
            made[name] = None
            made[f"{name}_base64"] = base64.b64encode(data).decode("ascii")
        else:
            made[name] = text
    return made


def _value(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    raise TypeError(f"{type(value).__name__} cannot travel in a batch")
