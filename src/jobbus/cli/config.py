"""``jobbus config``: the settings in force, and where each comes from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Final

import typer

from jobbus.cli.console import Column
from jobbus.cli.options import Cli, store_command
from jobbus.cli.root import new_group

group = new_group("Show the settings, and where each comes from.")

_KEY: Final = Column("SETTING", lambda row: row["key"], whole=True)
_VALUE: Final = Column("VALUE", lambda row: row["value"])
_SOURCE: Final = Column(
    "SOURCE",
    lambda row: row["source"],
    style=lambda row: "bright_black" if row["source"] == "default" else "green",
)


@group.command("show")
@store_command
def show(
    cli: Cli,
    sources: Annotated[
        bool, typer.Option("--sources", help="Say where each value comes from")
    ] = False,
) -> None:
    """Show every setting; secrets are masked."""
    settings = cli.settings()
    rows = [
        {"key": key, "value": value, "source": source} for key, value, source in settings.table()
    ]
    columns: Sequence[Column] = (_KEY, _VALUE, _SOURCE) if sources else (_KEY, _VALUE)
    if not sources:
        rows = [{"key": row["key"], "value": row["value"]} for row in rows]
    notes = list(settings.notes)
    cli.console.listing("settings", rows, columns, more={"notes": notes}, id_key="key")
    if cli.console.format == "table":
        for note in notes:
            cli.console.note(f"note: {note}")
