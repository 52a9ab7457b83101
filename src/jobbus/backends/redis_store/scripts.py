"""The Lua scripts: each is one transition, put together from a file and the parts it uses."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Final

_MOVES: Final = ("base", "fencing", "moving", "resolving")
_MOVES_ALWAYS: Final = ("base", "through", "fencing", "moving", "resolving")
_PARTS: Final[Mapping[str, tuple[str, ...]]] = {
    "enqueue": ("base", "enqueue"),
    "enqueue_linked": (*_MOVES, "linking", "enqueue"),
    "claim": ("base", "through", "claim"),
    "complete": ("base", "through", "fencing", "complete"),
    "settle": (*_MOVES_ALWAYS, "settle"),
    "extend": ("base", "through", "extend"),
    "suspect": ("base", "through", "suspect"),
    "tend": (*_MOVES_ALWAYS, "tend"),
    "resolve": (*_MOVES_ALWAYS, "resolve"),
    "cancel": (*_MOVES_ALWAYS, "cancel"),
    "redrive": (*_MOVES, "redrive"),
    "expedite": (*_MOVES, "expedite"),
    "discard": (*_MOVES_ALWAYS, "erasing", "discard"),
    "prune": (*_MOVES_ALWAYS, "erasing", "prune"),
    "trim": (*_MOVES_ALWAYS, "erasing", "trim"),
    "purge": (*_MOVES_ALWAYS, "erasing", "purge"),
    "progress": ("base", "progress"),
    "find": ("base", "fitting", "find"),
    "depth": ("base", "depth"),
    "workers": ("base", "workers"),
    "watch": ("base", "watch"),
    "take_out": (*_MOVES_ALWAYS, "erasing", "fitting", "journal", "take_out"),
    "take_in": (*_MOVES, "linking", "journal", "take_in"),
    "departures": ("base", "journal", "departures"),
    "note_arrival": ("base", "through", "journal", "note_arrival"),
    "forget_departures": ("base", "through", "journal", "forget_departures"),
}
"""The files of ``lua/`` that make up each script, in their order."""


@dataclass(frozen=True, slots=True)
class Script:
    """What a server runs, and the name under which it remembers it."""

    source: str
    sha: str


@cache
def script(name: str) -> Script:
    """The script of that name."""
    folder = files(__package__) / "lua"
    parts = [(folder / f"{part}.lua").read_text(encoding="utf-8") for part in _PARTS[name]]
    source = "\n".join(parts)
    # Redis's own name for a script; nothing is protected by it.
    return Script(source, hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest())
