"""The pydantic half of a handler's signature: models of its arguments and of its result."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import Enum
from inspect import Parameter
from typing import TYPE_CHECKING, Any, Final, Literal

from jobbus.codec import lost
from jobbus.errors import PayloadError

if TYPE_CHECKING:
    from pydantic import BaseModel, ConfigDict, ValidationError

OMITTED: Final = object()
"""Stands in a model of arguments for one that was not given."""
_MAX_COMPLAINTS: Final = 5
_SHOWN_DEFAULTS: Final = (str, int, float, bool, type(None))


def arguments_model(
    title: str, parameters: Mapping[str, tuple[Parameter, Any]], rest: Any | None
) -> type[BaseModel]:
    """A model whose fields, named as the keys, stand for parameters with their types.

    By the outside each field goes by the parameter's name. ``rest`` is the type of all further
    arguments; None forbids them. Raises whatever pydantic makes of a type that it does not know.
    """
    from pydantic import BaseModel, create_model

    base: dict[str, Any] = {
        "__module__": __name__,
        "model_config": _config(title, "forbid" if rest is None else "allow"),
    }
    if rest is not None:
        kind: Any = dict
        base["__annotations__"] = {"__pydantic_extra__": kind[str, rest]}
    fields: dict[str, Any] = {
        name: (hint, _field(parameter)) for name, (parameter, hint) in parameters.items()
    }
    return _complete(create_model("Arguments", __base__=type("Base", (BaseModel,), base), **fields))


def result_model(title: str, hint: Any) -> type[BaseModel]:
    """A model with the one field ``result``."""
    from pydantic import create_model

    return _complete(
        create_model("Result", __config__=_config(title, "forbid"), result=(hint, ...))
    )


def first_unfit(hints: Mapping[str, Any]) -> tuple[str, str] | None:
    """The first name whose type pydantic does not know, and why."""
    from pydantic import TypeAdapter

    for name, hint in hints.items():
        try:
            TypeAdapter(hint)
        except Exception as error:
            return name, str(error).splitlines()[0]
    return None


def read_arguments(
    model: type[BaseModel], values: Mapping[str, Any] | bytes, *, job_type: str
) -> BaseModel:
    """An instance from values or from JSON; PayloadError names the arguments at fault."""
    from pydantic import ValidationError

    validator = model.__pydantic_validator__
    try:
        instance: BaseModel = (
            validator.validate_json(values)
            if isinstance(values, bytes)
            else validator.validate_python(values)
        )
    except ValidationError as error:
        raise PayloadError(f"{job_type}: {_complaints(error)}") from error
    return instance


def read_result(model: type[BaseModel], data: bytes, *, what: str) -> Any:
    """The result in ``data``; PayloadError when it is not of the type promised."""
    from pydantic import ValidationError

    try:
        instance = model.__pydantic_validator__.validate_json(b'{"result":%b}' % data)
    except ValidationError as error:
        raise PayloadError(
            f"{what} is not what the handler's annotation promises: {_complaints(error)}"
        ) from error
    return vars(instance)["result"]


def dumped(
    model: BaseModel, what: str, *, exclude: set[str], warnings: Literal["none", "error"]
) -> dict[str, Any]:
    """Plain JSON values; PayloadError for what pydantic cannot turn into them.

    With ``warnings="error"`` also for values that are not of the type that was declared.
    """
    try:
        tree: dict[str, Any] = model.__pydantic_serializer__.to_python(
            model, mode="json", by_alias=True, exclude=exclude or None, warnings=warnings
        )
    except ValueError as error:
        raise PayloadError(f"{what} cannot be JSON: {error}") from error
    return tree


def refuse_losses(data: bytes, values: Iterable[object], what: str) -> None:
    """PayloadError when something of ``values`` did not make it into ``data``."""
    if loss := lost(data, *values):
        raise PayloadError(f"{what}: {loss}")


def _complete(model: type[BaseModel]) -> type[BaseModel]:
    """The same model, once all names in the types of its fields mean something; or raises."""
    if not model.__pydantic_complete__:
        model.model_rebuild()
    return model


def _config(title: str, extra: Literal["allow", "forbid"]) -> ConfigDict:
    from pydantic import ConfigDict

    return ConfigDict(
        title=title,
        extra=extra,
        field_title_generator=_title,
        # Errors end in logs and stores; payloads must not.
        hide_input_in_errors=True,
        protected_namespaces=(),
        ser_json_bytes="base64",
        val_json_bytes="base64",
        # NaN stays what it is, for the codec to find and refuse.
        ser_json_inf_nan="constants",
    )


def _title(name: str, info: Any) -> str:
    return (info.alias or name).replace("_", " ").strip().title()


def _field(parameter: Parameter) -> Any:
    from pydantic import Field

    # By alias, because a parameter may have a name that no field of a model can have.
    if parameter.default is Parameter.empty:
        return Field(alias=parameter.name)
    default = parameter.default
    shown = default.value if isinstance(default, Enum) else default
    return Field(
        alias=parameter.name,
        default_factory=lambda: OMITTED,
        json_schema_extra={"default": shown} if type(shown) in _SHOWN_DEFAULTS else None,
    )


def _complaints(error: ValidationError) -> str:
    """What pydantic found, by argument, and never the values themselves."""
    found = error.errors(include_url=False, include_context=False, include_input=False)
    told = []
    for each in found[:_MAX_COMPLAINTS]:
        path = ".".join(str(step) for step in each["loc"])
        if len(each["loc"]) == 1 and each["type"] == "missing":
            told.append(f"argument `{path}` is missing")
        elif len(each["loc"]) == 1 and each["type"] == "extra_forbidden":
            told.append(f"there is no argument `{path}`")
        else:
            told.append(f"argument `{path}`: {each['msg']}")
    if len(found) > _MAX_COMPLAINTS:
        told.append(f"and {len(found) - _MAX_COMPLAINTS} more")
    return "; ".join(told)
