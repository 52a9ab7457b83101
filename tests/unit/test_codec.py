"""Payloads survive the way there and back, and what is not fit to travel is refused by name."""

from __future__ import annotations

import json
import math
import pickle
import socket
import tracemalloc
from collections import OrderedDict, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from enum import Enum, IntEnum, StrEnum
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import Any, NamedTuple, TypedDict
from uuid import UUID

import pydantic
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from jobbus.codec import (
    DEFAULT_LIMIT,
    HARD_LIMIT,
    MAX_DEPTH,
    MAX_DIGITS,
    MAX_KEY_BYTES,
    MAX_NODES,
    decode,
    encode,
    lost,
    to_tree,
)
from jobbus.errors import PayloadError, PayloadTooLarge

MOMENT = datetime(2026, 2, 3, 4, 5, 6, tzinfo=UTC)


class Colour(Enum):
    RED = "red"


class Size(StrEnum):
    BIG = "big"


class Level(IntEnum):
    TOP = 3


class Point(NamedTuple):
    x: int
    y: int


class Track(TypedDict):
    title: str


@dataclass
class Clip:
    path: Path
    made: datetime
    parts: list[Any] = field(default_factory=list)


class Mail(pydantic.BaseModel):
    to: str
    at: datetime | None = None
    extra: Any = None
    share: float = 1.0


class Login(pydantic.BaseModel):
    password: pydantic.SecretStr


def nested(depth: int, kind: str = "list") -> Any:
    """Containers within each other, ``depth`` of them."""
    value: Any = [] if kind == "list" else {}
    for _ in range(depth - 1):
        value = [value] if kind == "list" else {"a": value}
    return value


def recursive() -> Any:
    loop: list[Any] = []
    loop.append({"again": loop})
    return loop


def counting() -> Iterator[int]:
    yield 1


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts
    | st.sampled_from([":", '":', "[", "{", '"', "\\", '\\"', "NaN", "Infinity", "a: b", "[]"]),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(texts, inner, max_size=5),
    max_leaves=30,
)


@given(json_values)
@example({"a": "Infinity", "b": [-0.0, 1e300, 5e-324], "": None})
def test_plain_values_come_back_as_they_were(value: Any) -> None:
    data = encode(value)
    assert decode(data) == value
    assert json.loads(data) == value
    assert repr(decode(data)) == repr(json.loads(data))


@given(json_values, st.sampled_from([None, 0, 3]), st.booleans(), st.booleans())
def test_documents_of_other_writers_are_read_however_they_are_spaced(
    value: Any, indent: int | None, ascii_only: bool, spaced: bool
) -> None:
    separators = (" , ", "\t:\n") if spaced else None
    text = json.dumps(value, indent=indent, ensure_ascii=ascii_only, separators=separators)
    assert decode(text.encode()) == value


@given(st.binary(max_size=60) | st.text('[]{}",:\\ueE+-.019truefalsnl ', max_size=60))
@example('{"a":"\\u0022:1","b":2}')
def test_whatever_arrives_is_read_as_any_other_reader_would_or_refused(sent: bytes | str) -> None:
    data = sent if isinstance(sent, bytes) else sent.encode()
    try:
        value = decode(data)
    except PayloadError:
        return
    assert value == json.loads(data)


