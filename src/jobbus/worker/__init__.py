"""The worker service. ``Worker`` is what applications use; everything else is its inside."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jobbus.worker.reports import AttemptReport
    from jobbus.worker.worker import Worker

__all__ = ["AttemptReport", "Worker"]


def __getattr__(name: str) -> Any:
    # Lazy: a handler's child process imports this package too, and needs none of it.
    if name == "Worker":
        from jobbus.worker.worker import Worker

        return Worker
    if name == "AttemptReport":
        from jobbus.worker.reports import AttemptReport

        return AttemptReport
    raise AttributeError(name)
