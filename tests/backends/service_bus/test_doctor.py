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
from tests.emulators.servicebus import Emulator


async def findings(
    emulator: Emulator, *, prefix: str = "", create: bool = False
) -> Sequence[Finding]:
    given = {"backend": emulator.connection_string, "azure_service_bus.queue_prefix": prefix}
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
