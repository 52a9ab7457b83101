"""Annotations are understood however they are written, and told to others as a schema."""

from __future__ import annotations

import logging
from collections.abc import Callable
from enum import Enum
from typing import TYPE_CHECKING, Annotated, Any

import pydantic
import pytest

import jobbus.context
from jobbus.context import JobContext
from jobbus.errors import ConfigurationError
from jobbus.handlers import make_job_type

if TYPE_CHECKING:
    from jobbus.bus_that_is_nowhere import Nowhere  # type: ignore[import-not-found]

    from jobbus.context import JobContext as Context


class Codec(Enum):
    VP9 = "vp9"


class Renamed(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid")
    size: int = pydantic.Field(alias="Size")


def there_and_back(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """What the handler is called with, in the end."""
    job_type = make_job_type(function)
    args, kwargs = job_type.decode_arguments(job_type.message(*args, **kwargs).payload)
    return function(*args, **kwargs)


def test_classes_local_to_a_function_are_found() -> None:
    class Local(pydantic.BaseModel):
        size: int

    def handle(local: Local) -> Local:
        return local

    job_type = make_job_type(handle)
    assert job_type.payload_class is Local
    assert there_and_back(handle, Local(size=2)) == Local(size=2)


def test_a_class_that_is_defined_after_the_handler_is_found() -> None:
    job_type = make_job_type(uses_later)
    assert job_type.message(Later(size=1)).payload == b'{"size":1}'


def uses_later(it: Later) -> None: ...


class Later(pydantic.BaseModel):
    size: int


def test_names_that_exist_for_type_checkers_only_are_taken_for_any(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def handle(it: Nowhere) -> Any:
        return it

    with caplog.at_level(logging.WARNING, "jobbus.handler"):
        assert there_and_back(handle, {"a": 1}) == {"a": 1}
    assert "the annotation 'Nowhere' of `it` means nothing at run time" in caplog.text


def test_the_context_is_known_in_all_its_spellings() -> None:
    def direct(ctx: JobContext, x: int) -> None: ...

    def dotted(ctx: jobbus.context.JobContext, x: int) -> None: ...

    def optional(ctx: JobContext | None, x: int) -> None: ...

    def quoted(ctx: "JobContext", x: int) -> None: ...  # noqa: UP037

    def positional(ctx: JobContext, /, x: int) -> None: ...

    for function in (direct, dotted, optional, quoted, positional):
        job_type = make_job_type(function)
        assert job_type.takes_context
        assert job_type.message(3).payload == b'{"x":3}'


def test_a_context_that_only_type_checkers_import_is_known_by_its_name() -> None:
    def handle(ctx: absent.JobContext, x: int) -> None: ...  # type: ignore[name-defined]  # noqa: F821

    def other(ctx: Context, x: int) -> None: ...

    assert make_job_type(handle).takes_context
    assert not make_job_type(other).takes_context


def test_an_annotation_that_json_cannot_hold_is_found_at_start_up() -> None:
    class Socket:
        pass

    def takes(path: str, it: Socket) -> None: ...

    def gives() -> Socket:
        return Socket()

    with pytest.raises(ConfigurationError, match="takes: `it` is annotated Socket, which cannot"):
        make_job_type(takes).record()
    with pytest.raises(ConfigurationError, match="gives returns Socket, which cannot be JSON"):
        make_job_type(gives).record()


def test_the_schema_tells_of_defaults_and_nested_types() -> None:
    def handle(spec: Renamed, codec: Codec = Codec.VP9, tags: tuple[str, ...] = ()) -> None: ...

    def whole(spec: Renamed | None = None) -> None: ...

    def bare(spec: Renamed = Renamed(Size=1)) -> None: ...  # noqa: B008

    schema = make_job_type(handle).payload_schema()
    assert schema["required"] == ["spec"]
    assert schema["properties"]["codec"]["default"] == "vp9"
    assert "default" not in schema["properties"]["tags"]
    assert schema["$defs"]["Renamed"]["required"] == ["Size"]
    assert make_job_type(whole).payload_schema()["properties"]["spec"]["default"] is None
    assert make_job_type(bare).payload_schema()["anyOf"][1] == {"type": "null"}


def test_a_type_without_a_schema_allows_everything() -> None:
    def handle(it: Annotated[int, pydantic.BeforeValidator(int), pydantic.SkipValidation]) -> None:
        pass

    def opaque(it: Callable[[], None]) -> None: ...

    assert make_job_type(handle).payload_schema()["required"] == ["it"]
    assert make_job_type(opaque).payload_schema() == {}
