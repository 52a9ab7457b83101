"""The bus: what applications hold to declare job types and to enqueue jobs."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from datetime import UTC, datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from jobbus import codec
from jobbus.errors import ConfigurationError, InvalidJob, UnknownJobType, Unsupported
from jobbus.handlers import EnqueueOptions, Handlers, JobDecorator, JobType, JobTypeOptions
from jobbus.ids import new_id
from jobbus.keys import Keys, failed_keys
from jobbus.ledger import Ledger
from jobbus.message import Message
from jobbus.middleware import Middleware
from jobbus.middleware.idempotency_keys import refuse_mismatches, stored_key
from jobbus.options import apply_options, check_name, normalise_priority
from jobbus.queue import BackgroundJobQueue
from jobbus.requirements import check_job_types, check_messages, check_transaction
from jobbus.store import JobStore, JobTypeRecord
from jobbus.telemetry.sdk import make_tally
from jobbus.telemetry.tally import Tally
from jobbus.telemetry.tracing import layers, sending

if TYPE_CHECKING:
    from jobbus.idempotency.store import IdempotencyStore
    from jobbus.processor import JobProcessor, PayloadT, ResultT
    from jobbus.settings import Settings
    from jobbus.sync import SyncJobBus


class JobBus(Ledger):
    """Declares job types, enqueues jobs, looks at them and steers them.

    ``settings`` may be a backend's URL or name (``"sqlite:///jobs.db"``); left out, everything
    comes from the environment and the configuration files. A ``queue``, and a store of
    ``idempotency`` keys, given as objects are used as they are. Nothing is read or opened before it
    is needed. Used from one event loop; :attr:`sync` is the same bus for code that has none.
    """

    def __init__(
        self,
        settings: Settings | str | None = None,
        *,
        queue: BackgroundJobQueue | None = None,
        middleware: Sequence[Middleware] = (),
        idempotency: IdempotencyStore | None = None,
    ) -> None:
        self._given = settings
        self._settings: Settings | None = None
        self._queue = queue
        self._handlers: Handlers | None = None
        self._sync: SyncJobBus | None = None
        self._keys = Keys(idempotency)
        self._tally: Tally | None = None
        self._opening = asyncio.Lock()
        self._opened_in: tuple[int, asyncio.AbstractEventLoop] | None = None
        self._middleware = tuple(middleware)

    @property
    def settings(self) -> Settings:
        """The settings in force. Raises ConfigurationError where they cannot work."""
        if self._settings is None:
            from jobbus.settings import Settings, load_settings

            if isinstance(self._given, Settings):
                self._settings = self._given
            else:
                self._settings = load_settings({"backend": self._given} if self._given else None)
        return self._settings

    def use(self, settings: Settings) -> None:
        """Work with other settings than those given; only before anything was opened.

        Job types that are already declared keep the retry policy that they were declared with.
        """
        if self._opened_in is not None:
            raise ConfigurationError("this bus is open: choose its settings before it is used")
        self._settings = settings
        self._queue = None

    @property
    def queue(self) -> BackgroundJobQueue:
        """The backend's queue."""
        if self._queue is None:
            from jobbus.settings import create_queue

            self._queue = create_queue(self.settings)
        return self._queue

    @property
    def store(self) -> JobStore:
        """The ledger. Raises Unsupported where the backend has none."""
        queue = self.queue
        if not queue.capabilities.ledger or not isinstance(queue, JobStore):
            raise Unsupported(
                "this backend moves jobs but does not remember them: set BACKGROUND_JOBS__LEDGER "
                "(--ledger) to sqlite:///jobs.db or postgresql://user@host/database, or choose a "
                "provider that is a ledger itself (Sqlite or Postgres)"
            )
        return queue

    @property
    def handlers(self) -> Handlers:
        """The job types of this bus, by name."""
        if self._handlers is None:
            self._handlers = Handlers(bus=self, defaults=self._defaults())
        return self._handlers

    @property
    def job(self) -> JobDecorator:
        """Decorator that makes a function a job type: ``@bus.job`` or ``@bus.job(name=...)``."""
        return self.handlers.job

    def register(
        self, processor: JobProcessor[PayloadT, ResultT], *, name: str | None = None
    ) -> JobType[[PayloadT], ResultT]:
        """Add a handler in its class form; return its job type."""
        from jobbus.processor import processor_job_type

        job_type = processor_job_type(processor, name=name)
        self.handlers.register(job_type)
        return job_type

    def register_processor(
        self, job_type: str, processor: JobProcessor[PayloadT, ResultT]
    ) -> JobType[[PayloadT], ResultT]:
        """:meth:`register` under a name, with the arguments in the order of system S4."""
        return self.register(processor, name=job_type)

    @property
    def sync(self) -> SyncJobBus:
        """The same bus for synchronous code; safe after a fork."""
        if self._sync is None:
            from jobbus.sync import SyncJobBus

            self._sync = SyncJobBus(self)
        return self._sync

    def share_handlers(self, other: JobBus) -> None:
        """Know the job types of another bus, which go on enqueueing through that one."""
        self._handlers = other.handlers
        self._tally = other.tally

    @property
    def tally(self) -> Tally | None:
        """What is counted of this bus's jobs in this process; None where nothing is to be."""
        if self._tally is None and self.settings.monitor.enabled:
            self._tally = make_tally(self.handlers.__contains__)
        return self._tally

    @property
    def middleware(self) -> Sequence[Middleware]:
        """What goes around every handler, outermost first: tracing where it is on, then yours."""
        return (*(layers() if self.tally is not None else ()), *self._middleware)

    # life

    async def open(self) -> None:
        """Connect. Harmless when repeated; every verb does it by itself when it is needed.

        Raises Unsupported when a job type needs what the backend cannot do.
        """
        here = (os.getpid(), asyncio.get_running_loop())
        if self._opened_in == here:
            return
        async with self._opening:
            if self._opened_in is not None and self._opened_in != here:
                # Connections belong to the process and the loop that made them.
                self._queue = self.queue.separate()
                self._opened_in = None
            if self._opened_in is None:
                check_job_types(self._handlers or (), self.queue.capabilities)
                await self.queue.open()
                self._opened_in = here

    async def close(self) -> None:
        """Let go of every connection. Harmless when repeated."""
        here = (os.getpid(), asyncio.get_running_loop())
        if self._opened_in == here and self._queue is not None:
            self._opened_in = None
            await self._keys.close()
            await self._queue.close()

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    # idempotency keys

    async def idempotency_store(self) -> IdempotencyStore:
        """Where idempotency keys are kept, ready for use in this event loop.

        Raises ConfigurationError where the settings name one that is not to be had.
        """
        await self.open()
        return await self._keys.opened(self.settings, self.queue)

    def separate_keys(self) -> IdempotencyStore | None:
        """The store given as an object, for another event loop; None where settings choose it."""
        return self._keys.separate()

    async def reopen_keys(self, job_type: str, *keys: str) -> None:
        """Let work be tried again under keys of callers that ended in failure.

        Redriving a job does it by itself; this is for brokers whose dead letters are redriven
        without jobbus.
        """
        store = await self.idempotency_store()
        await store.reopen([stored_key(job_type, key) for key in keys])

    async def redrive(self, *job_ids: str) -> list[str]:
        """Start a new generation of ended jobs that did not complete; return those it could.

        The idempotency keys under which they failed are free again.
        """
        await self.open()
        if self.settings.enable_idempotency and (keys := await failed_keys(self.store, job_ids)):
            await (await self.idempotency_store()).reopen(keys)
        return await super().redrive(*job_ids)

    async def check_keys(self, messages: Sequence[Message]) -> None:
        """Raise IdempotencyMismatch for a key that is known to stand for another payload."""
        keyed = [each for each in messages if each.idempotency_key is not None]
        if keyed and self.settings.enable_idempotency:
            await refuse_mismatches(await self.idempotency_store(), keyed)

    # enqueueing

    async def enqueue(
        self,
        job: Message | str | object,
        payload: object = None,
        options: EnqueueOptions | None = None,
        *,
        connection: Any | None = None,
        unregistered: bool = False,
        **asked: Any,
    ) -> str:
        """Accept one job durably and return its id.

        ``job`` is a message (``render.message(42)``), a job type's name with its payload, or a
        payload object whose class a registered handler takes. ``asked`` are fields of
        :class:`~jobbus.handlers.EnqueueOptions`. With ``connection``, the job exists if and only if
        that connection's transaction commits. For a name that neither this process nor any worker
        has registered, UnknownJobType is raised, unless ``unregistered`` says that it will come.
        """
        if isinstance(payload, EnqueueOptions) and options is None:
            payload, options = None, payload
        wanted = (options or EnqueueOptions()).merged(EnqueueOptions(**self._ordered(asked)))
        message = await self._message(job, payload, wanted, unregistered)
        ids = await self.enqueue_many([message], connection=connection or wanted.connection)
        return ids[0]

    async def enqueue_many(
        self, messages: Sequence[Message], *, connection: Any | None = None
    ) -> list[str]:
        """Accept all messages or none; return the job ids, in order."""
        capabilities = self.queue.capabilities
        check_messages(messages, capabilities)
        if connection is not None:
            check_transaction(capabilities)
        await self.open()
        await self.check_keys(messages)
        limit = capabilities.max_batch or len(messages) or 1
        ids: list[str] = []
        tally = self.tally
        with sending(messages, enabled=tally is not None) as outgoing:
            for start in range(0, len(outgoing), limit):
                batch = outgoing[start : start + limit]
                ids += await self.queue.enqueue(batch, connection=connection)
                if tally is not None:
                    tally.enqueued(batch)
        return ids

    async def enqueue_messages(
        self, messages: Sequence[Message], *, connection: Any | None = None
    ) -> Sequence[str]:
        """What job types enqueue through."""
        return await self.enqueue_many(messages, connection=connection)

    def enqueue_messages_sync(
        self, messages: Sequence[Message], *, connection: Any | None = None
    ) -> Sequence[str]:
        """What job types enqueue through where nothing can be awaited."""
        return self.sync.enqueue_many(messages, connection=connection)

    async def message_for(
        self, job_type: str, payload: object, *, unregistered: bool = False, **asked: Any
    ) -> Message:
        """A message for a job type by name, checked as :meth:`enqueue` would, not enqueued."""
        wanted = EnqueueOptions(**self._ordered(asked))
        return await self._message(job_type, payload, wanted, unregistered)

    def _ordered(self, asked: dict[str, Any]) -> dict[str, Any]:
        """The options, with a priority turned round where the settings say that 1 is the highest.

        This is the edge; within jobbus, values of :class:`EnqueueOptions` included, higher is
        sooner.
        """
        priority = asked.get("priority")
        if priority is None or self.settings.priority_order == "higher_first":
            return asked
        return {**asked, "priority": normalise_priority(priority, self.settings.priority_order)}

    async def _message(
        self, job: object, payload: object, options: EnqueueOptions, unregistered: bool
    ) -> Message:
        if isinstance(job, Message):
            return apply_options(job, options, datetime.now(UTC))
        if isinstance(job, JobType):
            raise InvalidJob(
                f"enqueue {job.name} with its arguments: await {job.name}.enqueue(...), or "
                f"bus.enqueue({job.name}.message(...))"
            )
        if isinstance(job, str):
            return await self._message_by_name(job, payload, options, unregistered)
        job_type = self.handlers.for_payload(type(job))
        if job_type is None:
            raise UnknownJobType(
                f"no handler here takes a {type(job).__name__}: register one whose only payload "
                "parameter is annotated with it, or enqueue by the job type's name"
            )
        return job_type.with_options(options).message(job)

    async def _message_by_name(
        self, name: str, payload: object, options: EnqueueOptions, unregistered: bool
    ) -> Message:
        check_name("job type", name)
        encoded = codec.encode(
            {} if payload is None else payload,
            limit=self.settings.max_payload_bytes,
            what=f"the payload of {name}",
        )
        known = self.handlers.get(name)
        if known is not None:
            return known.with_options(options).message_from(encoded)
        record = await self._announced(name, unregistered)
        message = Message(
            job_id=new_id(),
            job_type=name,
            payload=encoded,
            queue=record.queue,
            priority=record.priority,
            max_attempts=record.max_attempts,
            max_crashes=record.max_crashes,
        )
        return apply_options(message, options, datetime.now(UTC))

    async def _announced(self, name: str, unregistered: bool) -> JobTypeRecord:
        """What a worker has said of this job type, or the defaults if that is allowed."""
        fallback = JobTypeRecord(
            name=name, queue="default", max_attempts=self.settings.max_attempts
        )
        if not self.queue.capabilities.ledger:
            return fallback
        await self.open()
        records = {record.name: record for record in await self.store.job_types()}
        if name in records:
            return records[name]
        if unregistered:
            return fallback
        raise UnknownJobType(_unknown(name, [*records, *(t.name for t in self.handlers)]))

    def _defaults(self) -> JobTypeOptions:
        settings = self.settings
        return {
            "retry": settings.retry_policy,
            "payload_limit": settings.max_payload_bytes,
        }


def _unknown(name: str, known: Sequence[str]) -> str:
    from difflib import get_close_matches

    near = get_close_matches(name, known, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return (
        f"no job type {name!r} is registered here or announced by any worker.{hint} Start its "
        "worker first, or say that it will come (unregistered=True, on the command line "
        "--unregistered)"
    )
