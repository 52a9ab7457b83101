"""Chooses the backend that the settings name, importing no other."""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Final, cast

from jobbus.errors import ConfigurationError, MissingDependency
from jobbus.settings.addresses import mask
from jobbus.settings.names import known_provider, nearest, snake, squash, whence

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from jobbus.message import Capabilities
    from jobbus.queue import BackgroundJobQueue
    from jobbus.settings.model import Settings

GROUP: Final = "jobbus.backends"
BUILT_IN: Final = (
    EntryPoint("Memory", "jobbus.backends.memory:MemoryQueue", GROUP),
    EntryPoint("Sqlite", "jobbus.backends.sqlite:SqliteQueue", GROUP),
    EntryPoint("Postgres", "jobbus.backends.postgres:PostgresQueue", GROUP),
    EntryPoint("Redis", "jobbus.backends.redis:RedisQueue", GROUP),
    EntryPoint("RabbitMq", "jobbus.backends.rabbitmq:RabbitMqQueue", GROUP),
    EntryPoint("AwsSqs", "jobbus.backends.aws_sqs:AwsSqsQueue", GROUP),
    EntryPoint("AzureServiceBus", "jobbus.backends.azure_service_bus:AzureServiceBusQueue", GROUP),
)
"""For a checkout on the path, whose metadata nobody installed."""
EXTRAS: Final = {
    "postgres": "postgres",
    "redis": "redis",
    "aws_sqs": "sqs",
    "rabbitmq": "rabbitmq",
    "azure_service_bus": "azure",
}


def installed_backends() -> Mapping[str, EntryPoint]:
    """Every backend that could be chosen, by provider name; none is imported.

    Raises ConfigurationError when two packages offer different backends under one name.
    """
    found: dict[str, EntryPoint] = {}
    for entry in entry_points(group=GROUP):
        provider = _provider(entry.name)
        other = found.setdefault(provider, entry)
        if other.value != entry.value:
            raise ConfigurationError(
                f"two installed packages offer a backend named {provider!r}: {other.value} and "
                f"{entry.value}; uninstall one"
            )
    for entry in BUILT_IN:
        provider = _provider(entry.name)
        if provider not in found and find_spec(entry.module) is not None:
            found[provider] = entry
    return dict(sorted(found.items()))


def _provider(name: str) -> str:
    return known_provider(name) or snake(name)


def find_provider(name: str) -> str | None:
    """The provider that ``name`` spells, among jobbus's own and those installed."""
    known = known_provider(name)
    if known is not None:
        return known
    return next((found for found in installed_backends() if squash(found) == squash(name)), None)


def unknown_provider(name: str) -> str:
    """Says that there is no such backend, and which there are."""
    installed = list(installed_backends())
    meant = nearest(snake(name), {*installed, *EXTRAS})
    return f"no backend named {mask(name)!r}; installed are {_listed(installed)}" + (
        f". Did you mean {meant!r}?" if meant else ""
    )


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names) or "none"


def create_queue(settings: Settings) -> BackgroundJobQueue:
    """The queue that the settings describe, not yet open; with a ledger around it if they say so.

    Raises ConfigurationError when no such backend is installed, and MissingDependency, with the
    command that helps, when its client library is not.
    """
    queue = _create_backend(settings)
    ledger = settings.ledger_settings
    if ledger is None:
        return queue
    from jobbus.tracked import TrackedQueue

    return TrackedQueue(queue, _create_backend(ledger), relays=settings.relay_in_workers)


def _create_backend(settings: Settings) -> BackgroundJobQueue:
    installed = installed_backends()
    entry = installed.get(settings.provider)
    if entry is None:
        origin = whence(settings.sources["provider"])
        if known_provider(settings.provider) is None:
            raise ConfigurationError(f"{unknown_provider(settings.provider)} (provider {origin})")
        raise ConfigurationError(
            f"this version of jobbus has no {settings.provider} backend (provider {origin}); "
            f"installed are {_listed(installed)}: set provider to one of them"
        )
    try:
        backend: Any = entry.load()
        build = backend.from_settings
        return cast("BackgroundJobQueue", build(settings))
    except ImportError as error:
        raise _not_importable(settings.provider, entry, error) from error
    except AttributeError as error:
        if error.name not in {"from_settings", *entry.attr.split(".")}:
            raise
        raise ConfigurationError(
            f"the backend {settings.provider} is not usable: {entry.value} names no class with a "
            "classmethod from_settings"
        ) from error


def _not_importable(provider: str, entry: EntryPoint, error: ImportError) -> ConfigurationError:
    missing = error.name or "a library"
    package = missing.partition(".")[0]
    if package == entry.module.partition(".")[0]:
        return ConfigurationError(
            f"the backend {provider} ({entry.value}) cannot be imported: {error}"
        )
    if provider in EXTRAS:
        help_ = f'pip install "jobbus[{EXTRAS[provider]}]"'
    else:
        help_ = f"pip install {package}"
    return MissingDependency(f"the backend {provider} needs {missing} ({error}): {help_}")


def check_lease(settings: Settings, capabilities: Capabilities) -> list[str]:
    """Why the lease does not suit a queue with these capabilities; empty when it does.

    A queue that extends leases suits any job timeout. On one that cannot, a job that runs for
    longer than its lease is handed out a second time.
    """
    lease, timeout = settings.lease.total_seconds(), settings.job_timeout.total_seconds()
    problems = []
    if capabilities.max_lease is not None and settings.lease > capabilities.max_lease:
        problems.append(
            f"VISIBILITY_TIMEOUT_SECONDS is {lease:g}, and this queue leases for at most "
            f"{capabilities.max_lease.total_seconds():g}: lower it"
        )
    if not capabilities.extends_leases and lease < timeout:
        problems.append(
            f"VISIBILITY_TIMEOUT_SECONDS is {lease:g}, less than the job timeout of {timeout:g} "
            "seconds, and this queue cannot extend a lease, so that longer jobs would run twice: "
            f"set VISIBILITY_TIMEOUT_SECONDS to {timeout:g} or more, or JOB_TIMEOUT_MINUTES to "
            f"{lease / 60:g} or less"
        )
    return problems
