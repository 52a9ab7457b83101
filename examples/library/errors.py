"""What can be wrong with a file, as errors of their own.

They are ordinary exceptions and know nothing of jobs. Which of them are worth another attempt is
said once, in ``PERMANENT``; ``jobs.py`` hands that to its retry policy.
"""

from __future__ import annotations

from typing import Final


class LibraryError(Exception):
    """Base of them all."""


class Unreadable(LibraryError):
    """The file cannot be opened or read: no permission, vanished, a link to nothing."""


class Truncated(LibraryError):
    """The file ends before its own format says that it does; it may still be being written."""


class Corrupt(LibraryError):
    """The bytes contradict the format that they announce."""


class TooLarge(LibraryError):
    """The file is larger than the limit."""


PERMANENT: Final = (TooLarge, Corrupt)
"""Trying again would find the same. The others are worth it."""

KINDS: Final = frozenset(kind.__name__ for kind in (Unreadable, Truncated, Corrupt, TooLarge))
"""How a job's recorded problem names these errors."""
