"""What a Redis store says that its ended jobs take, beside what they do take."""

from __future__ import annotations

from collections import Counter

from jobbus.backends.redis import RedisQueue
from jobbus.job import TERMINAL
from jobbus.store import JobFilter


async def told(queue: RedisQueue) -> dict[str, int]:
    """Bytes by state and queue, as they were added up."""
    found = await queue._link.command("HGETALL", queue._key("bytes"))
    return {name.decode(): int(number) for name, number in found.items() if int(number)}


async def weighed(queue: RedisQueue) -> dict[str, int]:
    """The same, from every ended job's own keys."""
    found: Counter[str] = Counter()
    page = await queue.find(JobFilter(states=TERMINAL), limit=1000)
    assert page.cursor is None, "more jobs than this was made for"
    for job in page.jobs:
        record = queue._key(f"j:{job.id}")
        found[f"{job.state}:{job.queue}"] += (
            await queue._link.command("STRLEN", queue._key(f"d:{job.id}"))
            + await queue._link.command("HSTRLEN", record, "R")
            + await queue._link.command("HSTRLEN", record, "E")
        )
    return dict(found)