def test_the_encoding_is_compact_and_in_utf_8() -> None:
    assert encode({"name": "Zoë", "sizes": [1, 2.5], "on": True}) == (
        '{"name":"Zoë","sizes":[1,2.5],"on":true}'.encode()
    )


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (MOMENT, '"2026-02-03T04:05:06Z"'),
        (date(2026, 2, 3), '"2026-02-03"'),
        (timedelta(hours=1), '"PT1H"'),
        (UUID(int=7), '"00000000-0000-0000-0000-000000000007"'),
        (Decimal("1.50"), '"1.50"'),
        (PurePosixPath("/in/a.mp4"), '"/in/a.mp4"'),
        (b"\xff\xfe", '"__4="'),
        ((1, (2,)), "[1,[2]]"),
        (frozenset({1}), "[1]"),
        (deque([1, 2]), "[1,2]"),
        (Point(1, 2), "[1,2]"),
        (Track(title="x"), '{"title":"x"}'),
        (OrderedDict(b=1, a=2), '{"b":1,"a":2}'),
        (MappingProxyType({"a": 1}), '{"a":1}'),
        ([Colour.RED, Size.BIG, Level.TOP], '["red","big",3]'),
        ({Size.BIG: 1}, '{"big":1}'),
        (
            Clip(Path("a"), MOMENT, [UUID(int=1)]),
            '{"path":"a","made":"2026-02-03T04:05:06Z",'
            '"parts":["00000000-0000-0000-0000-000000000001"]}',
        ),
        (
            {"mails": [Mail(to="a@b", at=MOMENT)]},
            '{"mails":[{"to":"a@b","at":"2026-02-03T04:05:06Z","extra":null,"share":1.0}]}',
        ),
    ],
)
def test_rich_values_become_plain_ones(value: object, expected: str) -> None:
    assert encode(value).decode() == expected
    assert decode(encode(to_tree(value))) == decode(encode(value))


