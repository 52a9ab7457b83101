"""Every flow test runs on memory, on a SQLite file and on Postgres, unless it says otherwise."""

from __future__ import annotations

import pytest

from tests.flow.fixtures import beside_flow, bus, flow_database, home
from tests.flow.support import ALL

__all__ = ["beside_flow", "bus", "flow_database", "home", "kind"]


@pytest.fixture(params=ALL)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)
