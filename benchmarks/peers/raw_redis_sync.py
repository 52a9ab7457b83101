"""The raw XADD pipeline of redis-py's blocking client, which fills a stream faster than asyncio."""

from __future__ import annotations

from redis import Redis

from benchmarks.case import Case, Stopwatch, rate_answer, tell
from benchmarks.peers.raw_redis import BODY, PIPELINE, STREAM


async def bulk(case: Case) -> None:
    client = Redis.from_url(case.url, protocol=2)
    client.ping()
    watch = Stopwatch(case)
    with watch.running():
        for _ in range(case.jobs // PIPELINE):
            pipeline = client.pipeline(transaction=False)
            for _ in range(PIPELINE):
                pipeline.xadd(STREAM, {"body": BODY})
            pipeline.execute()
    tell(rate_answer(watch))
