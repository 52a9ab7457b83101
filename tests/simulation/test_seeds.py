"""Real workers on virtual time: whatever a seed does to them, every promise is kept."""

from __future__ import annotations

from typing import Final

import pytest

from tests.chaos.planted import BUGS
from tests.chaos.planting import Bug
from tests.simulation.scenario import simulate

SEEDS: Final = 150
PORTION: Final = 25
ENOUGH: Final = 300
"""Seeds within which a planted bug has to show."""
SIMULATED: Final = [one for one in BUGS.values() if one.simulated]


@pytest.mark.parametrize("first", range(0, SEEDS, PORTION))
def test_nothing_is_lost_and_no_promise_is_broken_under_any_seed(first: int) -> None:
    for seed in range(first, first + PORTION):
        outcome = simulate(seed)
        told = "\n".join(str(one) for one in outcome.violations)
        assert not outcome.violations, f"python -m tests.simulation --seed {seed}\n{told}"
        assert outcome.jobs, f"seed {seed} has nothing to do"


@pytest.mark.parametrize("seed", [3, 77, 123456789])
def test_a_seed_replays_exactly(seed: int) -> None:
    first, again = simulate(seed), simulate(seed)
    assert first.told() == again.told()
    assert first.steps == again.steps


def test_seeds_differ() -> None:
    assert simulate(1).told() != simulate(2).told()


@pytest.mark.parametrize("bug", SIMULATED, ids=lambda bug: bug.name.replace(" ", "_"))
@pytest.mark.timeout(120)
def test_a_planted_bug_is_reported(bug: Bug) -> None:
    with bug.planted():
        for seed in range(ENOUGH):
            found = {one.invariant for one in simulate(seed).violations}
            if found & bug.caught_by:
                return
    pytest.fail(f"{bug.name}: no seed below {ENOUGH} shows it")
