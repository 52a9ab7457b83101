"""``jobbus doctor`` in front of a namespace."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from jobbus import load_settings
from jobbus.cli.broker_checks import check_broker
from jobbus.cli.findings import Finding, Level
from jobbus.errors import BackendError
from jobbus.settings import create_queue
from tests.backends.service_bus.places import SessionNamespace
from tests.emulators.servicebus import Emulator


async def findings(
    emulator: Emulator, *, prefix: str = "", create: bool = False, sessions: bool = False
) -> Sequence[Finding]:
    given = {
        "backend": emulator.connection_string,
        "azure_service_bus.queue_prefix": prefix,
        "azure_service_bus.sessions": sessions,
    }
    settings = load_settings(given, environ={}, directory=Path("/"))
    queue = create_queue(settings)
    return [one async for one in check_broker("azure_service_bus", queue, create=create)]


async def test_a_namespace_that_has_the_queues_is_well(emulator: Emulator) -> None:
    found = await findings(emulator)
    assert [(one.level, one.check) for one in found] == [
        (Level.OK, "broker"),
        (Level.OK, "queues"),
    ]


async def test_a_queue_that_is_missing_is_told(emulator: Emulator) -> None:
    with pytest.raises(BackendError, match="there is no such queue"):
        await findings(emulator, prefix="nowhere-")


async def test_an_emulators_queues_are_left_to_its_own_configuration(emulator: Emulator) -> None:
    [found] = await findings(emulator, create=True)
    assert (found.level, found.check) == (Level.FAILED, "queues")
    assert "its own configuration" in found.message


async def test_queues_that_require_sessions_are_well_where_the_setting_says_so(
    grouped: SessionNamespace, emulator: Emulator
) -> None:
    found = await findings(emulator, prefix=grouped.prefix, sessions=True)
    assert [one.level for one in found] == [Level.OK, Level.OK]


async def test_a_queue_without_sessions_is_told_where_the_setting_wants_them(
    emulator: Emulator,
) -> None:
    [found] = await findings(emulator, sessions=True)
    assert (found.level, found.check) == (Level.FAILED, "queues")
    assert "BACKGROUND_JOBS__AZURE_SERVICE_BUS__SESSIONS" in found.message
    assert "has no sessions" in found.message


async def test_a_queue_that_requires_sessions_is_told_where_the_setting_does_not(
    grouped: SessionNamespace, emulator: Emulator
) -> None:
    found = await findings(emulator, prefix=grouped.prefix)
    assert (found[-1].level, found[-1].check) == (Level.WARNING, "broker")
    assert "SESSIONS=true" in found[-1].message
