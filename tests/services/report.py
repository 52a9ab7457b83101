"""Which services the tests got and how; and what a missing one means: a skip, or a failure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import Final, Protocol, TypeVar

import pytest

SERVICES: Final = (
    "postgres", "postgres-18", "postgres-own", "pgbouncer", "prometheus",
    "redis", "redis-8", "redis-own", "redis-cluster", "redis-tls",
    "rabbitmq", "rabbitmq-own", "sqs", "sqs-strict",
)  # fmt: skip


class ServiceMissing(Exception):
    """A service is not to be had here; the message says what would provide it."""


class Described(Protocol):
    """A service that can say how it was got."""

    @property
    def how(self) -> str: ...


S = TypeVar("S", bound=Described)


@dataclass(frozen=True, slots=True)
class Requirement:
    """The services whose absence is a failure."""

    names: frozenset[str]

    @classmethod
    def parse(cls, text: str) -> Requirement:
        """Read ``all``, nothing, or names joined by commas. Raises ValueError for unknown names."""
        names = frozenset(part.strip() for part in text.split(",") if part.strip())
        if names == {"all"}:
            return cls(frozenset(SERVICES))
        unknown = sorted(names - set(SERVICES))
        if unknown:
            raise ValueError(
                f"JOBBUS_TEST_REQUIRE names {', '.join(unknown)}; "
                f"it takes 'all', or some of {', '.join(SERVICES)}"
            )
        return cls(names)


class Services:
    """What this test run asked for, and what became of it."""

    def __init__(self, requirement: Requirement) -> None:
        self._requirement = requirement
        self._lines: dict[str, str] = {}

    @contextmanager
    def provide(self, name: str, offer: AbstractContextManager[S]) -> Iterator[S]:
        """The service that ``offer`` opens. Where it is missing, skip or fail the test."""
        with ExitStack() as stack:
            try:
                service = stack.enter_context(offer)
            except ServiceMissing as missing:
                reason = f"missing: {missing}"
                self._lines[name] = reason
                if name in self._requirement.names:
                    pytest.fail(f"{name}: {reason} (JOBBUS_TEST_REQUIRE asks for it)")
                pytest.skip(f"{name}: {reason}")
            self._lines.setdefault(name, service.how)
            yield service

    def add(self, lines: Mapping[str, str]) -> None:
        """Take over what another process of the same run found."""
        for name, line in lines.items():
            self._lines.setdefault(name, line)

    @property
    def lines(self) -> Mapping[str, str]:
        """By service, in the order of :data:`SERVICES`: how it was got, or what is missing."""
        return {name: self._lines[name] for name in SERVICES if name in self._lines}
