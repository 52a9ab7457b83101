"""Every setting of jobbus: its name, its default, its limits."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Final, Self

from pydantic import (
    Field,
    ModelWrapValidatorHandler,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from jobbus.errors import ConfigurationError
from jobbus.retry import PRESETS, RetryPolicy
from jobbus.settings.addresses import read_backend, redis_address, shown
from jobbus.settings.backends import find_provider, unknown_provider
from jobbus.settings.groups import (
    AwsSqsSettings,
    MonitorSettings,
    PostgresSettings,
    SqliteSettings,
)
from jobbus.settings.kinds import (
    App,
    EventLog,
    Identifier,
    KeyStore,
    LedgerAddress,
    Mode,
    Number,
    OnUnavailable,
    PriorityOrder,
    Profile,
    QueueNames,
    RedisAddress,
    Retained,
    Whole,
    sentences,
)
from jobbus.settings.names import (
    BROKERS,
    FORGETFUL,
    PROVIDERS,
    SQL_PROVIDERS,
    squash,
    whence,
)
from jobbus.settings.sources import Surroundings, source_chain

DEFAULT_JOB_TIMEOUT: Final = timedelta(seconds=300)
LONG_LEASE: Final = timedelta(seconds=900)
DAY_SECONDS: Final = 86_400

_SURROUNDINGS: Final = "surroundings"
_INNER_FIELDS: Final = frozenset({"origins", "backend_options"})

NOT_YET: Final[Mapping[str, str]] = {
    "pause_on_battery": "workers do not watch the power supply",
    "cpu_throttle_threshold": "workers do not watch the processor's load",
    "memory_throttle_threshold": "workers do not watch the memory's use",
}
"""Settings that this version knows and does nothing about, and why; told by ``notes``."""


class Options(Mapping[str, Any]):
    """One provider's settings, found under any spelling of their names."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = dict(values)
        self._names = {squash(name): name for name in values}

    def __getitem__(self, name: str) -> Any:
        return self._values[self._names[squash(name)]]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and squash(name) in self._names

    def __repr__(self) -> str:
        pairs = (f"{name}={shown(name, value)!r}" for name, value in self._values.items())
        return f"Options({', '.join(pairs)})"


