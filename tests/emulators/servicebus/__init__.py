"""An AMQP 1.0 peer that behaves like Azure Service Bus, as far as its clients can tell.

Written from the AMQP 1.0 specification and from what clients of Service Bus send and expect. It
shares no code with any client, so that the vendor's SDK and Qpid Proton can be tried against it::

    with Emulator() as emulator:
        emulator.create_queue("jobs", lock_duration=timedelta(seconds=30))
        client = ServiceBusClient.from_connection_string(emulator.connection_string)

Time is the emulator's own: :meth:`Emulator.advance` lets locks expire without anyone waiting.
"""

from tests.emulators.servicebus.broker import Fault
from tests.emulators.servicebus.entity import QueueOptions
from tests.emulators.servicebus.server import Emulator

__all__ = ["Emulator", "Fault", "QueueOptions"]
