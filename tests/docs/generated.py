"""Writes those parts of the documentation that the code knows best.

A part stands between ``<!-- generated: NAME -->`` and ``<!-- end -->``. A test compares; to write
them anew::

    python -m tests.docs.generated
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import fields
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

from jobbus import errors
from jobbus.backends.memory import MemoryQueue
from jobbus.backends.sqlite import SqliteQueue
from jobbus.cli.facts import ADDRESSES
from jobbus.job import ALIASES, TERMINAL, TRANSITIONS, EventType, JobState
from jobbus.message import Capabilities
from jobbus.settings import create_queue, installed_backends, load_settings
from jobbus.settings import names as setting_names
from jobbus.telemetry import names as telemetry
from jobbus.testing.broker import BareBroker
from jobbus.tracked import TrackedQueue
from tests.docs.pages import ROOT, as_table, pages

_PART: Final = re.compile(r"(<!-- generated: (\S+) -->\n)(.*?)(<!-- end -->)", re.DOTALL)
_MEANINGS: Final[Mapping[str, str]] = {
    "durable": "accepted jobs survive the death of every process",
    "ledger": "remembers state, progress, results, history",
    "deduplicates": "enqueueing a known job id again changes nothing",
    "ordered_groups": "jobs of one group run in order, one at a time",
    "priorities": "1 to 10, higher runs sooner",
    "dependencies": "`depends_on`, with a policy for each edge",
    "unique_keys": "at most one unfinished job holds a key",
    "expiry": "jobs that have not started in time never do",
    "transactional": "enqueues and completes in a transaction of yours",
    "extends_leases": "a job may run for longer than its lease",
    "exact_counts": "the depth of a queue is no estimate",
    "delays": "a job may be enqueued for later",
    "max_delay": "longest delay",
    "max_lease": "longest lease",
    "max_batch": "most messages in one call",
    "max_payload": "largest payload",
    "retention": "how long a message may come again after its enqueue",
}


_MODES: Final[Mapping[str, tuple[str, Mapping[str, str]]]] = {
    "aws_sqs": (
        "use_fifo_queue",
        {"aws_sqs.queue_url": "https://sqs.us-west-2.amazonaws.com/123456789012/jobs.fifo"},
    ),
    "azure_service_bus": ("sessions", {"azure_service_bus.sessions": "true"}),
}
"""Settings that make other queues of a backend's: the setting, and what is to be set."""


def declared() -> dict[str, Capabilities]:
    """What each installed backend says of itself, without connecting to anything."""
    found = {name: _declares(name) for name in installed_backends()}
    ordered = {name: found[name] for name in sorted(found, key=setting_names.PROVIDERS.index)}
    return {**ordered, "any broker with a ledger": _with_ledger()}


def _declares(name: str, **mode: str) -> Capabilities:
    given = {"provider": name, **ADDRESSES.get(name, {}), **mode}
    settings = load_settings(given, environ={}, directory=Path("/"))
    return create_queue(settings).capabilities


def _with_ledger() -> Capabilities:
    """What a ledger makes of the least of brokers."""
    return TrackedQueue(BareBroker(MemoryQueue()), SqliteQueue()).capabilities


def capabilities() -> str:
    """The table of what the backends of this version can do."""
    by_name = declared()
    modes = {name: _declares(name, **given) for name, (_, given) in _MODES.items()}
    rows = [
        [f"`{each.name}`", _MEANINGS[each.name]]
        + [_cell(each.name, backend, one, modes.get(backend)) for backend, one in by_name.items()]
        for each in fields(Capabilities)
    ]
    return as_table(["", "", *by_name], rows)


def _cell(name: str, backend: str, usual: Capabilities, in_mode: Capabilities | None) -> str:
    """What is declared, and what instead where a setting makes a difference."""
    said = _said(name, getattr(usual, name))
    other = said if in_mode is None else _said(name, getattr(in_mode, name))
    return said if other == said else f"{said}; {other} with `{_MODES[backend][0]}`"


def _said(name: str, value: Any) -> str:
    match value:
        case bool():
            return "yes" if value else "no"
        case None:
            return "unlimited"
        case timedelta() if value.days > 1:
            return f"{value / timedelta(days=1):g} days"
        case timedelta():
            return f"{value.total_seconds():g} s"
    return f"{value // 1024:,} KiB" if name == "max_payload" else f"{value:,}"


