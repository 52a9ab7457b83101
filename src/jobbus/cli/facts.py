"""Small facts: ``workers``, ``types``, ``backends``, ``version``."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import fields
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from jobbus.cli.console import Column
from jobbus.cli.options import Cli, plain_command, store_command
from jobbus.cli.shapes import job_type_shape, worker_shape
from jobbus.cli.tables import read_moment
from jobbus.cli.text import ago, span
from jobbus.errors import JobbusError

if TYPE_CHECKING:
    from jobbus.message import Capabilities

_SPANS: Final = frozenset({"max_delay", "max_lease", "retention"})
_WORKER_COLUMNS: Final[Sequence[Column]] = (
    Column("NAME", lambda worker: worker["name"], whole=True),
    Column("HOST", lambda worker: worker["host"]),
    Column("PID", lambda worker: worker["pid"], right=True),
    Column(
        "ALIVE",
        lambda worker: "yes" if worker["alive"] else "no",
        style=lambda worker: "green" if worker["alive"] else "red",
    ),
    Column("RUNNING", lambda worker: worker["running"], right=True),
    Column("STARTED", lambda worker: ago(read_moment(worker["started_at"]))),
    Column("SEEN", lambda worker: ago(read_moment(worker["seen_at"]))),
)
_TYPE_COLUMNS: Final[Sequence[Column]] = (
    Column("NAME", lambda record: record["name"], whole=True),
    Column("QUEUE", lambda record: record["queue"]),
    Column("PRIORITY", lambda record: record["priority"], right=True),
    Column("TRIES", lambda record: record["max_attempts"], right=True),
    Column("ARGUMENTS", lambda record: _arguments(record["payload_schema"])),
)

ADDRESSES: Final[Mapping[str, Mapping[str, str]]] = {
    "postgres": {"postgres.url": "postgresql:///"},
    "rabbitmq": {"rabbitmq.url": "amqp://localhost"},
    "aws_sqs": {"aws_sqs.queue_url": "https://sqs.us-west-2.amazonaws.com/123456789012/jobs"},
    "azure_service_bus": {"azure_service_bus.namespace": "example.servicebus.windows.net"},
}
"""For backends that are not made without one; nothing is connected to."""


@store_command
def workers(cli: Cli) -> None:
    """List the workers: those alive, and those that died lately."""

    async def work() -> list[dict[str, Any]]:
        async with cli.bus() as bus:
            return [worker_shape(one) for one in await bus.workers()]

    cli.console.listing(
        "workers", cli.run(work()), _WORKER_COLUMNS, empty="no worker was seen", id_key="name"
    )


@store_command
def types(cli: Cli) -> None:
    """List the job types that workers announced, with their arguments."""

    async def work() -> list[dict[str, Any]]:
        async with cli.bus() as bus:
            return [job_type_shape(record) for record in await bus.job_types()]

    cli.console.listing(
        "types",
        cli.run(work()),
        _TYPE_COLUMNS,
        empty="no worker has announced a job type",
        id_key="name",
    )


def _arguments(schema: dict[str, Any]) -> str:
    """The arguments that a payload has, those that may be left out in brackets."""
    needed = set(schema.get("required", ()))
    told = []
    for name, one in schema.get("properties", {}).items():
        kind = one.get("type", "") if isinstance(one, dict) else ""
        text = f"{name}: {kind}" if isinstance(kind, str) and kind else name
        told.append(text if name in needed else f"[{text}]")
    return ", ".join(told)


@plain_command
def backends(cli: Cli) -> None:
    """List what each installed backend can do, by itself and with a ledger around it."""
    from jobbus.settings import installed_backends

    found = [_backend(name) for name in installed_backends()]
    if cli.console.format != "table":
        cli.console.listing("backends", found, (), id_key="name")
        return
    usable = {one["name"]: one["capabilities"] for one in found if one["capabilities"] is not None}
    for one in found:
        if one["with_ledger"] is not None:
            usable[f"{one['name']} + ledger"] = one["with_ledger"]
    capabilities: dict[str, Any] = next(iter(usable.values()), {})
    rows = [
        {"capability": word, **{name: declared[word] for name, declared in usable.items()}}
        for word in capabilities
    ]
    columns = [Column("CAPABILITY", lambda row: row["capability"], whole=True)]
    cli.console.listing("backends", rows, [*columns, *map(_backend_column, usable)])
    for one in found:
        if one["problem"]:
            cli.console.note(f"{one['name']}: {one['problem']}")


def _backend_column(name: str) -> Column:
    return Column(
        name.upper(),
        lambda row: _capability(row["capability"], row[name]),
        style=lambda row: "green" if row[name] is True else "bright_black" if not row[name] else "",
    )


def _capability(name: str, value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None:
        return "unlimited"
    if name.endswith("_seconds"):
        return span(timedelta(seconds=value))
    return f"{value:,}"


def _backend(name: str) -> dict[str, Any]:
    from jobbus.settings import create_queue, load_settings

    # An address that is never used: what a backend declares, it declares without connecting. The
    # settings of the place that we are in are about one backend, and might contradict the others.
    address = ADDRESSES.get(name, {})
    shape: dict[str, Any] = {
        "name": name, "capabilities": None, "with_ledger": None, "problem": None
    }  # fmt: skip
    try:
        settings = load_settings(
            {"provider": name, **address}, environ={}, directory=Path(__file__).parent
        )
        alone = create_queue(settings).capabilities
        shape["capabilities"] = _declared(alone)
        if not alone.ledger:
            tracked = settings.model_copy(update={"ledger": "sqlite:///jobs.db"})
            shape["with_ledger"] = _declared(create_queue(tracked).capabilities)
    except JobbusError as error:
        shape["problem"] = str(error)
    return shape


def _declared(capabilities: Capabilities) -> dict[str, Any]:
    shape = {}
    for each in fields(capabilities):
        value = getattr(capabilities, each.name)
        if each.name in _SPANS:
            shape[f"{each.name}_seconds"] = None if value is None else value.total_seconds()
        else:
            shape[each.name] = value
    return shape


@plain_command
def version(cli: Cli) -> None:
    """Show which versions are at work."""
    import sqlite3

    shape = {
        "version": own_version(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "sqlite": sqlite3.sqlite_version,
        "psycopg": _version_of("psycopg"),
    }
    cli.console.record(
        shape,
        lambda: cli.console.facts(
            [("jobbus", shape["version"]), *((name, shape[name]) for name in list(shape)[1:])]
        ),
        id_key="version",
    )


def own_version() -> str:
    import jobbus

    return jobbus.__version__


def _version_of(package: str) -> str | None:
    from importlib.metadata import PackageNotFoundError
    from importlib.metadata import version as installed_version

    try:
        return installed_version(package)
    except PackageNotFoundError:
        return None
