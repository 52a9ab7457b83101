"""What a setting's value may look like, and how a wrong one is told."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping
from types import NoneType, UnionType
from typing import Annotated, Any, Final, Literal, Union, get_args, get_origin, get_type_hints

import annotated_types
from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, ValidationError
from pydantic.fields import FieldInfo

from jobbus.settings.addresses import is_secret, mask, postgres_url, queue_address, read_backend
from jobbus.settings.names import SQL_PROVIDERS, environment_name, squash, whence

NAME: Final = re.compile(r"[A-Za-z0-9_.:-]{1,64}")
IDENTIFIER: Final = re.compile(r"[a-z_][a-z0-9_]{0,40}")
QUEUE_PREFIX: Final = re.compile(r"[A-Za-z0-9_-]{0,40}")
APP: Final = re.compile(r"[A-Za-z_][\w.]*(:[A-Za-z_][\w.]*)?")


def _not_a_switch(value: Any) -> Any:
    if isinstance(value, bool):
        # Without words of its own: the sentence is made from the field's kind and limits.
        raise ValueError
    return value


def one_of(*names: str) -> BeforeValidator:
    """Makes any spelling of ``names`` the one given here."""
    spellings = {squash(name): name for name in names}

    def choose(value: Any) -> Any:
        return spellings.get(squash(value), value) if isinstance(value, str) else value

    return BeforeValidator(choose)


def matching(pattern: re.Pattern[str], meaning: str) -> AfterValidator:
    """Refuses text that does not match as a whole, saying what it must be."""

    def check(value: str) -> str:
        if pattern.fullmatch(value) is None:
            raise ValueError(f"must be {meaning}, not {mask(value)!r}")
        return value

    return AfterValidator(check)


def _split(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    return [part.strip() for part in value.split(",") if part.strip()]


def _unique_names(names: tuple[str, ...]) -> tuple[str, ...]:
    for name in names:
        if NAME.fullmatch(name) is None:
            raise ValueError(
                "must be names of 1 to 64 letters, digits and . _ : - with commas in between, "
                f"not {name!r}"
            )
    return tuple(dict.fromkeys(names))


def _log_switch(value: Any) -> Any:
    words: Mapping[str, str] = {"true": "watched", "false": "never"}
    return words.get(str(value).casefold(), value)


def _keep_switch(value: Any) -> Any:
    """S1's switches: whether to remove at once."""
    words: Mapping[str, int | None] = {"true": 0, "false": None}
    return words.get(str(value).casefold(), value)


def _no_ledger(value: Any) -> Any:
    return None if isinstance(value, str) and squash(value) in ("", "none") else value


def _ledger(value: str | None) -> str | None:
    if value is None:
        return None
    address = value.strip()
    if "://" not in address and "=" in address:
        address = postgres_url(address)
    if "://" not in address or read_backend(address)["provider"] not in SQL_PROVIDERS:
        raise ValueError(
            "must be none, sqlite:///jobs.db or postgresql://user@host/database: a ledger is in a "
            "SQL database"
        )
    return address


def _monitor_address(value: str) -> str:
    from jobbus.telemetry.server import Address

    Address.parse(value)
    return value


def _sqlite_path(value: str) -> str:
    if "\0" in value or not value.strip():
        raise ValueError("must be the path of a file")
    if value.startswith((":memory:", "file:")):
        raise ValueError(
            f"must be the path of a file, not {value!r}; for jobs that need not survive the "
            "process, set provider to memory"
        )
    return value


def _redis_url(value: str) -> str:
    if re.match(r"(rediss?|unix)://", value) is None:
        raise ValueError("must be an address such as redis://127.0.0.1:6379/0")
    return value


