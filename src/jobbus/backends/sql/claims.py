"""Leases: which batches this process holds, and what renewing them tells."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence, Set
from datetime import timedelta

from jobbus.message import Delivery, LeaseState

from .moving import column
from .program import Call, Program


class ClaimBook:
    """Counts what is left to do under each claim of this process, to close it with the last."""

    def __init__(self) -> None:
        self._open: dict[int, set[str]] = {}

    def opened(self, deliveries: Sequence[Delivery]) -> None:
        for claim, ids in by_claim(deliveries).items():
            self._open.setdefault(claim, set()).update(ids)

    def closing(self, settling: Mapping[int, Set[str]]) -> list[int]:
        """The claims under which nothing is left once these jobs are settled."""
        return [c for c, ids in settling.items() if c in self._open and self._open[c] <= ids]

    def settled(self, settled: Mapping[int, Set[str]]) -> None:
        for claim, ids in settled.items():
            left = self._open.get(claim)
            if left is not None:
                left -= ids
                if not left:
                    del self._open[claim]


def by_claim(deliveries: Iterable[Delivery]) -> dict[int, set[str]]:
    """The ids of these jobs, by the claim that brought them."""
    ids: dict[int, set[str]] = defaultdict(set)
    for delivery in deliveries:
        ids[delivery.receipt.claim].add(delivery.message.job_id)
    return ids


def extend(held: Sequence[Delivery], lease: timedelta) -> Program[list[LeaseState]]:
    """Renew the claims of these deliveries; say of each how it stands."""
    claims = sorted({d.receipt.claim for d in held})
    kept = set(
        column(
            (
                yield Call(
                    "extend",
                    {"claims": claims, "lease_ms": round(lease.total_seconds() * 1000)},
                )
            )
        )
    )
    rows = yield Call("held", {"ids": [d.job_id for d in held]})
    yield Call("seen", {"worker": None, "claims": claims})
    running = {(row[0], row[1], row[2]): bool(row[3]) for row in rows}
    states = []
    for delivery in held:
        claim = delivery.receipt.claim
        asked = running.get((delivery.job_id, delivery.attempt, claim))
        if asked is None or claim not in kept:
            states.append(LeaseState.LOST)
        else:
            states.append(LeaseState.CANCEL_REQUESTED if asked else LeaseState.KEPT)
    return states


def cancel_requested(held: Sequence[Delivery]) -> Program[frozenset[str]]:
    rows = yield Call("held", {"ids": [d.job_id for d in held]})
    ours = {(d.job_id, d.attempt, d.receipt.claim) for d in held}
    return frozenset(row[0] for row in rows if row[3] and (row[0], row[1], row[2]) in ours)


def seen(worker: int) -> Program[None]:
    yield Call("seen", {"worker": worker, "claims": []})


def claiming_workers() -> Program[list[tuple[int, str, int, str]]]:
    rows = yield Call("claiming_workers")
    return [(id, space, pid, birth) for id, _host, space, pid, birth in rows]
