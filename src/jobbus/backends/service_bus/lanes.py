"""Which session a message goes into: its group's, or one of the lanes for those without a group.

A queue that requires sessions takes no message without one. A session of its own for each job would
cost a link each, and one for all would make one process do all the work: so there are some lanes,
whose members may be handed out many at a time.
"""

from __future__ import annotations

import hashlib
import json
import re
from typing import Final

LANES: Final = 16
"""So many processes can work on jobs without a group at one time. Senders choose; receivers take
what there is, so that another number may come at any time."""
LONGEST: Final = 128
"""Characters of a session id, as Service Bus limits it."""
_OURS: Final = "~"
_LANE: Final = f"{_OURS}lane-"
CHECKS: Final = f"{_OURS}check-"
"""In front of sessions that are opened to see whether there are sessions, and never used."""
_PLAIN: Final = re.compile(r"[!-}][ -}]{0,127}")


def session_of(group: str | None, job_id: str) -> str:
    """The session id. A group's own name, where Service Bus can have it, else its hash."""
    if group is None:
        return f"{_LANE}{int(_digest(job_id)[:8], 16) % LANES:02}"
    if _PLAIN.fullmatch(group) and not group.startswith(_OURS):
        return group
    return f"{_OURS}{_digest(group)}"


def is_lane(session_id: str) -> bool:
    return session_id.startswith(_LANE)


def group_property(group: str | None, session_id: str | None) -> str | None:
    """What travels beside the session id where that does not name the group; ASCII."""
    return json.dumps(group) if group is not None and group != session_id else None


def group_of(session_id: str | None, told: str | None) -> str | None:
    """The group that was sent. Raises ValueError for what no jobbus has told."""
    if told is not None:
        return str(json.loads(told))
    return None if session_id is None or session_id.startswith(_OURS) else session_id


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
