"""Arguments become payloads and come back as what the handler's annotations say."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NewType
from uuid import UUID

import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typing_extensions import TypedDict

from jobbus.context import JobContext
from jobbus.errors import PayloadError
from jobbus.handlers import make_job_type

if TYPE_CHECKING:
    pass

UserId = NewType("UserId", int)


class Codec(Enum):
    VP9 = "vp9"


class Spec(pydantic.BaseModel):
    path: Path
    height: int = 720
    made: datetime = pydantic.Field(default_factory=lambda: datetime.now(UTC))
    inner: Any = None


class Renamed(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid")
    size: int = pydantic.Field(alias="Size")


class WriteOnly(pydantic.BaseModel):
    size: int = pydantic.Field(serialization_alias="Size")


class Login(pydantic.BaseModel):
    password: pydantic.SecretStr


class UntypedShare(pydantic.BaseModel):
    share: Any


@dataclass
class Clip:
    raw: bytes
    length: timedelta = timedelta(0)
    of: list[Clip] = field(default_factory=list)


class Track(TypedDict, total=False):
    title: str
    cover: bytes


def there_and_back(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """What the handler is called with, in the end."""
    job_type = make_job_type(function)
    args, kwargs = job_type.decode_arguments(job_type.message(*args, **kwargs).payload)
    return function(*args, **kwargs)


def complaint_of(function: Callable[..., Any], *args: Any, **kwargs: Any) -> str:
    with pytest.raises(PayloadError) as caught:
        make_job_type(function).message(*args, **kwargs)
    return str(caught.value)


# The form on the wire


def test_arguments_travel_by_name_and_defaults_stay_at_home() -> None:
    def render(path: str, height: int = 720, *, codec: Codec = Codec.VP9) -> None: ...

    job_type = make_job_type(render)
    assert job_type.message("a").payload == b'{"path":"a"}'
    assert job_type.message("a", codec=Codec.VP9).payload == b'{"path":"a","codec":"vp9"}'
    assert job_type.decode_arguments(b'{"path":"a"}') == ((), {"path": "a"})


@pytest.mark.parametrize(
    ("annotation", "value", "payload"),
    [
        (Renamed, Renamed(Size=3), b'{"Size":3}'),
        (Clip, Clip(b"\xff"), b'{"raw":"_w==","length":"PT0S","of":[]}'),
        (Track, {"title": "x", "cover": b"\xff"}, b'{"title":"x","cover":"_w=="}'),
        (dict[str, int], {"a": 1}, b'{"a":1}'),
        (Mapping[str, Any], {"a": [None]}, b'{"a":[null]}'),
        (dict, {"a": 1}, b'{"a":1}'),
        (Annotated[dict[int, str], "by number"], {1: "a"}, b'{"1":"a"}'),
    ],
)
def test_the_only_argument_is_the_payload_itself_when_it_is_an_object(
    annotation: Any, value: Any, payload: bytes
) -> None:
    def handle(it: Any) -> Any:
        return it

    job_type = make_job_type(handle, annotations={"it": annotation})
    assert job_type.message(value).payload == payload
    assert job_type.decode_arguments(payload) == ((), {"it": value})


@pytest.mark.parametrize(
    ("annotation", "value", "payload"),
    [
        (int, 3, b'{"it":3}'),
        (list[int], [3], b'{"it":[3]}'),
        (Renamed | None, None, b'{"it":null}'),
        (pydantic.RootModel[list[int]], pydantic.RootModel[list[int]]([3]), b'{"it":[3]}'),
        (Any, {"a": 1}, b'{"it":{"a":1}}'),
    ],
)
def test_the_only_argument_has_its_name_when_it_is_no_object(
    annotation: Any, value: Any, payload: bytes
) -> None:
    def handle(it: Any) -> Any:
        return it

    job_type = make_job_type(handle, annotations={"it": annotation})
    assert job_type.message(value).payload == payload
    assert job_type.decode_arguments(payload) == ((), {"it": value})


def test_an_omitted_object_is_null_on_the_wire() -> None:
    def handle(spec: dict[str, int] = {"own": 1}) -> dict[str, int]:  # noqa: B006
        return spec

    assert make_job_type(handle).message().payload == b"null"
    assert there_and_back(handle) == {"own": 1}
    assert there_and_back(handle, {}) == {}


def test_rich_arguments_come_back_as_they_were() -> None:
    def handle(
        at: datetime,
        key: UUID,
        price: Decimal,
        raw: bytes,
        path: Path,
        codec: Codec,
        clips: list[Clip],
        by_number: dict[int, Spec],
        pair: tuple[int, str],
        few: frozenset[int],
        mode: Literal["fast", "slow"],
        user: UserId,
        anything: Any,
    ) -> dict[str, Any]:
        return locals()

    spec = Spec(path=Path("s"))
    given = {
        "at": datetime(2026, 1, 2, 3, 4, 5, 678, tzinfo=UTC),
        "key": UUID(int=5),
        "price": Decimal("0.10"),
        "raw": b"\x00\xff",
        "path": Path("/a b"),
        "codec": Codec.VP9,
        "clips": [Clip(b"\xfe", timedelta(seconds=1.5), [Clip(b"")])],
        "by_number": {7: spec},
        "pair": (1, "x"),
        "few": frozenset({1, 2}),
        "mode": "fast",
        "user": UserId(4),
        "anything": {"a": [1, None, "x"]},
    }
    assert there_and_back(handle, **given) == given


@given(
    st.text(st.characters(exclude_categories=["Cs"])),
    st.lists(st.integers()),
    st.floats(allow_nan=False, allow_infinity=False),
    st.binary(),
)
def test_typed_arguments_survive_whatever_they_are(
    text: str, numbers: list[int], share: float, raw: bytes
) -> None:
    def handle(text: str, numbers: list[int], share: float, raw: bytes) -> tuple[Any, ...]:
        return text, numbers, share, raw

    assert there_and_back(handle, text, numbers, share, raw=raw) == (text, numbers, share, raw)


def test_parameters_may_have_names_that_models_cannot() -> None:
    def handle(_x: int, model_config: str, schema: str, self: int, copy: int = 1) -> Any:
        return _x, model_config, schema, self, copy

    assert there_and_back(handle, 1, "m", schema="s", self=2) == (1, "m", "s", 2, 1)


def test_positional_only_parameters_are_filled_by_position() -> None:
    def handle(a: int, b: int = 2, /, c: int = 3) -> tuple[int, int, int]:
        return a, b, c

    assert make_job_type(handle).decode_arguments(b'{"a":1,"c":9}') == ((1, 2), {"c": 9})
    assert there_and_back(handle, 1, c=4) == (1, 2, 4)


def test_further_arguments_go_where_the_handler_takes_them() -> None:
    def handle(ctx: JobContext, argument_0: int = 0, **rest: int) -> None: ...

    job_type = make_job_type(handle)
    assert job_type.message(1, x=2).payload == b'{"argument_0":1,"x":2}'
    assert job_type.decode_arguments(b'{"x":2,"argument_1":3}') == ((), {"x": 2, "argument_1": 3})
    assert "argument `x`: Input should be a valid integer" in complaint_of(handle, x="y")
    for taken in (b'{"ctx":1}', b'{"self":1}'):
        with pytest.raises(PayloadError, match="cannot be an argument"):
            job_type.decode_arguments(taken)


# What is wrong, and with which argument


def test_calls_that_do_not_fit_name_the_argument() -> None:
    def render(path: str, height: int = 1, *, fast: bool = False) -> None: ...

    assert complaint_of(render) == "render: argument `path` is missing"
    assert complaint_of(render, "a", widht=3) == "render: there is no argument `widht`"
    assert complaint_of(render, "a", "b").startswith("render: argument `height`: Input should be")
    assert "takes 2 arguments by position, not 3" in complaint_of(render, "a", 1, True)
    assert "`path` given twice" in complaint_of(render, "a", path="b")


def test_payloads_that_do_not_fit_name_the_argument() -> None:
    def render(spec: Spec, tags: list[str]) -> None: ...

    def whole(spec: Spec) -> None: ...

    for function, payload, complaint in (
        (render, b'{"tags":["a",1]}', "argument `spec` is missing; argument `tags.1`: Input"),
        (render, b'{"spec":{},"tags":[]}', "argument `spec.path`: Field required"),
        (render, b'{"spec":{"path":"a"},"tags":[],"x":1}', "there is no argument `x`"),
        (render, b"[]", "the payload of render must be a JSON object"),
        (render, b"null", "the payload of render must be a JSON object"),
        (whole, b'{"height":1}', "argument `spec.path`: Field required"),
        (whole, b"null", "argument `spec` is missing"),
        (whole, b'"a"', "the payload of whole must be a JSON object"),
        (whole, b'{"path":"a"},"x":{}', "is not JSON"),
        (whole, b'{"path":"a","path":"b"}', "has the key 'path' twice"),
    ):
        with pytest.raises(PayloadError) as caught:
            make_job_type(function).decode_arguments(payload)
        assert complaint in str(caught.value)


def test_a_long_list_of_complaints_is_cut() -> None:
    def handle(numbers: list[int]) -> None: ...

    assert complaint_of(handle, ["x"] * 50).endswith("; and 45 more")


def test_neither_errors_nor_their_causes_quote_the_payload() -> None:
    def handle(spec: Spec, n: int) -> None: ...

    with pytest.raises(PayloadError) as caught:
        make_job_type(handle).decode_arguments(b'{"spec":{"path":1,"height":"hush"},"n":"hush"}')
    assert "hush" not in f"{caught.value} {caught.value.__cause__}"


def test_values_that_json_cannot_hold_are_refused_before_they_are_changed() -> None:
    def loose(a: Any) -> None: ...

    def table(a: dict[str, Any]) -> None: ...

    def share(a: float) -> None: ...

    def spec(a: Spec, n: int = 0) -> None: ...

    assert complaint_of(loose, object()) == (
        "argument `a` of loose: objects of type object cannot be JSON"
    )
    assert "the key 1 is of type int" in complaint_of(loose, {1: 2})
    assert "argument `a` of table, at `x`: the key 1" in complaint_of(table, {"x": {1: 2}})
    assert "nan is no JSON number" in complaint_of(share, math.nan)
    assert "at `a.inner`: nan is no" in complaint_of(spec, Spec(path=Path(), inner=math.nan))
    assert "nan would be stored as null" in complaint_of(
        spec, Spec(path=Path(), inner=UntypedShare(share=math.nan))
    )


def test_a_secret_is_refused_rather_than_stored_as_asterisks() -> None:
    def log_in(login: Login) -> None: ...

    assert "would be stored as asterisks" in complaint_of(
        log_in, Login(password=pydantic.SecretStr("hush"))
    )


def test_a_model_that_cannot_read_what_it_writes_is_found_by_the_caller() -> None:
    def handle(spec: WriteOnly) -> None: ...

    assert "argument `spec.size`: Field required" in complaint_of(handle, WriteOnly(size=1))


def test_an_object_that_is_not_what_its_class_says_is_refused() -> None:
    def handle(clip: Clip) -> None: ...

    assert "cannot be JSON" in complaint_of(handle, Clip("text", length="long"))  # type: ignore[arg-type]


# Results


def test_results_come_back_as_promised() -> None:
    def clips() -> list[Clip]:
        return []

    async def nothing() -> None: ...

    def loose(): ...  # type: ignore[no-untyped-def]

    job_type = make_job_type(clips)
    data = job_type.encode_result([Clip(b"\xff")])
    assert data == b'[{"raw":"_w==","length":"PT0S","of":[]}]'
    assert job_type.decode_result(data) == [Clip(b"\xff")]
    assert make_job_type(nothing).encode_result(None) == b"null"
    assert make_job_type(nothing).decode_result(b"null") is None
    assert make_job_type(loose).encode_result({"at": UUID(int=1)}) == (
        b'{"at":"00000000-0000-0000-0000-000000000001"}'
    )


def test_a_result_of_another_type_than_promised_is_kept_all_the_same() -> None:
    def count() -> int:
        return 0

    assert make_job_type(count).encode_result({"n": [1]}) == b'{"n":[1]}'


def test_a_result_that_cannot_be_json_is_refused_by_name() -> None:
    def loose() -> Any:
        return 0

    def typed() -> float:
        return 0.0

    for job_type, value, complaint in (
        (make_job_type(loose), object(), "the result of loose: objects of type object"),
        (make_job_type(loose), [math.inf], "the result of loose, at `[0]`: inf"),
        (make_job_type(typed), math.nan, "the result of typed: nan is no JSON number"),
        (make_job_type(typed), object(), "the result of typed cannot be JSON"),
        (make_job_type(loose), "x" * 2**20, "the limit is 1,048,576"),
    ):
        with pytest.raises(PayloadError) as caught:
            job_type.encode_result(value)
        assert complaint in str(caught.value)


def test_a_plain_function_that_returns_an_awaitable_is_async() -> None:
    def later() -> Awaitable[int]:
        return asyncio.sleep(0, 3)

    job_type = make_job_type(later)
    assert job_type.is_async
    assert job_type.decode_result(b"3") == 3
