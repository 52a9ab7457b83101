"""Every flow test runs on memory, on a SQLite file and on Postgres, unless it says otherwise.

And on a broker with a ledger; with ``JOBBUS_TEST_EVERY_LEDGER=1`` on every one with each.
"""

from __future__ import annotations

import pytest

from tests.flow.brokers import PAIRS, flow_rabbitmq, flow_service_bus, flow_sqs
from tests.flow.fixtures import beside_flow, bus, flow_database, home
from tests.flow.support import ALL

__all__ = [
    "beside_flow",
    "bus",
    "flow_database",
    "flow_rabbitmq",
    "flow_service_bus",
    "flow_sqs",
    "home",
    "kind",
]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if isinstance(item, pytest.Function) and "service_bus+" in item.name:
            # The SDK leaves the sockets of connections that were cut to the garbage collector.
            for words in ("unclosed", "loop is closed"):
                item.add_marker(pytest.mark.filterwarnings(f"ignore:{words}:ResourceWarning"))


@pytest.fixture(params=(*ALL, *PAIRS))
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)
