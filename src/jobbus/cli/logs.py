"""Logging as the command line sets it up: lines for people on a terminal, JSON lines elsewhere."""

from __future__ import annotations

import logging
import sys
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Final

from jobbus.cli.console import Console
from jobbus.cli.text import masked, plain, plain_lines, to_json

_FIELD_LIMIT: Final = 2048
"""Characters of any one field; a log is no place for more."""
_JOB_FIELDS: Final = ("job_id", "job_type", "queue", "attempt")
_OWN_FIELDS: Final = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime"}
_COLOURS: Final = {
    logging.DEBUG: "2",
    logging.INFO: "32",
    logging.WARNING: "33",
    logging.ERROR: "31",
    logging.CRITICAL: "1;31",
}


class LogLevel(StrEnum):
    """From which level on messages are written."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


def configure_logging(console: Console, level: LogLevel) -> None:
    """Send everything that is logged in this process to standard error."""
    from jobbus.middleware.logging import JobLogFilter

    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(JobLogFilter())
    handler.setFormatter(PeopleFormatter(console) if sys.stderr.isatty() else JsonFormatter())
    logging.basicConfig(level=level.value.upper(), handlers=[handler], force=True)


class PeopleFormatter(logging.Formatter):
    """``12:30:01 warning jobbus.worker  message  job_type job_id``."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console = console

    def format(self, record: logging.LogRecord) -> str:
        moment = datetime.fromtimestamp(record.created).astimezone().strftime("%H:%M:%S")
        level = self._styled(record.levelname.lower().ljust(7), _COLOURS.get(record.levelno, "0"))
        job = " ".join(
            plain(getattr(record, name))
            for name in ("job_type", "job_id")
            if getattr(record, name, None)
        )
        name = self._styled(record.name, "2")
        message = plain(_short(masked(record.getMessage())))
        line = f"{self._styled(moment, '2')} {level} {name}  {message}"
        line = f"{line}  {self._styled(job, '2')}" if job else line
        if record.exc_info:
            trace = masked(self.formatException(record.exc_info))
            line += "".join(f"\n  {one}" for one in plain_lines(trace))
        return line

    def _styled(self, text: str, codes: str) -> str:
        return self._console.styled(text, codes, stream=sys.stderr)


class JsonFormatter(logging.Formatter):
    """One JSON object a line, with the job's name where one was running."""

    def format(self, record: logging.LogRecord) -> str:
        moment = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        shape: dict[str, Any] = {
            "at": moment.replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": _short(masked(record.getMessage())),
        }
        for name, value in record.__dict__.items():
            if name in _JOB_FIELDS or name not in _OWN_FIELDS:
                shape[name] = value if isinstance(value, int | float) else _short(str(value))
        if record.exc_info:
            shape["exception"] = _short(masked(self.formatException(record.exc_info)), 4)
        return to_json(shape)


def _short(text: str, times: int = 1) -> str:
    limit = _FIELD_LIMIT * times
    return text if len(text) <= limit else text[: limit - 1] + "…"
