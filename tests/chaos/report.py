"""What a run did and what it found, for people."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from jobbus.job import EventType, JobState
from tests.chaos.campaign import Result
from tests.crash.evidence import Evidence
from tests.crash.order_checks import waits

PROMISES = {
    "C1": "every accepted job is there and has ended",
    "C2": "nothing is there that nobody enqueued",
    "C3": "what completed was run",
    "C4": "no attempt is handed out twice, or under another's valid lease, or outlives its own",
    "C5": "ends are final, outcomes fenced, histories possible",
    "C6": "effects: once in transactions, else once and once more per interruption",
    "C7": "groups and dependencies in order",
    "C8": "schedules fire once",
    "C9": "attempts, crashes and failures as they happened",
    "C10": "everything ends soon after the last attack",
    "C11": "whoever survives takes jobs again, and can leave",
    "C12": "what is cancelled or paused does not start",
    "C13": "workers report what the queue took",
}
SHOWN = 10


def examined(result: Result) -> dict[str, str]:
    """How much each invariant was held against."""
    evidence = result.evidence
    completed = sum(j.state is JobState.COMPLETED for j in evidence.jobs.values())
    stopped = len(evidence.of("cancelled")), len(evidence.of("paused"))
    effects = len(evidence.of("effect")) + len(evidence.effects or ())
    return {
        "C1": f"{len({r.job for r in evidence.of('enqueued')})} jobs accepted",
        "C2": f"{len(evidence.jobs)} jobs known",
        "C3": f"{completed} completed",
        "C4": f"{len(evidence.of('claimed'))} leases, {len(evidence.of('renewed'))} renewals",
        "C5": f"{len(evidence.of('settled'))} outcomes, {len(evidence.histories)} histories",
        "C6": f"{effects} effects",
        "C7": f"{sum(1 for _ in waits(evidence))} pairs",
        "C8": "not checked: there is no scheduler yet",
        "C9": f"{sum(j.attempt for j in evidence.jobs.values())} attempts",
        "C10": f"quiet after {result.quiet_after:.1f} s",
        "C11": f"{result.served} workers asked",
        "C12": f"{stopped[0]} cancelled, {stopped[1]} pauses",
        "C13": f"{len(evidence.of('reported'))} reports",
    }


def lines(result: Result) -> Iterator[str]:
    """The report."""
    plan, evidence = result.plan, result.evidence
    bug = f", planted: {plan.planted}" if plan.planted else ""
    yield f"chaos on {result.where}, seed {plan.seed}{bug}"
    yield (
        f"  load      {len(evidence.jobs)} jobs in {result.seconds:.0f} s, {plan.workers} workers "
        f"at a time, {result.processes} in all, leases of {plan.lease:g} s"
    )
    yield f"  attacks   {', '.join(f'{n} x {name}' for name, n in sorted(result.done.items()))}"
    yield f"  outcome   {outcome(evidence)}"
    broken = Counter(one.invariant for one in result.violations)
    told = examined(result)
    for name, promise in PROMISES.items():
        verdict = (
            "-" if name == "C8" else f"{broken.pop(name)} BROKEN" if name in broken else "kept"
        )
        yield f"  {name:<4}{verdict:<12}{promise} ({told[name]})"
    for name, number in broken.items():
        yield f"  {name:<4}{number} BROKEN"
    for one in result.violations[:SHOWN]:
        yield f"    {str(one)[-600:]}"
    if len(result.violations) > SHOWN:
        yield f"    and {len(result.violations) - SHOWN} more"
    yield f"  verdict   {'BROKEN' if result.violations else 'every promise was kept'}"
    yield f"  again     {plan.command()}"


def outcome(evidence: Evidence) -> str:
    """What the attacks came to, from the workers' side."""
    states = Counter(str(job.state) for job in evidence.jobs.values())
    refused = sum(not r.detail["accepted"] for r in evidence.of("settled"))
    taken = sum(
        event.type is EventType.CRASHED for told in evidence.histories.values() for event in told
    )
    repeated = sum(n > 1 for n in Counter(r.job for r in evidence.of("effect")).values())
    counted = ", ".join(f"{number} {state}" for state, number in sorted(states.items()))
    return (
        f"{counted}; {taken} taken back from the dead or frozen, {refused} late outcomes refused, "
        f"{repeated} plain jobs had their effect again after an interruption"
    )
