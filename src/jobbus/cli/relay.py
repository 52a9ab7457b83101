"""``jobbus relay``: hands jobs from the ledger to the broker, for workers that do not."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from collections.abc import Coroutine
from typing import Annotated, Any

import typer

from jobbus.cli.failures import BadUsage
from jobbus.cli.logs import LogLevel, configure_logging
from jobbus.cli.options import Cli, command

log = logging.getLogger("jobbus.cli.relay")


@command("backend", "ledger", "app", "no_color", "debug")
def relay(
    cli: Cli,
    window: Annotated[
        int,
        typer.Option(
            "--window", min=1, max=100_000, help="Jobs of each queue that wait at the broker"
        ),
    ] = 100,
    once: Annotated[
        bool, typer.Option("--once", help="Hand over what may run now, and end")
    ] = False,
    log_level: Annotated[
        LogLevel, typer.Option("--log-level", help="From which level on to log")
    ] = LogLevel.INFO,
) -> None:
    """Hand jobs from the ledger to the broker, until told to stop. Any number may run.

    Workers do this by themselves, unless relay_in_workers is off.
    """
    configure_logging(cli.console, log_level)
    cli.run(_relay(cli, window, once=once))


async def _relay(cli: Cli, window: int, *, once: bool) -> None:
    from jobbus.services.relay import keep_relaying, relay_once
    from jobbus.tracked import TrackedQueue

    async with cli.bus() as bus:
        queue = bus.queue
        if not isinstance(queue, TrackedQueue):
            raise BadUsage(
                "there is nothing to relay",
                why="only a broker with a ledger needs a relay",
                fix="--backend amqp://... --ledger postgresql://..., or the settings of both",
            )
        queue.ledger.only_relay()
        await bus.open()
        if once:
            sent, _ = await relay_once(queue, queue.relay(window=window))
            log.info("handed %d over", sent)
            return
        log.info("relaying %s", queue.location)
        await _until_stopped(keep_relaying(queue, window=window))


async def _until_stopped(relaying: Coroutine[Any, Any, None]) -> None:
    task = asyncio.ensure_future(relaying)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, task.cancel)
    try:
        with contextlib.suppress(asyncio.CancelledError):
            await task
    finally:
        for number in (signal.SIGTERM, signal.SIGHUP):
            loop.remove_signal_handler(number)
    log.info("stopped")
