"""One of several processes that work under the same keys, die and freeze at random.

``python -m tests.idempotency.contender SEED SECONDS KIND ADDRESS PREFIX`` prints a line for each
success that the store accepted: key, fence, owner.
"""

from __future__ import annotations

import asyncio
import random
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

from jobbus.backends.postgres import PostgresQueue
from jobbus.backends.sqlite import SqliteQueue
from jobbus.idempotency import Answer, IdempotencyStore, KeyClaim, KeyEnd
from jobbus.idempotency.redis import RedisIdempotencyStore

KEYS = 40
LEASE = timedelta(milliseconds=40)
TASKS = 4


@asynccontextmanager
async def opened(kind: str, address: str, prefix: str) -> AsyncIterator[IdempotencyStore]:
    if kind == "redis":
        store = RedisIdempotencyStore(address, timedelta(minutes=5), prefix=prefix)
        await store.open()
        yield store
        await store.close()
        return
    queue = (
        SqliteQueue(address, synchronous="NORMAL") if kind == "sqlite" else PostgresQueue(address)
    )
    await queue.open()
    yield queue.idempotency_store(timedelta(minutes=5))
    await queue.close()


async def contend(store: IdempotencyStore, dice: random.Random, until: float, name: str) -> None:
    number = 0
    while time.monotonic() < until:
        number += 1
        key = f"key {dice.randrange(KEYS)}"
        claim = KeyClaim(
            key=key, owner=f"{name}.{number}", fingerprint="p", job_id=name, max_crashes=10**6
        )
        [reply] = await store.begin([claim], LEASE)
        if reply.answer not in (Answer.ACQUIRED, Answer.STOLEN):
            await asyncio.sleep(0.001)
            continue
        hold = claim.held(reply.fence)
        match dice.randrange(4):
            case 0:
                continue  # died in the middle
            case 1:
                await asyncio.sleep(2 * LEASE.total_seconds())  # frozen beyond the lease
            case 2:
                await store.renew([hold], LEASE)
                if dice.randrange(2):
                    await store.release([hold])
                    continue
        end = KeyEnd(hold=hold, data=claim.owner.encode())
        [answer] = await store.complete([end])
        if answer is Answer.OK:
            print(key, reply.fence, claim.owner, sep="\t", flush=True)


async def main(seed: int, seconds: float, kind: str, address: str, prefix: str) -> None:
    until = time.monotonic() + seconds
    async with opened(kind, address, prefix) as store:
        tasks = [
            contend(store, random.Random(seed * 100 + task), until, f"{seed}/{task}")
            for task in range(TASKS)
        ]
        await asyncio.gather(*tasks)


if __name__ == "__main__":
    arguments = sys.argv[1:]
    kind, address, prefix = arguments[2:5]
    asyncio.run(main(int(arguments[0]), float(arguments[1]), kind, address, prefix))
