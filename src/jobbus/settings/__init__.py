"""Settings: what they are, where they are read from, and the backend that they choose."""

from __future__ import annotations

from jobbus.settings.backends import check_lease, create_queue, installed_backends
from jobbus.settings.groups import (
    AwsSqsSettings,
    MonitorSettings,
    PostgresSettings,
    SqliteSettings,
)
from jobbus.settings.idempotency import check_ttl, create_idempotency_store
from jobbus.settings.model import Options, Settings, load_settings

__all__ = [
    "AwsSqsSettings",
    "MonitorSettings",
    "Options",
    "PostgresSettings",
    "Settings",
    "SqliteSettings",
    "check_lease",
    "check_ttl",
    "create_idempotency_store",
    "create_queue",
    "installed_backends",
    "load_settings",
]
