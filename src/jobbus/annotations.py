"""Reads a handler's annotations, also those that are still text (PEP 563)."""

from __future__ import annotations

import contextlib
import functools
import inspect
import logging
import re
import sys
import types
import typing
from collections.abc import Awaitable, Callable, Collection, Coroutine, Mapping, Sequence, Set
from dataclasses import dataclass, is_dataclass
from typing import Annotated, Any, Final, NoReturn, Union

from jobbus.context import JobContext

log = logging.getLogger("jobbus.handler")

_WORD: Final = re.compile(r"[^\W\d]\w*")
_CONTEXT_TEXT: Final = re.compile(r"(\w+\.)*JobContext(\s*\|\s*None)?")
_UNIONS: Final = (Union, types.UnionType)
_BOTTOM: Final = (NoReturn, typing.Never)


@dataclass(frozen=True, slots=True)
class Names:
    """What the names in a function's annotations stand for."""

    globals: Mapping[str, Any]
    locals: Mapping[str, Any]

    @classmethod
    def of(cls, function: Callable[..., Any]) -> Names:
        """Call it where the function is defined: classes local to the callers are found so."""
        body = unwrapped(function)
        known: dict[str, Any] = getattr(body, "__globals__", {})
        local: dict[str, Any] = {} if "JobContext" in known else {"JobContext": JobContext}
        qualified = getattr(body, "__qualname__", "")
        if "<locals>" in qualified and isinstance(body, types.FunctionType):
            wanted = set(_WORD.findall(str(body.__annotations__)))
            seen = {**_enclosing(qualified, known), **_closed_over(body)}
            # Not the whole frame: what it holds would live as long as the handler.
            local |= {name: seen[name] for name in wanted & seen.keys()}
        return cls(known, local)

    def resolve(self, annotation: Any) -> Any:
        """The type that ``annotation`` stands for; raises whatever evaluating its text raises."""
        holder = types.SimpleNamespace(__annotations__={"it": annotation})
        hints = typing.get_type_hints(
            holder, dict(self.globals), dict(self.locals), include_extras=True
        )
        return hints["it"]

    def resolve_all(self, annotations: Mapping[str, Any], owner: str) -> dict[str, Any]:
        """All of them; what cannot be resolved is Any, and said so in the log."""
        hints = {}
        for name, annotation in annotations.items():
            try:
                hints[name] = _or_any(self.resolve(_or_any(annotation)))
            except Exception as error:
                log.warning(
                    "handler %s: the annotation %r of `%s` means nothing at run time (%s) and is "
                    "taken for Any; import what it names outside of `if TYPE_CHECKING`",
                    owner,
                    annotation,
                    name,
                    error,
                )
                hints[name] = Any
        return hints


def unwrapped(function: Callable[..., Any]) -> Any:
    """The function that was written down, under partials, wrappers, methods and callables."""
    while isinstance(function, functools.partial):
        function = function.func
    body = inspect.unwrap(function)
    if inspect.isroutine(body):
        return getattr(body, "__func__", body)
    return inspect.unwrap(type(body).__call__)


def is_async(function: Callable[..., Any], names: Names) -> bool:
    """Whether calling the function gives something to await."""
    called = getattr(function, "__call__", None)  # noqa: B004
    if inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(called):
        return True
    try:
        hint = names.resolve(inspect.signature(function).return_annotation)
    except (NameError, AttributeError, TypeError, ValueError, SyntaxError):
        return False
    return awaited(hint) is not hint


def awaited(hint: Any) -> Any:
    """What awaiting a value of this type gives; the type itself where there is no awaiting."""
    if typing.get_origin(hint) in (Awaitable, Coroutine):
        return typing.get_args(hint)[-1]
    return hint


def is_context(annotation: Any, names: Names) -> bool:
    """Whether a parameter annotated so takes the job's context."""
    try:
        hint = _stripped(names.resolve(annotation))
    except Exception:
        # Imported for type checkers only: the text has to do.
        return bool(_CONTEXT_TEXT.fullmatch(str(annotation).strip("'\" ")))
    choices = typing.get_args(hint) if typing.get_origin(hint) in _UNIONS else (hint,)
    return any(isinstance(each, type) and issubclass(each, JobContext) for each in choices)


def is_object_type(hint: Any) -> bool:
    """Whether values of this type are objects in JSON, with fields or keys of their own."""
    hint = _stripped(hint)
    kind = typing.get_origin(hint) or hint
    if not isinstance(kind, type):
        return False
    if is_dataclass(kind) or issubclass(kind, Mapping):
        return True
    return hasattr(kind, "__pydantic_fields__") and not getattr(
        kind, "__pydantic_root_model__", False
    )


def may_hold_anything(hint: Any) -> bool:
    """Whether the type says too little about its values for a serializer to go by."""
    hint = _stripped(hint)
    if hint is Any or hint is object or isinstance(hint, typing.TypeVar):
        return True
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if arguments:
        return any(may_hold_anything(each) for each in arguments if each is not ...)
    kind = origin or hint
    return (
        isinstance(kind, type)
        and issubclass(kind, Mapping | Sequence | Set)
        and not issubclass(kind, str | bytes | bytearray)
        and not typing.is_typeddict(kind)
        and not hasattr(kind, "_fields")
    )


def is_simple(hint: Any, simple: Collection[Any]) -> bool:
    """Whether the type is made of ``simple`` ones and the standard containers alone."""
    arguments = typing.get_args(hint)
    if not arguments:
        return hint in simple
    return all(is_simple(each, simple) for each in arguments if each is not ...)


def _enclosing(qualified: str, known: Mapping[str, Any]) -> dict[str, Any]:
    """The local names of those functions on the stack within which a function is defined."""
    outer = set(qualified.split(".")[:-1])
    seen: dict[str, Any] = {}
    frame: types.FrameType | None = sys._getframe(1)
    while frame is not None:
        if frame.f_globals is known and frame.f_code.co_name in outer:
            seen = {**frame.f_locals, **seen}
        frame = frame.f_back
    return seen


def _closed_over(function: types.FunctionType) -> dict[str, Any]:
    """What a nested function takes from those around it, as far as it is there already."""
    seen = {}
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        with contextlib.suppress(ValueError):  # the function itself, which is being decorated
            seen[name] = cell.cell_contents
    return seen


def _stripped(hint: Any) -> Any:
    """Without ``Annotated`` and alias names around it."""
    while True:
        if typing.get_origin(hint) is Annotated:
            hint = typing.get_args(hint)[0]
        elif type(hint).__name__ == "TypeAliasType":
            hint = hint.__value__
        else:
            return hint


def _or_any(hint: Any) -> Any:
    return Any if hint is inspect.Parameter.empty or hint in _BOTTOM else hint
