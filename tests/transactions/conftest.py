"""Fixtures: a store on each database, with a table of the application's own beside it."""

from __future__ import annotations

import pytest

from jobbus import JobBus
from tests.flow.fixtures import beside_flow, bus, flow_database, home
from tests.flow.support import SHARED, Home
from tests.transactions.callers import Orders

__all__ = ["beside_flow", "bus", "flow_database", "home", "kind"]


@pytest.fixture(params=SHARED)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def orders(home: Home, bus: JobBus) -> Orders:
    """The application's own table, empty; on a database that has jobbus's tables."""
    assert home.address
    orders = Orders(home.address)
    orders.make_table()
    return orders
