"""What can be set for RabbitMQ, read from settings that are text or not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Final

from jobbus.errors import ConfigurationError

NAMES: Final = (
    "url",
    "queue_prefix",
    "create_topology",
    "heartbeat_seconds",
    "consumer_timeout_minutes",
)
_CREATE: Final = ("auto", "never")


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The settings of the backend. Raises ConfigurationError for values that cannot be."""

    url: str = field(repr=False)
    queue_prefix: str = "jobbus"
    """In front of every queue's and exchange's name, with a dot behind it."""
    create_topology: str = "auto"
    """``auto`` makes what is missing at its first use; ``never`` leaves it to the operator."""
    heartbeat: timedelta = timedelta(seconds=30)
    consumer_timeout: timedelta = timedelta(minutes=30)
    """The server's own, where it is older than 3.12 and a queue cannot say another."""

    def __post_init__(self) -> None:
        if self.create_topology not in _CREATE:
            raise ConfigurationError(
                f"rabbitmq.create_topology is {' or '.join(_CREATE)}, not {self.create_topology!r}"
            )
        prefix = self.queue_prefix
        if not (1 <= len(prefix) <= 40 and prefix.replace(".", "").replace("-", "").isidentifier()):
            raise ConfigurationError(
                "rabbitmq.queue_prefix is 1 to 40 letters, digits, dots, dashes and underscores, "
                f"a letter first, not {prefix[:80]!r}"
            )
        if not 5 <= self.heartbeat.total_seconds() <= 600:
            raise ConfigurationError("rabbitmq.heartbeat_seconds is a number from 5 to 600")
        if self.consumer_timeout < timedelta(minutes=6):
            raise ConfigurationError("rabbitmq.consumer_timeout_minutes is a number from 6 on")


def read_options(given: Mapping[str, Any]) -> Options:
    """The options that the settings give. Raises ConfigurationError, naming the setting."""
    unknown = sorted(set(given) - set(NAMES))
    if unknown:
        raise ConfigurationError(
            f"there is no setting rabbitmq.{unknown[0]}; there are {', '.join(NAMES)}"
        )
    if not given.get("url"):
        raise ConfigurationError(
            "the RabbitMQ backend needs an address: set BACKGROUND_JOBS__RABBITMQ__URL to "
            "amqps://user:password@host/vhost"
        )
    chosen: dict[str, Any] = {
        name: str(given[name])
        for name in ("url", "queue_prefix", "create_topology")
        if name in given
    }
    if "heartbeat_seconds" in given:
        chosen["heartbeat"] = timedelta(seconds=_number("heartbeat_seconds", given))
    if "consumer_timeout_minutes" in given:
        chosen["consumer_timeout"] = timedelta(minutes=_number("consumer_timeout_minutes", given))
    return Options(**chosen)


def _number(name: str, given: Mapping[str, Any]) -> float:
    value = given[name]
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = -1
    if isinstance(value, bool) or not 0 <= number <= 1_000_000:
        raise ConfigurationError(f"rabbitmq.{name} is a number, not {str(value)[:80]!r}")
    return number
