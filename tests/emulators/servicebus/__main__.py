"""Runs the emulator by itself: ``python -m tests.emulators.servicebus --port 5673``."""

from __future__ import annotations

import argparse
import contextlib
import signal
from datetime import timedelta

from tests.emulators.servicebus import Emulator


def main() -> None:
    """Serve until interrupted; the first line printed is a connection string."""
    parser = argparse.ArgumentParser(prog="python -m tests.emulators.servicebus")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument(
        "--queue", action="append", default=[], help="a queue to create; may be given repeatedly"
    )
    parser.add_argument("--lock-seconds", type=float, default=60, help="of the queues created")
    parser.add_argument(
        "--create-missing", action="store_true", help="create any queue that a client names"
    )
    given = parser.parse_args()
    with Emulator(port=given.port, create_missing=given.create_missing) as emulator:
        for name in given.queue:
            emulator.create_queue(name, lock_duration=timedelta(seconds=given.lock_seconds))
        print(emulator.connection_string, flush=True)
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        with contextlib.suppress(KeyboardInterrupt):
            signal.pause()


if __name__ == "__main__":
    main()
