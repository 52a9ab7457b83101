"""How much of what is to be done to whom: the options of a run."""

from __future__ import annotations

import argparse
import random
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Final, Self

POSTGRES, SQLITE, REDIS = "postgres", "sqlite", "redis"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """One run. The defaults are those of ``make chaos`` on Postgres."""

    backend: str = POSTGRES
    seed: int = 0
    jobs: int = 20_000
    workers: int = 4
    """At work at the same time; whoever dies is replaced."""
    kills: int = 100
    """SIGKILL: at any moment, and at labelled points of a job's way."""
    stops: int = 20
    """SIGSTOP until the lease is over."""
    restarts: int = 7
    """Of the server: crashes, and on Postgres two of seven in good order."""
    cuts: int = 10
    """Of the network: resets, a commit whose reply is lost, a black hole."""
    drains: int = 10
    """SIGTERM: the worker hands back what it cannot finish."""
    cancels: int = 40
    lease: float = 3.0
    """Seconds."""
    planted: str = ""
    """The name of a bug to have."""

    def faults(self) -> list[str]:
        """All of them, by name, in the order that the seed decides."""
        number = {
            "kill": self.kills,
            "stop": self.stops,
            "restart": self.restarts,
            "cut": self.cuts,
            "drain": self.drains,
            "cancel": self.cancels,
            "pause": max(1, self.cancels // 20),
        }
        found = [name for name, times in number.items() for _ in range(times)]
        random.Random(self.seed).shuffle(found)
        return found

    def command(self) -> str:
        """What to type to do the same again."""
        usual = USUAL[self.backend]
        told = [
            f"--{field.name} {shlex.quote(str(value))}"
            for field in fields(self)
            if (value := getattr(self, field.name)) != getattr(usual, field.name)
            or field.name in ("backend", "seed")
        ]
        return f'make chaos CHAOS_ARGS="{" ".join(told)}"'


ON_SQLITE: Final = Plan(
    backend=SQLITE, jobs=5_000, stops=0, restarts=0, cuts=0, drains=10, cancels=20
)
"""No server to crash; and whoever is frozen may hold the lock that all writers need."""
ON_POSTGRES: Final = Plan()
ON_REDIS: Final = Plan(backend=REDIS, jobs=100_000, restarts=3)
USUAL: Final[Mapping[str, Plan]] = {
    plan.backend: plan for plan in (ON_POSTGRES, ON_SQLITE, ON_REDIS)
}
"""What is done to each backend, where nothing else is said."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """Everything that was asked for."""

    plans: Sequence[Plan]
    bugs: bool
    seeds: int

    @classmethod
    def parse(cls, arguments: Sequence[str]) -> Self:
        parser = argparse.ArgumentParser(
            prog="python -m tests.chaos",
            description="Attack running workers, and hold what happened against what was promised.",
        )
        parser.add_argument("--backend", choices=list(USUAL), help="only this one; default: all")
        parser.add_argument("--seed", type=int, help="default: a new one each time")
        for field in fields(Plan):
            if field.name not in ("backend", "seed", "planted"):
                parser.add_argument(f"--{field.name}", type=type(field.default))
        parser.add_argument("--planted", help="with this bug planted into every worker")
        parser.add_argument("--no-bugs", action="store_true", help="plant none to be caught")
        parser.add_argument(
            "--seeds", type=int, help="of the simulation; default: 1000, or none with --backend"
        )
        asked = parser.parse_args(arguments)
        given = {
            field.name: value
            for field in fields(Plan)
            if (value := getattr(asked, field.name)) is not None
        }
        given.setdefault("seed", random.randrange(2**32))
        chosen = [given.pop("backend")] if "backend" in given else list(USUAL)
        everything = asked.backend is None and not asked.planted
        seeds = asked.seeds if asked.seeds is not None else 1000 * everything
        return cls(
            plans=[_changed(USUAL[name], given) for name in chosen],
            bugs=everything and not asked.no_bugs,
            seeds=seeds,
        )


def _changed(plan: Plan, given: dict[str, object]) -> Plan:
    told = {field.name: getattr(plan, field.name) for field in fields(plan)}
    return Plan(**{**told, **given})
