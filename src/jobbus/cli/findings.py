"""What a check of ``jobbus doctor`` found."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    """How bad it is."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the doctor's."""

    check: str
    level: Level
    message: str
    fix: str = ""


def fine(check: str, message: str) -> Finding:
    return Finding(check, Level.OK, message)


def doubtful(check: str, message: str, fix: str = "") -> Finding:
    return Finding(check, Level.WARNING, message, fix)


def failed(check: str, message: str, fix: str = "") -> Finding:
    return Finding(check, Level.FAILED, message, fix)
