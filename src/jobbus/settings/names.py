"""One name behind every spelling of a setting, and the nearest one behind a typo."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

SQL_PROVIDERS: Final = ("sqlite", "postgres")
BROKERS: Final = ("redis", "aws_sqs", "rabbitmq", "azure_service_bus")
FORGETFUL: Final = ("aws_sqs", "rabbitmq", "azure_service_bus")
"""Brokers that remember jobs only with a ledger around them."""
PROVIDERS: Final = ("memory", *SQL_PROVIDERS, *BROKERS)
OTHER_PROVIDER_NAMES: Final[Mapping[str, str]] = {
    "postgresql": "postgres",
    "sqs": "aws_sqs",
    "servicebus": "azure_service_bus",
}
OPTIONS: Final[Mapping[str, tuple[str, ...]]] = {
    "redis": (
        "url",
        "host",
        "port",
        "password",
        "db",
        "prefix",
        "allow_volatile",
        "max_connections",
        "timeout_seconds",
    ),
    "rabbitmq": (
        "url",
        "queue_prefix",
        "create_topology",
        "heartbeat_seconds",
        "consumer_timeout_minutes",
    ),
    "azure_service_bus": (
        "connection_string",
        "namespace",
        "queue_name",
        "queue_prefix",
        "lock_duration_seconds",
        "max_message_kilobytes",
        "sessions",
        "max_sessions",
    ),
}
"""Options whose words are known, so that ``QUEUEURL`` can be shown as ``queue_url``."""


@dataclass(frozen=True, slots=True)
class Alias:
    """What a spelling stands for: a key, whose value is the given one divided, plus ``offset``."""

    key: str
    divisor: int = 1
    offset: int = 0


ALIASES: Final[Mapping[str, Alias]] = {
    "concurrency": Alias("max_concurrent_jobs"),
    "maxworkers": Alias("processes"),
    "pollingintervalseconds": Alias("poll_interval_seconds"),
    "leaseseconds": Alias("visibility_timeout_seconds"),
    "jobtimeoutseconds": Alias("job_timeout_minutes", divisor=60),
    "defaulttimeout": Alias("job_timeout_minutes", divisor=60),
    "workertimeout": Alias("job_timeout_minutes", divisor=60_000),
    "maxattempts": Alias("max_retries", offset=-1),
    "retrydelay": Alias("retry_base_delay_seconds", divisor=1000),
    "progressupdateinterval": Alias("progress_update_interval_seconds", divisor=1000),
    "cleanupinterval": Alias("cleanup_interval_seconds", divisor=1000),
    "enablenotifications": Alias("event_log"),
    "removeoncomplete": Alias("job_history_retention_count"),
    "removeonfail": Alias("failed_job_retention_count"),
    "postgres.dsn": Alias("postgres.url"),
    "postgres.connectionstring": Alias("postgres.url"),
    "postgres.tableprefix": Alias("table_prefix"),
    "sqlite.tableprefix": Alias("table_prefix"),
}
"""Names that differ from the setting's own in more than spelling, most of the source systems."""

ALWAYS: Final[Mapping[str, str]] = {
    "isenabled": "workers cannot be switched off by a setting; pause the queues instead",
    "restartworkers": "worker processes that die are always replaced",
}
"""Source systems' switches that are always on here: ``true`` is understood, the rest refused."""


def squash(name: str) -> str:
    """``AwsSqs``, ``AWS_SQS`` and ``aws-sqs`` are one name."""
    return re.sub(r"[\s_.-]", "", name).casefold()


def snake(name: str) -> str:
    """``AwsSqs`` and ``aws-sqs`` as ``aws_sqs``."""
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name.strip())
    return re.sub(r"[\s_.-]+", "_", words).casefold()


def pascal(key: str) -> str:
    """``aws_sqs.queue_url`` as ``AwsSqs.QueueUrl``."""
    return ".".join(
        "".join(word.capitalize() for word in part.split("_")) for part in key.split(".")
    )


def environment_name(key: str) -> str:
    """``sqlite.path`` as ``BACKGROUND_JOBS__SQLITE__PATH``."""
    return f"BACKGROUND_JOBS__{key.replace('.', '__').upper()}"


def whence(origin: str) -> str:
    """Where a value comes from, as part of a sentence."""
    return {"explicit": "given explicitly", "default": "by default"}.get(origin, f"from {origin}")


def known_provider(name: str) -> str | None:
    """The provider of jobbus's own that ``name`` spells, shipped or not."""
    squashed = squash(name)
    if squashed in OTHER_PROVIDER_NAMES:
        return OTHER_PROVIDER_NAMES[squashed]
    return next((provider for provider in PROVIDERS if squash(provider) == squashed), None)


def nearest(name: str, candidates: Iterable[str], *, likeness: float = 0.6) -> str | None:
    """The candidate that ``name`` is most probably a typo of."""
    found = difflib.get_close_matches(name, list(candidates), n=1, cutoff=likeness)
    return found[0] if found else None


class Vocabulary:
    """Every key that there is, by its squashed spelling.

    A key is ``name``, or ``group.name`` where the group is one of the model's or a provider.
    """

    def __init__(
        self, groups: Mapping[str, Sequence[str]], find_provider: Callable[[str], str | None]
    ) -> None:
        """``groups`` maps each group to its names, ``""`` to the names outside of one."""
        self.groups = frozenset(groups) - {""}
        self._find_provider = find_provider
        self._keys: dict[str, str] = {"backend": "backend"}
        for group, names in {**OPTIONS, **groups}.items():
            for name in names:
                key = f"{group}.{name}" if group else name
                self._keys[".".join(squash(part) for part in key.split("."))] = key
        self._known = [*self._keys, *ALIASES]
        self._flat = {spelling.replace(".", ""): spelling for spelling in (*self._known, *ALWAYS)}

    def group(self, name: str) -> str | None:
        """The group or provider that ``name`` spells."""
        if squash(name) in self._keys:
            return None
        return self._find_provider(name)

    def spelling(self, path: Sequence[str]) -> str:
        """The path squashed, with the group's own name in front."""
        head, *rest = path
        group = self.group(head) if rest else None
        return ".".join(squash(part) for part in (group or head, *rest))

    def find(self, path: Sequence[str]) -> Alias | None:
        """The key that the path spells, by itself or by another name; None when there is none."""
        spelling = self.spelling(path)
        if spelling in ALIASES:
            return ALIASES[spelling]
        if spelling in self._keys:
            return Alias(self._keys[spelling])
        if len(path) == 2 and (group := self.group(path[0])) and group not in self.groups:
            return Alias(f"{group}.{squash(path[1])}")
        return None

    def find_flat(self, name: str) -> tuple[str, ...] | None:
        """The path that is spelled without any mark between group and name: ``SQLITE_PATH``."""
        spelling = self._flat.get(squash(name))
        return tuple(spelling.split(".")) if spelling else None

    def suggest(self, path: Sequence[str], *, likeness: float = 0.6) -> str | None:
        """The key that was probably meant."""
        spelling = nearest(self.spelling(path), self._known, likeness=likeness)
        if spelling is None:
            spelling = self._flat.get(
                nearest(squash("".join(path)), self._flat, likeness=max(likeness, 0.8)) or ""
            )
        if spelling is None:
            return None
        return self._keys.get(spelling) or (ALIASES[spelling].key if spelling in ALIASES else None)
