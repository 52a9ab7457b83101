"""Enqueues some jobs and works them off: ``work ADDRESS NUMBER``. Waits for a line first."""

from __future__ import annotations

import asyncio
import sys

from jobbus import JobBus, Worker


async def main(address: str, number: str) -> None:
    async with JobBus(address) as bus:

        @bus.job
        async def work(number: int) -> None: ...

        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        ids = await bus.enqueue_many([work.message(n) for n in range(int(number))])
        await Worker(bus, burst=True).run()
        print(*ids, flush=True)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
