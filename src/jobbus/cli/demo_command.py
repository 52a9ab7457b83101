"""The options of ``jobbus demo``."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated, Final

import typer

from jobbus.cli.options import Cli, command

_LIMIT_BYTES: Final = 32 * 1024 * 1024

Paths = Annotated[
    list[Path] | None,
    typer.Argument(
        metavar="[PATH]...",
        help="Folders to look at; by default this project and Python's own library",
        show_default=False,
    ),
]
OutputFolder = Annotated[
    Path, typer.Option("--output", "-o", metavar="DIR", help="Where the jobs and the report go")
]
LimitBytes = Annotated[
    int, typer.Option("--limit-bytes", min=1, help="Files larger than this fail, for good")
]
Concurrency = Annotated[
    int, typer.Option("--concurrency", "-c", min=1, max=1000, help="Jobs at the same time")
]
Plain = Annotated[bool, typer.Option("--plain", help="Lines instead of a live view")]


@command("backend", "ledger", "debug")
def run_demo(
    cli: Cli,
    paths: Paths = None,
    output: OutputFolder = Path("jobbus-demo"),
    limit_bytes: LimitBytes = _LIMIT_BYTES,
    concurrency: Concurrency = 8,
    plain: Plain = False,
) -> int:
    """Show jobbus at work: jobs that read every file of some folders, and write a report.

    Started again after it was killed, it goes on where it was.
    """
    from jobbus.cli.demo import demo

    if not cli.shared.debug:
        # Its files fail on purpose, and what fails is in the view; the log would run through it.
        logging.getLogger("jobbus").addHandler(logging.NullHandler())
    return demo(
        paths or [],
        backend=cli.shared.backend,
        ledger=cli.shared.ledger,
        output=output,
        limit_bytes=limit_bytes,
        concurrency=concurrency,
        plain=plain,
    )
