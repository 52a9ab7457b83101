"""A worker process that dies at a chosen moment of a keyed job.

``python -m tests.idempotency.doomed ADDRESS MOMENT EFFECTS``
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jobbus import JobBus, Worker, load_settings
from jobbus.idempotency import Answer, KeyEnd
from tests.idempotency.support import SwitchedStore

EXIT = 9


class LastWord(SwitchedStore):
    """Lets a success be recorded, and dies before anybody else hears of it."""

    async def complete(
        self, ends: Sequence[KeyEnd], *, connection: Any | None = None
    ) -> Sequence[Answer]:
        await self.inner.complete(ends, connection=connection)
        os._exit(EXIT)


async def main(address: str, moment: str, effects: Path) -> None:
    settings = load_settings({"backend": address}, environ={}, directory=Path("/"))
    plain = JobBus(settings)
    store = await plain.idempotency_store()
    bus = JobBus(settings, queue=plain.queue, idempotency=LastWord(store))

    @bus.job(name="charge")
    async def charge() -> str:
        with effects.open("a") as file:
            file.write("charged\n")
        if moment == "before":
            os._exit(EXIT)
        return "receipt"

    await Worker(bus).run()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], Path(sys.argv[3])))
