"""What went wrong, for people: one line what, one line why, one line how to mend it."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Final, TextIO

from jobbus import errors
from jobbus.cli.text import masked, plain, plain_lines
from jobbus.errors import JobbusError

INTERRUPTED: Final = 130
UNEXPECTED: Final = 1


class CommandFailed(JobbusError):
    """A command cannot do what it was asked; says what, why and what to do about it."""

    exit_code: ClassVar[int] = 1

    def __init__(self, what: str, *, why: str = "", fix: str = "") -> None:
        super().__init__(what)
        self.why = why
        self.fix = fix


class BadUsage(CommandFailed):
    """The command was called in a way that cannot work."""

    exit_code = 2


class NotConfirmed(CommandFailed):
    """What would destroy something was neither confirmed nor given ``--yes``; nothing was done."""

    exit_code = 2


class NothingFound(CommandFailed):
    """There is no such job, queue or job type."""

    exit_code = 4


class Conflict(CommandFailed):
    """How things stand does not allow what was asked."""

    exit_code = 5


@dataclass(frozen=True, slots=True)
class Account:
    """An error as it is told."""

    name: str
    what: str
    why: str
    fix: str
    exit_code: int


_HEADLINES: Final[Mapping[type[JobbusError], tuple[str, str]]] = {
    errors.SchemaMismatch: ("the database's schema does not fit this jobbus", ""),
    errors.MissingDependency: ("a client library is not installed", ""),
    errors.Unsupported: (
        "the backend cannot do this",
        "`jobbus backends` lists what each backend can do",
    ),
    errors.ConfigurationError: (
        "this cannot work as configured",
        "`jobbus config show --sources` says where each setting comes from",
    ),
    errors.BackendFull: ("the backend has no room left", "free some, then try again"),
    errors.BackendUnavailable: (
        "the backend cannot be reached",
        "check that it runs and that the address is right; `jobbus doctor` looks closer",
    ),
    errors.LeaseLost: ("another worker holds this job", ""),
    errors.BackendError: ("the backend answered with an error", "`jobbus doctor` looks closer"),
    errors.PayloadTooLarge: ("the payload is too large; nothing was enqueued", ""),
    errors.PayloadError: (
        "the payload cannot be used; nothing was enqueued",
        'a payload is a JSON object with the handler\'s arguments, such as \'{"name": "Ada"}\'',
    ),
    errors.UnknownJobType: (
        "nobody knows this job type; nothing was enqueued",
        "`jobbus types` lists those that workers announced; --unregistered enqueues all the same",
    ),
    errors.InvalidJob: (
        "the job cannot be as asked; nothing was enqueued",
        "`jobbus enqueue --help` lists what can be asked",
    ),
    errors.JobNotFound: ("there is no such job", "`jobbus jobs ls` lists the jobs there are"),
    errors.JobFailed: ("the job ended without a result", ""),
    errors.WaitTimeout: ("the job has not ended yet", "it goes on: `jobbus jobs show` looks at it"),
    JobbusError: ("this did not work", ""),
}


def explain(error: BaseException) -> Account:
    """What to say of an error, and with which code to exit."""
    name = type(error).__name__
    if isinstance(error, CommandFailed):
        return Account(name, str(error), error.why, error.fix, error.exit_code)
    if isinstance(error, JobbusError):
        what, fix = next(_HEADLINES[kind] for kind in type(error).__mro__ if kind in _HEADLINES)
        notes = "\n".join(getattr(error, "__notes__", ()))
        return Account(name, what, str(error), notes or fix, error.exit_code)
    return Account(
        name,
        "something failed that should not have",
        str(error) or "no reason given",
        "repeat the command with --debug for the traceback, which belongs in a report",
        UNEXPECTED,
    )


def tell(error: BaseException, *, debug: bool = False, stream: TextIO | None = None) -> int:
    """Write the error to standard error; return the exit code."""
    stream = stream or sys.stderr
    account = explain(error)
    if debug:
        trace = "".join(traceback.format_exception(error))
        stream.write("\n".join(plain_lines(masked(trace).rstrip())) + "\n")
    stream.write(f"error: {plain(masked(account.what))} ({account.name})\n")
    for label, text in (("why", account.why), ("fix", account.fix)):
        lines = [line for line in plain_lines(masked(text)) if line.strip()]
        for index, line in enumerate(lines):
            stream.write(f"  {label}: {line}\n" if index == 0 else f"       {line}\n")
    stream.flush()
    return account.exit_code