class Settings(BaseSettings):
    """What jobbus is told from outside. Immutable.

    ``Settings(...)`` reads the environment and the files of the working directory under the given
    values; :func:`load_settings` does the same with any environment and directory. Raises
    :class:`~jobbus.errors.ConfigurationError` for unknown names, wrong values and contradictions,
    saying where each comes from.
    """

    model_config = SettingsConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    provider: str = "sqlite"
    """What carries the jobs: a built-in provider or an installed package's."""
    ledger: LedgerAddress = Field(default=None, repr=False)
    """Where a broker's jobs are remembered: an address, or None for a bare broker."""
    relay_in_workers: bool = True
    """Workers hand jobs from the ledger to the broker; else ``jobbus relay`` has to."""
    mode: Mode | None = None
    """``polling`` wants a SQL provider, ``message_queue`` a broker; None wants nothing."""
    profile: Profile | None = None
    app: App | None = None
    """``module:attribute`` where the command line finds the bus."""
    queues: QueueNames = ("default",)
    max_concurrent_jobs: Annotated[Whole, Field(ge=1)] = 10
    """Per worker process."""
    processes: Annotated[Whole, Field(ge=1, le=1024)] = 1
    poll_interval_seconds: Annotated[Number, Field(ge=0.01, le=3600)] = 5
    job_timeout_minutes: Annotated[Number | None, Field(ge=0.001, le=43_200)] = None
    visibility_timeout_seconds: Annotated[Number, Field(ge=0.1, le=43_200)] = 60
    drain_timeout_seconds: Annotated[Number, Field(ge=0, le=3600)] = 25
    max_retries: Annotated[Whole | None, Field(ge=0, le=10_000)] = None
    """Tries after the first one; None leaves it to the preset."""
    retry_preset: str = "default"
    retry_base_delay_seconds: Annotated[Number | None, Field(ge=0, le=DAY_SECONDS)] = None
    retry_max_delay_seconds: Annotated[Number | None, Field(ge=0, le=DAY_SECONDS)] = None
    enable_idempotency: bool = True
    idempotency_ttl_days: Annotated[Number, Field(ge=0.001, le=3650)] = 7
    idempotency_store: KeyStore = "auto"
    """``auto``: Redis where an address is set, else the backend's own database, else memory."""
    idempotency_redis_url: RedisAddress | None = Field(default=None, repr=False)
    idempotency_on_unavailable: OnUnavailable = "run_naturally_idempotent"
    """Which jobs run while the store is away: those whose type says that it may, or none."""
    idempotency_allow_short_ttl: bool = False
    """Start although a broker may hand a job out again after its key was forgotten."""
    priority_order: PriorityOrder = "higher_first"
    max_payload_bytes: Annotated[Whole, Field(ge=1, le=1_048_576)] = 262_144
    event_log: EventLog = "watched"
    """``watched`` writes it while somebody looks; S0's EnableNotifications=false is ``never``."""
    progress_update_interval_seconds: Annotated[Number, Field(ge=0.01, le=3600)] = 0.5
    cleanup_interval_seconds: Annotated[Number, Field(ge=1, le=DAY_SECONDS)] = 60
    job_history_retention_days: Annotated[Number, Field(ge=0.001, le=36_500)] = 7
    job_history_retention_count: Retained = None
    """Ended jobs that each queue keeps, dead letters aside; S1's removeOnComplete."""
    job_history_retention_bytes: Retained = None
    """Bytes that those may take together."""
    failed_job_retention_days: Annotated[Number, Field(ge=0.001, le=36_500)] = 30
    failed_job_retention_count: Retained = None
    """Dead letters that each queue keeps; S1's removeOnFail."""
    failed_job_retention_bytes: Retained = None
    pause_on_battery: bool = False
    cpu_throttle_threshold: Annotated[Number, Field(ge=1, le=100)] = 85
    memory_throttle_threshold: Annotated[Number, Field(ge=1, le=100)] = 85
    table_prefix: Identifier = "background_job"
    """In front of every table's name, on SQLite as on Postgres."""
    sqlite: SqliteSettings = SqliteSettings()
    postgres: PostgresSettings = PostgresSettings()
    monitor: MonitorSettings = MonitorSettings()
    aws_sqs: AwsSqsSettings = AwsSqsSettings()
    backend_options: Mapping[str, Mapping[str, Any]] = Field(default_factory=dict, repr=False)
    """Other providers' settings; read them with :meth:`provider_options`."""
    origins: Mapping[str, str] = Field(default_factory=dict, repr=False)
    """Where each given value comes from, by key; read them with :attr:`sources`."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Given values, environment, ``jobbus.toml``, ``pyproject.toml``, ``appsettings.json``."""
        explicit: dict[str, Any] = {}
        if isinstance(init_settings, InitSettingsSource):
            explicit = dict(init_settings.init_kwargs)
        surroundings = explicit.pop(_SURROUNDINGS, None) or Surroundings(os.environ, Path.cwd())
        return source_chain(settings_cls, explicit, surroundings, _groups(cls))

    @model_validator(mode="wrap")
    @classmethod
    def _explain(cls, data: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        origins: Mapping[str, str] = data.get("origins", {}) if isinstance(data, Mapping) else {}
        try:
            settings = handler(data)
        except ValidationError as error:
            told = sentences(error, cls, lambda key: origins.get(key, "default"))
            raise ConfigurationError("\n".join(told)) from error
        if problems := list(_contradictions(settings)):
            raise ConfigurationError("\n".join(problems))
        return settings

    @field_validator("provider")
    @classmethod
    def _find_provider(cls, name: str) -> str:
        if "://" in name:
            raise ValueError("takes a name; an address goes into backend (JOBBUS_BACKEND)")
        found = find_provider(name)
        if found is None:
            raise ValueError(f"cannot be this: {unknown_provider(name)}")
        return found

    @field_validator("retry_preset")
    @classmethod
    def _find_preset(cls, name: str) -> str:
        found = next((preset for preset in PRESETS if squash(preset) == squash(name)), None)
        if found is None:
            raise ValueError(f"must be one of {', '.join(PRESETS)}, not {name!r}")
        return found

    @property
    def job_timeout(self) -> timedelta:
        """For job types that do not say their own."""
        if self.job_timeout_minutes is None:
            return DEFAULT_JOB_TIMEOUT
        return timedelta(minutes=self.job_timeout_minutes)

    @property
    def lease(self) -> timedelta:
        return timedelta(seconds=self.visibility_timeout_seconds)

    @property
    def poll_interval(self) -> timedelta:
        return timedelta(seconds=self.poll_interval_seconds)

    @property
    def drain_timeout(self) -> timedelta:
        return timedelta(seconds=self.drain_timeout_seconds)

    @property
    def idempotency_ttl(self) -> timedelta:
        return timedelta(days=self.idempotency_ttl_days)

    @property
    def max_attempts(self) -> int:
        """Tries in all, the first included."""
        if self.max_retries is None:
            return PRESETS[self.retry_preset].max_attempts
        return self.max_retries + 1

    @property
    def retry_policy(self) -> RetryPolicy:
        """The preset with what is set beside it; for job types that do not say their own."""
        preset = PRESETS[self.retry_preset]
        base, cap = self.retry_base_delay_seconds, self.retry_max_delay_seconds
        return replace(
            preset,
            max_attempts=self.max_attempts,
            base=preset.base if base is None else timedelta(seconds=base),
            cap=preset.cap if cap is None else timedelta(seconds=cap),
        )

    def provider_options(self, provider: str) -> Mapping[str, Any]:
        """What was set for a provider that is not part of the core; empty when nothing was.

        Values are as they were given: text from the environment, any kind from files.
        """
        for name, values in self.backend_options.items():
            if squash(name) == squash(find_provider(provider) or provider):
                return Options(values)
        return Options({})

    @property
    def redis_address(self) -> str | None:
        """Where the Redis is, said whole or in parts; None when nobody says it."""
        return redis_address(self.provider_options("redis"))

    @property
    def ledger_settings(self) -> Settings | None:
        """These settings, for the backend that is the broker's ledger; None without one."""
        if self.ledger is None:
            return None
        found = read_backend(self.ledger)
        inner = {key.partition(".")[2]: value for key, value in found.items() if "." in key}
        group = found["provider"]
        return self.model_copy(
            update={
                "provider": group,
                "ledger": None,
                "mode": None,
                group: replace(getattr(self, group), **inner),
            }
        )

    @property
    def sources(self) -> Mapping[str, str]:
        """Where each value comes from: ``environment X``, ``jobbus.toml``, ``default``, by key."""
        return {key: self.origins.get(key, "default") for key, _ in _flat(self)}

    @property
    def notes(self) -> tuple[str, ...]:
        """What an operator should know, though nothing is wrong."""
        return tuple(_notes(self))

    def table(self) -> list[tuple[str, str, str]]:
        """Every setting: key, value as text with secrets masked, source."""
        sources = self.sources
        return [(key, shown(key, value), sources[key]) for key, value in _flat(self)]


def load_settings(
    overrides: Mapping[str, object] | None = None,
    *,
    environ: Mapping[str, str] | None = None,
    directory: Path | None = None,
) -> Settings:
    """The settings under ``overrides``, the environment and the files in ``directory``.

    Overrides are keys of any spelling, ``sqlite.path`` or nested; None is the same as not given.
    ``environ`` and ``directory`` stand for the process's own. Raises ConfigurationError.
    """
    surroundings = Surroundings(
        os.environ if environ is None else environ, Path.cwd() if directory is None else directory
    )
    explicit: dict[str, Any] = dict(overrides or {})
    return Settings(**{**explicit, _SURROUNDINGS: surroundings})


def _groups(model: type[BaseSettings]) -> dict[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {}
    plain = []
    for name, info in model.model_fields.items():
        if is_dataclass(info.annotation):
            found[name] = tuple(one.name for one in fields(info.annotation))
        elif name not in _INNER_FIELDS:
            plain.append(name)
    return {"": tuple(plain), **found}


def _flat(settings: Settings) -> Iterator[tuple[str, Any]]:
    for name in type(settings).model_fields:
        value = getattr(settings, name)
        if is_dataclass(value):
            yield from ((f"{name}.{one.name}", getattr(value, one.name)) for one in fields(value))
        elif name not in _INNER_FIELDS:
            yield name, value
    for provider, values in settings.backend_options.items():
        yield from ((f"{provider}.{name}", value) for name, value in values.items())


def _contradictions(settings: Settings) -> Iterator[str]:
    sources = settings.sources
    provider, mode = settings.provider, settings.mode
    origin = f"(mode {whence(sources['mode'])}, provider {whence(sources['provider'])})"
    if provider in PROVIDERS and mode == "polling" and provider not in SQL_PROVIDERS:
        yield (
            f"mode Polling needs a SQL provider, and provider is {provider} {origin}: set provider "
            f"to {' or '.join(SQL_PROVIDERS)}, "
            + ("or set mode to MessageQueue" if provider in BROKERS else "or leave mode out")
        )
    if provider in PROVIDERS and mode == "message_queue" and provider not in BROKERS:
        yield (
            f"mode MessageQueue needs a broker provider, and provider is {provider} {origin}: set "
            f"provider to one of {', '.join(BROKERS)}, or set mode to Polling"
        )
    if provider == "postgres" and settings.postgres.url is None:
        yield (
            f"provider is postgres ({whence(sources['provider'])}) and has no address: set "
            "BACKGROUND_JOBS__POSTGRES__URL to postgresql://user@host/database, or to "
            "postgresql:// to go by libpq's own variables; DATABASE_URL is not read"
        )
    if settings.ledger is not None and provider in ("memory", *SQL_PROVIDERS):
        yield (
            f"ledger is set ({whence(sources['ledger'])}), and provider is {provider} "
            f"({whence(sources['provider'])}), which remembers its jobs itself: set ledger to "
            f"none, or provider to one of {', '.join(BROKERS)}"
        )
    policy = settings.retry_policy
    if settings.retry_base_delay_seconds is not None and policy.base > policy.cap:
        yield (
            f"retry_base_delay_seconds is {policy.base.total_seconds():g} "
            f"({whence(sources['retry_base_delay_seconds'])}), more than retry_max_delay_seconds, "
            f"which is {policy.cap.total_seconds():g} "
            f"({whence(sources['retry_max_delay_seconds'])}): lower the one or raise the other"
        )


def _notes(settings: Settings) -> Iterator[str]:
    sources = settings.sources
    if settings.lease > LONG_LEASE:
        yield (
            f"visibility_timeout_seconds is {settings.lease.total_seconds():g} "
            f"({whence(sources['visibility_timeout_seconds'])}): leases are renewed while a job "
            "runs, so that 60 is enough for any job; a long lease only makes the jobs of a dead "
            "worker wait"
        )
    if settings.provider in FORGETFUL and settings.ledger is None:
        for key in sources:
            if "_retention_" in key and sources[key] != "default":
                yield (
                    f"{key} ({whence(sources[key])}) has no effect: {settings.provider} keeps no "
                    "ended jobs; set ledger to a database that does"
                )
    for key, reason in NOT_YET.items():
        if sources[key] != "default" and getattr(settings, key) is not False:
            yield f"{key} ({whence(sources[key])}) has no effect in this version: {reason}"
