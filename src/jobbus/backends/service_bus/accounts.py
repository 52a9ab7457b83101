"""What a session's state says of the messages that were handed out from it.

The broker's own count is no help here: it rises when a session's lock runs out, and stays when the
session's link ends, which is how most processes die
(https://learn.microsoft.com/azure/service-bus-messaging/message-sessions). So each hand-out is
written down before it happens. Who takes the session over finds what was out, and that is a crash.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

_FORMAT: Final = "jobbus"
_VERSION: Final = 1


@dataclass(slots=True)
class Account:
    """Of one message, by its sequence number, which it keeps as long as it is not copied."""

    handed: int = 0
    """Hand-outs so far."""
    failures: int = 0
    crashes: int = 0
    due: float = 0.0
    """It is not to be handed out before; seconds since 1970, UTC."""
    out: bool = False
    """Handed out, and not settled as far as was written down."""

    def crashed(self) -> None:
        """The worker that had it is gone."""
        self.out = False
        self.crashes += 1


def encode(accounts: Mapping[int, Account]) -> bytes | None:
    """The state to set; None, which is no state, where there is nothing to tell."""
    if not accounts:
        return None
    told = {
        str(number): [one.handed, one.failures, one.crashes, one.due, int(one.out)]
        for number, one in accounts.items()
    }
    return json.dumps({_FORMAT: _VERSION, "messages": told}, separators=(",", ":")).encode()


def decode(state: bytes | None) -> dict[int, Account]:
    """What was set. A state that is none of ours tells nothing, and is replaced."""
    try:
        found = json.loads(state or b"{}")
        if found.get(_FORMAT) != _VERSION:
            return {}
        return {
            int(number): Account(int(handed), int(failures), int(crashes), float(due), bool(out))
            for number, (handed, failures, crashes, due, out) in found["messages"].items()
        }
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError):
        return {}
