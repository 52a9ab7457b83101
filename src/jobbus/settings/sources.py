"""Reads settings where they are given: code, environment, files, profiles; strongest first."""

from __future__ import annotations

import dataclasses
import json
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings
from pydantic_settings.sources import PydanticBaseSettingsSource

from jobbus.errors import ConfigurationError
from jobbus.settings.addresses import read_backend
from jobbus.settings.backends import find_provider, unknown_provider
from jobbus.settings.names import (
    ALWAYS,
    Vocabulary,
    environment_name,
    known_provider,
    pascal,
    squash,
    whence,
)

SECTIONS: Final = frozenset({"backgroundjobs", "jobbus"})
"""What our part of the environment or of a shared file is called, squashed."""
TYPO: Final = 0.85
"""So alike must an unknown ``JOBBUS_X`` be to a setting to be taken for a mistake."""
EXPLICIT: Final = "explicit"
USUAL_REDIS: Final[Mapping[str, str]] = {
    "REDIS_HOST": "redis.host",
    "REDIS_PORT": "redis.port",
    "REDIS_PASSWORD": "redis.password",
    "REDIS_DB": "redis.db",
}
"""Variables that programs with a Redis usually have, which say where it is if nothing else does."""

PROFILES: Final[Mapping[str, Mapping[str, Any]]] = {
    "desktop": {"max_concurrent_jobs": 2, "pause_on_battery": True},
    "embedded": {"max_concurrent_jobs": 5},
    "server": {"max_concurrent_jobs": 10},
}
"""Bundles of defaults, by name. Anything given anywhere is stronger."""


@dataclasses.dataclass(frozen=True, slots=True)
class Surroundings:
    """Where settings are looked for besides the code."""

    environ: Mapping[str, str]
    directory: Path


@dataclasses.dataclass(frozen=True, slots=True)
class Given:
    """One value as it was given, and where."""

    value: Any
    origin: str
    """``environment BACKGROUND_JOBS__PROVIDER``, ``jobbus.toml``."""
    label: str
    """The name as it was spelled there."""

    def __str__(self) -> str:
        if self.origin.endswith(self.label):
            return self.origin
        return f"{self.label} ({whence(self.origin)})"


class Layer:
    """What one place says, by key. A key may be spelled twice only if both say the same."""

    def __init__(self, vocabulary: Vocabulary, write: Callable[[str], str]) -> None:
        """``write`` spells a key the way people do in this place."""
        self.given: dict[str, Given] = {}
        self._vocabulary = vocabulary
        self._write = write

    def put(self, path: tuple[str, ...], value: Any, *, origin: str, label: str) -> None:
        """Take one setting. Raises ConfigurationError for one that is unknown or contradicted."""
        name = self._vocabulary.spelling(path)
        if name in ALWAYS:
            _refuse_unless_true(Given(value, origin, label), ALWAYS[name])
            return
        found = self._vocabulary.find(path)
        if found is None:
            raise self._unknown(path, Given(value, origin, label))
        if found.key == "backend":
            self._put_backend(value, origin, label)
            return
        if found.divisor != 1 or found.offset:
            value = _number(Given(value, origin, label)) / found.divisor + found.offset
        self._keep(found.key, Given(value, origin, label))

    def _put_backend(self, value: Any, origin: str, label: str) -> None:
        try:
            stated = read_backend(str(value))
        except ValueError as error:
            raise ConfigurationError(f"{Given(value, origin, label)}: {error}") from error
        for key, part in stated.items():
            path = tuple(key.split("."))
            if len(path) == 2 and self._vocabulary.group(path[0]) is None:
                raise ConfigurationError(f"{unknown_provider(path[0])} ({whence(origin)})")
            self.put(path, part, origin=origin, label=label)
        # Naming a backend outright also sets aside the mode that a weaker place asks for.
        self.given.setdefault("mode", Given(None, origin, label))

    def _keep(self, key: str, new: Given) -> None:
        old = self.given.get(key)
        if old is not None and old.value is not None and not _same(key, old.value, new.value):
            raise ConfigurationError(
                f"{key} is given twice, and differently: by {old} and by {new}; remove one"
            )
        self.given[key] = new

    def _unknown(self, path: tuple[str, ...], given: Given) -> ConfigurationError:
        meant = self._vocabulary.suggest(path)
        advice = f"did you mean {self._write(meant)}?" if meant else "remove it"
        return ConfigurationError(f"{given} is no setting of jobbus; {advice}")


