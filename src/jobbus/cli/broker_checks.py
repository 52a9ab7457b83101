"""What ``jobbus doctor`` looks at in a broker: whether it answers, and has what it needs."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from jobbus.cli.findings import Finding, doubtful, failed, fine
from jobbus.errors import ConfigurationError


async def check_broker(provider: str, queue: Any, *, create: bool) -> AsyncIterator[Finding]:
    """Findings about a queue that has no schema; it is closed, before and afterwards.

    Makes nothing unless asked, and then what the queue's ``create`` makes. A queue that knows what
    it lacks says so in ``missing``, and what is doubtful about the broker in ``warnings``. Raises
    BackendError where the broker cannot be reached.
    """
    try:
        made = await queue.create() if create and hasattr(queue, "create") else []
        missing = await queue.missing() if hasattr(queue, "missing") else []
        if not missing:
            await queue.open()
    except ConfigurationError as error:
        yield failed("queues", str(error))
        return
    finally:
        await queue.close()
    yield fine("broker", f"{getattr(queue, 'location', provider)} answers")
    if missing:
        yield doubtful("queues", f"missing: {', '.join(missing)}", "`jobbus doctor --create`")
    else:
        yield fine("queues", f"made {', '.join(made)}" if made else "all that is needed is there")
    for warning in await queue.warnings() if hasattr(queue, "warnings") else ():
        yield doubtful("broker", warning)
