"""Finds jobs: walks the index that fits best, a page a script, newest first."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from typing import Any, Final

from jobbus.backends.sql.inspection import decode_cursor, encode_cursor
from jobbus.backends.sql.rows import mended
from jobbus.ids import parse_id
from jobbus.job import TERMINAL, UNFINISHED, JobState
from jobbus.store import JobFilter, Page

from .connection import Link
from .records import fields_of, job_from, microseconds

_PAGE: Final = 1000
"""Jobs that one script looks at."""
_ROWS: Final = 100
"""Jobs that one script answers, whole."""


async def find(link: Link, where: JobFilter, *, limit: int, cursor: str | None) -> Page:
    """A page of jobs. Raises ValueError for a cursor that is not ours."""
    start = "+" if cursor is None else f"({decode_cursor(cursor)}"
    rows: list[Any] = []
    async for some in _walk(link, where, start, limit + 1, counting=False):
        rows += some
        if len(rows) > limit:
            break
    jobs = [
        job_from(job_id.decode(), document, fields_of(fields))
        for job_id, document, fields in rows[:limit]
    ]
    return Page(jobs, encode_cursor(jobs[-1].id) if len(rows) > limit else None)


async def count(link: Link, where: JobFilter, *, cap: int) -> int:
    """How many match, counting no further than ``cap``."""
    found = 0
    async for some in _walk(link, where, "+", cap, counting=True):
        found += len(some)
        if found >= cap:
            return cap
    return found


async def read(link: Link, ids: Sequence[str]) -> list[Any]:
    """These jobs, as far as they are known."""
    answer = await link.run("find", f"ids:{' '.join(ids)}", "+", len(ids) + 1, len(ids), "{}", 0)
    return list(answer[2])


async def _walk(
    link: Link, where: JobFilter, start: str, wanted: int, *, counting: bool
) -> AsyncIterator[Sequence[Any]]:
    """What fits, in steps; mere placeholders when counting."""
    if impossible(where):
        return
    conditions = json.dumps(conditions_of(where))
    ids = _ids_of(where)[::-1]
    while True:
        index, page = _index(where), _PAGE
        if where.ids:
            index, page = _listed([one for one in ids if start == "+" or one < start[1:]])
        limit = wanted if counting else min(wanted, _ROWS)
        reached, found, rows = await link.run(
            "find", index, start, page, limit, conditions, int(counting)
        )
        yield [None] * found if counting else rows
        if not reached:
            return
        start = f"({reached.decode()}"


def index_behind(where: JobFilter, after: str | None) -> tuple[str, int]:
    """What to look through for jobs behind the id ``after``, oldest first, and how far."""
    if where.ids:
        return _listed([one for one in _ids_of(where) if after is None or one > after])
    return _index(where), _PAGE


def _ids_of(where: JobFilter) -> list[str]:
    return sorted({known for one in where.ids if (known := parse_id(one))})


def _listed(ids: Sequence[str]) -> tuple[str, int]:
    """Ids that stand for an index."""
    return f"ids:{' '.join(ids[:_PAGE])}", max(len(ids[:_PAGE]), 1)


def _index(where: JobFilter) -> str:
    """The smallest index that holds all that could fit."""
    if where.parent_id is not None:
        return f"kids:{parse_id(where.parent_id)}"
    if where.states and where.states <= UNFINISHED:
        return "open"
    if where.states and where.states <= TERMINAL - {JobState.COMPLETED}:
        return "unlucky"
    return "ids"


def impossible(where: JobFilter) -> bool:
    texts = (where.queue, where.job_type, where.group, where.tag)
    if any(text is not None and mended(text) != text for text in texts):
        return True  # no job can be called so
    if where.ids and not any(parse_id(one) for one in where.ids):
        return True
    return where.parent_id is not None and parse_id(where.parent_id) is None


def conditions_of(where: JobFilter) -> dict[str, Any]:
    told: dict[str, Any] = {}
    if where.queue is not None:
        told["queue"] = where.queue
    if where.job_type is not None:
        prefix = where.job_type.endswith("*")
        told["prefix" if prefix else "job_type"] = where.job_type.removesuffix("*")
    if where.states:
        told["states"] = {str(state): True for state in where.states}
    for name, value in (("group", where.group), ("tag", where.tag)):
        if value is not None:
            told[name] = value
    if where.parent_id is not None:
        told["parent"] = parse_id(where.parent_id)
    if where.created_after is not None:
        told["after"] = microseconds(where.created_after)
    if where.created_before is not None:
        told["before"] = microseconds(where.created_before)
    return told