def _refuse_unless_true(given: Given, reason: str) -> None:
    if str(given.value).strip().casefold() not in {"true", "1", "yes", "on"}:
        raise ConfigurationError(f"{given} can only be true: {reason}")


def _same(key: str, one: Any, other: Any) -> bool:
    if key == "provider":
        one, other = (known_provider(str(name)) or squash(str(name)) for name in (one, other))
    return bool(one == other) or str(one).casefold() == str(other).casefold()


def _number(given: Given) -> float:
    wrong = ConfigurationError(f"{given} must be a number, not {given.value!r}")
    if isinstance(given.value, bool):
        raise wrong
    try:
        return float(given.value)
    except (TypeError, ValueError, OverflowError) as error:
        raise wrong from error


def read_mapping(
    values: Mapping[str, Any],
    vocabulary: Vocabulary,
    *,
    origin: str,
    write: Callable[[str], str] = str,
) -> Mapping[str, Given]:
    """Settings from nested mappings; None, at any depth, is the same as nothing.

    Keys of any spelling, groups also as ``group.name``, ``group__name`` or ``group:name``. A group
    given as its own object is given whole, with the defaults in it.
    """
    layer = Layer(vocabulary, write)
    for path, value in _walk(values, vocabulary):
        layer.put(path, value, origin=origin, label=repr(".".join(path)))
    return layer.given


def _walk(
    values: Mapping[str, Any], vocabulary: Vocabulary
) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name, value in values.items():
        path = tuple(re.split(r"\.|:|__", str(name)))
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            value = dataclasses.asdict(value)
        if isinstance(value, Mapping) and len(path) == 1 and vocabulary.group(path[0]):
            for inner, part in value.items():
                if part is not None:
                    yield (path[0], str(inner)), part
        elif value is not None:
            yield path, value


def read_environment(environ: Mapping[str, str], vocabulary: Vocabulary) -> Mapping[str, Given]:
    """``BACKGROUND_JOBS__*``, ``JOBBUS__*`` and, without groups' marks, ``JOBBUS_*``.

    An empty variable is the same as none. Other programs may own ``JOBBUS_*`` variables: an unknown
    one is refused only where it looks like a typo of a setting.
    """
    layer = Layer(vocabulary, environment_name)
    for name, value in sorted(environ.items()):
        if not value.strip():
            continue
        head, *path = name.split("__")
        origin = f"environment {name}"
        if path and squash(head) in SECTIONS:
            layer.put(tuple(path), value, origin=origin, label=name)
        elif name.casefold().startswith("jobbus_"):
            rest = name[len("jobbus_") :]
            found = vocabulary.find_flat(rest)
            if found is not None or vocabulary.suggest((rest,), likeness=TYPO) is not None:
                layer.put(found or (rest,), value, origin=origin, label=name)
    return layer.given


def read_toml(
    path: Path, vocabulary: Vocabulary, *, table: tuple[str, ...] = ()
) -> Mapping[str, Given]:
    """A TOML file, or a table in it; nothing when there is no such file or table."""
    origin = path.name + (f" [{'.'.join(table)}]" if table else "")
    text = _text(path)
    try:
        values: Any = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(f"{path} is not valid TOML: {error}") from error
    for name in table:
        values = values.get(name, {}) if isinstance(values, Mapping) else values
    if not isinstance(values, Mapping):
        raise ConfigurationError(f"{origin} must be a table of settings, not {values!r}")
    return read_mapping(values, vocabulary, origin=origin)


def read_appsettings(path: Path, vocabulary: Vocabulary) -> Mapping[str, Given]:
    """The section ``BackgroundJobs`` of a JSON file; nothing when there is no such file or section.

    Comments and trailing commas are allowed, as .NET allows them.
    """
    text = _text(path)
    if not text.strip():
        return {}
    try:
        document = json.loads(_plain_json(text))
    except json.JSONDecodeError as error:
        raise ConfigurationError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(document, Mapping):
        raise ConfigurationError(f"{path} must hold a JSON object with the section BackgroundJobs")
    found = [section for name, section in document.items() if squash(name) == "backgroundjobs"]
    values = found[0] if found else {}
    if not isinstance(values, Mapping):
        raise ConfigurationError(f"BackgroundJobs in {path} must be an object, not {values!r}")
    return read_mapping(values, vocabulary, origin=path.name, write=pascal)


def _plain_json(text: str) -> str:
    strings_and_comments = r'("(?:\\.|[^"\\])*")|//[^\n]*|/\*.*?\*/'
    plain = re.sub(strings_and_comments, lambda found: found[1] or " ", text, flags=re.DOTALL)
    return re.sub(r'("(?:\\.|[^"\\])*")|,(?=\s*[}\]])', lambda found: found[1] or "", plain)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        return ""
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"the settings file {path} cannot be read: {error}") from error


