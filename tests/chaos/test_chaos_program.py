"""``make chaos`` and ``make soak``: what they are told, what they do, and what they say."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from tests.chaos.campaign import Result, run
from tests.chaos.plan import ON_POSTGRES, ON_REDIS, REDIS, SQLITE, USUAL, Order, Plan
from tests.chaos.planted import BUGS
from tests.chaos.report import PROMISES, lines
from tests.chaos.soak import Sample, judge
from tests.crash.evidence import Evidence, Violation

SMALL = Plan(
    backend=SQLITE, seed=5, jobs=300, kills=5, stops=0, restarts=0, cuts=0, drains=2, cancels=4
)
SMALL_ON_REDIS = replace(
    SMALL, backend=REDIS, kills=3, stops=1, restarts=1, cuts=1, cancels=2, lease=1.5
)
QUIET = Sample(done=0, memory=100_000_000, files=40, threads=8, connections=6, tables=5_000_000)


def test_without_options_everything_is_attacked() -> None:
    order = Order.parse([])
    assert [plan.backend for plan in order.plans] == list(USUAL)
    assert order.bugs
    assert order.seeds == 1000
    assert order.plans == [replace(usual, seed=order.plans[0].seed) for usual in USUAL.values()]
    attacks = {(one.jobs, one.kills, one.stops, one.restarts) for one in (ON_POSTGRES, ON_REDIS)}
    assert attacks == {(20_000, 100, 20, 7), (100_000, 100, 20, 3)}


@pytest.mark.parametrize("usual", USUAL.values(), ids=USUAL)
def test_a_run_can_be_had_again_from_what_it_says(usual: Plan) -> None:
    plan = replace(usual, seed=17, jobs=123)
    words = plan.command().split('"')[1].split()
    assert Order.parse(words).plans == [plan]
    assert plan.faults() == plan.faults()
    assert plan.faults() != replace(plan, seed=18).faults()
    assert Counter(plan.faults())["kill"] == plan.kills


@pytest.mark.crash
@pytest.mark.slow
@pytest.mark.timeout(180)
def test_a_small_attack_breaks_nothing_and_says_all_that_was_checked() -> None:
    attack(SMALL)


@pytest.mark.crash
@pytest.mark.slow
@pytest.mark.timeout(180)
@pytest.mark.usefixtures("owned_redis")
def test_a_small_attack_with_the_death_of_the_server_breaks_nothing_on_redis() -> None:
    attack(SMALL_ON_REDIS)


def attack(plan: Plan) -> None:
    result = run(plan)
    told = "\n".join(lines(result))
    assert not result.violations, told
    assert result.done["kill"] >= plan.kills
    assert result.done["stop"] == plan.stops
    assert result.done["crash restart"] == plan.restarts
    assert all(f"  {name} " in told for name in PROMISES)
    assert "every promise was kept" in told
    assert f"--seed {plan.seed}" in told


def test_a_report_says_what_was_broken() -> None:
    broken = Violation("C4", "some-job", "it was handed to two workers")
    result = Result(
        plan=SMALL, where="nowhere", evidence=Evidence(records=[], jobs={}), violations=[broken],
        done=Counter(kill=3), seconds=1.0, quiet_after=1.0, processes=2, served=2,
    )  # fmt: skip
    told = list(lines(result))
    assert any(line.startswith("  C4  1 BROKEN") for line in told)
    assert any(str(broken) in line for line in told)
    assert any("verdict   BROKEN" in line for line in told)


def test_every_planted_bug_says_by_which_invariant_it_is_caught() -> None:
    known = {*PROMISES}
    assert all(bug.caught_by and bug.caught_by <= known for bug in BUGS.values())


def test_a_soak_in_which_nothing_grows_passes() -> None:
    assert all(verdict.good for verdict in judge([QUIET] * 40))


@pytest.mark.parametrize("what", ["memory", "files", "threads", "connections", "tables"])
def test_a_soak_names_what_grows(what: str) -> None:
    step = max(getattr(QUIET, what) // 20, 1)
    samples = [replace(QUIET, **{what: getattr(QUIET, what) + n * step}) for n in range(40)]
    bad = [verdict.name for verdict in judge(samples) if not verdict.good]
    assert bad == ["descriptors" if what == "files" else what]


def test_what_only_warms_up_does_not_count_as_growth() -> None:
    samples = [replace(QUIET, memory=QUIET.memory // 2)] * 8 + [QUIET] * 32
    assert all(verdict.good for verdict in judge(samples))
