"""How a bug gets into code that runs."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

from jobbus.backends.redis_store import connection
from jobbus.backends.redis_store.scripts import Script
from jobbus.backends.sql import postgres_connection
from jobbus.backends.sql.statements import Naming, load
from tests.chaos.plan import POSTGRES

Plant = Callable[[ExitStack], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bug:
    """One thing done wrong."""

    name: str
    plant: Plant
    caught_by: frozenset[str]
    """Of these invariants one has to report it."""
    simulated: bool = True
    """Whether virtual time can show it; else it takes real processes."""
    on: str = POSTGRES
    """Where those have their jobs."""

    @contextmanager
    def planted(self) -> Iterator[None]:
        """Within it, the code has the bug."""
        with ExitStack() as stack:
            self.plant(stack)
            yield


def sql(name: str, **changes: tuple[str, str]) -> Plant:
    """Rewrite a statement in both dialects: from what, to what."""

    def plant(stack: ExitStack) -> None:
        for dialect, (old, new) in changes.items():
            texts = load(dialect, Naming())
            assert isinstance(texts, dict)
            assert old in texts[name], f"{name} ({dialect}) reads otherwise now: {texts[name]}"
            stack.enter_context(patch.dict(texts, {name: texts[name].replace(old, new)}))
        postgres_connection._prepared_texts.cache_clear()
        stack.callback(postgres_connection._prepared_texts.cache_clear)

    return plant


def lua(name: str, old: str, new: str) -> Plant:
    """Rewrite a script of Redis: from what, to what."""

    def plant(stack: ExitStack) -> None:
        known: Callable[[str], Script] = vars(connection)["script"]
        source = known(name).source
        assert old in source, f"{name} reads otherwise now: {source}"
        source = source.replace(old, new)
        sha = hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest()
        wrong = Script(source, sha)
        stack.enter_context(
            patch.object(connection, "script", lambda one: wrong if one == name else known(one))
        )

    return plant


def _all(*plants: Plant) -> Plant:
    def plant(stack: ExitStack) -> None:
        for one in plants:
            one(stack)

    return plant


def replaced(target: Any, name: str, make: Callable[[Any], Any]) -> Plant:
    """Put in place of a function what is made of it."""

    def plant(stack: ExitStack) -> None:
        stack.enter_context(patch.object(target, name, make(getattr(target, name))))

    return plant


def bug(
    name: str, caught_by: str, *plants: Plant, simulated: bool = True, on: str = POSTGRES
) -> Bug:
    return Bug(
        name=name,
        plant=_all(*plants),
        caught_by=frozenset(caught_by.split()),
        simulated=simulated,
        on=on,
    )