@pytest.mark.parametrize(
    ("value", "complaint"),
    [
        ({"when": [1, object()]}, "x, at `when[1]`: objects of type object cannot be JSON"),
        (object(), "x: objects of type object cannot be JSON"),
        ({"f": print}, "at `f`: objects of type builtin_function_or_method cannot be JSON"),
        ({"c": Mail}, "at `c`: objects of type ModelMetaclass cannot be JSON"),
        ({"g": counting()}, "at `g`: objects of type generator cannot be JSON; make it a list"),
        ({"a": {"b": math.nan}}, "at `a.b`: nan is no JSON number"),
        ([math.inf], "at `[0]`: inf is no JSON number"),
        ([-math.inf], "at `[0]`: -inf is no JSON number"),
        ({"d": Decimal("sNaN")}, "at `d`: sNaN is no JSON number"),
        ({"d": Decimal("-Infinity")}, "at `d`: -Infinity is no JSON number"),
        ({"m": Mail(to="a", share=math.nan)}, "at `m.share`: nan is no JSON number"),
        ({"m": Mail(to="a", extra={"x": math.inf})}, "x: inf would be stored as null"),
        (Clip(Path(), MOMENT, [math.nan]), "at `parts[0]`: nan is no JSON number"),
        ({"a": {1: 2}}, "at `a`: the key 1 is of type int; JSON keys are strings"),
        ({None: 2}, "the key None is of type NoneType"),
        ({(1, 2): 2}, "the key (1, 2) is of type tuple"),
        ({"a": ["\ud800"]}, "at `a[0]`: half of a surrogate pair is not text"),
        ({"\udfff": 1}, "x: half of a surrogate pair is not text"),
        ({"n": 10**MAX_DIGITS}, "at `n`: an integer of more than 4,000 digits"),
        ({"n": [-(10**MAX_DIGITS)]}, "at `n[0]`: an integer of more than 4,000 digits"),
        (recursive(), "at `[0].again`: an object that contains itself cannot be JSON"),
        ({"a": nested(MAX_DEPTH)}, "nested deeper than 32 levels"),
        ([0] * MAX_NODES, "more than 50,000 values"),
        ([[0] * 1000] * 1000, "more than 50,000 values"),
        ({"k" * (MAX_KEY_BYTES + 1): 1}, "has more than 256 bytes"),
        ({"é" * (MAX_KEY_BYTES // 2 + 1): 1}, "has more than 256 bytes"),
        ({"p": pydantic.SecretStr("hush")}, "at `p`: a pydantic secret would be stored as aster"),
    ],
)
def test_what_cannot_travel_is_refused_with_its_place(value: object, complaint: str) -> None:
    with pytest.raises(PayloadError) as caught:
        encode(value, what="x")
    assert complaint in str(caught.value)
    assert "hush" not in str(caught.value)


def test_a_socket_is_refused_by_its_type_with_the_first_error_as_the_cause() -> None:
    with (
        socket.socket() as connection,
        pytest.raises(PayloadError, match="type socket cannot be JSON") as caught,
    ):
        encode(connection, what="argument `when` of video.render")
    assert str(caught.value).startswith("argument `when` of video.render: ")
    assert caught.value.__cause__ is not None


@pytest.mark.parametrize("kind", ["list", "dict"])
def test_thirty_two_levels_are_allowed_both_ways_and_thirty_three_are_not(kind: str) -> None:
    allowed, refused = nested(MAX_DEPTH, kind), nested(MAX_DEPTH + 1, kind)
    assert decode(encode(allowed)) == allowed
    for attempt in (lambda: encode(refused), lambda: decode(json.dumps(refused).encode())):
        with pytest.raises(PayloadError, match="nested deeper than 32 levels"):
            attempt()


def test_brackets_within_strings_are_no_levels() -> None:
    value = {"a": "[" * 100, "b": ['}"]\\' * 50, "\\"]}
    assert decode(encode(value)) == value


def test_brackets_within_strings_hide_no_levels() -> None:
    flat_to_the_eye: list[Any] = []
    for _ in range(MAX_DEPTH):
        flat_to_the_eye = ["]", flat_to_the_eye]
    for value in (flat_to_the_eye, ["]" * 100, nested(MAX_DEPTH), "[" * 100]):
        with pytest.raises(PayloadError, match="nested deeper than 32 levels"):
            decode(json.dumps(value).encode())


def test_the_largest_allowed_number_of_values_travels() -> None:
    value = [0] * (MAX_NODES - 1)
    assert decode(encode(value)) == value
    with pytest.raises(PayloadError, match="more than 50,000 values"):
        decode(json.dumps([0] * MAX_NODES).encode())


@pytest.mark.parametrize(
    "one", [[], {}, ["a"], {"a": 1}, [[]], "a"], ids=["[]", "{}", "[a]", "{a}", "[[]]", "a"]
)
def test_writer_and_reader_count_values_alike(one: Any) -> None:
    def values(value: Any) -> int:
        children = value.values() if isinstance(value, dict) else value
        return 1 if isinstance(value, str | int) else 1 + sum(map(values, children))

    fitting = (MAX_NODES - 1) // values(one)
    assert decode(encode([one] * fitting)) == [one] * fitting
    for attempt in (encode, lambda value: decode(json.dumps(value).encode())):
        with pytest.raises(PayloadError, match="more than 50,000 values"):
            attempt([one] * (fitting + 1))


def test_integers_of_four_thousand_digits_travel() -> None:
    value = {"n": [10 ** (MAX_DIGITS - 1), -(10 ** (MAX_DIGITS - 1))], "text": "1" * 9000}
    assert decode(encode(value)) == value


def test_a_key_of_256_bytes_travels() -> None:
    value = {"k" * MAX_KEY_BYTES: 1, "é" * (MAX_KEY_BYTES // 2): 2}
    assert decode(encode(value)) == value


def test_too_large_names_both_sizes() -> None:
    with pytest.raises(PayloadTooLarge, match=r"1,002 bytes of JSON, and the limit is 1,000"):
        encode("x" * 1000, limit=1000)
    assert len(encode("x" * 998, limit=1000)) == 1000
    with pytest.raises(PayloadTooLarge, match="262,144"):
        encode("x" * DEFAULT_LIMIT)


def test_no_limit_goes_beyond_the_hard_one() -> None:
    assert len(encode("x" * (HARD_LIMIT - 2), limit=10 * HARD_LIMIT)) == HARD_LIMIT
    with pytest.raises(PayloadTooLarge, match="1,048,576"):
        encode("x" * HARD_LIMIT, limit=10 * HARD_LIMIT)
    with pytest.raises(PayloadTooLarge, match="1,048,576"):
        decode(b'"%b"' % (b"x" * HARD_LIMIT))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b" ",
        b"\xff\xfe",
        b'"\xed\xa0\x80"',
        b'"\xc0\x80"',
        b'\xef\xbb\xbf{"a":1}',
        b'{"a":1',
        b'{"a":1}}',
        b'{"a":1,}',
        b"[1,]",
        b"{'a':1}",
        b"{a:1}",
        b'{"a":1} {"b":2}',
        b'"\\ud800"',
        b'"\\udc00x"',
        b'"\\u12"',
        b'"tab\tinside"',
        b"01",
        b"+1",
        b".5",
        b"0x10",
        b"True",
        b"NaN",
        b"[Infinity]",
        b'{"a":-Infinity}',
        b"// no\n1",
        b"\x80\x04\x95",
        pickle.dumps({"a": 1}),
        b"!!python/object/apply:os.system ['true']",
    ],
)
def test_what_is_not_json_is_refused_by_name(data: bytes) -> None:
    with pytest.raises(PayloadError, match=r"^the payload of a is not JSON: ") as caught:
        decode(data, what="the payload of a")
    assert caught.value.__cause__ is not None


@pytest.mark.parametrize(
    ("data", "key"),
    [
        (b'{"a":1,"a":2}', "a"),
        (b'{"a":1,"a":1}', "a"),
        (b'{"a":{"b":1,"c":2,"b":3}}', "b"),
        (b'[{"x":1},{"y":1, "y" : 2}]', "y"),
        (b'{"a":1,"\\u0061":2}', "a"),
        (b'{"t":"12:30","a":1,"a":":"}', "a"),
        (b'{"q":"\\":\\"","a":1,"b":"\\\\","a":2}', "a"),
        ('{"é":1,"\\u00e9":2}'.encode(), "é"),
    ],
)
def test_an_object_with_a_key_twice_is_refused(data: bytes, key: str) -> None:
    with pytest.raises(PayloadError, match=f"has the key '{key}' twice"):
        decode(data)


@pytest.mark.parametrize("data", [b"1e999", b'{"a":[-1e400]}', b"[1" + b"0" * 400 + b".0]"])
def test_a_number_that_overflows_is_no_infinity(data: bytes) -> None:
    with pytest.raises(PayloadError, match="too large for a float"):
        decode(data)


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (b"[" * 100_000, "nested deeper"),
        (b'{"a":' * 100_000, "nested deeper"),
        (b"[" * 500_000 + b"]" * 500_000, "nested deeper"),
        (b'["' + b"\\" * 1_000_000 + b"[" * 33, "nested deeper|not JSON"),
        (b'"' * 1_000_001, "more than 50,000 values"),
        (b'"\\' * 500_000, "not JSON"),
        (b"[" + b"[]," * 300_000 + b"[]]", "more than 50,000 values"),
        (b"[" + b"{}," * 300_000 + b"{}]", "more than 50,000 values"),
        (b"[" + b"0," * 500_000 + b"0]", "more than 50,000 values"),
        (b"[" + b'"",' * 300_000 + b'""]', "more than 50,000 values"),
        (b"1" * 1_000_000, "a number of more than 4,000 digits"),
        (b'{"n":-' + b"9" * (MAX_DIGITS + 1) + b"}", "a number of more than 4,000 digits"),
        (b'{"' + b"k" * 300 + b'":1}', "has more than 256 bytes"),
    ],
    ids=range(13),
)
def test_bombs_are_refused_before_they_cost_memory(data: bytes, complaint: str) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(PayloadError, match=complaint) as caught:
            decode(data)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(str(caught.value)) < 200
    assert peak < 16_000_000


def test_errors_about_a_payload_do_not_quote_it() -> None:
    for data in (b'{"password":"hush" "x"}', b'{"hush":1e999}', b'["hush"'):
        with pytest.raises(PayloadError) as caught:
            decode(data)
        assert "hush" not in str(caught.value)


def test_secrets_that_became_asterisks_are_found_wherever_they_are() -> None:
    login = Login(password=pydantic.SecretStr("hush"))
    data = login.model_dump_json().encode()
    assert lost(data, login) == lost(data, {"a": [Clip(Path(), MOMENT, [login])]})
    assert "secret" in (lost(data, login) or "")
    assert lost(data, {"password": "**********"}) is None
    assert lost(b'{"password":"hush"}', login) is None


def test_numbers_that_became_null_are_found() -> None:
    mail = Mail(to="a", extra=[math.nan])
    assert lost(mail.model_dump_json().encode(), {"m": mail}) == "nan would be stored as null"
    assert lost(b"[null]", {"m": Mail(to="a", extra=[1.5, None])}) is None
