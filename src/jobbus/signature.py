"""How the parameters of a handler become the JSON of a payload, and come back as arguments.

A payload is an object of the arguments by name. A handler whose one parameter is itself an object
(a model, a dataclass, a mapping) takes that object as its payload, with nothing around it. Omitted
arguments stay out of the payload: the handler's defaults are those of the day on which it runs.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from functools import cached_property
from inspect import Parameter
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from jobbus import codec
from jobbus.annotations import (
    Names,
    awaited,
    is_async,
    is_context,
    is_object_type,
    is_simple,
    may_hold_anything,
    unwrapped,
)
from jobbus.errors import ConfigurationError, PayloadError
from jobbus.validation import (
    OMITTED,
    arguments_model,
    dumped,
    first_unfit,
    read_arguments,
    read_result,
    refuse_losses,
    result_model,
)

if TYPE_CHECKING:
    from pydantic import BaseModel

_COMMON: Final = 10**15
"""Integers below it need no check of their length."""
_BOUND_ANYWAY: Final = frozenset({"self", "cls"})
_SIMPLE: Final = frozenset(
    {str, int, float, bool, type(None), bytes, datetime, date, time, timedelta, Decimal, UUID}
)
_ANY_OBJECT: Final = (
    dict,
    dict[str, Any],
    dict[str, object],
    Mapping[str, Any],
    Mapping[str, object],
)


class Signature:
    """What a handler takes and gives, and the JSON of both.

    Cheap to make. Annotations are resolved, and validators built, when they are first needed, so
    that annotations may name classes that come later in the module. Raises ConfigurationError for
    functions that no payload can call; ``annotations`` stand in for the function's own.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        *,
        job_type: str,
        annotations: Mapping[str, Any] | None = None,
    ) -> None:
        self._job_type = job_type
        self._name = getattr(function, "__qualname__", repr(function))
        self._given = annotations or {}
        self._names = Names.of(function)
        parameters, self._returns = self._seen(function)
        self.is_async = is_async(function, self._names)
        self._context = ""
        if parameters and self._is_context(parameters[0]):
            self._context = parameters.pop(0).name
        self._refuse_unusable(parameters)
        rest = [each for each in parameters if each.kind is Parameter.VAR_KEYWORD]
        self._rest = rest[0] if rest else None
        self._parameters = [each for each in parameters if each is not self._rest]
        self._by_place = [
            each.name for each in self._parameters if each.kind is not Parameter.KEYWORD_ONLY
        ]
        self._fields = [f"argument_{index}" for index, _ in enumerate(self._parameters)]

    @property
    def takes_context(self) -> bool:
        return bool(self._context)

    @cached_property
    def payload_class(self) -> type | None:
        """The class of the one object that is the payload, where there is such a class."""
        hint = self._hints[self._parameters[0].name] if self._is_bare else None
        return hint if isinstance(hint, type) and not issubclass(hint, Mapping) else None

    def prepare(self) -> None:
        """Build everything now; raises ConfigurationError for annotations that JSON cannot hold."""
        _ = self._arguments, self._result

    def schema(self) -> dict[str, Any]:
        """JSON Schema of the payload; ``{}``, which allows all, for types that have none."""
        from pydantic.errors import PydanticInvalidForJsonSchema

        try:
            schema = self._arguments.model_json_schema()
        except PydanticInvalidForJsonSchema:
            return {}
        if not self._is_bare:
            return schema
        inner = schema["properties"][self._parameters[0].name]
        if not schema.get("required"):
            inner = {"anyOf": [inner, {"type": "null"}]}
        return {"$defs": schema["$defs"], **inner} if "$defs" in schema else inner

    def encode_arguments(
        self, args: tuple[Any, ...], kwargs: Mapping[str, Any], *, limit: int
    ) -> bytes:
        """The payload of a call; PayloadError names the arguments that are at fault."""
        what = f"the payload of {self._job_type}"
        given = self._bound(args, kwargs)
        if self._takes_any_object and len(given) == 1:
            [(name, value)] = given.items()
            if name == self._parameters[0].name and type(value) is dict and codec.is_plain(value):
                return codec.encode_plain(value, limit=limit, what=what)
        for name, value in given.items():
            if name not in self._typed:
                codec.to_tree(value, what=f"argument `{name}` of {self._job_type}")
        model = read_arguments(self._arguments, given, job_type=self._job_type)
        omitted = {name for name, value in vars(model).items() if value is OMITTED}
        tree: Any = dumped(model, what, exclude=omitted, warnings="error")
        if self._is_bare:
            tree = tree.get(self._parameters[0].name)
        data = codec.encode(tree, limit=limit, what=what)
        refuse_losses(data, given.values(), what)
        if not self._is_simple:
            # A class may write what it does not read: better found here than by a worker.
            read_arguments(self._arguments, self._named(data, tree), job_type=self._job_type)
        return data

    def decode_arguments(self, payload: bytes) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Positional and keyword arguments for the handler; PayloadError names what is wrong."""
        what = f"the payload of {self._job_type}"
        tree = codec.decode(payload, what=what)
        if not isinstance(tree, dict) and not (self._is_bare and tree is None):
            raise PayloadError(f"{what} must be a JSON object")
        if self._takes_any_object and tree is not None:
            return self._passed(tree)
        model = read_arguments(self._arguments, self._named(payload, tree), job_type=self._job_type)
        args: list[Any] = []
        kwargs = dict(model.__pydantic_extra__ or {})
        self._refuse_taken(kwargs)
        for parameter, field in zip(self._parameters, self._fields, strict=True):
            value = vars(model)[field]
            if parameter.kind is Parameter.POSITIONAL_ONLY:
                args.append(parameter.default if value is OMITTED else value)
            elif value is not OMITTED:
                kwargs[parameter.name] = value
        return tuple(args), kwargs

    def encode_result(self, value: object) -> bytes:
        """What the handler returned, as JSON; ``null`` for None."""
        if value is None:
            return b"null"
        if type(value) is int and -_COMMON < value < _COMMON and self._returns_simple:
            return b"%d" % value
        what = f"the result of {self._job_type}"
        if self._returns_anything or (self._returns_simple and codec.is_plain(value)):
            return codec.encode(value, limit=codec.HARD_LIMIT, what=what)
        model = self._result.model_construct(result=value)
        # The work is done: a result is kept even where its annotation describes another.
        tree = dumped(model, what, exclude=set(), warnings="none")["result"]
        data = codec.encode(tree, limit=codec.HARD_LIMIT, what=what)
        refuse_losses(data, [value], what)
        return data

    def decode_result(self, data: bytes) -> Any:
        """What the handler returned, as its annotation describes it."""
        what = f"the result of {self._job_type}"
        codec.decode(data, what=what)
        return read_result(self._result, data, what=what)

    def _seen(self, function: Callable[..., Any]) -> tuple[list[Parameter], Any]:
        body = unwrapped(function)
        if inspect.isgeneratorfunction(body) or inspect.isasyncgenfunction(body):
            raise ConfigurationError(
                f"handler {self._name} yields; a handler returns its result, and tells with "
                "ctx.progress() how far it is"
            )
        try:
            signature = inspect.signature(function)
        except (TypeError, ValueError) as error:
            raise ConfigurationError(
                f"the parameters of handler {self._name} cannot be seen: {error}"
            ) from error
        return list(signature.parameters.values()), signature.return_annotation

    def _is_context(self, parameter: Parameter) -> bool:
        annotation = self._given.get(parameter.name, parameter.annotation)
        return annotation is not Parameter.empty and is_context(annotation, self._names)

    def _refuse_unusable(self, parameters: list[Parameter]) -> None:
        for parameter in parameters:
            if parameter.kind is Parameter.VAR_POSITIONAL:
                raise ConfigurationError(
                    f"handler {self._name} takes *{parameter.name}, but a payload is an object of "
                    "arguments by name: give each a name, or take one list"
                )
            if self._is_context(parameter):
                raise ConfigurationError(
                    f"handler {self._name} takes its JobContext as `{parameter.name}`; it must be "
                    "the first parameter, and only that"
                )

    @cached_property
    def _hints(self) -> dict[str, Any]:
        seen = {each.name: each.annotation for each in self._parameters}
        if self._rest is not None:
            seen[self._rest.name] = self._rest.annotation
        seen["return"] = self._returns
        hints = self._names.resolve_all({**seen, **self._given}, self._name)
        hints["return"] = awaited(hints["return"])
        return hints

    @cached_property
    def _is_bare(self) -> bool:
        """Whether the payload is the one argument itself, with no name around it."""
        return (
            len(self._parameters) == 1
            and self._rest is None
            and is_object_type(self._hints[self._parameters[0].name])
        )

    @cached_property
    def _takes_any_object(self) -> bool:
        """Whether a payload of any JSON object is the argument, with nothing left to validate."""
        return self._is_bare and self._hints[self._parameters[0].name] in _ANY_OBJECT

    def _passed(self, tree: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
        parameter = self._parameters[0]
        if parameter.kind is Parameter.POSITIONAL_ONLY:
            return (tree,), {}
        return (), {parameter.name: tree}

    @cached_property
    def _is_simple(self) -> bool:
        names = [each.name for each in self._parameters]
        return all(is_simple(self._hints[name], _SIMPLE) for name in names)

    @cached_property
    def _returns_anything(self) -> bool:
        return may_hold_anything(self._hints["return"])

    @cached_property
    def _returns_simple(self) -> bool:
        return is_simple(self._hints["return"], _SIMPLE)

    @cached_property
    def _typed(self) -> frozenset[str]:
        names = (each.name for each in self._parameters)
        return frozenset(name for name in names if not may_hold_anything(self._hints[name]))

    @cached_property
    def _arguments(self) -> type[BaseModel]:
        fields = {
            field: (parameter, self._hints[parameter.name])
            for parameter, field in zip(self._parameters, self._fields, strict=True)
        }
        rest = None if self._rest is None else self._hints[self._rest.name]
        try:
            return arguments_model(self._job_type, fields, rest)
        except Exception as error:
            unfit = first_unfit(self._hints)
            if unfit is None:
                problem = f"its arguments cannot be JSON: {error}"
            else:
                name, reason = unfit
                spelled = _spelled(self._hints[name])
                problem = f"`{name}` is annotated {spelled}, which cannot be JSON: {reason}"
            raise ConfigurationError(f"handler {self._name}: {problem}") from error

    @cached_property
    def _result(self) -> type[BaseModel]:
        hint = self._hints["return"]
        try:
            return result_model(self._job_type, hint)
        except Exception as error:
            raise ConfigurationError(
                f"handler {self._name} returns {_spelled(hint)}, which cannot be JSON: {error}"
            ) from error

    def _bound(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        if len(args) > len(self._by_place):
            raise PayloadError(
                f"{self._job_type} takes {len(self._by_place)} arguments by position, "
                f"not {len(args)}"
            )
        given = dict(zip(self._by_place, args, strict=False))
        if not given.keys().isdisjoint(kwargs):
            twice = ", ".join(f"`{name}`" for name in given.keys() & kwargs.keys())
            raise PayloadError(f"{self._job_type}: {twice} given twice, by position and by name")
        self._refuse_taken(kwargs)
        given.update(kwargs)
        return given

    def _refuse_taken(self, kwargs: Mapping[str, Any]) -> None:
        """Of the keys that only ``**kwargs`` would take, those that the call itself fills."""
        if self._rest is None:
            return
        declared = {each.name for each in self._parameters}
        for name in kwargs:
            if name not in declared and (name in _BOUND_ANYWAY or name == self._context):
                raise PayloadError(f"{self._job_type}: `{name}` cannot be an argument")

    def _named(self, payload: bytes, tree: Any) -> bytes:
        """The payload as an object of arguments by name, whatever its form on the wire."""
        if not self._is_bare:
            return payload
        if tree is None:
            return b"{}"
        return b'{"%b":%b}' % (self._parameters[0].name.encode(), payload)


def _spelled(hint: Any) -> str:
    return hint.__name__ if isinstance(hint, type) else str(hint)
