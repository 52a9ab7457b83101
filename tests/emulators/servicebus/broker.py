"""The namespace: its queues, its clock, and the faults that a test asks of it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from tests.emulators.servicebus.entity import DEAD_LETTER_SUFFIX, Queue, QueueOptions

MANAGEMENT_SUFFIX: Final = "/$management"


@dataclass(slots=True, kw_only=True)
class Fault:
    """An answer that a test wants instead of the right one, ``times`` times."""

    operation: str
    """``attach``, ``send``, ``settle``, ``token`` or a management operation: ``renew-lock``."""
    condition: str
    """Such as ``com.microsoft:server-busy``; ``cut`` cuts the connection instead, and
    ``cut-after`` does what was asked, and then cuts it without an answer."""
    queue: str | None = None
    times: int = 1
    description: str = "asked for by the test"


class NoSuchQueue(Exception):
    """No queue has this name."""


class Broker:
    """Everything that one emulator knows. Used on one thread only."""

    def __init__(self, *, create_missing: bool = False) -> None:
        self.idle_link_timeout: timedelta | None = None
        """After this long without a transfer a link is detached; None never does."""
        self.faults: list[Fault] = []
        self.changed: Callable[[], None] = lambda: None
        """Called when messages may have become deliverable."""
        self._create_missing = create_missing
        self._queues: dict[str, Queue] = {}
        self._ahead = 0

    def now(self) -> int:
        """Milliseconds since 1970, UTC."""
        return time.time_ns() // 1_000_000 + self._ahead

    def advance(self, delta: timedelta) -> None:
        """Put the clock forward; what falls due happens at the next look."""
        self._ahead += int(delta / timedelta(milliseconds=1))

    def create_queue(self, name: str, options: QueueOptions) -> None:
        """Harmless when the queue is there; its options stay as they are then."""
        if name.casefold() in self._queues:
            return
        dead = Queue(
            f"{name}{DEAD_LETTER_SUFFIX}",
            QueueOptions(lock_duration=options.lock_duration),
            self.now,
            dead=None,
        )
        self._queues[dead.name.casefold()] = dead
        self._queues[name.casefold()] = Queue(name, options, self.now, dead=dead)

    def delete_queue(self, name: str) -> None:
        """Harmless when there is none."""
        self._queues.pop(name.casefold(), None)
        self._queues.pop(f"{name}{DEAD_LETTER_SUFFIX}".casefold(), None)

    def queue(self, name: str) -> Queue:
        """The queue, or dead-letter queue, of this path. Raises NoSuchQueue."""
        key = name.casefold()
        if key not in self._queues and self._create_missing and "$" not in name:
            self.create_queue(name, QueueOptions())
        try:
            return self._queues[key]
        except KeyError:
            raise NoSuchQueue(name) from None

    def queues(self) -> list[Queue]:
        return list(self._queues.values())

    def fault(self, operation: str, queue: str) -> Fault | None:
        """The fault that is due for this operation, counted as used."""
        for fault in self.faults:
            wanted = fault.queue is None or fault.queue.casefold() == queue.casefold()
            if fault.operation == operation and wanted and fault.times > 0:
                fault.times -= 1
                return fault
        return None
