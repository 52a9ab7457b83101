"""Everything there is to judge a run by: what its processes noted, and what the ledger says."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final

from jobbus.job import Job, JobEvent
from tests.crash.history import Record

TOLERANCE: Final = 0.005
"""Seconds by which the clocks of a database and of this machine may differ."""
EVERYBODY: Final = "*"
"""The process of a fault that meets all of them, such as the database's crash."""
FAULTS: Final = frozenset({"dying", "stopping", "killed", "stopped", "draining", "cut", "jumped"})
"""Records of what interrupts the work of a process."""

TRANSACTIONAL: Final = "transactional"
"""The job type whose effects commit with its jobs' completion."""

Key = tuple[str, int]
"""A job, and one of its attempts."""


@dataclass(frozen=True, slots=True)
class Violation:
    invariant: str
    job: str
    text: str

    def __str__(self) -> str:
        return f"{self.invariant} {self.job}: {self.text}"


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """Everything there is to judge by."""

    records: Sequence[Record]
    jobs: Mapping[str, Job]
    """The ledger in the end."""
    histories: Mapping[str, Sequence[JobEvent]] = field(default_factory=dict)
    """What the ledger says of how it came to that."""
    earlier: Sequence[Job] = ()
    """The ledger at earlier moments."""
    effects: Sequence[Key] | None = None
    """What the jobs of type ``transactional`` wrote in the transactions that completed them."""

    @cached_property
    def claims(self) -> Mapping[str, Sequence[Record]]:
        """Hand-outs by job, in the order in which they were answered."""
        return self._by_job("claimed")

    @cached_property
    def settling(self) -> Mapping[str, Sequence[Record]]:
        """Outcomes that the queue was asked to take, by job."""
        return self._by_job("settling")

    @cached_property
    def accepted(self) -> Mapping[str, Sequence[Record]]:
        """Outcomes that the queue took, by job."""
        return self._by_job("settled", lambda record: bool(record.detail["accepted"]))

    @cached_property
    def interruptions(self) -> Mapping[str, int]:
        """How often something befell a process that had a job in its hands, by job."""
        return self._befell(FAULTS)

    @cached_property
    def deaths(self) -> Mapping[str, int]:
        """The same, of what may be counted as a crash: a shutdown in good order may not."""
        return self._befell(FAULTS - {"draining"})

    @cached_property
    def unheard(self) -> Mapping[str, int]:
        """Attempts whose hand-out reached nobody, by job."""
        return {
            job.id: len(
                set(range(1, job.attempt + 1)) - {r.attempt for r in self.claims.get(job.id, ())}
            )
            for job in self.jobs.values()
        }

    def of(self, event: str) -> Sequence[Record]:
        return self._by_event.get(event, ())

    @cached_property
    def _by_event(self) -> Mapping[str, Sequence[Record]]:
        found: dict[str, list[Record]] = defaultdict(list)
        for record in self.records:
            found[record.event].append(record)
        return found

    def _befell(self, faults: frozenset[str]) -> Mapping[str, int]:
        found: dict[str, int] = defaultdict(int)
        by_process: dict[str, list[float]] = defaultdict(list)
        for name in faults:
            for fault in self.of(name):
                if fault.job:
                    found[fault.job] += 1
                else:
                    whose = str(fault.detail.get("process", fault.process))
                    by_process[whose].append(fault.monotonic)
        for whose, moments in by_process.items():
            for job in self._held_at(whose, sorted(moments)):
                found[job] += 1
        return found

    def _held_at(self, whose: str, moments: Sequence[float]) -> Iterator[str]:
        """The jobs in a process's hands at each of these moments, in turn."""
        moves = iter(self._hands[whose])
        move = next(moves, None)
        held: set[Key] = set()
        for moment in moments:
            while move is not None and move[0] <= moment:
                _, taken, key = move
                (held.add if taken else held.discard)(key)
                move = next(moves, None)
            yield from {job for job, _ in held}

    @cached_property
    def _hands(self) -> Mapping[str, Sequence[tuple[float, bool, Key]]]:
        """When processes took jobs (or not) and which, by process."""
        found: dict[str, list[tuple[float, bool, Key]]] = defaultdict(list)
        for record in self.records:
            if record.event not in ("claimed", "settled"):
                continue
            taken = record.event == "claimed"
            # It may be the answer that was late, and not the claim.
            moment = record.detail["before"] if taken else record.monotonic
            for whose in (record.process, EVERYBODY):
                found[whose].append((moment, taken, (record.job, record.attempt)))
        for moves in found.values():
            moves.sort(key=lambda move: (move[0], not move[1]))
        return found

    def _by_job(
        self, event: str, which: Callable[[Record], bool] = lambda record: True
    ) -> Mapping[str, Sequence[Record]]:
        found: dict[str, list[Record]] = defaultdict(list)
        for record in sorted(self.of(event), key=lambda record: record.monotonic):
            if which(record):
                found[record.job].append(record)
        return found


def shortened(evidence: Evidence, record: Record) -> float:
    """When the lease that this record tells of ends at the earliest.

    A clock that is set forward ends leases early; one that is set back may make them longer.
    """
    before: float = record.detail["before"]
    ends = before + float(record.detail["lease"])
    for jump in evidence.of("jumped"):
        if before <= jump.monotonic < ends:
            ends -= max(float(jump.detail["by"]), 0.0)
    return ends
