"""``jobbus doctor``: looks at everything that has to be right, and says how to mend what is not."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Final

import typer

from jobbus.cli.checks import examine
from jobbus.cli.console import Console, write_line
from jobbus.cli.findings import Finding, Level
from jobbus.cli.options import Cli, store_command
from jobbus.cli.text import plain

_MARKS: Final = {Level.OK: "✓", Level.WARNING: "!", Level.FAILED: "✗"}
_COLOURS: Final = {Level.OK: "32", Level.WARNING: "33", Level.FAILED: "31"}


@store_command
def doctor(
    cli: Cli,
    create: Annotated[
        bool,
        typer.Option(
            "--create",
            help="Make what is missing: the database and its schema, or the broker's queues",
        ),
    ] = False,
) -> int:
    """Check settings, backend, schema, workers and jobs. Exit 1 when something is wrong."""
    findings = cli.run(_examine(cli, create=create))
    healthy = not any(each.level is Level.FAILED for each in findings)
    if cli.console.format != "table":
        shapes = [asdict(each) for each in findings]
        cli.console.listing("checks", shapes, (), more={"ok": healthy}, id_key="check")
    return 0 if healthy else 1


async def _examine(cli: Cli, *, create: bool) -> list[Finding]:
    findings = []
    async for finding in examine(cli, create=create):
        findings.append(finding)
        if cli.console.format == "table":
            _show(cli.console, finding)
    return findings


def _show(console: Console, finding: Finding) -> None:
    mark = console.styled(_MARKS[finding.level], _COLOURS[finding.level])
    first, *more = finding.message.split("\n")
    write_line(f"{mark} {finding.check:<13} {plain(first)}")
    for line in more:
        write_line(f"  {'':<13} {plain(line)}")
    if finding.fix:
        write_line(f"  {'':<13} fix: {plain(finding.fix)}")
