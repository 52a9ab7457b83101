"""What is drawn by lot, on each backend: job types, and points where workers kill themselves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from tests.chaos.plan import POSTGRES, REDIS, SQLITE
from tests.crash.evidence import TRANSACTIONAL

_MIX: Final = {"plain": 66, TRANSACTIONAL: 18, "fails_once": 10, "fails_for_good": 2, "spawner": 1}
_EVERYWHERE: Final = (
    "claim:before", "claim:after", "handler:before_effect", "handler:after_effect",
    "complete:before", "complete:after",
)  # fmt: skip
_IN_TRANSACTIONS: Final = (
    "complete_in:before", "complete_in:after", "commit:before", "commit:after",
)  # fmt: skip
_BESIDES: Final = (
    "abandon:before", "abandon:after", "dead_letter:before", "dead_letter:after",
    "extend:before", "extend:after", "tend:before", "tend:after",
)  # fmt: skip
_STATEMENTS: Final = (
    "complete/complete:after", "abandon/move:after", "abandon/tell:after", "tend/move:after",
    "tend/promote:after", "enqueue/enqueue:after", "enqueue/add_edges:after",
)  # fmt: skip
_SCRIPTS: Final = (
    "claim/claim:after", "complete/complete:after", "complete/resolve:after",
    "abandon/settle:after", "dead_letter/settle:after", "extend/extend:after", "tend/tend:after",
    "enqueue/enqueue_linked:after",
)  # fmt: skip
_ON_SQL: Final = (*_EVERYWHERE, *_IN_TRANSACTIONS, *_BESIDES, *_STATEMENTS)
POINTS: Final[Mapping[str, Sequence[str]]] = {
    POSTGRES: _ON_SQL,
    SQLITE: _ON_SQL,
    REDIS: (*_EVERYWHERE, *_BESIDES, *_SCRIPTS),
}
"""Where a worker may be told to kill itself; see :mod:`tests.crash.agent`."""


def job_types(backend: str) -> Mapping[str, int]:
    """With their weights."""
    # On Redis nothing commits together with a job.
    return {name: n for name, n in _MIX.items() if backend != REDIS or name != TRANSACTIONAL}
