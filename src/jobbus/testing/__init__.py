"""What tests of jobbus, of its backends and of applications import.

``QueueConformance`` and ``StoreConformance`` are the specification of a backend, as pytest classes
to subclass, and ``IdempotencyConformance`` that of a store of idempotency keys; they need the extra
``jobbus[testing]``. ``VirtualClock`` is time that a test moves.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from jobbus.testing.clock import VirtualClock
    from jobbus.testing.conformance.base import VirtualTime
    from jobbus.testing.conformance.idempotency import IdempotencyConformance
    from jobbus.testing.histories import check_history
    from jobbus.testing.make import message, messages
    from jobbus.testing.queue_conformance import QueueConformance
    from jobbus.testing.store_conformance import StoreConformance

__all__ = [
    "IdempotencyConformance",
    "QueueConformance",
    "StoreConformance",
    "VirtualClock",
    "VirtualTime",
    "check_history",
    "message",
    "messages",
]

_HOMES: Final = {
    "IdempotencyConformance": "jobbus.testing.conformance.idempotency",
    "QueueConformance": "jobbus.testing.queue_conformance",
    "StoreConformance": "jobbus.testing.store_conformance",
    "VirtualClock": "jobbus.testing.clock",
    "VirtualTime": "jobbus.testing.conformance.base",
    "check_history": "jobbus.testing.histories",
    "message": "jobbus.testing.make",
    "messages": "jobbus.testing.make",
}
_SUITES: Final = "jobbus.testing.conformance"
_NEEDS_PYTEST: Final = frozenset(
    {"IdempotencyConformance", "QueueConformance", "StoreConformance", "VirtualTime"}
)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name in _NEEDS_PYTEST:
        _explain_failing_asserts()
    return getattr(import_module(_HOMES[name]), name)


def _explain_failing_asserts() -> None:
    """Have pytest show the values in the suites' asserts, as it does in test files."""
    try:
        import pytest
    except ImportError as error:
        from jobbus.errors import MissingDependency

        raise MissingDependency(
            'the conformance suites run under pytest: pip install "jobbus[testing]"'
        ) from error
    if _SUITES not in sys.modules:
        pytest.register_assert_rewrite(_SUITES)
