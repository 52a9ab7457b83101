"""How the Azure Service Bus backend is chosen and told what it needs; no connection is made."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from azure.core.exceptions import ResourceNotFoundError

from jobbus import load_settings
from jobbus.backends.azure_service_bus import AzureServiceBusQueue
from jobbus.backends.service_bus.administration import Access
from jobbus.errors import ConfigurationError
from jobbus.settings import create_queue

SECRET = "c2VjcmV0"
STRING = (
    f"Endpoint=sb://shop.servicebus.windows.net/;SharedAccessKeyName=jobs;SharedAccessKey={SECRET}"
)


def settings_of(overrides: Mapping[str, object]) -> Any:
    return load_settings(overrides, environ={}, directory=Path("/"))


@pytest.mark.parametrize(
    "overrides",
    [
        {"backend": STRING},
        {"provider": "AzureServiceBus", "azure_service_bus.connection_string": STRING},
        {"provider": "ServiceBus", "AzureServiceBus": {"ConnectionString": STRING}},
        {"provider": "azure_service_bus", "azure_service_bus.namespace": "shop"},
    ],
)
def test_a_connection_string_or_a_namespace_is_enough(overrides: Mapping[str, object]) -> None:
    settings = settings_of(overrides)
    assert isinstance(create_queue(settings), AzureServiceBusQueue)
    assert SECRET not in repr(settings.table())


def test_the_limits_follow_from_the_settings() -> None:
    given = {"lock_duration_seconds": "300", "max_message_kilobytes": "1024"}
    overrides = {f"azure_service_bus.{name}": value for name, value in given.items()}
    queue = create_queue(settings_of({"backend": STRING, **overrides}))
    assert queue.capabilities.max_lease == timedelta(seconds=300)
    assert queue.capabilities.max_payload == 960 * 1024
    assert queue.separate().capabilities == queue.capabilities


@pytest.mark.parametrize(("given", "groups"), [("true", True), ("False", False), ("", False)])
def test_groups_need_the_setting_that_the_queues_require_sessions(given: str, groups: bool) -> None:
    queue = create_queue(settings_of({"backend": STRING, "azure_service_bus.sessions": given}))
    assert queue.capabilities.ordered_groups is groups
    assert queue.separate().capabilities == queue.capabilities


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "BACKGROUND_JOBS__AZURE_SERVICE_BUS__CONNECTION_STRING"),
        ({"connection_string": STRING, "namespace": "shop"}, "not both"),
        ({"namespace": "shop", "lock_duration_seconds": "301"}, "at most 300 s"),
        ({"namespace": "shop", "lock_duration_seconds": "soon"}, "a number above 0, not 'soon'"),
        ({"namespace": "shop", "max_message_kilobytes": "64"}, "leave room for a payload"),
        ({"namespace": "shop", "sessions": "perhaps"}, "SESSIONS must be true or false, not 'perh"),
        ({"namespace": "shop", "max_sessions": "0"}, "MAX_SESSIONS must be a number above 0"),
        ({"namespace": "shop", "max_sessions": "0.5"}, "max_sessions must be at least 1"),
        ({"namespace": "shop", "queue": "jobs"}, "no setting 'queue'; it has connection_string"),
    ],
)
def test_what_cannot_work_is_refused_by_name(options: Mapping[str, str], words: str) -> None:
    overrides = {f"azure_service_bus.{name}": value for name, value in options.items()}
    settings = settings_of({"provider": "azure_service_bus", **overrides})
    with pytest.raises(ConfigurationError, match=words) as caught:
        create_queue(settings)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("text", [f"Endpoint={SECRET}", SECRET, f"SharedAccessKey={SECRET};x"])
def test_a_string_that_is_no_connection_string_is_not_repeated(text: str) -> None:
    with pytest.raises(ConfigurationError, match="no connection string of Service Bus") as caught:
        asyncio.run(AzureServiceBusQueue(text).open())
    assert SECRET not in str(caught.value)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize("name", ["a:b", ".a", "a-"])
def test_a_name_that_service_bus_cannot_take_is_refused(name: str) -> None:
    with pytest.raises(ConfigurationError, match="cannot name a queue"):
        asyncio.run(AzureServiceBusQueue(STRING, queues=(name,)).open())


class FakeAdministration:
    """The little of the library's client that creating asks for. The emulator has no such side."""

    def __init__(self, **there: SimpleNamespace) -> None:
        self.there = there
        self.made: dict[str, dict[str, Any]] = {}

    async def __aenter__(self) -> FakeAdministration:
        return self

    async def __aexit__(self, *failure: object) -> None: ...

    async def get_queue(self, name: str) -> SimpleNamespace:
        if name not in self.there:
            raise ResourceNotFoundError(name)
        return self.there[name]

    async def create_queue(self, name: str, **options: Any) -> None:
        self.made[name] = options


def created_with(monkeypatch: pytest.MonkeyPatch, there: FakeAdministration) -> None:
    monkeypatch.setattr(Access, "administration", lambda self: there)


@pytest.mark.parametrize("sessions", [True, False])
async def test_queues_are_created_as_the_setting_says(
    monkeypatch: pytest.MonkeyPatch, sessions: bool
) -> None:
    there = FakeAdministration()
    created_with(monkeypatch, there)
    assert await AzureServiceBusQueue(STRING, sessions=sessions).create() == ["default"]
    assert there.made["default"]["requires_session"] is sessions


@pytest.mark.parametrize("sessions", [True, False])
async def test_a_queue_that_is_there_and_differs_is_not_taken_for_one_that_was_asked_for(
    monkeypatch: pytest.MonkeyPatch, sessions: bool
) -> None:
    lock = timedelta(seconds=60)
    queue = SimpleNamespace(requires_session=not sessions, lock_duration=lock)
    created_with(monkeypatch, FakeAdministration(default=queue))
    words = "set BACKGROUND_JOBS__AZURE_SERVICE_BUS__SESSIONS=" + str(not sessions).lower()
    with pytest.raises(ConfigurationError, match=words):
        await AzureServiceBusQueue(STRING, sessions=sessions).create()
