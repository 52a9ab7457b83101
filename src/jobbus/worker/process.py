"""What a process may do to itself that exists for nothing but a worker."""

from __future__ import annotations

import gc
from typing import Final

_YOUNG: Final = 50_000
"""Objects made before the collector looks at the young ones: a few hundred jobs' worth."""


def tune_collector() -> None:
    """Let Python's garbage collector run seldom, and spare it what the application loaded.

    A worker makes many small objects that die young and in no cycles; looking for cycles among
    them, and again and again among everything imported, takes up to a fifth of a short job's time.
    For a process of the worker's own only: the settings are the whole process's.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_YOUNG, 20, 50)
