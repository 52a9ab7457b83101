"""What ``jobbus doctor`` looks at in a broker: that it answers, its queues, its address."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

from jobbus.cli.findings import Finding, doubtful, failed, fine
from jobbus.errors import ConfigurationError

if TYPE_CHECKING:
    from jobbus.settings import Settings


async def check_broker(settings: Settings, queue: Any, *, create: bool) -> AsyncIterator[Finding]:
    """Findings about a queue that knows what it needs on its broker (``create``, ``missing``).

    Makes nothing unless asked. Raises what reaching the broker raises.
    """
    try:
        made = await queue.create() if create else []
        missing = await queue.missing()
    except ConfigurationError as error:
        yield failed("backend", str(error))
        return
    yield fine("backend", f"{settings.provider} {queue.location} answers")
    if missing:
        yield doubtful("queues", f"missing: {', '.join(missing)}", "`jobbus doctor --create`")
    else:
        yield fine("queues", f"made {', '.join(made)}" if made else "all that is needed is there")
    for warning in queue.warnings:
        yield doubtful("address", warning)
