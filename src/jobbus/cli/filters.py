"""Which jobs: the filter options that listing and bulk commands share."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, Final, TypeVar

import typer

from jobbus.cli import values
from jobbus.cli.options import keyword_only, with_signature
from jobbus.job import JobState
from jobbus.store import JobFilter

T = TypeVar("T")

States = Annotated[
    list[str] | None,
    typer.Option("--state", "-s", help="State, in any usual word; repeatable"),
]
Type = Annotated[str | None, typer.Option("--type", "-t", help="Job type, or a prefix: 'email.*'")]
Queue = Annotated[str | None, typer.Option("--queue", "-q", help="Queue")]
Parent = Annotated[str | None, typer.Option("--parent", metavar="ID", help="Children of this job")]
Tag = Annotated[str | None, typer.Option("--tag", help="Jobs with this tag")]
Group = Annotated[str | None, typer.Option("--group", help="Jobs of this group")]
Since = Annotated[
    str | None,
    typer.Option("--since", metavar="WHEN", help="Created since then: 2h, 2030-01-31T09:30:00Z"),
]
Before = Annotated[
    str | None, typer.Option("--before", metavar="WHEN", help="Created before then, as --since")
]
Limit = Annotated[
    int, typer.Option("--limit", "-n", min=1, max=200, help="How many at the most, 1 to 200")
]
Cursor = Annotated[str | None, typer.Option("--cursor", help="Go on where the page before ended")]
AllMatching = Annotated[
    bool, typer.Option("--all-matching", help="All jobs that the filters match, instead of ids")
]
Reason = Annotated[str, typer.Option("--reason", help="Why; kept in the jobs' history")]


_OPTIONS: Final[Mapping[str, Any]] = {
    "state": States,
    "type_": Type,
    "queue": Queue,
    "parent": Parent,
    "tag": Tag,
    "group": Group,
    "since": Since,
    "before": Before,
}


def filtered(function: Callable[..., T]) -> Callable[..., T]:
    """Give a command the filter options in place of its parameter ``where``."""
    return _with_options(function, _OPTIONS)


def filtered_within_states(function: Callable[..., T]) -> Callable[..., T]:
    """The same without ``--state``: the command itself says which states it is about."""
    return _with_options(function, {k: v for k, v in _OPTIONS.items() if k != "state"})


def _with_options(function: Callable[..., T], options: Mapping[str, Any]) -> Callable[..., T]:
    own = inspect.signature(function, eval_str=True).parameters

    @functools.wraps(function)
    def wrapper(*given: Any, **named: Any) -> T:
        asked = {name: named.pop(name) for name in options}
        return function(*given, where=make_filter(**asked), **named)

    added = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=kind)
        for name, kind in options.items()
    ]
    parameters: list[inspect.Parameter] = []
    for each in own.values():
        parameters += added if each.name == "where" else [keyword_only(each)]
    return with_signature(wrapper, parameters)


def make_filter(
    *,
    state: Sequence[str] | None = None,
    type_: str | None = None,
    queue: str | None = None,
    parent: str | None = None,
    tag: str | None = None,
    group: str | None = None,
    since: str | None = None,
    before: str | None = None,
) -> JobFilter:
    """A filter of what people typed. Raises BadUsage for what can match nothing."""
    return JobFilter(
        queue=None if queue is None else values.queue_name(queue),
        job_type=None if type_ is None else values.job_type_pattern(type_),
        states=values.parse_states(state or ()),
        parent_id=None if parent is None else values.job_id("--parent", parent),
        tag=None if tag is None else values.tag_name(tag),
        group=None if group is None else values.group_name(group),
        created_after=None if since is None else values.parse_since("--since", since),
        created_before=None if before is None else values.parse_since("--before", before),
    )


def in_states(where: JobFilter, otherwise: frozenset[JobState]) -> JobFilter:
    """The filter, with these states where it names none."""
    return where if where.states else replace(where, states=otherwise)


def describe(where: JobFilter) -> str:
    """The filter in words; empty when it lets everything through."""
    parts = [
        f"state {'/'.join(sorted(where.states))}" if where.states else "",
        f"type {where.job_type}" if where.job_type else "",
        f"queue {where.queue}" if where.queue else "",
        f"parent {where.parent_id}" if where.parent_id else "",
        f"tag {where.tag}" if where.tag else "",
        f"group {where.group}" if where.group else "",
        f"created since {where.created_after:%Y-%m-%d %H:%M:%SZ}" if where.created_after else "",
        f"created before {where.created_before:%Y-%m-%d %H:%M:%SZ}" if where.created_before else "",
    ]
    return ", ".join(part for part in parts if part)
