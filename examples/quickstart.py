"""The smallest program with a background job: run it, then ``jobbus worker quickstart:bus``."""

import asyncio

from jobbus import JobBus

bus = JobBus()


@bus.job(name="greet")
async def greet(name: str) -> str:
    return f"Hello, {name}!"


async def main() -> None:
    async with bus:
        print("enqueued", await greet.enqueue(name="Ada"))


if __name__ == "__main__":
    asyncio.run(main())
