"""What an attempt came to: for displays and counters as a value, for people as a log line."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from jobbus.job import Problem
from jobbus.message import Completion, CountsAs, DeadLetter, Delivery

from .held import Settlement

log = logging.getLogger("jobbus.worker")


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptReport:
    """What an attempt came to, for those who watch a worker: counters, displays, metrics."""

    delivery: Delivery
    outcome: str
    """completed, cancelled, retried, snoozed, released, dead, crashed, lost."""
    duration: float
    """Seconds in the handler."""
    problem: Problem | None = None


def tell(observers: Iterable[Callable[[AttemptReport], None]], report: AttemptReport) -> None:
    """Pass the report on. An observer has no say: its error is logged."""
    for observer in observers:
        try:
            observer(report)
        except Exception:
            log.exception("an observer of this worker failed; the work goes on")


def outcome_of(settlement: Settlement | None) -> tuple[str, Problem | None]:
    match settlement:
        case None:
            return "lost", None
        case Completion(cancelled=cancelled):
            return ("cancelled" if cancelled else "completed"), None
        case DeadLetter(problem=problem):
            return "dead", problem
    words = {
        CountsAs.FAILURE: "retried",
        CountsAs.CRASH: "crashed",
        CountsAs.SNOOZE: "snoozed",
        CountsAs.RELEASE: "released",
    }
    return words[settlement.counts_as], settlement.problem


def log_problem(delivery: Delivery, outcome: str, problem: Problem) -> None:
    level = logging.ERROR if outcome in ("dead", "crashed") else logging.WARNING
    log.log(
        level,
        "%s %s %s attempt %d: %s: %s",
        outcome,
        delivery.message.job_type,
        delivery.job_id,
        delivery.attempt,
        problem.kind,
        one_line(problem.message),
    )


def one_line(text: str) -> str:
    """Strangers' text, fit for a log: what could start a line or move a cursor is escaped."""
    return text.encode("unicode_escape").decode("ascii") if not text.isprintable() else text
