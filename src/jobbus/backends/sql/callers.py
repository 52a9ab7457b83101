"""Runs programs inside a transaction of the caller's own, whatever kind of connection holds it.

Understood are: ``sqlite3.Connection``, psycopg ``Connection`` and ``AsyncConnection``, SQLAlchemy
``Connection``, ``Session``, ``AsyncConnection`` and ``AsyncSession``, and Django's connection
wrapper. Nothing is imported for it: a connection that is there has its module loaded.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar, cast

from jobbus.connections import is_async, is_psycopg, is_psycopg_async, is_sqlalchemy, is_sqlite
from jobbus.errors import BackendError, ConfigurationError, JobbusError

from .document import batch_document
from .program import Call, Program, Rows, Statement, drive, drive_async
from .sqlite_dialect import to_milliseconds
from .sqlite_engine import run_statement, translate
from .statements import to_pyformat

T = TypeVar("T")
Execute = Callable[[str, dict[str, Any]], Any]


@dataclass(frozen=True, slots=True)
class CallerSql:
    """A backend's statements, and what a caller's connection must be to run them."""

    dialect: str
    statements: Mapping[str, str]
    clock: Callable[[], datetime]


async def run(make: Callable[[], Program[T]], connection: Any, sql: CallerSql) -> T:
    """Run a program in the connection's transaction; ending that is the caller's.

    Raises ConfigurationError for a connection of another database or an unknown kind.
    """
    if not is_async(connection):
        return run_sync(make, connection, sql)
    execute = _async_execute(connection, sql)

    async def step(statement: Statement) -> Rows:
        text, parameters = render(statement, sql)
        return cast("Rows", await execute(text, parameters))

    try:
        return await drive_async(_all_or_nothing(make()), step)
    except Exception as error:
        raise _translated(error) from error


def run_sync(make: Callable[[], Program[T]], connection: Any, sql: CallerSql) -> T:
    """:func:`run` for synchronous connections, in the calling thread."""
    if is_async(connection):
        raise ConfigurationError("an async connection needs the async enqueue; await bus.enqueue()")
    step = _sync_step(connection, sql)
    try:
        return drive(_all_or_nothing(make()), step)
    except Exception as error:
        raise _translated(error) from error


def _all_or_nothing(program: Program[T]) -> Program[T]:
    """The program under a savepoint: a caller who catches its error has nothing of it to commit."""
    yield Call("script", {}, "SAVEPOINT jobbus")
    try:
        result = yield from program
    except Exception:
        yield Call("script", {}, "ROLLBACK TO SAVEPOINT jobbus")
        yield Call("script", {}, "RELEASE SAVEPOINT jobbus")
        raise
    yield Call("script", {}, "RELEASE SAVEPOINT jobbus")
    return result


async def hint(connection: Any, statement: Statement | None) -> None:
    """Run a wake-up statement, where there is one."""
    if statement is not None and isinstance(statement, Call):
        await run(lambda: _single(statement), connection, _NO_SQL)


def hint_sync(connection: Any, statement: Statement | None) -> None:
    if statement is not None and isinstance(statement, Call):
        run_sync(lambda: _single(statement), connection, _NO_SQL)


def render(statement: Statement, sql: CallerSql) -> tuple[str, dict[str, Any]]:
    """A statement for Postgres, as text with ``:name`` parameters and plain values."""
    if isinstance(statement, Call):
        text = statement.sql if statement.sql is not None else sql.statements[statement.name]
        return text, _plain(statement.parameters)
    return sql.statements[statement.name], {
        **_plain(statement.parameters),
        "batch": batch_document(statement.batch),
    }


def _plain(parameters: Mapping[str, Any]) -> dict[str, Any]:
    return {k: json.dumps(v) if isinstance(v, list) else v for k, v in parameters.items()}


def _single(statement: Call) -> Program[None]:
    yield statement


def _sync_step(connection: Any, sql: CallerSql) -> Callable[[Statement], Rows]:
    if is_sqlite(connection):
        return _sqlite_step(connection, connection, sql)
    if is_psycopg(connection):
        _require(sql, "postgres", connection)
        _require_transaction(connection)
        cursor = connection.cursor(row_factory=_tuples())
        return _postgres_step(lambda text, p: _fetched(cursor.execute(to_pyformat(text), p)), sql)
    if is_sqlalchemy(connection):
        bound = connection.connection() if hasattr(connection, "get_bind") else connection
        if bound.dialect.name == "sqlite":
            _require(sql, "sqlite", connection)
            if not bound.in_transaction():
                # Its commit() commits only what it knows to have begun.
                bound.begin()
            return _sqlite_step(bound.connection.driver_connection, connection, sql)
        _require(
            sql,
            "postgres" if bound.dialect.name == "postgresql" else bound.dialect.name,
            connection,
        )
        return _postgres_step(lambda text, p: _fetched(bound.execute(_text(text), p)), sql)
    if hasattr(connection, "ensure_connection") and hasattr(connection, "vendor"):
        connection.ensure_connection()
        return _sync_step(connection.connection, sql)
    raise ConfigurationError(
        f"connection= takes a sqlite3, psycopg, SQLAlchemy or Django connection, "
        f"not {type(connection).__module__}.{type(connection).__qualname__}"
    )


def _sqlite_step(connection: Any, given: Any, sql: CallerSql) -> Callable[[Statement], Rows]:
    _require(sql, "sqlite", given)
    if not connection.in_transaction:
        if connection.isolation_level is None or getattr(connection, "autocommit", None) is True:
            raise ConfigurationError(
                "this sqlite3 connection is in autocommit mode with no transaction begun, so "
                "nobody would commit the job: execute BEGIN first"
            )
        # Otherwise each statement would commit by itself, and a rollback take nothing back.
        connection.execute("BEGIN IMMEDIATE")
    cursor = connection.cursor()
    cursor.row_factory = None  # the connection's may be the caller's own

    def step(statement: Statement) -> Rows:
        now = to_milliseconds(sql.clock())
        return run_statement(cursor, statement, sql.statements, now)

    return step


def _postgres_step(execute: Execute, sql: CallerSql) -> Callable[[Statement], Rows]:
    def step(statement: Statement) -> Rows:
        return cast("Rows", execute(*render(statement, sql)))

    return step


def _async_execute(
    connection: Any, sql: CallerSql
) -> Callable[[str, dict[str, Any]], Awaitable[Any]]:
    if is_psycopg_async(connection):
        _require(sql, "postgres", connection)
        _require_transaction(connection)

        cursor = connection.cursor(row_factory=_tuples())

        async def execute(text: str, parameters: dict[str, Any]) -> Any:
            await cursor.execute(to_pyformat(text), parameters)
            return await cursor.fetchall() if cursor.description else []

        return execute
    if (
        connection.get_bind().dialect.name == "sqlite"
        if hasattr(connection, "get_bind")
        else (connection.dialect.name == "sqlite")
    ):
        raise ConfigurationError(
            "async SQLAlchemy on SQLite keeps its connection on another thread: enqueue with a "
            "synchronous Session, or without connection="
        )
    _require(sql, "postgres", connection)

    async def execute_text(text: str, parameters: dict[str, Any]) -> Any:
        return _fetched(await connection.execute(_text(text), parameters))

    return execute_text


def _fetched(result: Any) -> Any:
    returns = result.returns_rows if hasattr(result, "returns_rows") else result.description
    return [tuple(row) for row in result.fetchall()] if returns else []


def _tuples() -> Any:
    """Rows as jobbus reads them, whatever the caller's connection makes of rows."""
    from psycopg.rows import tuple_row

    return tuple_row


def _text(sql: str) -> Any:
    from sqlalchemy import text

    return text(sql)


def _require(sql: CallerSql, dialect: str, connection: Any) -> None:
    if sql.dialect not in (dialect, ""):
        raise ConfigurationError(
            f"the connection is {dialect}'s, the jobs are in {sql.dialect}: "
            "they cannot commit together"
        )


def _require_transaction(connection: Any) -> None:
    if connection.autocommit and connection.info.transaction_status.name == "IDLE":
        raise ConfigurationError(
            "this psycopg connection is in autocommit mode with no transaction begun, so there is "
            "nothing to commit together: use `with connection.transaction():`"
        )


def _translated(error: Exception) -> Exception:
    known = translate(error, "write in the caller's transaction")
    if isinstance(known, JobbusError):
        return known
    return BackendError(f"the caller's connection could not run the statement: {error}")


_NO_SQL = CallerSql("", {}, lambda: datetime.min)
