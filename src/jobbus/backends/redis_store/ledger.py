"""The ledger on Redis: looks at jobs and steers them, a script at a time."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final, TypeVar

from jobbus.backends.sql.identity import ProcessIdentity, provably_dead
from jobbus.backends.sql.inspection import story
from jobbus.backends.sql.program import Scope
from jobbus.backends.sql.rows import mended, progress_text
from jobbus.errors import InvalidJob
from jobbus.ids import parse_id
from jobbus.job import TERMINAL, EventType, Job, JobEvent, JobState, Progress
from jobbus.message import Delivery
from jobbus.store import CancelOutcome, JobFilter, JobTypeRecord, Page, QueueStatus, WorkerRecord

from . import finding
from .connection import Argument, Link
from .options import RedisOptions
from .records import (
    DIALECT,
    fields_of,
    initial_state,
    job_from,
    known_moment,
    microseconds,
    progress_from,
)

T = TypeVar("T")
STEP: Final = 200
"""Jobs for one script: others wait meanwhile."""
_EVENTS_PAGE: Final = 1000
_ALIVE_FOR: Final = timedelta(seconds=90)
_OUTCOMES: Final = {
    "c": CancelOutcome.CANCELLED,
    "r": CancelOutcome.REQUESTED,
    "f": CancelOutcome.FINISHED,
    "n": CancelOutcome.NOT_FOUND,
}


class RedisLedger:
    """The part of the queue that is a :class:`~jobbus.store.JobStore`."""

    def __init__(self, options: RedisOptions) -> None:
        self._link = Link(options)

    def _key(self, name: str) -> str:
        return self._link.options.base + name

    async def _hash(self, name: str) -> dict[str, bytes]:
        found = await self._link.command("HGETALL", self._key(name))
        return {field.decode(): value for field, value in found.items()}

    # looking

    async def get(self, job_id: str) -> Job | None:
        known = parse_id(job_id)
        if known is None:
            return None
        rows = await self._rows([known])
        return _job(rows[0]) if rows else None

    async def find(self, where: JobFilter, *, limit: int = 50, cursor: str | None = None) -> Page:
        return await finding.find(self._link, where, limit=limit, cursor=cursor)

    async def counts(self, queue: str | None = None) -> Mapping[tuple[str, JobState], int]:
        found = await self._hash("counts")
        split = [(*split_name(name), int(number)) for name, number in found.items()]
        return {
            (name, JobState(state)): number
            for state, name, number in split
            if number > 0 and queue in (None, name)
        }

    async def count(self, where: JobFilter, *, cap: int = 10_000) -> int:
        return await finding.count(self._link, where, cap=cap)

    async def history(self, job_id: str) -> Sequence[JobEvent]:
        known = parse_id(job_id)
        rows = await self._rows([known]) if known else []
        if not rows:
            return []
        told = await self._link.command("LRANGE", self._key(f"h:{known}"), 0, -1)
        entries = [tuple(json.loads(entry)) for entry in told]
        return story(_job(rows[0]), initial_state(fields_of(rows[0][2])), entries, Scope(DIALECT))

    async def progress_history(self, job_id: str) -> Sequence[Progress]:
        known = parse_id(job_id)
        if known is None:
            return []
        words = await self._link.command("LRANGE", self._key(f"w:{known}"), 0, -1)
        return [progress_from(word) for word in words]

    async def _rows(self, ids: Sequence[str]) -> list[Any]:
        return await finding.read(self._link, ids)

    # what running jobs say and hear

    async def record_progress(self, reports: Sequence[tuple[Delivery, Progress]]) -> None:
        for some in steps(reports):
            arguments: list[Argument] = []
            for delivery, progress in some:
                arguments += [*held_by(delivery), progress_text(progress)]
            await self._link.run("progress", *arguments)

    async def cancel_requested(self, held: Sequence[Delivery]) -> frozenset[str]:
        letters = await self._leases(held, 0)
        return frozenset(d.job_id for d, one in zip(held, letters, strict=True) if one == "c")

    async def _leases(self, held: Sequence[Delivery], lease: int) -> str:
        """How each delivery stands; with a lease, its claim is kept for so many microseconds."""
        letters = ""
        for some in steps(held):
            claims = sorted({delivery.receipt.claim for delivery in some})
            jobs = [part for delivery in some for part in held_by(delivery)]
            letters += (await self._link.run("extend", lease, len(claims), *claims, *jobs)).decode()
        return letters

    # steering

    async def cancel(
        self, job_ids: Sequence[str], *, reason: str = ""
    ) -> Mapping[str, CancelOutcome]:
        known = known_ids(job_ids)
        found: dict[str, CancelOutcome] = {}
        for some in steps(list(known.values())):
            letters = (await self._link.run("cancel", mended(reason), *some)).decode()
            found |= {id: _OUTCOMES[one] for id, one in zip(some, letters, strict=True)}
        await self._resolve()
        return {
            job_id: found[known[job_id]] if job_id in known else CancelOutcome.NOT_FOUND
            for job_id in job_ids
        }

    async def redrive(self, job_ids: Sequence[str]) -> Sequence[str]:
        return await self._steer("redrive", job_ids)

    async def expedite(self, job_ids: Sequence[str]) -> Sequence[str]:
        return await self._steer("expedite", job_ids)

    async def discard(self, job_ids: Sequence[str]) -> Sequence[str]:
        await self._resolve()
        return await self._steer("discard", job_ids)

    async def _steer(self, script: str, job_ids: Sequence[str]) -> list[str]:
        done: list[str] = []
        for some in steps(sorted(set(known_ids(job_ids).values()))):
            done += [job_id.decode() for job_id in await self._link.run(script, *some)]
        return done

    async def prune(
        self,
        *,
        finished_before: datetime,
        states: frozenset[JobState] = TERMINAL,
        limit: int = 1000,
    ) -> int:
        before, gone, more = microseconds(finished_before), 0, 1
        await self._resolve()
        # Also where none are left: the list may be full of entries that are stale.
        places = [split_name(name) for name in await self._hash("counts")]
        lists = [
            part for state, queue in places if state in states & TERMINAL for part in (state, queue)
        ]
        while more and gone < limit:
            some, more = await self._link.run("prune", before, min(STEP, limit - gone), *lists)
            gone += some
        return gone

    async def trim(
        self,
        *,
        keep_count: int | None = None,
        keep_bytes: int | None = None,
        states: frozenset[JobState] = TERMINAL,
        limit: int = 1000,
    ) -> int:
        await self._resolve()
        wanted, gone = sorted(states & TERMINAL), 0
        kept = ["" if one is None else one for one in (keep_count, keep_bytes)]
        for queue in await self._beyond(keep_count, keep_bytes, wanted):
            more = 1
            while more and gone < limit:
                step = min(STEP, limit - gone)
                some, more = await self._link.run("trim", queue, *kept, step, *wanted)
                gone += some
        return gone

    async def _beyond(
        self, keep_count: int | None, keep_bytes: int | None, states: Sequence[JobState]
    ) -> list[str]:
        """The queues that hold more than they keep."""
        found = set()
        for name, kept in (("counts", keep_count), ("bytes", keep_bytes)):
            if kept is None:
                continue
            held: Counter[str] = Counter()
            for place, number in (await self._hash(name)).items():
                state, queue = split_name(place)
                if state in states:
                    held[queue] += int(number)
            found |= {queue for queue, number in held.items() if number > kept}
        return sorted(found)

    async def purge(self, queue: str) -> int:
        queue_name(queue)
        removed, more = 0, True
        while more:  # what was blocked may have become ready meanwhile
            before, start = removed, "-"
            while start:
                some, place = await self._link.run("purge", queue, start)
                removed, start = removed + some, place.decode()
            await self._resolve()
            more = removed > before
        return removed

    async def _resolve(self) -> None:
        """Tell everybody who waits for what has ended."""
        while await self._link.run("resolve"):
            pass

    # queues, job types, workers

    async def queues(self) -> Sequence[QueueStatus]:
        named = await self._hash("queues")
        counts = await self.counts()
        types = await self.job_types()
        names = {*named, *(one.queue for one in types), *(name for name, _ in counts)}
        return [
            QueueStatus(
                name=name,
                paused=named.get(name, b"0").startswith(b"1"),
                reason=named.get(name, b"0")[1:].decode(),
                counts={state: n for (queue, state), n in counts.items() if queue == name},
            )
            for name in sorted(names)
        ]

    async def pause(self, queue: str, *, reason: str = "") -> None:
        await self._link.command(
            "HSET", self._key("queues"), queue_name(queue), "1" + mended(reason)
        )

    async def resume(self, queue: str) -> None:
        if await self._link.command("HEXISTS", self._key("queues"), queue_name(queue)):
            await self._link.command("HSET", self._key("queues"), queue, "0")
        await self._link.command("PUBLISH", self._key("news"), queue)

    async def announce(self, job_types: Sequence[JobTypeRecord]) -> None:
        pairs: list[Argument] = []
        for known in job_types:
            told = {
                "queue": known.queue,
                "max_attempts": known.max_attempts,
                "max_crashes": known.max_crashes,
                "priority": known.priority,
                "payload_schema": dict(known.payload_schema),
            }
            pairs += [known.name, json.dumps(told)]
        if pairs:
            await self._link.command("HSET", self._key("types"), *pairs)

    async def job_types(self) -> Sequence[JobTypeRecord]:
        found = await self._hash("types")
        return [JobTypeRecord(name=name, **json.loads(found[name])) for name in sorted(found)]

    async def workers(self) -> Sequence[WorkerRecord]:
        rows = await self._link.run("workers")
        return [_worker(*row) for row in rows]

    # the live log

    async def watch(self, *, lasting: timedelta) -> None:
        await self._link.run("watch", max(round(lasting / timedelta(milliseconds=1)), 1))

    async def events(self, *, after: int) -> tuple[Sequence[JobEvent], int]:
        # A position is the number of the next entry, so that 0 can mean "from now".
        if after <= 0:
            return [], int(await self._link.command("GET", self._key("logged")) or 0) + 1
        entries = await self._link.command(
            "XRANGE", self._key("log"), f"{after}-0", "+", "COUNT", _EVENTS_PAGE
        )
        found = [(int(number.partition(b"-")[0]), fields[b"e"]) for number, fields in entries]
        reached = found[-1][0] + 1 if found else after
        return [_event(json.loads(text)) for _, text in found], reached


def split_name(name: str) -> tuple[str, str]:
    """The state and the queue of a number that is kept of both."""
    state, _, queue = name.partition(":")
    return state, queue


def queue_name(queue: str) -> str:
    """The name, where it can be one. Raises InvalidJob."""
    if mended(queue) != queue:
        raise InvalidJob(f"{queue[:80]!r} cannot be a queue's name: with NUL or half characters")
    return queue


def steps(items: Sequence[T]) -> Iterator[Sequence[T]]:
    for start in range(0, len(items), STEP):
        yield items[start : start + STEP]


def held_by(delivery: Delivery) -> list[Argument]:
    """What every settlement is held against."""
    return [delivery.job_id, delivery.attempt, delivery.receipt.claim]


def identity_text(me: ProcessIdentity) -> str:
    return json.dumps({"host": me.host, "space": me.space, "pid": me.pid, "birth": me.birth})


def dead_workers(rows: Sequence[Sequence[Any]]) -> list[str]:
    """The names of workers with jobs in their hands that are provably no more."""
    dead = []
    for name, told, _, _, running in rows:
        me = json.loads(told.partition(b" ")[2])
        if running and provably_dead(me["space"], me["pid"], me["birth"]):
            dead.append(name.decode())
    return dead


def _worker(name: bytes, told: bytes, seen: bytes, age: bytes, running: int) -> WorkerRecord:
    began, _, text = told.partition(b" ")
    me = json.loads(text)
    recent = timedelta(microseconds=int(age)) < _ALIVE_FOR
    return WorkerRecord(
        name=name.decode(),
        host=me["host"],
        pid=me["pid"],
        started_at=known_moment(began),
        seen_at=known_moment(seen),
        running=running,
        alive=recent and not provably_dead(me["space"], me["pid"], me["birth"]),
    )


def _event(told: Sequence[Any]) -> JobEvent:
    job_id, event, to, origin, attempt, reason, job_type, queue, at = told
    return JobEvent(
        job_id=job_id,
        type=EventType(event),
        at=known_moment(at),
        to_state=JobState(to),
        from_state=JobState(origin) if origin else None,
        attempt=attempt,
        reason=reason,
        job_type=job_type,
        queue=queue,
    )


def _job(row: Sequence[Any]) -> Job:
    job_id, document, fields = row
    return job_from(job_id.decode(), document, fields_of(fields))


def known_ids(job_ids: Sequence[str]) -> dict[str, str]:
    """The canonical form of each that is an id."""
    return {job_id: known for job_id in job_ids if (known := parse_id(job_id))}
