"""Enqueues before and after a fork, in parent and child: ``fork ADDRESS``. Prints the job ids."""

from __future__ import annotations

import os
import sys
from datetime import timedelta

from jobbus import JobBus


def main(address: str) -> None:
    bus = JobBus(address)

    @bus.job
    def work(who: str) -> None: ...

    print("before", work.enqueue_sync("before"), flush=True)
    child = os.fork()
    who = "parent" if child else "child"
    for _ in range(2):
        print(who, work.enqueue_sync(who), flush=True)
    assert bus.sync.stats()["total"] >= 3
    if not child:
        bus.sync.close()
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert status == 0, status
    # The child's end took nothing of the parent's with it.
    last = work.enqueue_sync("after")
    print("after", last, flush=True)
    assert bus.sync.wait(last, timeout=timedelta(seconds=10)).state == "completed"
    bus.sync.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
