"""One emulator for a module, and an empty queue on it for each test."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from datetime import timedelta

import pytest

from tests.emulators.servicebus import Emulator

LOCK = timedelta(seconds=30)


@pytest.fixture(scope="module")
def emulator() -> Iterator[Emulator]:
    with Emulator() as emulator:
        yield emulator


@pytest.fixture
def entity(emulator: Emulator) -> Iterator[str]:
    """A queue with locks of thirty seconds and three deliveries."""
    name = f"test-{secrets.token_hex(4)}"
    emulator.create_queue(name, lock_duration=LOCK, max_delivery_count=3)
    yield name
    emulator.delete_queue(name)
