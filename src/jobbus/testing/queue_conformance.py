"""The specification of a queue: subclass ``QueueConformance`` and give it the fixture ``queue``.

::

    class TestMine(QueueConformance):
        @pytest.fixture
        async def queue(self) -> AsyncIterator[MyQueue]:
            queue = MyQueue()
            await queue.open()
            yield queue
            await queue.close()

The fixture gives every case an empty, open queue; ``asyncio_mode = "auto"`` lets pytest-asyncio run
it. The knobs are class attributes, described in
:class:`jobbus.testing.conformance.base.Suite`.
"""

from __future__ import annotations

from jobbus.testing.conformance.capabilities import CapabilityCases, DepthCases
from jobbus.testing.conformance.delivery import EnqueueCases, ReceiveCases
from jobbus.testing.conformance.leases import LeaseCases
from jobbus.testing.conformance.lifecycle import LifecycleCases
from jobbus.testing.conformance.ordering import GroupCases, PriorityCases
from jobbus.testing.conformance.payloads import PayloadCases
from jobbus.testing.conformance.scheduling import SchedulingCases
from jobbus.testing.conformance.settling import SettledCases, SettlingCases
from jobbus.testing.conformance.transactions import TransactionCases
from jobbus.testing.conformance.uniqueness import UniquenessCases


class QueueConformance(
    EnqueueCases,
    ReceiveCases,
    SettlingCases,
    SettledCases,
    LeaseCases,
    SchedulingCases,
    PriorityCases,
    GroupCases,
    UniquenessCases,
    TransactionCases,
    PayloadCases,
    CapabilityCases,
    DepthCases,
    LifecycleCases,
):
    """Everything that a :class:`~jobbus.queue.BackgroundJobQueue` promises, as sentences."""
