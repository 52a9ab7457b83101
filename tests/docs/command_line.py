"""Walks the command line as it is: every command, its arguments and its options."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from typer.main import get_command

from jobbus.cli.root import app

SHARED: Final = frozenset(
    {
        "--backend",
        "--ledger",
        "--app",
        "-A",
        "--output",
        "-o",
        "--no-color",
        "--debug",
        "--help",
        "-h",
    }
)


@dataclass(frozen=True, slots=True)
class Leaf:
    """A command that does something."""

    name: str
    """As it is typed, without ``jobbus``."""
    options: frozenset[str]
    """All spellings, the shared ones included."""
    takes_arguments: bool


def leaves() -> list[Leaf]:
    """All commands, in the order in which help lists them."""
    return list(_below(get_command(app), ()))


def _below(command: Any, path: tuple[str, ...]) -> Iterator[Leaf]:
    if hasattr(command, "list_commands"):
        for name in command.list_commands(None):
            yield from _below(command.get_command(None, name), (*path, name))
        return
    kinds = [parameter.param_type_name for parameter in command.params]
    spellings = {
        spelling
        for parameter in command.params
        if parameter.param_type_name == "option"
        for spelling in (*parameter.opts, *parameter.secondary_opts)
    }
    yield Leaf(" ".join(path), frozenset({*spellings, "--help", "-h"}), "argument" in kinds)
