"""Composes the queries that depend on what was asked: SQLAlchemy Core, once for both dialects."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Select,
    String,
    and_,
    cast,
    column,
    exists,
    func,
    literal,
    literal_column,
    select,
    table,
    text,
)
from sqlalchemy.engine import Dialect as Compiler
from sqlalchemy.sql.expression import ColumnClause

from jobbus.ids import parse_id
from jobbus.job import DEAD, JobState
from jobbus.store import JobFilter

from .inspection import decode_cursor
from .program import Dialect, Scope
from .rows import mended
from .statements import Naming

_TIMED = frozenset({JobState.SCHEDULED, JobState.RETRYING})


def find(
    where: JobFilter,
    *,
    limit: int,
    cursor: str | None,
    scope: Scope,
    naming: Naming,
    columns: str,
) -> tuple[str, dict[str, Any]]:
    """A page of jobs, newest first, and one more to see whether there is a next page."""
    jobs, workers = _tables(naming)
    query = (
        select(text(columns))
        .select_from(jobs.outerjoin(workers, workers.c.id == jobs.c.worker))
        .where(*_conditions(where, jobs, scope))
        .order_by(jobs.c.id.desc())
        .limit(limit + 1)
    )
    if cursor is not None:
        query = query.where(jobs.c.id < _identifier(decode_cursor(cursor), scope.dialect))
    return _compile(query, scope.dialect)


def count(
    where: JobFilter, *, cap: int, scope: Scope, naming: Naming
) -> tuple[str, dict[str, Any]]:
    """How many jobs match, counting no further than ``cap``."""
    jobs, _ = _tables(naming)
    some: Select[Any] = select(literal_column("1").label("one")).select_from(jobs)
    capped = some.where(*_conditions(where, jobs, scope)).limit(cap).subquery("capped")
    return _compile(select(func.count()).select_from(capped), scope.dialect)


def following(
    where: JobFilter, *, limit: int, after: str | None, scope: Scope, naming: Naming
) -> tuple[str, dict[str, Any]]:
    """The ids of the next jobs behind the id ``after``, oldest first."""
    jobs, _ = _tables(naming)
    query = (
        select(cast(jobs.c.id, String).label("job_id"))
        .where(*_conditions(where, jobs, scope))
        .order_by(jobs.c.id)
        .limit(limit)
    )
    if after is not None:
        query = query.where(jobs.c.id > _identifier(after, scope.dialect))
    return _compile(query, scope.dialect)


def _tables(naming: Naming) -> tuple[Any, Any]:
    names = [
        "id", "queue", "job_type", "state", "ready", "timed", "dead", "worker", "parent_id", "tags",
        "group_name", "created_at", "claim",
    ]  # fmt: skip
    jobs = table(f"{naming.prefix}s", *map(column, names), schema=naming.schema)
    workers = table(f"{naming.prefix}_workers", column("id"), schema=naming.schema)
    return jobs.alias("j"), workers.alias("w")


def _conditions(where: JobFilter, jobs: Any, scope: Scope) -> list[ColumnElement[bool]]:
    c, dialect = jobs.c, scope.dialect
    made: list[ColumnElement[bool]] = []
    texts = (where.queue, where.job_type, where.group, where.tag)
    if any(text is not None and mended(text) != text for text in texts):
        return [literal_column("1 = 0")]  # no job can be called so
    if where.ids:
        known = [_identifier(job_id, dialect) for i in where.ids if (job_id := parse_id(i))]
        made.append(c.id.in_(known) if known else literal_column("1 = 0"))
    if where.queue is not None:
        made.append(c.queue == where.queue)
    if where.job_type is not None:
        made.append(_job_type(c.job_type, where.job_type))
    if where.states:
        made.append(_states(where.states, c, scope))
    if where.parent_id is not None:
        parent = parse_id(where.parent_id)
        made.append(
            c.parent_id == _identifier(parent, dialect) if parent else literal_column("1 = 0")
        )
    if where.group is not None:
        made.append(c.group_name == where.group)
    if where.tag is not None:
        made.append(_tagged(c.tags, where.tag, dialect))
    if where.created_after is not None:
        made.append(c.created_at > _moment(dialect, dialect.write_moment(where.created_after)))
    if where.created_before is not None:
        made.append(c.created_at < _moment(dialect, dialect.write_moment(where.created_before)))
    return made


def _states(states: frozenset[JobState], c: Any, scope: Scope) -> ColumnElement[bool]:
    """The states, beside the flag whose index finds them among millions of finished jobs."""
    plain: ColumnElement[bool] = c.state.in_(sorted(states))
    flag: ColumnClause[Any] | None = None
    if states <= DEAD:
        flag = c.dead
    elif states <= _TIMED:
        flag = c.timed
    elif states == {JobState.QUEUED} and not scope.relayed:  # else they may be with the broker
        flag = c.ready
    if flag is None:
        return plain
    return and_(plain, flag if scope.dialect.name == "postgres" else flag == literal_column("1"))


def _job_type(name: Any, wanted: str) -> ColumnElement[bool]:
    if not wanted.endswith("*"):
        return name == wanted  # type: ignore[no-any-return]
    return name.startswith(wanted[:-1], autoescape=True)  # type: ignore[no-any-return]


def _tagged(tags: Any, tag: str, dialect: Dialect) -> ColumnElement[bool]:
    if dialect.name == "postgres":
        return text("CAST(j.tags AS jsonb) @> jsonb_build_array(CAST(:tag AS text))").bindparams(
            tag=tag
        )  # type: ignore[return-value]  # a TextClause stands where a condition does
    each = func.json_each(tags).table_valued("value")
    return exists(select(literal(1)).select_from(each).where(each.c.value == tag))


def _identifier(job_id: str, dialect: Dialect) -> Any:
    if dialect.name == "postgres":
        from sqlalchemy.dialects.postgresql import UUID

        return literal(job_id, String).cast(UUID(as_uuid=False))
    return literal(job_id)


def _moment(dialect: Dialect, value: Any) -> Any:
    if dialect.name == "postgres":
        from sqlalchemy import DateTime

        return literal(value, String).cast(DateTime(timezone=True))
    return literal(value)


def _compile(query: Select[Any], dialect: Dialect) -> tuple[str, dict[str, Any]]:
    compiled = query.compile(
        dialect=_compiler(dialect.name), compile_kwargs={"render_postcompile": True}
    )
    return str(compiled), dict(compiled.params)


@lru_cache(maxsize=4)
def _compiler(name: str) -> Compiler:
    if name == "postgres":
        from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg

        return PGDialect_psycopg(paramstyle="named")  # type: ignore[no-untyped-call]
    from sqlalchemy.dialects.sqlite.pysqlite import SQLiteDialect_pysqlite

    return SQLiteDialect_pysqlite(paramstyle="named")