Whole = Annotated[int, BeforeValidator(_not_a_switch)]
Number = Annotated[float, BeforeValidator(_not_a_switch), Field(allow_inf_nan=False)]
Retained = Annotated[Whole | None, Field(ge=0), BeforeValidator(_keep_switch)]
Identifier = Annotated[
    str, matching(IDENTIFIER, "1 to 41 lower-case letters, digits and _, with no digit in front")
]
QueueNames = Annotated[
    tuple[str, ...], BeforeValidator(_split), Field(min_length=1), AfterValidator(_unique_names)
]
App = Annotated[str, matching(APP, "a module and an attribute such as shop.jobs:bus")]
Mode = Annotated[Literal["polling", "message_queue"], one_of("polling", "message_queue")]
Profile = Annotated[
    Literal["desktop", "embedded", "server"], one_of("desktop", "embedded", "server")
]
PriorityOrder = Annotated[
    Literal["higher_first", "lower_first"], one_of("higher_first", "lower_first")
]
EventLog = Annotated[
    Literal["watched", "always", "never"],
    BeforeValidator(_log_switch),
    one_of("watched", "always", "never"),
]
Synchronous = Annotated[Literal["FULL", "NORMAL"], one_of("FULL", "NORMAL")]
Pooler = Annotated[Literal["auto", "none", "transaction"], one_of("auto", "none", "transaction")]
KeyStore = Annotated[
    Literal["auto", "redis", "sql", "memory"], one_of("auto", "redis", "sql", "memory")
]
OnUnavailable = Annotated[
    Literal["run_naturally_idempotent", "wait"], one_of("run_naturally_idempotent", "wait")
]
RedisAddress = Annotated[str, AfterValidator(_redis_url)]
FilePath = Annotated[str, AfterValidator(_sqlite_path)]
MonitorAddress = Annotated[str, AfterValidator(_monitor_address)]
FleetMetrics = Annotated[Literal["auto", "always", "never"], one_of("auto", "always", "never")]
QueueAddress = Annotated[str, AfterValidator(queue_address)]
QueuePrefix = Annotated[str, matching(QUEUE_PREFIX, "up to 40 letters, digits, - and _")]
PostgresAddress = Annotated[str, AfterValidator(postgres_url)]
LedgerAddress = Annotated[str | None, BeforeValidator(_no_ledger), AfterValidator(_ledger)]


def fields_of(model: type[Any]) -> Mapping[str, FieldInfo]:
    """Fields of a pydantic model or of a dataclass, with what is required of their values."""
    if issubclass(model, BaseModel):
        return model.model_fields
    hints = get_type_hints(model, include_extras=True)
    return {
        field.name: FieldInfo.from_annotation(hints[field.name])
        for field in dataclasses.fields(model)
    }


def sentences(
    error: ValidationError, model: type[BaseModel], origin_of: Callable[[str], str]
) -> list[str]:
    """What is wrong with each value, what would be right, and where the value comes from."""
    told = []
    for item in error.errors(include_url=False):
        key, field = _locate(item["loc"], model)
        origin = origin_of(key)
        told.append(f"{_written(key, origin)} {_complaint(item, key, field)} ({whence(origin)})")
    return list(dict.fromkeys(told))


def _locate(location: tuple[int | str, ...], model: type[BaseModel]) -> tuple[str, FieldInfo]:
    name = str(location[0])
    field = model.model_fields[name]
    if len(location) > 1 and dataclasses.is_dataclass(field.annotation):
        inner = str(location[1])
        return f"{name}.{inner}", fields_of(field.annotation)[inner]
    return name, field


def _written(key: str, origin: str) -> str:
    if origin.startswith("environment "):
        return environment_name(key).removeprefix("BACKGROUND_JOBS__")
    return key


def _complaint(item: Mapping[str, Any], key: str, field: FieldInfo) -> str:
    reason = str(item.get("ctx", {}).get("error", ""))
    if reason:
        return reason
    given = "***" if is_secret(key) else mask(repr(item["input"]))
    return f"must be {_expected(field)}, not {given}"


def _expected(field: FieldInfo) -> str:
    annotation, metadata = field.annotation, list(field.metadata)
    while get_origin(annotation) in {Annotated, Union, UnionType}:
        inner = [part for part in get_args(annotation) if part is not NoneType]
        metadata += inner[1:] if get_origin(annotation) is Annotated else []
        annotation = inner[0]
    if get_origin(annotation) is Literal:
        return "one of " + ", ".join(str(word) for word in get_args(annotation))
    if get_origin(annotation) is tuple:
        return "one or more names with commas in between"
    kinds: dict[Any, str] = {int: "a whole number", float: "a number", bool: "true or false"}
    return kinds.get(annotation, "text") + _limits(metadata)


def _limits(metadata: list[Any]) -> str:
    low = next((f"{one.ge:g}" for one in metadata if isinstance(one, annotated_types.Ge)), None)
    high = next((f"{one.le:d}" for one in metadata if isinstance(one, annotated_types.Le)), None)
    if low is None:
        return ""
    return f" from {low} to {high}" if high is not None else f" of at least {low}"
