"""The commands by name, none of them imported before it is called; errors and exit codes."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Annotated, Any, Final

import typer
from typer.core import TyperGroup
from typer.main import get_command

from jobbus.cli.failures import BadUsage, CommandFailed, tell
from jobbus.cli.options import App, Backend, Debug, Ledger, NoColor, Output, Shared, shared_of
from jobbus.cli.text import did_you_mean, shortened

_CLICK_ERROR: Final[Any] = typer.BadParameter.__mro__[2]
"""The base of everything that the parser of command lines raises, wherever typer keeps it."""
_PIPE_CLOSED: Final = 128 + 13
"""As the shell reports a program that SIGPIPE ended."""


class _NobodyReadsError(Exception):
    """Whatever the output was piped into has ended."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A command before it is imported."""

    place: str
    """``module:attribute``, below ``jobbus.cli``; a function, or a group of commands."""
    help: str
    section: str


_RUN, _SEE, _STEER, _SET_UP = "Run", "Look", "Steer", "Set up and check"
COMMANDS: Final[Mapping[str, Entry]] = {
    "demo": Entry("demo_command:run_demo", "Show jobbus at work on real files", _RUN),
    "worker": Entry("worker:worker", "Run the jobs of an application", _RUN),
    "relay": Entry("relay:relay", "Hand jobs from the ledger to the broker", _RUN),
    "enqueue": Entry("enqueue:enqueue", "Enqueue one job, or one for each line of input", _RUN),
    "jobs": Entry("jobs:group", "List, show, cancel and retry jobs", _SEE),
    "queues": Entry("queues:group", "List, pause, resume and purge queues", _STEER),
    "dlq": Entry("dlq:group", "List, show, redrive and discard dead letters", _STEER),
    "recover": Entry("recover:recover", "Take jobs back from workers that died", _STEER),
    "workers": Entry("facts:workers", "List the workers", _SEE),
    "types": Entry("facts:types", "List the job types that workers announced", _SEE),
    "backends": Entry("facts:backends", "List what each installed backend can do", _SEE),
    "migrate": Entry("migrate:group", "Show, apply, revert or print the schema", _SET_UP),
    "move": Entry("move:move", "Take jobs from one backend to another, and back", _SET_UP),
    "config": Entry("config:group", "Show the settings, and where each comes from", _SET_UP),
    "doctor": Entry("doctor:doctor", "Check settings, backend, schema and workers", _SET_UP),
    "bench": Entry("bench:bench", "Measure this machine with the chosen backend", _SET_UP),
    "version": Entry("facts:version", "Show which versions are at work", _SET_UP),
}


class Group(TyperGroup):
    """A group of commands that says what was probably meant by an unknown one."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name = args[0]
        if self.get_command(ctx, name) is None and not name.startswith("-"):
            known = self.list_commands(ctx)
            raise BadUsage(
                f"there is no command {ctx.command_path} {shortened(name, 40)}",
                why=f"there are {', '.join(known)}",
                fix=did_you_mean(name, known) or f"`{ctx.command_path} --help` explains them",
            )
        return super().resolve_command(ctx, args)


class Root(Group):
    """The command line as a whole."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        entry = COMMANDS.get(cmd_name)
        return None if entry is None else _imported(cmd_name, entry)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        width = max(map(len, COMMANDS))
        for section in dict.fromkeys(entry.section for entry in COMMANDS.values()):
            rows = [
                (name.ljust(width), entry.help)
                for name, entry in COMMANDS.items()
                if entry.section == section
            ]
            with formatter.section(section):
                formatter.write_dl(rows)

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError as error:
            # Under another name, because typer would make it exit code 1.
            raise _NobodyReadsError from error

    def main(self, args: Sequence[str] | None = None, *_: Any, **extra: Any) -> Any:
        """Run a command line and exit. Errors are told in three lines, whatever raised them."""
        given = list(sys.argv[1:] if args is None else args) or ["--help"]
        extra["standalone_mode"] = False
        extra["prog_name"] = "jobbus"
        sys.exit(self._exit_code(given, extra))

    def _exit_code(self, args: list[str], extra: Mapping[str, Any]) -> int:
        debug = "--debug" in args
        try:
            code = super().main(args=args, **extra)
            sys.stdout.flush()
            return code if isinstance(code, int) else 0
        except (_NobodyReadsError, BrokenPipeError):
            # Whoever read the output has enough of it. Nobody is left to tell at exit, either.
            with contextlib.suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return _PIPE_CLOSED
        except typer.Abort as error:
            return tell(_stopped(), debug=debug and error.__cause__ is not None)
        except _CLICK_ERROR as error:
            return _tell_usage(error, debug)
        except Exception as error:
            return tell(error, debug=debug)


def _imported(name: str, entry: Entry) -> Any:
    module, _, attribute = entry.place.partition(":")
    found: Any = getattr(import_module(f"jobbus.cli.{module}"), attribute)
    if isinstance(found, typer.Typer):
        made = get_command(found)
    else:
        alone = new_typer()
        alone.command(name)(found)
        made = get_command(alone)
    made.name = name
    return made


def new_typer(**options: Any) -> typer.Typer:
    """A typer application without anything that would print payloads or load rich."""
    return typer.Typer(
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        pretty_exceptions_show_locals=False,
        context_settings={"help_option_names": ["--help", "-h"]},
        **options,
    )


def new_group(help_text: str) -> typer.Typer:
    """A group of commands, always called with the name of one."""
    made = new_typer(cls=Group, no_args_is_help=True, help=help_text)
    # With a callback even a single command is a group's.
    made.callback(help=help_text)(lambda: None)
    return made


def _stopped() -> CommandFailed:
    return BadUsage("stopped; nothing was done")


def _tell_usage(error: Any, debug: bool) -> int:
    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else "jobbus"
    if type(error).__name__ == "NoArgsIsHelpError":
        sys.stdout.write(error.format_message() + "\n")
        return 2
    failure = BadUsage(
        f"{path}: {error.format_message().rstrip('.')}", fix=f"`{path} --help` explains the command"
    )
    failure.__cause__ = error
    return tell(failure, debug=debug)


def _version(wanted: bool) -> None:
    if wanted:
        from jobbus.cli.facts import own_version

        sys.stdout.write(f"jobbus {own_version()}\n")
        raise typer.Exit


app = typer.Typer(
    cls=Root,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    pretty_exceptions_show_locals=False,
    context_settings={"help_option_names": ["--help", "-h"]},
    epilog="Exit codes: 0 done, 1 a job or a check failed, 2 usage or settings or input, "
    "3 backend unreachable, 4 not found, 5 conflict, 130 interrupted.",
)


@app.callback()
def root(
    context: typer.Context,
    backend: Backend = None,
    ledger: Ledger = None,
    app: App = None,
    output: Output = None,
    no_color: NoColor = False,
    debug: Debug = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version")
    ] = False,
) -> None:
    """Background jobs on SQLite, Postgres or a broker: run them, watch them, steer them."""
    context.obj = Shared()
    shared_of(context).take(
        {
            "backend": backend,
            "ledger": ledger,
            "app": app,
            "output": output,
            "no_color": no_color,
            "debug": debug,
        }
    )
