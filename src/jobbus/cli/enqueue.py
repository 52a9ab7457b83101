"""``jobbus enqueue``: one job, or one for each line of standard input."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from jobbus.cli import values
from jobbus.cli.failures import BadUsage
from jobbus.cli.options import Cli, store_command
from jobbus.cli.payloads import STANDARD_INPUT, Lines, read_lines, read_payload
from jobbus.cli.progress import counting
from jobbus.cli.text import counted

if TYPE_CHECKING:
    from jobbus.bus import JobBus
    from jobbus.message import Message

_BATCH: Final = 500

JobType = Annotated[str, typer.Argument(metavar="TYPE", help="Job type, such as email.send")]
Payload = Annotated[
    str | None,
    typer.Argument(
        metavar="[PAYLOAD|@FILE|-]",
        help="JSON object with the arguments; - reads one such object a line from standard input",
        show_default=False,
    ),
]
Queue = Annotated[str | None, typer.Option("--queue", "-q", help="Queue; else the type's own")]
Priority = Annotated[
    str | None, typer.Option("--priority", "-p", help="1 to 10, higher runs sooner; low, high")
]
In = Annotated[str | None, typer.Option("--in", metavar="SPAN", help="Not before: 90s, 10m, 2h")]
At = Annotated[
    str | None, typer.Option("--at", metavar="WHEN", help="Not before: 2030-01-31T09:30:00Z")
]
Key = Annotated[str | None, typer.Option("--key", help="At most one unfinished job has this key")]
IdempotencyKey = Annotated[
    str | None,
    typer.Option("--idempotency-key", metavar="KEY", help="Jobs with it do their work once"),
]
MaxAttempts = Annotated[
    int | None, typer.Option("--max-attempts", min=1, help="Tries in all, the first included")
]
Timeout = Annotated[str | None, typer.Option("--timeout", metavar="SPAN", help="Time to run")]
Tags = Annotated[list[str] | None, typer.Option("--tag", help="Tag; repeatable")]
ExpiresIn = Annotated[
    str | None, typer.Option("--expires-in", metavar="SPAN", help="Has to start within this time")
]
GroupName = Annotated[
    str | None, typer.Option("--group", help="Jobs of a group run in order, one at a time")
]
Wait = Annotated[
    bool, typer.Option("--wait", "-w", help="Wait for the end: exit 0 when completed, else 1")
]
Unregistered = Annotated[
    bool, typer.Option("--unregistered", help="Also for a job type that no worker has announced")
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What was asked for, the payload aside."""

    job_type: str
    options: dict[str, Any]
    unregistered: bool

    async def message(self, bus: JobBus, payload: Any) -> Message:
        """A message, checked as far as this process can. Nothing is enqueued yet."""
        from jobbus.cli.connecting import usual_application
        from jobbus.errors import UnknownJobType

        try:
            return await bus.message_for(
                self.job_type, payload, unregistered=self.unregistered, **self.options
            )
        except UnknownJobType as error:
            app = usual_application()
            if app is not None and not len(bus.handlers):
                error.add_note(f"--app {app} asks the application here; or --unregistered")
            raise


@store_command
def enqueue(
    cli: Cli,
    job_type: JobType,
    payload: Payload = None,
    queue: Queue = None,
    priority: Priority = None,
    in_: In = None,
    at: At = None,
    key: Key = None,
    idempotency_key: IdempotencyKey = None,
    max_attempts: MaxAttempts = None,
    timeout: Timeout = None,
    tag: Tags = None,
    expires_in: ExpiresIn = None,
    group: GroupName = None,
    wait: Wait = False,
    unregistered: Unregistered = False,
) -> None:
    """Enqueue one job, or one for each line of standard input, and print the ids.

    Either all of the input is right, or nothing is enqueued.
    """
    asked = {
        "queue": queue,
        "priority": _priority(priority),
        "delay": values.maybe_duration("--in", in_),
        "run_at": None if at is None else values.parse_moment("--at", at),
        "unique_key": key,
        "idempotency_key": idempotency_key,
        "max_attempts": max_attempts,
        "timeout": values.maybe_duration("--timeout", timeout),
        "tags": tuple(tag or ()),
        "expires_in": values.maybe_duration("--expires-in", expires_in),
        "group": group,
    }
    options = {name: value for name, value in asked.items() if value not in (None, ())}
    request = Request(job_type=job_type, options=options, unregistered=unregistered)
    _enqueue(cli, request, payload, wait=wait)


