"""How SQL is run: programs yield statements and receive rows, and know nothing of drivers.

A program is a generator. It is written once and driven by whoever holds a connection: SQLite's
writer thread, an async psycopg connection, or the connection of a caller's own transaction, sync or
async. Whoever drives it owns the transaction.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, TypeVar

T = TypeVar("T")
Row = tuple[Any, ...]
Rows = Sequence[Row]


@dataclass(frozen=True, slots=True)
class Call:
    """Run a statement once. List parameters travel as JSON."""

    name: str
    parameters: Mapping[str, Any] = field(default_factory=dict)
    sql: str | None = None
    """The statement itself, for the few that are composed and have no name."""


@dataclass(frozen=True, slots=True)
class Many:
    """Run a statement for each row of a batch: at once where the database can, else in a loop."""

    name: str
    batch: Sequence[dict[str, Any]]
    parameters: Mapping[str, Any] = field(default_factory=dict)


Statement = Call | Many
Program = Generator[Statement, Rows, T]


@dataclass(frozen=True, slots=True)
class Dialect:
    """What the programs must know of a database."""

    name: str
    read_moment: Callable[[Any], datetime | None]
    """A time as the driver returns it."""
    write_moment: Callable[[datetime | None], Any]
    """A time as a parameter."""
    one_statement_each: bool
    """Claims and completions are one statement each; else several inside a transaction."""


@dataclass(frozen=True, slots=True)
class Scope:
    """What a program runs under."""

    dialect: Dialect
    watched: bool = False
    """Somebody follows the live event log, so it is written."""


def drive(program: Program[T], run: Callable[[Statement], Rows]) -> T:
    """Run a program on something synchronous."""
    try:
        statement = next(program)
        while True:
            try:
                rows = run(statement)
            except Exception as error:
                statement = program.throw(error)
            else:
                statement = program.send(rows)
    except StopIteration as stop:
        result: T = stop.value
        return result


async def drive_async(program: Program[T], run: Callable[[Statement], Awaitable[Rows]]) -> T:
    """Run a program on something asynchronous."""
    try:
        statement = next(program)
        while True:
            try:
                rows = await run(statement)
            except Exception as error:
                statement = program.throw(error)
            else:
                statement = program.send(rows)
    except StopIteration as stop:
        result: T = stop.value
        return result
