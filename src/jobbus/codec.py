"""Payloads to bytes and back: JSON that every store keeps and no reader chokes on.

The common case, a small payload of plain values, takes one short walk and a few counts of bytes.
Only what raises a doubt there is gone through step by step, which is how an error knows its place.
"""

from __future__ import annotations

import json
import math
import os
import sys
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Set
from dataclasses import fields, is_dataclass
from decimal import Decimal
from enum import Enum
from functools import cache
from types import ModuleType
from typing import Any, Final, NoReturn

from jobbus.errors import PayloadError, PayloadTooLarge

DEFAULT_LIMIT: Final = 256 * 1024
"""Bytes of a payload, unless a job type says otherwise."""
HARD_LIMIT: Final = 1024 * 1024
"""Bytes that no payload or result exceeds, whatever the settings."""
MAX_DEPTH: Final = 32
MAX_NODES: Final = 50_000
MAX_DIGITS: Final = 4_000
MAX_KEY_BYTES: Final = 256

_LEAVES: Final = frozenset({str, int, float, bool, type(None)})
_CONTAINERS: Final = frozenset({dict, list})
_DOUBT: Final = MAX_NODES + 1
_SHORT_KEY: Final = MAX_KEY_BYTES // 4
"""Characters that fit whatever they are."""
_HARMLESS: Final = 400
"""Bytes, in which there is no room for the 201 levels at which the parser gives up."""
_ASTERISKS: Final = b'"**********"'
_CONCEALED: Final = "a pydantic secret would be stored as asterisks; pass a reference to it"
_DIGITS: Final = b"0123456789"
_BRACKETS: Final = bytes.maketrans(b"{}", b"[]")
_NOT_BRACKETS: Final = bytes(sorted(set(range(256)) - set(b"[]{}")))
_WHITE_SPACE: Final = b" \t\r\n"
_ZEROS: Final = bytes.maketrans(_DIGITS, b"0" * 10)


def encode(value: object, *, limit: int = DEFAULT_LIMIT, what: str = "the payload") -> bytes:
    """``value`` as compact UTF-8 JSON that :func:`decode` accepts.

    Takes plain values, pydantic models, dataclasses, datetimes, UUIDs, decimals, enums, paths,
    sets, tuples, and bytes (as URL-safe base64). ``what`` names the value in errors. Raises
    :class:`~jobbus.errors.PayloadError` for anything else, naming the place and the type, for what
    no JSON reader agrees on (NaN, keys that are not strings, lone surrogates), and for values
    beyond the limits above; :class:`~jobbus.errors.PayloadTooLarge` beyond ``limit`` bytes.
    """
    if is_plain(value):
        return encode_plain(value, limit=limit, what=what)
    tree = to_tree(value, what=what)
    data = _dumped(tree, what)
    if loss := lost(data, value):
        raise PayloadError(f"{what}: {loss}")
    return _within(data, limit, what)


def encode_plain(value: object, *, limit: int, what: str) -> bytes:
    """:func:`encode` for what is known to be :func:`is_plain`."""
    data = _dumped(value, what)
    if b"NaN" in data or b"Infinity" in data or (len(data) > MAX_DIGITS and _too_long(data)):
        _Converter(what).convert(value)
    return _within(data, limit, what)


def _dumped(tree: object, what: str) -> bytes:
    try:
        data: bytes = _json().to_json(tree)
    except ValueError as error:
        _Converter(what).convert(tree)
        raise PayloadError(f"{what} cannot be JSON: {error}") from error
    return data


def _within(data: bytes, limit: int, what: str) -> bytes:
    limit = min(limit, HARD_LIMIT)
    if len(data) > limit:
        raise PayloadTooLarge(
            f"{what}: {len(data):,} bytes of JSON, and the limit is {limit:,}; "
            "store the data elsewhere and pass a reference to it"
        )
    return data


