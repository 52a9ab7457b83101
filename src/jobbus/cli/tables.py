"""Jobs in tables and on pages for people."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from jobbus.cli.console import Column, Console, Item, write_line
from jobbus.cli.text import ago, local_moment, plain, plain_lines, shortened, to_json

if TYPE_CHECKING:
    from jobbus.cli.options import Shared

STATE_STYLES: Final[Mapping[str, str]] = {
    "created": "",
    "scheduled": "magenta",
    "blocked": "magenta",
    "queued": "cyan",
    "running": "blue",
    "retrying": "yellow",
    "completed": "green",
    "failed": "red",
    "cancelled": "bright_black",
    "timed_out": "red",
    "expired": "bright_black",
}
_NOTE_WIDTH: Final = 120
_PAGE_LINES: Final = 200
"""Of a payload or a result, on a page for people."""


def read_moment(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)


def state_style(item: Item) -> str:
    return STATE_STYLES.get(str(item["state"]), "")


def job_note(job: Item) -> str:
    """The most telling thing about a job where it stands."""
    problem, progress, state = job["problem"], job["progress"], job["state"]
    if state == "running" and progress:
        parts = [f"{progress['percent']:.0f}%", progress["stage"], progress["message"]]
        return " ".join(part for part in parts if part)
    if state in ("scheduled", "retrying"):
        due = f"due {ago(read_moment(job['run_at']))}"
        return due + (f" after {_problem(problem)}" if problem else "")
    if job["cancel_requested"] and state == "running":
        return "asked to stop"
    return _problem(problem) if problem and state != "completed" else ""


def _problem(problem: Item) -> str:
    first, *_ = str(problem["message"]).split("\n", 1)
    return f"{problem['kind']}: {first}" if first else str(problem["kind"])


JOB_COLUMNS: Final[Sequence[Column]] = (
    Column("ID", lambda job: job["id"], whole=True),
    Column("TYPE", lambda job: job["type"]),
    Column("QUEUE", lambda job: job["queue"]),
    Column("STATE", lambda job: job["state"], style=state_style, whole=True),
    Column("FAILS", lambda job: f"{job['failures']}/{job['max_attempts']}", right=True),
    Column("CREATED", lambda job: ago(read_moment(job["created_at"]))),
    Column("NOTE", lambda job: shortened(job_note(job), _NOTE_WIDTH)),
)
DEAD_COLUMNS: Final[Sequence[Column]] = (
    Column("ID", lambda job: job["id"], whole=True),
    Column("TYPE", lambda job: job["type"]),
    Column("QUEUE", lambda job: job["queue"]),
    Column("STATE", lambda job: job["state"], style=state_style, whole=True),
    Column("DIED", lambda job: ago(read_moment(job["finished_at"]))),
    Column("WHY", lambda job: shortened(_problem(job["problem"]) if job["problem"] else "", 120)),
)
_HISTORY_COLUMNS: Final[Sequence[Column]] = (
    Column("AT", lambda event: local_moment(read_moment(event["at"]))),
    Column("EVENT", lambda event: event["event"]),
    Column(
        "STATE",
        lambda event: event["to"] if event["from"] is None else f"{event['from']} → {event['to']}",
    ),
    Column("TRY", lambda event: event["attempt"] or "", right=True),
    Column("WORKER", lambda event: event["worker"] or ""),
    Column(
        "WHY",
        lambda event: shortened(
            event["reason"] or (_problem(event["problem"]) if event["problem"] else ""), 120
        ),
    ),
)
_PROGRESS_COLUMNS: Final[Sequence[Column]] = (
    Column("AT", lambda report: local_moment(read_moment(report["at"]))),
    Column("DONE", lambda report: f"{report['percent']:.0f}%", right=True),
    Column("STAGE", lambda report: report["stage"]),
    Column("MESSAGE", lambda report: shortened(report["message"], _NOTE_WIDTH)),
)


def job_page(console: Console, job: Item) -> None:
    """Everything about one job, for people."""
    console.facts(_facts(job))
    _document(console, "Payload", job["payload"], job["payload_base64"])
    if job["state"] == "completed":
        _document(console, "Result", job["result"], job["result_base64"])
    if job["problem"] is not None:
        _failure(console, job["problem"])
    if job["progress_history"]:
        console.heading("Progress")
        console.listing("progress", job["progress_history"][-10:], _PROGRESS_COLUMNS)
    console.heading("History")
    console.listing("history", job["history"], _HISTORY_COLUMNS)
    if job["next"]:
        console.heading("Next")
        for command in job["next"]:
            write_line(f"  {plain(command)}")


def _facts(job: Item) -> list[tuple[str, object]]:
    children = job["children"]
    return [
        ("id", job["id"]),
        ("type", job["type"]),
        ("queue", job["queue"]),
        ("state", job["state"] + (", asked to stop" if job["cancel_requested"] else "")),
        ("now", job_note(job)),
        ("priority", job["priority"]),
        ("attempts", _attempts(job)),
        ("created", _when(job["created_at"])),
        ("due", _when(job["run_at"]) if job["state"] in ("scheduled", "retrying") else ""),
        ("started", _when(job["started_at"])),
        ("finished", _when(job["finished_at"])),
        ("expires", _when(job["expires_at"])),
        ("timeout", f"{job['timeout_seconds']:g} s" if job["timeout_seconds"] else ""),
        ("worker", job["worker"]),
        ("parent", job["parent_id"]),
        ("children", _children(children)),
        ("key", job["unique_key"]),
        ("group", job["group"]),
        ("tags", ", ".join(job["tags"])),
        ("metadata", to_json(job["metadata"]) if job["metadata"] else ""),
        ("headers", to_json(job["headers"]) if job["headers"] else ""),
    ]


def _attempts(job: Item) -> str:
    parts = [f"{job['attempt']}, {job['failures']} of {job['max_attempts']} failed"]
    parts += [f"{job[word]} {word}" for word in ("crashes", "snoozes") if job[word]]
    if job["generation"] > 1:
        parts.append(f"generation {job['generation']}")
    return ", ".join(parts)


def _children(children: Item) -> str:
    if not children["total"]:
        return ""
    return f"{children['total']} ({children['unfinished']} unfinished, {children['dead']} dead)"


def _when(text: str | None) -> str:
    value = read_moment(text)
    return f"{local_moment(value)} ({ago(value)})" if value else ""


def _document(console: Console, title: str, value: Any, raw: str | None) -> None:
    console.heading(title)
    if raw is not None:
        write_line("  not JSON; in base64:")
        write_line(f"  {raw}")
        return
    lines = [plain(line) for line in json.dumps(value, ensure_ascii=False, indent=2).splitlines()]
    for line in lines[:_PAGE_LINES]:
        write_line(f"  {line}")
    if len(lines) > _PAGE_LINES:
        write_line(f"  … and {len(lines) - _PAGE_LINES} more lines; -o json shows them all")


def _failure(console: Console, problem: Item) -> None:
    console.heading(f"Problem: {problem['kind']}")
    for line in plain_lines(problem["message"]):
        write_line(f"  {line}")
    if problem["traceback"]:
        write_line("")
        for line in plain_lines(problem["traceback"].rstrip()):
            write_line(f"  {line}")


def suggestions(job: Item, shared: Shared) -> list[str]:
    """Commands that make sense for this job where it stands."""
    job_id, state = job["id"], job["state"]
    again = same_backend(shared)
    found = []
    if state in ("failed", "timed_out", "cancelled", "expired"):
        found.append(f"jobbus jobs retry {job_id}{again}")
    if state in ("failed", "timed_out"):
        found.append(f"jobbus dlq discard {job_id}{again}")
    if state in ("scheduled", "retrying"):
        found.append(f"jobbus jobs retry {job_id}{again}")
    if state in ("created", "scheduled", "blocked", "queued", "retrying", "running"):
        found.append(f"jobbus jobs cancel {job_id}{again}")
    if job["children"]["total"]:
        found.append(f"jobbus jobs ls --parent {job_id}{again}")
    if job["parent_id"]:
        found.append(f"jobbus jobs show {job['parent_id']}{again}")
    return found


def same_backend(shared: Shared) -> str:
    """What makes a suggested command look at the same backend; without passwords."""
    from jobbus.settings.addresses import mask

    if shared.backend is not None and mask(shared.backend) == shared.backend:
        return f" --backend {shared.backend}"
    return f" --app {shared.app}" if shared.app is not None else ""
