"""One worker measures the queues for all: the same in everybody's eyes, and never a dead one."""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from jobbus.errors import BackendUnavailable
from jobbus.message import QueueDepth
from jobbus.store import JobStore, QueueStatus, WorkerRecord
from jobbus.telemetry import names
from jobbus.telemetry.fleet import Exports, FleetWatch, is_first
from jobbus.telemetry.names import Instrument
from jobbus.telemetry.tally import Labels

NOW = datetime(2030, 1, 1, tzinfo=UTC)
ME = WorkerRecord(
    name="me", host=socket.gethostname(), pid=os.getpid(), started_at=NOW, seen_at=NOW, running=0,
    alive=True,
)  # fmt: skip
ELDER = replace(ME, name="elder", host="elsewhere", pid=1, started_at=NOW - timedelta(hours=1))


@pytest.mark.parametrize(
    ("workers", "first"),
    [
        ([], True),
        ([ME], True),
        ([ME, ELDER], False),
        ([ELDER, ME], False),
        ([ME, replace(ELDER, started_at=NOW + timedelta(1))], True),
        ([ME, replace(ELDER, alive=False)], True),
        ([ME, replace(ELDER, seen_at=NOW - timedelta(seconds=46))], True),
        ([ME, replace(ELDER, seen_at=NOW - timedelta(seconds=20))], False),
        ([ELDER], False),
    ],
)
def test_the_worker_that_has_been_there_longest_is_the_first(
    workers: Sequence[WorkerRecord], first: bool
) -> None:
    assert is_first(workers) is first


class Backend:
    """Answers what a watch asks. Only the answers matter here, not how they come about."""

    def __init__(self, workers: Sequence[WorkerRecord]) -> None:
        self.listed = workers
        self.away = False

    async def workers(self) -> Sequence[WorkerRecord]:
        return self.listed

    async def queues(self) -> Sequence[QueueStatus]:
        return [QueueStatus(name="other", paused=True)]

    async def get_queue_depth(self, queue: str) -> QueueDepth:
        if self.away:
            raise BackendUnavailable("away")
        return QueueDepth(ready=7, leased=1, oldest_age=timedelta(seconds=3))


def watch(backend: Any, exports: Exports = "auto", store: Any = "the same") -> FleetWatch:
    found: JobStore | None = backend if store == "the same" else store
    return FleetWatch(backend, found, ["default"], exports=exports)


def read(fleet: FleetWatch, instrument: Instrument) -> dict[Labels, float]:
    return next(dict(one.values) for one in fleet.readings() if one.instrument is instrument)


async def test_the_first_tells_of_every_queue_it_knows_of() -> None:
    fleet = watch(Backend([ME]))
    await fleet.sample_once()
    assert read(fleet, names.QUEUE_DEPTH) == {("default",): 7, ("other",): 7}
    assert read(fleet, names.OLDEST_AGE) == {("default",): 3, ("other",): 3}
    assert read(fleet, names.QUEUE_PAUSED) == {("other",): True}
    assert read(fleet, names.WORKERS) == {(): 1}
    assert read(fleet, names.DEAD_LETTERS) == {}, "what a queue cannot say is not told"


async def test_who_is_not_first_any_more_falls_silent() -> None:
    backend = Backend([ME])
    fleet = watch(backend)
    await fleet.sample_once()
    backend.listed = [ME, ELDER]
    await fleet.sample_once()
    assert read(fleet, names.QUEUE_DEPTH) == {}


async def test_old_numbers_are_not_told_while_the_backend_is_away() -> None:
    backend = Backend([ME])
    fleet = watch(backend)
    await fleet.sample_once()
    backend.away = True
    with pytest.raises(BackendUnavailable):
        await fleet.sample_once()
    assert read(fleet, names.QUEUE_DEPTH) == {}


@pytest.mark.parametrize(("exports", "told"), [("always", True), ("never", False)])
async def test_an_operator_can_say_who_measures(exports: Exports, told: bool) -> None:
    fleet = watch(Backend([ME, ELDER]), exports)
    await fleet.sample_once()
    assert bool(read(fleet, names.QUEUE_DEPTH)) is told


async def test_without_a_ledger_every_worker_measures() -> None:
    fleet = watch(Backend([ELDER]), store=None)
    await fleet.sample_once()
    assert read(fleet, names.QUEUE_DEPTH) == {("default",): 7}
    assert read(fleet, names.WORKERS) == {}