@cache
def _json() -> ModuleType:
    """The parser, imported when it is first needed: an import statement costs a job as much."""
    import pydantic_core

    return pydantic_core


def is_plain(value: object) -> bool:
    """Whether ``value`` is JSON as it is: no conversion, no key at fault, a sane shape."""
    if isinstance(value, dict | list):
        return _count_plain(value, 1) < MAX_NODES
    return type(value) in _LEAVES


def to_tree(value: object, *, what: str = "the payload") -> Any:
    """``value`` as plain JSON values, under the same conditions as :func:`encode`."""
    return value if is_plain(value) else _Converter(what).convert(value)


def decode(data: bytes, *, what: str = "the payload") -> Any:
    """The JSON value in ``data``, which may come from anybody.

    Raises :class:`~jobbus.errors.PayloadError` for whatever is not JSON in UTF-8 or goes beyond the
    limits above, duplicate keys and overflowing numbers included, after no more work than the size
    of ``data`` is worth; :class:`~jobbus.errors.PayloadTooLarge` beyond :data:`HARD_LIMIT`.
    """
    if len(data) > HARD_LIMIT:
        raise PayloadTooLarge(f"{what}: {len(data):,} bytes, and the limit is {HARD_LIMIT:,}")
    # The only harm in so short a document is its depth, which is told below.
    if len(data) > _HARMLESS:
        _refuse_bombs(data, what)
    try:
        value = _json().from_json(data, allow_inf_nan=False, cache_strings="keys")
    except ValueError as error:
        raise PayloadError(f"{what} is not JSON: {error}") from error
    keys = _count_keys(value if type(value) in _CONTAINERS else [value], 1, what)
    # Colons within strings only make the cheaper counts too high, never too low.
    if (
        keys != data.count(b":")
        and keys != data.translate(None, _WHITE_SPACE).count(b'":')
        and keys != _skeleton(data).count(b":")
    ):
        raise PayloadError(f"{what}: an object in it has the key {_repeated_key(data)!r} twice")
    return value


def lost(data: bytes, *values: object) -> str | None:
    """What of ``values`` their serializers did not write into ``data``, in words; else None.

    Pydantic makes asterisks of secrets and, within models, null of NaN and the infinities.
    """
    if _ASTERISKS not in data and b"null" not in data:
        return None
    nodes: list[object] = list(values)
    for node in nodes:
        if isinstance(node, float):
            if not math.isfinite(node):
                return f"{node} would be stored as null"
        elif type(node) in _LEAVES:
            continue
        elif _is_secret(node):
            if _ASTERISKS in data:
                return _CONCEALED
        elif isinstance(node, Mapping):
            nodes += node.values()
        elif isinstance(node, list | tuple | Set):
            nodes += node
        elif _has_fields(node):
            nodes += [getattr(node, name) for name in _field_names(node)]
        if len(nodes) > MAX_NODES:
            break
    return None


def _count_plain(value: Any, depth: int) -> int:
    """How many values are within ``value``; too many when anything about it is doubtful."""
    if depth > MAX_DEPTH or type(value) not in _CONTAINERS:
        return _DOUBT
    total = len(value)
    if type(value) is dict:
        for key in value:
            if type(key) is not str or len(key) > _SHORT_KEY:
                return _DOUBT
        value = value.values()
    for item in value:
        if type(item) not in _LEAVES:
            total += _count_plain(item, depth + 1)
            if total > MAX_NODES:
                return _DOUBT
    return total


def _count_keys(value: Any, depth: int, what: str) -> int:
    """How many keys a parsed document has; refuses what no other check has seen."""
    if depth > MAX_DEPTH:
        raise PayloadError(f"{what}: nested deeper than {MAX_DEPTH} levels")
    total = 0
    if type(value) is dict:
        total = len(value)
        for key in value:
            if len(key) > _SHORT_KEY:
                _refuse_long_key(key, what)
        value = value.values()
    for item in value:
        kind = type(item)
        if kind in _CONTAINERS:
            total += _count_keys(item, depth + 1, what)
        elif kind is float and not math.isfinite(item):
            raise PayloadError(f"{what}: a number in it is too large for a float")
    return total


