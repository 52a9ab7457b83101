"""The specification of a ledger: subclass ``StoreConformance`` and give it the fixture ``queue``.

The queue declares ``ledger``; where its store is another object, ``store_of`` says which.
"""

from __future__ import annotations

import pytest

from jobbus.queue import BackgroundJobQueue
from jobbus.store import JobStore
from jobbus.testing.conformance.accounting import AccountingCases, CrashCases
from jobbus.testing.conformance.control import CancelCases, RemovalCases, SteeringCases
from jobbus.testing.conformance.dependencies import DependencyCases
from jobbus.testing.conformance.finding import FindCases
from jobbus.testing.conformance.history import EventCases, HistoryCases, ProgressCases
from jobbus.testing.conformance.ledger import LedgerCases
from jobbus.testing.conformance.moving import MoveCases
from jobbus.testing.conformance.operators import OperatorCases
from jobbus.testing.conformance.redriving import RedriveCases
from jobbus.testing.conformance.texts import TextCases
from jobbus.testing.conformance.trimming import TrimmingCases


class StoreConformance(
    LedgerCases,
    FindCases,
    AccountingCases,
    CrashCases,
    CancelCases,
    RedriveCases,
    SteeringCases,
    RemovalCases,
    TrimmingCases,
    DependencyCases,
    HistoryCases,
    ProgressCases,
    EventCases,
    OperatorCases,
    MoveCases,
    TextCases,
):
    """Everything that a :class:`~jobbus.store.JobStore` promises, as sentences."""

    @pytest.fixture
    def store(self, queue: BackgroundJobQueue) -> JobStore:
        assert queue.capabilities.ledger, "this suite is for queues that declare a ledger"
        return self.store_of(queue)