def _enqueue(cli: Cli, request: Request, payload: str | None, *, wait: bool) -> None:
    if payload != STANDARD_INPUT:
        cli.run(_enqueue_one(cli, request, read_payload(payload), wait=wait))
        return
    if "unique_key" in request.options:
        raise BadUsage("--key cannot be given for many jobs", why="one job at a time has it")
    with read_lines() as lines:
        cli.run(_enqueue_lines(cli, request, lines, wait=wait))


def _priority(text: str | None) -> int | str | None:
    return int(text) if text is not None and text.lstrip("-").isdecimal() else text


async def _enqueue_one(cli: Cli, request: Request, payload: Any, *, wait: bool) -> None:
    from jobbus.cli.waiting import wait_for

    async with cli.bus(create=True, app=True) as bus:
        message = await request.message(bus, payload)
        (job_id,) = await bus.enqueue_many([message])
        _tell(cli, [job_id], at_once=True, wait=wait)
        if job_id != message.job_id:
            cli.console.note(f"an unfinished job has this key already: {job_id}")
        if wait:
            await wait_for(cli, bus, [job_id])


async def _enqueue_lines(cli: Cli, request: Request, lines: Lines, *, wait: bool) -> None:
    from jobbus.cli.waiting import wait_for

    ids: list[str] = []
    async with cli.bus(create=True, app=True) as bus:
        maker = await _Maker.for_request(bus, request)
        for place, line in lines:
            await maker.make(place, line)
        with counting(cli.console, "enqueueing", lines.count) as bar:
            for batch in _batches(lines):
                messages = [await maker.make(place, line) for place, line in batch]
                try:
                    done = await bus.enqueue_many(messages)
                except BaseException:
                    _tell(cli, ids, at_once=False, wait=False)
                    cli.console.note(
                        f"stopped: {counted(len(ids), 'job')} of {lines.count} were enqueued, "
                        f"those before {batch[0][0]}"
                    )
                    raise
                ids += done
                bar.update(len(ids))
        _tell(cli, ids, at_once=True, wait=wait)
        cli.console.note(f"enqueued {counted(len(ids), 'job')}")
        if wait:
            await wait_for(cli, bus, ids)


class _Maker:
    """Makes messages that differ in their payload only."""

    def __init__(self, bus: JobBus, request: Request, template: Message | None) -> None:
        self._bus = bus
        self._request = request
        self._template = template

    @classmethod
    async def for_request(cls, bus: JobBus, request: Request) -> _Maker:
        # What a handler here says about its arguments is checked for each payload; what workers
        # announced is the same for all, and asked for once.
        known = request.job_type in bus.handlers
        return cls(bus, request, None if known else await request.message(bus, None))

    async def make(self, place: str, line: bytes) -> Message:
        from jobbus import codec
        from jobbus.errors import PayloadError
        from jobbus.ids import new_id

        try:
            payload = codec.decode(line, what="the payload")
            if self._template is None:
                return await self._request.message(self._bus, payload)
            data = codec.encode(payload, limit=self._bus.settings.max_payload_bytes)
        except PayloadError as error:
            raise type(error)(f"{place}: {error}") from error
        return replace(self._template, job_id=new_id(), payload=data)


def _batches(lines: Lines) -> Iterator[list[tuple[str, bytes]]]:
    batch: list[tuple[str, bytes]] = []
    for one in lines:
        batch.append(one)
        if len(batch) == _BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


def _tell(cli: Cli, ids: list[str], *, at_once: bool, wait: bool) -> None:
    """Print the ids: one a line wherever it goes, unless another form was asked for."""
    match cli.console.chosen:
        case "json":
            # With --wait, the one document is printed at the end.
            if not wait and at_once:
                cli.console.write_json({"ids": ids, "count": len(ids)})
        case "ndjson":
            cli.console.write_lines({"id": job_id} for job_id in ids)
        case _:
            cli.console.write_ids(ids)