class _Converter:
    """Turns any value into plain JSON values, step by step, knowing where it is."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._path: list[str] = []
        self._nodes = 0
        self._open: set[int] = set()

    def convert(self, value: object) -> Any:
        self._nodes += 1
        if self._nodes > MAX_NODES:
            self._refuse(f"more than {MAX_NODES:,} values")
        if value is None or value is True or value is False:
            return value
        if _is_secret(value):
            self._refuse(_CONCEALED)
        if isinstance(value, Enum):
            return self.convert(value.value)
        if isinstance(value, os.PathLike):
            return self.convert(os.fspath(value))
        if isinstance(value, str):
            return self._text(value)
        if isinstance(value, int):
            return self._integer(value)
        if isinstance(value, float | Decimal):
            return self._number(value)
        if isinstance(value, Mapping | list | tuple | Set | deque) or _has_fields(value):
            return self._container(value)
        return self._leaf(value)

    def _container(self, value: Any) -> Any:
        if id(value) in self._open:
            self._refuse("an object that contains itself cannot be JSON")
        if len(self._open) >= MAX_DEPTH:
            self._refuse(f"nested deeper than {MAX_DEPTH} levels")
        self._open.add(id(value))
        try:
            if hasattr(value, "__pydantic_serializer__"):
                # Its own serializer decides, and may do so without a further level.
                self._open.discard(id(value))
                return self.convert(self._serialized(value))
            if isinstance(value, Mapping):
                return {self._key(key): self._at(f".{key}", value[key]) for key in value}
            if is_dataclass(value):
                return {
                    name: self._at(f".{name}", getattr(value, name)) for name in _field_names(value)
                }
            return [self._at(f"[{index}]", item) for index, item in enumerate(value)]
        finally:
            self._open.discard(id(value))

    def _at(self, step: str, value: object) -> Any:
        self._path.append(step)
        converted = self.convert(value)
        self._path.pop()
        return converted

    def _key(self, key: object) -> str:
        if isinstance(key, Enum):
            key = key.value
        if not isinstance(key, str):
            self._refuse(f"the key {key!r} is of type {type(key).__name__}; JSON keys are strings")
        _refuse_long_key(key, self._what)
        return self._text(key)

    def _text(self, value: str) -> str:
        if not value.isascii():
            try:
                value.encode()
            except UnicodeEncodeError as error:
                self._refuse("half of a surrogate pair is not text", error)
        return str(value)

    def _integer(self, value: int) -> int:
        if value.bit_length() > 3 * MAX_DIGITS and abs(value) >= 10**MAX_DIGITS:
            self._refuse(f"an integer of more than {MAX_DIGITS:,} digits")
        return int(value)

    def _number(self, value: float | Decimal) -> Any:
        finite = value.is_finite() if isinstance(value, Decimal) else math.isfinite(value)
        if not finite:
            self._refuse(f"{value} is no JSON number")
        return str(value) if isinstance(value, Decimal) else float(value)

    def _leaf(self, value: object) -> Any:
        if isinstance(value, Iterator):
            self._refuse(f"objects of type {type(value).__name__} cannot be JSON; make it a list")
        return self._serialized(value)

    def _serialized(self, value: object) -> Any:
        from pydantic_core import to_jsonable_python

        try:
            # inf_nan_mode keeps NaN a float, for it to be found and refused.
            return to_jsonable_python(value, bytes_mode="base64", inf_nan_mode="constants")
        except ValueError as error:
            detail = "" if str(type(value)) in str(error) else f" ({error})"
            name = type(value).__name__
            self._refuse(f"objects of type {name} cannot be JSON{detail}", error)

    def _refuse(self, problem: str, cause: Exception | None = None) -> NoReturn:
        path = "".join(self._path).removeprefix(".")
        place = f"{self._what}, at `{path}`" if path else self._what
        raise PayloadError(f"{place}: {problem}") from cause


def _has_fields(value: object) -> bool:
    if isinstance(value, type):
        return False
    return hasattr(value, "__pydantic_serializer__") or is_dataclass(value)


def _field_names(value: Any) -> list[str]:
    if is_dataclass(value):
        return [field.name for field in fields(value) if hasattr(value, field.name)]
    return list(vars(value))


def _is_secret(value: object) -> bool:
    # Whoever made a secret has imported pydantic; nobody else need pay for it.
    types = sys.modules.get("pydantic.types")
    return types is not None and isinstance(
        value, types.SecretStr | types.SecretBytes | types.Secret
    )


def _skeleton(data: bytes) -> bytes:
    """``data`` with an ``s`` for each of its strings: exact for JSON, harmless for all else."""
    if b"\\" in data:
        data = data.replace(b"\\\\", b"").replace(b'\\"', b"")
    return b"s".join(data.split(b'"')[::2])


def _refuse_bombs(data: bytes, what: str) -> None:
    """From the bytes alone, at the cost of a few passes over them."""
    long = len(data) > MAX_NODES
    # Each string is a value, or the key of one; taking apart more of them would cost memory.
    if long and data.count(b'"') - data.count(b'\\"') > 4 * MAX_NODES:
        raise PayloadError(f"{what}: more than {MAX_NODES:,} values")
    if _too_deep(data) and _too_deep(_skeleton(data)):
        raise PayloadError(f"{what}: nested deeper than {MAX_DEPTH} levels")
    if long and _too_many(data):
        raise PayloadError(f"{what}: more than {MAX_NODES:,} values")
    if len(data) > MAX_DIGITS and _too_long(data):
        raise PayloadError(f"{what}: a number of more than {MAX_DIGITS:,} digits")


def _too_deep(data: bytes) -> bool:
    """Exact for skeletons; brackets within strings may mislead it either way."""
    if data.count(b"[") + data.count(b"{") <= MAX_DEPTH:
        return False
    brackets = data.translate(_BRACKETS, _NOT_BRACKETS)
    for _ in range(MAX_DEPTH):
        # Each round takes the innermost pairs away: one level.
        shorter = brackets.replace(b"[]", b"")
        if len(shorter) == len(brackets):
            break
        brackets = shorter
    return b"[]" in brackets or brackets.count(b"[") > MAX_DEPTH


def _too_many(data: bytes) -> bool:
    if data.count(b",") + data.count(b"[") + data.count(b"{") < MAX_NODES:
        return False
    bones = _skeleton(data).translate(_BRACKETS, _WHITE_SPACE)
    # Every value but the outermost follows a comma or opens its container.
    return 1 + bones.count(b",") + bones.count(b"[") - bones.count(b"[]") > MAX_NODES


def _too_long(data: bytes) -> bool:
    if len(data) - len(data.translate(None, _DIGITS)) <= MAX_DIGITS:
        return False
    return b"0" * (MAX_DIGITS + 1) in _skeleton(data).translate(_ZEROS)


def _refuse_long_key(key: str, what: str) -> None:
    if len(key) * 4 > MAX_KEY_BYTES and len(key.encode(errors="replace")) > MAX_KEY_BYTES:
        raise PayloadError(f"{what}: the key {key[:32]!r}… has more than {MAX_KEY_BYTES} bytes")


def _repeated_key(data: bytes) -> str:
    repeated: list[str] = []

    def note(pairs: list[tuple[str, Any]]) -> None:
        counts = Counter(key for key, _ in pairs)
        repeated.extend(key for key, count in counts.items() if count > 1)

    json.loads(data, object_pairs_hook=note)
    return repeated[0][:64]
