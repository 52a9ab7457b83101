"""Tells the kinds of database connection that callers hand over, importing none of their drivers.

A connection that is there has its module loaded; what is not loaded cannot be it.
"""

from __future__ import annotations

import sys
from typing import Any


def is_sqlite(connection: Any) -> bool:
    return _is(connection, "sqlite3", "Connection")


def is_psycopg(connection: Any) -> bool:
    return _is(connection, "psycopg", "Connection")


def is_psycopg_async(connection: Any) -> bool:
    return _is(connection, "psycopg", "AsyncConnection")


def is_sqlalchemy(connection: Any) -> bool:
    """A ``Connection`` or a ``Session``, the synchronous ones."""
    return (
        _is(connection, "sqlalchemy.engine", "Connection")
        or _is(connection, "sqlalchemy.orm", "Session")
        or _is(connection, "sqlalchemy.orm", "scoped_session")
    )


def is_sqlalchemy_async(connection: Any) -> bool:
    names = ("AsyncConnection", "AsyncSession", "async_scoped_session")
    return any(_is(connection, "sqlalchemy.ext.asyncio", name) for name in names)


def is_async(connection: Any) -> bool:
    """Whether calls on this connection are awaited."""
    return is_psycopg_async(connection) or is_sqlalchemy_async(connection)


def _is(connection: Any, module: str, name: str) -> bool:
    kind = getattr(sys.modules.get(module), name, None)
    return kind is not None and isinstance(connection, kind)
