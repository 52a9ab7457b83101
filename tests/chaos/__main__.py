"""``make chaos``: runs on Postgres, SQLite, Redis; planted bugs; a thousand simulated seeds."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence

from tests.chaos.campaign import run
from tests.chaos.plan import Order, Plan
from tests.chaos.planted import BUGS
from tests.chaos.planting import Bug
from tests.chaos.report import lines
from tests.chaos.stages import play
from tests.services.report import ServiceMissing
from tests.simulation.__main__ import run_seeds
from tests.simulation.scenario import simulate

ENOUGH = 300
"""Seeds within which a planted bug has to show."""


def main(arguments: Sequence[str]) -> int:
    order = Order.parse(arguments)
    # That connections break is the point.
    logging.getLogger("psycopg").setLevel(logging.CRITICAL)
    good = all([_attack(plan) for plan in order.plans])
    if order.bugs:
        good &= _catch_bugs()
    if order.seeds:
        good &= not run_seeds(range(order.seeds))
    print("verdict: " + ("all is well" if good else "NOT all is well"))
    return 0 if good else 1


def _attack(plan: Plan) -> bool:
    """Whether every promise was kept; with a planted bug, whether it was caught."""
    print(f"attacking {plan.backend} ...", flush=True)
    try:
        result = run(plan)
    except ServiceMissing as missing:
        print(f"cannot: {missing}")
        return False
    print("\n".join(lines(result)), flush=True)
    if plan.planted:
        return _caught(BUGS[plan.planted], {one.invariant for one in result.violations})
    return not result.violations


def _catch_bugs() -> bool:
    """Plant each bug, and see that the checker names it."""
    missed = []
    for bug in BUGS.values():
        how = _simulate(bug) if bug.simulated else _stage(bug)
        print(f"  {bug.name:<48}{how or 'NOT CAUGHT'}", flush=True)
        if how is None:
            missed.append(bug.name)
    print(f"planted bugs caught: {len(BUGS) - len(missed)} of {len(BUGS)}")
    return not missed


def _simulate(bug: Bug) -> str | None:
    with bug.planted():
        for seed in range(ENOUGH):
            found = {one.invariant for one in simulate(seed).violations}
            if found & bug.caught_by:
                return f"{', '.join(sorted(found))} in seed {seed} of the simulation"
    return None


def _stage(bug: Bug) -> str | None:
    found = play(bug)
    return f"{', '.join(sorted(found))} by real processes" if found & bug.caught_by else None


def _caught(bug: Bug, found: set[str]) -> bool:
    caught = bool(found & bug.caught_by)
    print(f"{bug.name}: {'caught' if caught else 'NOT CAUGHT'} ({', '.join(sorted(found))})")
    return caught


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
