"""Which ended jobs a queue keeps, told from how many ended in each interval of time: pure."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from jobbus.job import JobState

from .program import Rows

SLACK: Final = 50
"""A large table is trimmed when it holds one part in so many more than it may."""
FIRST: Final = "00000000-0000-0000-0000-000000000000"
"""The id before all others."""
Ended = Mapping[int, tuple[int, int]]
"""Jobs, and the bytes that they take, by the interval in which they ended."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What each queue keeps of the jobs that ended so; None is no limit."""

    states: frozenset[JobState]
    count: int | None
    size: int | None

    def reached(self, jobs: int, size: int) -> bool:
        """Whether nothing is kept that is older than these."""
        return (self.count is not None and jobs >= self.count) or (
            self.size is not None and size >= self.size
        )

    def clearly_beyond(self, jobs: int, size: int) -> bool:
        """Whether these are so many more that they are worth a deletion."""
        return (self.count is not None and jobs > self.count + self.count // SLACK) or (
            self.size is not None and size > self.size + self.size // SLACK
        )

    def room(self, jobs: int, size: int, average: float) -> float:
        """How many jobs of average size may come to these before they are worth a deletion."""
        rooms = []
        if self.count is not None:
            rooms.append(float(self.count + self.count // SLACK - jobs))
        if self.size is not None:
            rooms.append((self.size + self.size // SLACK - size) / max(average, 1.0))
        return min(rooms, default=float("inf"))

    def beside(self, jobs: int, size: int) -> Limits:
        """What the limits leave to others, where these are kept."""
        return Limits(
            self.states,
            None if self.count is None else max(self.count - jobs, 0),
            None if self.size is None else max(self.size - size, 0),
        )


@dataclass(frozen=True, slots=True)
class Crossing:
    """The interval in which a limit lies: everything older is beyond it."""

    interval: int
    newer: tuple[int, int]
    """Jobs that ended later, and their bytes."""
    kept: tuple[int, int]
    """The same with the interval's own."""


def crossing(ended: Ended, limits: Limits) -> Crossing | None:
    """Where a limit lies; None when everything is within."""
    kept = (0, 0)
    for interval in sorted(ended, reverse=True):
        newer = kept
        kept = (newer[0] + ended[interval][0], newer[1] + ended[interval][1])
        if limits.reached(*kept):
            return Crossing(interval, newer, kept)
    return None


@dataclass(slots=True)
class Tally:
    """What a walk through the table saw, by queue."""

    ended: dict[str, dict[int, tuple[int, int]]] = field(default_factory=lambda: defaultdict(dict))
    unfinished: Counter[str] = field(default_factory=Counter)
    reached: str = FIRST
    """The last id there was."""

    def add(self, rows: Rows) -> int:
        """Take in a page; return how many jobs it had."""
        length = 0
        for queue, interval, jobs, size, last in rows:
            if last is not None:
                length, self.reached = jobs, last
            elif interval is None:
                self.unfinished[queue] += jobs
            else:
                known = self.ended[queue].get(interval, (0, 0))
                self.ended[queue][interval] = (known[0] + jobs, known[1] + int(size))
        return length

    def total(self, queue: str) -> tuple[int, int]:
        """Ended jobs of the queue, and their bytes."""
        found = self.ended.get(queue, {}).values()
        return sum(jobs for jobs, _ in found), sum(size for _, size in found)

    @property
    def average(self) -> float:
        """Bytes of an ended job."""
        totals = [self.total(queue) for queue in self.ended]
        return sum(size for _, size in totals) / max(sum(jobs for jobs, _ in totals), 1)

    @property
    def queues(self) -> frozenset[str]:
        return frozenset(self.ended) | frozenset(self.unfinished)
