"""A broker as another package would bring it, chosen by its name in the settings."""

from __future__ import annotations

from importlib.metadata import EntryPoint
from typing import TYPE_CHECKING, Final, Self

from jobbus.backends.sqlite import SqliteQueue
from jobbus.settings.backends import GROUP
from jobbus.testing.broker import BareBroker

if TYPE_CHECKING:
    from jobbus.settings import Settings

ENTRY: Final = EntryPoint("PostOffice", "tests.tracked.post_office:PostOffice", GROUP)


class PostOffice(BareBroker):
    """Its messages are in a file of the working directory."""

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        return cls(SqliteQueue("post_office.db", synchronous="NORMAL"))
