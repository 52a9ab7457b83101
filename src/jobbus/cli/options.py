"""The options that commands share, given before or after the command's name."""

from __future__ import annotations

import functools
import inspect
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Annotated, Any, Concatenate, Final, ParamSpec, TypeVar

import typer

from jobbus.cli.console import Console, Format

if TYPE_CHECKING:
    from jobbus.bus import JobBus
    from jobbus.settings import Settings

P = ParamSpec("P")
T = TypeVar("T")

Backend = Annotated[
    str | None,
    typer.Option(
        "--backend",
        metavar="URL",
        help="Address or name of the backend, such as sqlite:///jobs.db, postgresql://user@host/db",
    ),
]
Ledger = Annotated[
    str | None,
    typer.Option(
        "--ledger",
        metavar="URL",
        help="Where a broker's jobs are remembered: sqlite:///jobs.db, postgresql://...; or none",
    ),
]
App = Annotated[
    str | None,
    typer.Option("--app", "-A", metavar="MODULE:ATTR", help="Where the application's bus is"),
]
Output = Annotated[
    Format | None,
    typer.Option("--output", "-o", help="Form of the output; on a terminal table, elsewhere json"),
]
NoColor = Annotated[bool, typer.Option("--no-color", help="No colours, as with NO_COLOR=1")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error")]

DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask")]

_SHARED: Final[Mapping[str, tuple[Any, Any]]] = {
    "backend": (Backend, None),
    "ledger": (Ledger, None),
    "app": (App, None),
    "output": (Output, None),
    "no_color": (NoColor, False),
    "debug": (Debug, False),
}
EVERYWHERE: Final = ("output", "no_color", "debug")
ON_A_STORE: Final = ("backend", "ledger", "app", *EVERYWHERE)


@dataclass(slots=True)
class Shared:
    """What was given of the shared options."""

    backend: str | None = None
    ledger: str | None = None
    app: str | None = None
    output: Format | None = None
    no_color: bool = False
    debug: bool = False

    def take(self, given: Mapping[str, Any]) -> None:
        """Let what was given later stand over what was given before."""
        for each in fields(self):
            if given.get(each.name):
                setattr(self, each.name, given[each.name])


class Cli:
    """What a command works with: the shared options, the console, and a way to the backend."""

    def __init__(self, shared: Shared) -> None:
        self.shared = shared
        self.console = Console(output=shared.output, no_color=shared.no_color)

    def settings(self, overrides: Mapping[str, object] | None = None) -> Settings:
        """The settings under ``--backend``, ``--ledger`` and ``--app``."""
        from jobbus.cli.connecting import settings_for

        return settings_for(self.shared, overrides)

    @asynccontextmanager
    async def bus(self, *, create: bool = False, app: bool = False) -> AsyncIterator[JobBus]:
        """The bus that the options lead to; with ``app``, the configured application's.

        A SQLite file that is not there is an error, unless ``create``.
        """
        from jobbus.cli.connecting import bus_for

        async with bus_for(self.shared, create=create, app=app) as bus:
            yield bus

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run ``work`` to its end. An interrupt cancels it."""
        import asyncio

        return asyncio.run(work)


def shared_of(context: typer.Context) -> Shared:
    """The shared options given so far on this command line."""
    root = context.find_root()
    if not isinstance(root.obj, Shared):
        root.obj = Shared()
    return root.obj


def command(
    *names: str,
) -> Callable[[Callable[Concatenate[Cli, P], T]], Callable[..., T]]:
    """Give a command these shared options, and a :class:`Cli` in place of its first parameter."""

    def decorate(function: Callable[Concatenate[Cli, P], T]) -> Callable[..., T]:
        own = list(inspect.signature(function, eval_str=True).parameters.values())[1:]

        @functools.wraps(function)
        def wrapper(_context: typer.Context, **given: Any) -> T:
            shared = shared_of(_context)
            shared.take({name: given.pop(name) for name in names})
            return function(Cli(shared), **given)  # type: ignore[call-arg]

        added = [
            inspect.Parameter(
                name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind
            )
            for name, (kind, default) in _SHARED.items()
            if name in names
        ]
        context = inspect.Parameter(
            "_context", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context
        )
        return with_signature(wrapper, [context, *map(keyword_only, own), *added])

    return decorate


def keyword_only(parameter: inspect.Parameter) -> inspect.Parameter:
    """The parameter, to be given by name; so that defaults may come in any order."""
    return parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)


def with_signature(
    function: Callable[..., T], parameters: Sequence[inspect.Parameter]
) -> Callable[..., T]:
    """The function, whose parameters typer is to take for these."""
    changed: Any = function
    changed.__signature__ = inspect.Signature(list(parameters))
    changed.__annotations__ = {each.name: each.annotation for each in parameters}
    changed.__dict__.pop("__wrapped__", None)  # whose signature is not this one
    return function


def store_command(function: Callable[Concatenate[Cli, P], T]) -> Callable[..., T]:
    """A command on a backend: with all shared options."""
    return command(*ON_A_STORE)(function)


def plain_command(function: Callable[Concatenate[Cli, P], T]) -> Callable[..., T]:
    """A command without a backend."""
    return command(*EVERYWHERE)(function)
