"""Access to a namespace: credentials, settings, and the creation of queues."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Final

from azure.core.exceptions import ResourceNotFoundError
from azure.servicebus.aio import ServiceBusClient

from jobbus.errors import ConfigurationError, MissingDependency, Unsupported

from .failures import SESSIONS_SETTING

OPTIONS: Final = (
    "connection_string",
    "namespace",
    "queue_name",
    "queue_prefix",
    "lock_duration_seconds",
    "max_message_kilobytes",
    "sessions",
    "max_sessions",
)
_ENDPOINT: Final = re.compile(r"Endpoint=sb://([^/;]+)", re.IGNORECASE)
_GROUP: Final = "BACKGROUND_JOBS__AZURE_SERVICE_BUS__"


@dataclass(frozen=True, slots=True)
class Access:
    """How to get in: by connection string, or by namespace and the identity of this process."""

    connection_string: str | None = field(repr=False)
    namespace: str | None

    @property
    def emulated(self) -> bool:
        return "usedevelopmentemulator=true" in (self.connection_string or "").casefold()

    @property
    def place(self) -> str:
        """The namespace's host, for people to read; without a key."""
        if self.connection_string is None:
            return self._host
        found = _ENDPOINT.search(self.connection_string)
        return found[1] if found else ""

    def connect(self) -> ServiceBusClient:
        """A client, not yet connected. It reopens a link once by itself: callers do the rest."""
        options: dict[str, Any] = {
            "retry_total": 1,
            "retry_mode": "fixed",
            "retry_backoff_factor": 0.1,
            "user_agent": "jobbus",
        }
        if self.connection_string is None:
            return ServiceBusClient(self._host, _credential(), **options)
        try:
            return ServiceBusClient.from_connection_string(self.connection_string, **options)
        except (ValueError, IndexError):
            # Without the cause: its text may repeat the string, and with it the key.
            raise ConfigurationError(
                f"{_GROUP}CONNECTION_STRING is no connection string of Service Bus, such as "
                "Endpoint=sb://name.servicebus.windows.net/;SharedAccessKeyName=...;"
                "SharedAccessKey=..."
            ) from None

    def administration(self) -> Any:
        """A client that may create queues, if its policy or role may."""
        from azure.servicebus.aio.management import ServiceBusAdministrationClient

        if self.connection_string is None:
            return ServiceBusAdministrationClient(self._host, _credential())
        return ServiceBusAdministrationClient.from_connection_string(self.connection_string)

    @property
    def _host(self) -> str:
        name = self.namespace or ""
        return name if "." in name else f"{name}.servicebus.windows.net"


def _credential() -> Any:
    try:
        from azure.identity.aio import DefaultAzureCredential
    except ImportError as error:
        raise MissingDependency(
            "a namespace without a connection string needs azure-identity: "
            "pip install azure-identity aiohttp"
        ) from error
    return DefaultAzureCredential()


def read_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments for the queue from the settings. Raises ConfigurationError, naming the setting."""
    known = {name.replace("_", ""): name for name in OPTIONS}
    unknown = sorted(name for name in options if name.replace("_", "").casefold() not in known)
    if unknown:
        raise ConfigurationError(
            f"azure_service_bus has no setting {unknown[0]!r}; it has {', '.join(OPTIONS)}"
        )
    given = {name: options[name] for name in OPTIONS if name in options}
    arguments: dict[str, Any] = {
        name: str(given[name]) for name in OPTIONS[:4] if given.get(name) not in (None, "")
    }
    if "lock_duration_seconds" in given:
        seconds = _number(given, "lock_duration_seconds")
        arguments["lock_duration"] = timedelta(seconds=seconds)
    if "max_message_kilobytes" in given:
        kilobytes = _number(given, "max_message_kilobytes")
        arguments["max_message_bytes"] = int(kilobytes * 1024)
    if "sessions" in given:
        arguments["sessions"] = _truth(given, "sessions")
    if "max_sessions" in given:
        arguments["max_sessions"] = int(_number(given, "max_sessions"))
    return arguments


def _truth(given: Mapping[str, Any], name: str) -> bool:
    text = str(given[name]).strip().casefold()
    if text in ("true", "1", "yes", "on"):
        return True
    if text in ("false", "0", "no", "off", ""):
        return False
    raise ConfigurationError(f"{_GROUP}{name.upper()} must be true or false, not {given[name]!r}")


def _number(given: Mapping[str, Any], name: str) -> float:
    value = given[name]
    try:
        number = float("nan") if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = float("nan")
    if not 0 < number <= 1_000_000:
        raise ConfigurationError(f"{_GROUP}{name.upper()} must be a number above 0, not {value!r}")
    return number


async def create_queues(
    access: Access,
    names: Sequence[str],
    *,
    lock_duration: timedelta,
    max_delivery_count: int,
    sessions: bool,
) -> list[str]:
    """Create those that are missing, with duplicate detection; return their names.

    Raises ConfigurationError for one that is there and locks for less than ``lock_duration``, or
    requires sessions otherwise than ``sessions`` says.
    """
    if access.emulated:
        raise Unsupported("an emulator's queues come from its own configuration: name them there")
    made = []
    async with access.administration() as client:
        for name in names:
            try:
                there = await client.get_queue(name)
            except ResourceNotFoundError:
                await client.create_queue(
                    name,
                    lock_duration=lock_duration,
                    max_delivery_count=max_delivery_count,
                    requires_duplicate_detection=True,
                    requires_session=sessions,
                    dead_lettering_on_message_expiration=True,
                )
                made.append(name)
                continue
            if bool(there.requires_session) is not sessions:
                raise ConfigurationError(
                    f"queue {name!r} {'requires' if there.requires_session else 'has no'} sessions,"
                    f" which no queue can be changed in: set {SESSIONS_SETTING}"
                    f"={str(not sessions).lower()}, or name another queue"
                )
            if there.lock_duration < lock_duration:
                raise ConfigurationError(
                    f"queue {name!r} locks messages for {there.lock_duration}, less than "
                    f"{lock_duration}: raise its LockDuration, or set "
                    f"{_GROUP}LOCK_DURATION_SECONDS to {there.lock_duration.total_seconds():g}"
                )
    return made
