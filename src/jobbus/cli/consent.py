"""Asks before something is destroyed: says how much, and waits for a yes."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from jobbus.cli.failures import NotConfirmed
from jobbus.cli.options import Cli


def confirm(cli: Cli, what: str, *, yes: bool, dry_run: bool, word: str | None = None) -> bool:
    """Whether to go on with ``what``, as in ``delete 12 jobs``; False when this is a dry run.

    Asks on a terminal, for ``word`` where one is given. Raises NotConfirmed when the answer is no,
    and where nobody can be asked and there is no ``--yes``.
    """
    if dry_run:
        cli.console.note(f"would {what}; nothing was done")
        return False
    if yes:
        return True
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise NotConfirmed(
            f"this would {what}",
            why="it needs a yes, and there is no terminal to ask on",
            fix="add --yes to do it, or --dry-run to see how much it is",
        )
    wanted = word or "yes"
    question = f"This will {what}. " + (
        f"Type the name {wanted} to go on: " if word else "Go on? [y/N] "
    )
    given = _ask(question)
    if given == wanted or (word is None and given.casefold() in {"y", "yes"}):
        return True
    raise NotConfirmed(
        "nothing was done", why=f"the answer was {given!r}" if given else "there was no answer"
    )


def _ask(question: str) -> str:
    sys.stderr.write(question)
    sys.stderr.flush()
    with _interruptible():
        return sys.stdin.readline().strip()


@contextmanager
def _interruptible() -> Iterator[None]:
    """Let Ctrl-C end the question; an event loop would wait for the answer first."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
