"""Run many seeds, or replay one: ``python -m tests.simulation --seeds 1000``, ``--seed 17``."""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from typing import Final

from tests.simulation.scenario import Outcome, simulate

_PORTION: Final = 10
"""Seeds that a process runs before it asks for more."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seeds", type=int, default=1000, help="how many to run")
    parser.add_argument("--first", type=int, default=0, help="the first of them")
    parser.add_argument("--processes", type=int, help="to run them in; default: one for each core")
    parser.add_argument("--seed", type=int, help="run this one, and tell all that happened")
    asked = parser.parse_args()
    if asked.seed is not None:
        return _replay(asked.seed)
    seeds = range(asked.first, asked.first + asked.seeds)
    failed = run_seeds(seeds, processes=asked.processes)
    return 1 if failed else 0


def run_seeds(seeds: range, *, processes: int | None = None) -> list[Outcome]:
    """Run them all, by default on all cores, say how it went, and return those that failed."""
    began = time.perf_counter()
    faults: Counter[str] = Counter()
    failed: list[Outcome] = []
    steps = jobs = 0
    with ProcessPoolExecutor(processes) as pool:
        for outcome in pool.map(simulate, seeds, chunksize=_PORTION):
            faults.update(outcome.faults)
            steps += outcome.steps
            jobs += len(outcome.jobs)
            if outcome.violations:
                failed.append(outcome)
                told = "; ".join(str(one) for one in outcome.violations[:3])
                print(f"seed {outcome.seed}: {told}")
    took = time.perf_counter() - began
    told = ", ".join(f"{number} x {name}" for name, number in faults.most_common())
    print(f"{len(seeds)} seeds, {jobs} jobs, {steps} steps in {took:.1f} s; {told}")
    print(f"{len(failed)} failed" + (f"; replay with --seed {failed[0].seed}" if failed else ""))
    return failed


def _replay(seed: int) -> int:
    outcome = simulate(seed)
    print("\n".join(outcome.told()))
    for one in outcome.violations:
        print(f"violated: {one}")
    return 1 if outcome.violations else 0


if __name__ == "__main__":
    sys.exit(main())