def state_machine() -> str:
    """The transition table as a diagram; events that several edges share are joined."""
    edges: dict[tuple[JobState, JobState], list[EventType]] = {}
    for event, targets in TRANSITIONS.items():
        if event is EventType.MOVED:  # which leads from every state to itself, or nearly
            continue
        for to, sources in targets.items():
            for origin in sources:
                edges.setdefault((origin, to), []).append(event)
    lines = ["```mermaid", "stateDiagram-v2"]
    places = list(JobState)
    for origin, to in sorted(edges, key=lambda edge: tuple(map(places.index, edge))):
        lines.append(f"    {origin} --> {to}: {', '.join(edges[origin, to])}")
    lines += [f"    {state} --> [*]" for state in places if state in TERMINAL]
    return "\n".join([*lines, "```"])


def transitions() -> str:
    """The transition table as one."""
    rows = []
    for event, targets in TRANSITIONS.items():
        for to, sources in targets.items():
            origins = ", ".join(f"`{state}`" for state in JobState if state in sources)
            rows.append([f"`{event}`", origins, f"`{to}`"])
    return as_table(["event", "from", "to"], rows)


def state_aliases() -> str:
    """The other words for states."""
    rows = [
        [f"`{word}`", ", ".join(f"`{state}`" for state in states)]
        for word, states in ALIASES.items()
    ]
    return as_table(["word", "means"], rows)


def error_tree() -> str:
    """The tree of errors, as their module draws it."""
    text = (errors.__doc__ or "").split("::\n", 1)[1]
    drawn = [line[4:] for line in text.splitlines() if line.startswith("    ")]
    return "\n".join(["```text", *drawn, "```"])


def setting_aliases() -> str:
    """Names of settings that differ in more than spelling."""
    rows = []
    for spelling, alias in setting_names.ALIASES.items():
        value = "the same"
        if alias.divisor == 60:
            value = "seconds, given as minutes there"
        elif alias.divisor == 1000:
            value = "milliseconds, given as seconds there"
        elif alias.divisor == 60_000:
            value = "milliseconds, given as minutes there"
        elif alias.offset:
            value = f"{-alias.offset} more than there"
        rows.append([f"`{spelling}`", f"`{alias.key}`", value])
    return as_table(["spelling, without marks and case", "stands for", "its value"], rows)


def setting_spellings() -> str:
    """Every setting as it is written in each place."""
    settings = load_settings({}, environ={}, directory=Path("/"))
    rows = []
    for key, _, _ in settings.table():
        document = ": { ".join(f'"{part}"' for part in setting_names.pascal(key).split("."))
        rows.append([f"`{key}`", f"`{setting_names.environment_name(key)}`", f"`{document}`"])
    return as_table(["`jobbus.toml`", "environment", "`appsettings.json`"], rows)


def metrics() -> str:
    """Every instrument, as Prometheus sees it."""
    rows = []
    for one in telemetry.INSTRUMENTS:
        labels = ", ".join(f"`{label}`" for label in one.labels)
        shown = one.series[0] if one.kind is not telemetry.Kind.HISTOGRAM else f"{one.family}_*"
        rows.append([f"`{shown}`", str(one.kind), labels, str(one.scope), one.description])
    return as_table(["in Prometheus", "kind", "labels", "told by", "what it is"], rows)


def spans() -> str:
    """Every span."""
    return _meanings("span", telemetry.SPANS)


def span_attributes() -> str:
    """Every attribute of a span."""
    return _meanings("attribute", telemetry.ATTRIBUTES)


def log_fields() -> str:
    """Every field of a line of the log."""
    return _meanings("field", telemetry.LOG_FIELDS)


def _meanings(title: str, meanings: Mapping[str, str]) -> str:
    return as_table([title, ""], [[f"`{name}`", text] for name, text in meanings.items()])


PARTS: Final[Mapping[str, Callable[[], str]]] = {
    "capabilities": capabilities,
    "state-machine": state_machine,
    "transitions": transitions,
    "state-aliases": state_aliases,
    "error-tree": error_tree,
    "setting-aliases": setting_aliases,
    "setting-spellings": setting_spellings,
    "metrics": metrics,
    "spans": spans,
    "span-attributes": span_attributes,
    "log-fields": log_fields,
}


def parts_of(text: str) -> list[tuple[str, str]]:
    """The generated parts in a page, by name, as they stand there."""
    return [(name, part.strip()) for _, name, part, _ in _PART.findall(text)]


def rewritten(text: str) -> str:
    """The page with its generated parts as the code would have them."""
    return _PART.sub(lambda found: f"{found[1]}{PARTS[found[2]]()}\n{found[4]}", text)


def main() -> None:
    """Write all generated parts anew, and say which pages changed."""
    for page in pages():
        before = page.read_text(encoding="utf-8")
        after = rewritten(before)
        if after != before:
            page.write_text(after, encoding="utf-8")
            print("wrote", page.relative_to(ROOT))


if __name__ == "__main__":
    main()
