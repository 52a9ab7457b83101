"""What ``jobbus doctor`` looks at in a broker: whether it answers, and has the queues."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from jobbus.cli.findings import Finding, failed, fine
from jobbus.errors import ConfigurationError

if TYPE_CHECKING:
    from jobbus.settings import Settings


async def check_broker(settings: Settings, *, create: bool) -> AsyncIterator[Finding]:
    """Connect once; with ``create``, and where the backend can, make what is missing first.

    Raises BackendError when the broker cannot be reached or has not what is needed.
    """
    from jobbus.settings import create_queue

    queue = create_queue(settings)
    make = getattr(queue, "create", None)
    if create and make is not None:
        try:
            made = await make()
        except ConfigurationError as error:
            yield failed("queues", str(error))
            return
        yield fine("queues", f"created {', '.join(made)}" if made else "none is missing")
    await queue.open()
    await queue.close()
    yield fine("backend", f"{settings.provider} answers, and has the queues")