class GivenSource(PydanticBaseSettingsSource):
    """What one place gives, nested as the model is, with the origin of every value beside it."""

    def __init__(self, settings_cls: type[BaseSettings], given: Mapping[str, Given]) -> None:
        super().__init__(settings_cls)
        self._given = given

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        return self().get(field_name), field_name, False

    def given(self) -> Mapping[str, Given]:
        return self._given

    def __call__(self) -> dict[str, Any]:
        state: dict[str, Any] = {}
        given = self.given()
        for key, one in given.items():
            group, _, name = key.rpartition(".")
            where = state
            if group and group not in self.settings_cls.model_fields:
                where = state.setdefault("backend_options", {})
            (where.setdefault(group, {}) if group else where)[name] = one.value
        state["origins"] = {key: one.origin for key, one in given.items()}
        return state


class ProfileSource(GivenSource):
    """The defaults that the chosen profile bundles."""

    def given(self) -> Mapping[str, Given]:
        profile = str(self.current_state.get("profile")).strip().casefold()
        origin = f"profile {profile}"
        return {key: Given(value, origin, key) for key, value in PROFILES.get(profile, {}).items()}


class ProviderSource(GivenSource):
    """The provider that follows from the rest where none was named.

    A Postgres address means Postgres; a file of local jobs beside it would surprise everyone.
    """

    def given(self) -> Mapping[str, Given]:
        state = self.current_state
        mode = state.get("mode")
        if state.get("provider") is not None or squash(str(mode)) == "messagequeue":
            return {}
        if state.get("postgres", {}).get("url") is not None:
            return {"provider": Given("postgres", "postgres.url", "")}
        if mode is not None:
            return {"provider": Given("sqlite", f"mode {mode}", "")}
        return {}


class UsualRedisSource(GivenSource):
    """``REDIS_URL``, or ``REDIS_HOST`` and its like, where Redis was named without an address.

    They never choose the provider: many programs have a Redis for something else. For the
    idempotency keys, ``REDIS_HOST`` alone does choose Redis, as it does in a source system (S1).
    """

    def __init__(self, settings_cls: type[BaseSettings], environ: Mapping[str, str]) -> None:
        super().__init__(settings_cls, {})
        self._environ = environ

    def given(self) -> Mapping[str, Given]:
        state = self.current_state
        redis = state.get("backend_options", {}).get("redis", {})
        keys = squash(str(state.get("idempotency_store") or "auto"))
        named = "redis" in (known_provider(str(state.get("provider"))), keys)
        chosen = keys == "auto" and self._environ.get("REDIS_HOST", "").strip()
        if not (named or chosen) or {"url", "host"} & set(redis):
            return {}
        by_url = named and self._environ.get("REDIS_URL")
        usual = {"REDIS_URL": "redis.url"} if by_url else USUAL_REDIS
        return {
            key: Given(self._environ[name], f"environment {name}", name)
            for name, key in usual.items()
            if self._environ.get(name, "").strip() and key.partition(".")[2] not in redis
        }


def source_chain(
    settings_cls: type[BaseSettings],
    explicit: Mapping[str, Any],
    surroundings: Surroundings,
    groups: Mapping[str, tuple[str, ...]],
) -> tuple[PydanticBaseSettingsSource, ...]:
    """Everything that settings are read from, strongest first; reads the files right away."""
    vocabulary = Vocabulary(groups, find_provider)
    environ, directory = surroundings.environ, surroundings.directory
    layers = [
        read_mapping(explicit, vocabulary, origin=EXPLICIT),
        read_environment(environ, vocabulary),
        read_toml(directory / "jobbus.toml", vocabulary),
        read_toml(directory / "pyproject.toml", vocabulary, table=("tool", "jobbus")),
    ]
    stage = environ.get("DOTNET_ENVIRONMENT") or environ.get("ASPNETCORE_ENVIRONMENT")
    if stage and re.fullmatch(r"[\w.-]+", stage):
        layers.append(read_appsettings(directory / f"appsettings.{stage}.json", vocabulary))
    layers.append(read_appsettings(directory / "appsettings.json", vocabulary))
    return (
        *(GivenSource(settings_cls, given) for given in layers),
        ProfileSource(settings_cls, {}),
        ProviderSource(settings_cls, {}),
        UsualRedisSource(settings_cls, environ),
    )
