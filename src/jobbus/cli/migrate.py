"""``jobbus migrate``: the database's schema, shown, applied, reverted or printed."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from jobbus.cli.consent import confirm
from jobbus.cli.console import Column
from jobbus.cli.failures import BadUsage
from jobbus.cli.options import Cli, DryRun, Yes, command, store_command
from jobbus.cli.root import new_group
from jobbus.cli.schema import Schema, schema_of
from jobbus.cli.text import counted

if TYPE_CHECKING:
    from jobbus.backends.sql.migrate import SchemaStatus

group = new_group("Show, apply, revert or print the database's schema.")


class Dialect(StrEnum):
    """The kinds of SQL that there are migrations in."""

    SQLITE = "sqlite"
    POSTGRES = "postgres"


To = Annotated[
    int | None, typer.Option("--to", metavar="VERSION", min=0, help="Which version to go to")
]
_COLUMNS: Final[Sequence[Column]] = (
    Column("VERSION", lambda row: f"{row['version']:04d}", right=True),
    Column("NAME", lambda row: row["name"]),
    Column(
        "STATE",
        lambda row: row["state"],
        style=lambda row: {"applied": "green", "pending": "yellow"}.get(row["state"], "red"),
    ),
)


@group.command("status")
@store_command
def status(cli: Cli) -> None:
    """Show which migrations are applied. Exit 2 where the database does not fit this jobbus."""

    async def work() -> tuple[Schema, SchemaStatus]:
        schema = schema_of(cli)
        return schema, await schema.status()

    schema, found = cli.run(work())
    rows = _rows(found)
    cli.console.listing(
        "migrations",
        rows,
        _COLUMNS,
        more={"backend": schema.place, "pending": len(found.pending)},
        id_key="version",
    )
    if cli.console.format == "table":
        cli.console.note(schema.place)
    found.check_history()


def _rows(found: SchemaStatus) -> list[dict[str, Any]]:
    known = {m.version: m for m in found.known}
    rows = []
    for version in sorted({*known, *found.applied}):
        migration = known.get(version)
        if migration is None:
            state = "unknown to this jobbus"
        elif version not in found.applied:
            state = "pending"
        elif found.applied[version] != migration.checksum:
            state = "changed since"
        else:
            state = "applied"
        name = "" if migration is None else migration.name
        rows.append({"version": version, "name": name, "state": state})
    return rows


@group.command("up")
@store_command
def up(cli: Cli, to: To = None, dry_run: DryRun = False) -> None:
    """Bring the schema up to date, or up to a version. Harmless when repeated."""

    async def work() -> list[str]:
        from jobbus.backends.sql.migrate import plan

        schema = schema_of(cli)
        found = await schema.status()
        target = _checked(found, to)
        steps = [step.title for step in plan(found, target)]
        if any(step.endswith(" down") for step in steps):
            raise BadUsage(
                f"the database is beyond version {to} already",
                fix="`jobbus migrate down`",
            )
        return steps if dry_run else await schema.migrate(target)

    _report(cli, cli.run(work()), dry_run=dry_run)


@group.command("down")
@store_command
def down(cli: Cli, to: To = None, dry_run: DryRun = False, yes: Yes = False) -> None:
    """Revert the last migration, or all after a version. What their tables hold is deleted."""
    steps = cli.run(_down(cli, to, dry_run=dry_run, yes=yes))
    _report(cli, steps, dry_run=dry_run)


async def _down(cli: Cli, to: int | None, *, dry_run: bool, yes: bool) -> list[str]:
    from jobbus.backends.sql.migrate import plan

    schema = schema_of(cli)
    found = await schema.status()
    applied = sorted(found.applied)
    if not applied:
        return []
    below = [version for version in applied if version < applied[-1]]
    target = _checked(found, to)
    target = (below[-1] if below else 0) if target is None else target
    steps = [step.title for step in plan(found, target)]
    if any(step.endswith(" up") for step in steps):
        raise BadUsage(f"the database is below version {to}", fix="`jobbus migrate up` goes there")
    if not steps:
        return []
    jobs = await schema.jobs() if target == 0 else None
    loss = f", deleting {counted(jobs, 'job')}" if jobs is not None else ""
    what = f"revert {counted(len(steps), 'migration')} of {schema.place}{loss}"
    if not confirm(cli, what, yes=yes, dry_run=dry_run):
        return steps
    return await schema.migrate(target)


def _checked(found: SchemaStatus, to: int | None) -> int | None:
    known = [0, *(m.version for m in found.known)]
    if to is not None and to not in known:
        raise BadUsage(
            f"there is no version {to} of the schema",
            why=f"this jobbus knows {', '.join(map(str, known))}",
        )
    return to


def _report(cli: Cli, steps: list[str], *, dry_run: bool) -> None:
    def page() -> None:
        for step in steps:
            cli.console.note(f"{'would run' if dry_run else 'ran'} {step}")
        if not steps:
            cli.console.note("nothing to do")

    cli.console.record({"steps": steps, "dry_run": dry_run}, page)


@group.command("sql")
@command("backend", "ledger", "no_color", "debug")
def sql(
    cli: Cli,
    dialect: Annotated[
        Dialect | None, typer.Option("--dialect", help="Kind of SQL; else the chosen backend's")
    ] = None,
) -> None:
    """Print the whole schema as SQL, for people who run their own migrations. Does not connect."""
    from jobbus.backends.sql.migrate import script
    from jobbus.backends.sql.statements import Naming

    settings = cli.settings()
    settings = settings.ledger_settings or settings
    chosen = dialect or next((one for one in Dialect if one == settings.provider), None)
    if chosen is None:
        raise BadUsage(
            f"the {settings.provider} backend has no SQL schema",
            fix="--dialect sqlite or --dialect postgres",
        )
    schema = settings.postgres.schema if chosen is Dialect.POSTGRES else None
    sys.stdout.write(script(chosen.value, Naming(schema, settings.table_prefix)))
