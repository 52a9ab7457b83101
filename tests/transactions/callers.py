"""An application with a table of its own, and every kind of connection that it may hold."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, closing
from dataclasses import dataclass
from typing import Any, Final

import psycopg
import sqlalchemy
from psycopg.rows import dict_row
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session
from sqlalchemy.pool import NullPool

INSERT: Final = "INSERT INTO orders (number) VALUES ({})"


@dataclass(frozen=True)
class Orders:
    """A table beside the jobs: order numbers."""

    address: str

    @property
    def kind(self) -> str:
        return "sqlite" if self.address.startswith("sqlite") else "postgres"

    @property
    def path(self) -> str:
        return self.address.removeprefix("sqlite:///")

    def make_table(self) -> None:
        self._run("DROP TABLE IF EXISTS orders")
        self._run("CREATE TABLE orders (number integer PRIMARY KEY)")

    def numbers(self) -> list[int]:
        """What has been committed."""
        return [number for (number,) in self._run("SELECT number FROM orders ORDER BY 1")]

    def _run(self, sql: str) -> list[Any]:
        if self.kind == "sqlite":
            with closing(sqlite3.connect(self.path)) as connection, connection:
                return connection.execute(sql).fetchall()
        with psycopg.connect(self.address) as database:
            cursor = database.execute(sql.encode())
            return cursor.fetchall() if cursor.description else []


class Caller:
    """A connection in the application's hands."""

    is_async = False

    def __init__(self, connection: Any) -> None:
        self.connection = connection

    async def add(self, number: int) -> None:
        """Write an order, without committing it."""
        self.connection.execute(_statement(self.connection, number))

    async def commit(self) -> None:
        self.connection.commit()

    async def rollback(self) -> None:
        self.connection.rollback()


class AsyncCaller(Caller):
    is_async = True

    async def add(self, number: int) -> None:
        await self.connection.execute(_statement(self.connection, number))

    async def commit(self) -> None:
        await self.connection.commit()

    async def rollback(self) -> None:
        await self.connection.rollback()


def _statement(connection: Any, number: int) -> Any:
    text = INSERT.format(number)
    return sqlalchemy.text(text) if "sqlalchemy" in type(connection).__module__ else text


def _engine(orders: Orders) -> sqlalchemy.Engine:
    return sqlalchemy.create_engine(_sqlalchemy_url(orders), poolclass=NullPool)


def _sqlalchemy_url(orders: Orders) -> str:
    return orders.address.replace("postgresql://", "postgresql+psycopg://", 1)


@asynccontextmanager
async def sqlalchemy_connection(orders: Orders) -> AsyncIterator[Caller]:
    with _engine(orders).connect() as connection:
        yield Caller(connection)


@asynccontextmanager
async def sqlalchemy_session(orders: Orders) -> AsyncIterator[Caller]:
    with Session(_engine(orders)) as session:
        yield Caller(session)


@asynccontextmanager
async def sqlalchemy_async_connection(orders: Orders) -> AsyncIterator[Caller]:
    engine = create_async_engine(_sqlalchemy_url(orders), poolclass=NullPool)
    async with engine.connect() as connection:
        yield AsyncCaller(connection)


@asynccontextmanager
async def sqlalchemy_async_session(orders: Orders) -> AsyncIterator[Caller]:
    engine = create_async_engine(_sqlalchemy_url(orders), poolclass=NullPool)
    async with AsyncSession(engine) as session:
        yield AsyncCaller(session)


@asynccontextmanager
async def psycopg_connection(orders: Orders) -> AsyncIterator[Caller]:
    with psycopg.connect(orders.address) as connection:
        yield Caller(connection)


@asynccontextmanager
async def psycopg_with_rows_as_mappings(orders: Orders) -> AsyncIterator[Caller]:
    with psycopg.connect(orders.address, row_factory=dict_row) as connection:
        yield Caller(connection)


@asynccontextmanager
async def psycopg_async_connection(orders: Orders) -> AsyncIterator[Caller]:
    async with await psycopg.AsyncConnection.connect(orders.address) as connection:
        yield AsyncCaller(connection)


@asynccontextmanager
async def psycopg_async_with_rows_as_mappings(orders: Orders) -> AsyncIterator[Caller]:
    async with await psycopg.AsyncConnection.connect(
        orders.address, row_factory=dict_row
    ) as connection:
        yield AsyncCaller(connection)


@asynccontextmanager
async def sqlite3_connection(orders: Orders) -> AsyncIterator[Caller]:
    with closing(sqlite3.connect(orders.path)) as connection:
        yield Caller(connection)


@asynccontextmanager
async def sqlite3_with_rows_as_mappings(orders: Orders) -> AsyncIterator[Caller]:
    def as_mapping(cursor: sqlite3.Cursor, row: tuple[Any, ...]) -> dict[str, Any]:
        return dict(zip((column[0] for column in cursor.description), row, strict=True))

    with closing(sqlite3.connect(orders.path)) as connection:
        connection.row_factory = as_mapping
        yield Caller(connection)


@asynccontextmanager
async def sqlite3_with_begin_by_hand(orders: Orders) -> AsyncIterator[Caller]:
    with closing(sqlite3.connect(orders.path, isolation_level=None)) as connection:
        connection.execute("BEGIN")
        yield Caller(connection)


Opener = Callable[[Orders], AbstractAsyncContextManager[Caller]]
ON_BOTH: Final = (sqlalchemy_connection, sqlalchemy_session)
CALLERS: Final[Mapping[str, tuple[Opener, ...]]] = {
    "sqlite": (
        *ON_BOTH,
        sqlite3_connection,
        sqlite3_with_rows_as_mappings,
        sqlite3_with_begin_by_hand,
    ),
    "postgres": (
        *ON_BOTH,
        sqlalchemy_async_connection,
        sqlalchemy_async_session,
        psycopg_connection,
        psycopg_with_rows_as_mappings,
        psycopg_async_connection,
        psycopg_async_with_rows_as_mappings,
    ),
}
