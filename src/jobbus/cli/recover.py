"""``jobbus recover``: takes jobs back from workers that died."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated

import typer

from jobbus.cli.options import Cli, store_command
from jobbus.cli.text import counted

_TEN_YEARS = 5_256_000


@store_command
def recover(
    cli: Cli,
    minutes: Annotated[
        float,
        typer.Option(
            "--minutes",
            min=0,
            max=_TEN_YEARS,
            help="Only leases that ran out longer ago than this",
        ),
    ] = 0,
) -> None:
    """Take back jobs whose lease ran out, and do what fell due. Workers do this by themselves.

    A job whose worker is alive is never touched, however long it has been running.
    """

    async def work() -> int:
        async with cli.bus() as bus:
            return await bus.recover_stuck(timedelta(minutes=minutes))

    recovered = cli.run(work())
    cli.console.record(
        {"recovered": recovered},
        lambda: cli.console.note(f"took {counted(recovered, 'job')} back"),
        id_key="recovered",
    )
