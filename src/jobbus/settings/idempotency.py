"""Chooses where idempotency keys are kept, and checks that they are kept for long enough."""

from __future__ import annotations

import math
from datetime import timedelta
from typing import TYPE_CHECKING

from jobbus.errors import ConfigurationError
from jobbus.idempotency.store import KeepsKeys
from jobbus.message import NO_DELAY
from jobbus.settings.addresses import LOCAL_REDIS
from jobbus.settings.backends import create_queue
from jobbus.settings.names import whence

if TYPE_CHECKING:
    from jobbus.idempotency.store import IdempotencyStore
    from jobbus.message import Capabilities
    from jobbus.queue import BackgroundJobQueue
    from jobbus.settings.model import Settings


def create_idempotency_store(settings: Settings, queue: BackgroundJobQueue) -> IdempotencyStore:
    """The store that the settings describe, not yet open.

    ``auto`` is Redis where there is an address: ``idempotency_redis_url``, else the provider's own,
    else ``REDIS_HOST``. Else it is the database of ``queue``, else this process's memory. Raises
    ConfigurationError when the settings ask for one that is not to be had, and MissingDependency
    when its client library is not installed.
    """
    wanted = settings.idempotency_store
    address, ttl = _redis_address(settings), _ttl(settings, queue.capabilities)
    on_redis = settings.provider == "redis" and not settings.idempotency_redis_url
    if wanted in ("auto", "redis") and on_redis and isinstance(queue, KeepsKeys):
        return queue.idempotency_store(ttl)  # which knows its Sentinels, and its cluster
    if wanted == "redis" or (wanted == "auto" and address):
        return _in_redis(settings, address, ttl)
    if wanted != "memory" and isinstance(queue, KeepsKeys):
        return queue.idempotency_store(ttl)
    if wanted == "sql":
        return _in_a_database_apart(settings, ttl)
    from jobbus.idempotency.memory import MemoryIdempotencyStore

    return MemoryIdempotencyStore(ttl)


def check_ttl(settings: Settings, capabilities: Capabilities) -> list[str]:
    """Why keys would be forgotten too soon; empty when they are not.

    A key must outlive the lease under which its job runs. And a broker that may hand a job out
    again after its key was forgotten has it run again (D-9), which may be allowed. Where a ledger
    fences the jobs, nothing is handed out again by itself.
    """
    if not settings.enable_idempotency:
        return []
    if settings.idempotency_ttl < 2 * settings.lease:
        return [
            f"idempotency_ttl_days is {settings.idempotency_ttl_days:g} "
            f"({whence(settings.sources['idempotency_ttl_days'])}), and a lease lasts "
            f"{settings.lease.total_seconds():g} s, so that keys would be forgotten while their "
            "jobs run: set IDEMPOTENCY_TTL_DAYS to twice the lease or more"
        ]
    needed = _longest_return(capabilities)
    if settings.idempotency_allow_short_ttl or _ttl(settings, capabilities) >= needed:
        return []
    days = math.ceil(needed / timedelta(days=1))
    return [
        f"idempotency_ttl_days is {settings.idempotency_ttl_days:g} "
        f"({whence(settings.sources['idempotency_ttl_days'])}), and this queue may hand a message "
        f"out again for up to {days} days: set IDEMPOTENCY_TTL_DAYS to {days} or more, or "
        "IDEMPOTENCY_ALLOW_SHORT_TTL to true"
    ]


def _ttl(settings: Settings, capabilities: Capabilities) -> timedelta:
    """How long keys are remembered: as was said, else for as long as messages may come again."""
    said = settings.sources["idempotency_ttl_days"] != "default"
    if said or settings.idempotency_allow_short_ttl:
        return settings.idempotency_ttl
    return max(settings.idempotency_ttl, _longest_return(capabilities))


def _longest_return(capabilities: Capabilities) -> timedelta:
    """How long after its enqueue a message may come again; zero where keys need not last so long.

    A ledger lets none run again, and of a broker that keeps its messages for ever nothing is asked.
    """
    if capabilities.ledger or capabilities.retention is None:
        return NO_DELAY
    return capabilities.retention + (capabilities.max_delay or NO_DELAY)


def _redis_address(settings: Settings) -> str | None:
    if settings.idempotency_redis_url:
        return settings.idempotency_redis_url
    return settings.redis_address or (LOCAL_REDIS if settings.provider == "redis" else None)


def _in_redis(settings: Settings, address: str | None, ttl: timedelta) -> IdempotencyStore:
    if not address:
        raise ConfigurationError(
            f"idempotency_store is redis ({whence(settings.sources['idempotency_store'])}) and has "
            "no address: set BACKGROUND_JOBS__IDEMPOTENCY_REDIS_URL to redis://host:6379/0"
        )
    from jobbus.idempotency.redis import RedisIdempotencyStore

    return RedisIdempotencyStore(address, ttl)


def _in_a_database_apart(settings: Settings, ttl: timedelta) -> IdempotencyStore:
    """Beside a broker: in the Postgres database that is set, else in the SQLite file that is."""
    provider = "postgres" if settings.postgres.url else "sqlite"
    if provider == "sqlite" and settings.sources["sqlite.path"] == "default":
        raise ConfigurationError(
            f"idempotency_store is sql ({whence(settings.sources['idempotency_store'])}), and "
            f"{settings.provider} has no database of its own: set BACKGROUND_JOBS__POSTGRES__URL, "
            "or on a single machine BACKGROUND_JOBS__SQLITE__PATH"
        )
    queue = create_queue(settings.model_copy(update={"provider": provider}))
    if not isinstance(queue, KeepsKeys):
        raise ConfigurationError(f"the backend {provider} keeps no idempotency keys")
    # A separate store owns the queue that it runs on: nobody else opens that one.
    return queue.idempotency_store(ttl).separate()
