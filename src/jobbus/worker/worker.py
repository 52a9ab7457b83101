"""The worker service: fetch, attempt, settle, with a heartbeat beside them and an orderly end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

from jobbus.errors import ConfigurationError
from jobbus.handlers import Isolation
from jobbus.message import Abandonment, Completion, CountsAs, Delivery
from jobbus.middleware.idempotency import Idempotency
from jobbus.middleware.idempotency_values import KeyNotice
from jobbus.requirements import check_job_types
from jobbus.store import JobStore

from .attempt import Attempts, Deadlines, conclude, release
from .backlog import Backlog
from .beside import services
from .burst import until_empty
from .ending import end
from .fetch import LARGEST_CLAIM, Fetcher, Pace, default_queues, queue_weights
from .heartbeat import Heartbeat
from .held import Held, Holdings, Settlement
from .isolation import ChildPool
from .keys import counts_in, guard_for
from .monitor import Monitor
from .notices import Notices
from .reports import AttemptReport
from .settle import Settler

if TYPE_CHECKING:
    from jobbus.bus import JobBus

log = logging.getLogger("jobbus.worker")

CANCEL_GRACE: Final = timedelta(seconds=5)
RELEASE_GRACE: Final = 3.0
"""Seconds that cancelled handlers get at the end, before their jobs are released without them."""
_SETTLE_BACKLOG: Final = 5000
"""Outcomes waiting to be recorded at which fetching pauses."""
_SUSPECT_PAUSE: Final = timedelta(seconds=5)
_SPARE_THREADS: Final = 32
"""Threads beyond the slots, for handlers that would not stop."""


class Phase(StrEnum):
    RUNNING = "running"
    DRAINING = "draining"
    """Nothing new is started; what runs may finish."""
    RELEASING = "releasing"
    """What still runs is cancelled, and handed back."""
    STOPPED = "stopped"


class Worker:
    """Runs the handlers of a bus.

    ``queues`` names the queues to serve, with weights where given; default: the settings' queues
    and every queue that a registered job type names. ``burst`` ends the worker when nothing is
    left, or when for 15 s nothing came of what is delayed or held by others. ``monitor`` is where
    it shows how it gets on (:class:`~jobbus.worker.monitor.Monitor`); default: the settings'.
    """

    def __init__(
        self,
        bus: JobBus,
        *,
        queues: Mapping[str, float] | Sequence[str] | None = None,
        concurrency: int | None = None,
        lease: timedelta | None = None,
        drain_timeout: timedelta | None = None,
        burst: bool = False,
        app: str | None = None,
        monitor: str | None = None,
    ) -> None:
        self.bus = bus
        settings = bus.settings
        self.concurrency = settings.max_concurrent_jobs if concurrency is None else concurrency
        if self.concurrency < 1:
            raise ConfigurationError("a worker needs at least one slot: concurrency >= 1")
        self.lease = settings.lease if lease is None else lease
        self.drain_timeout = settings.drain_timeout if drain_timeout is None else drain_timeout
        self.queues = queue_weights(queues) if queues else default_queues(bus)
        self.phase = Phase.STOPPED
        self.observers: list[Callable[[AttemptReport], None]] = []
        self.stuck = 0
        """Handlers that did not stop when told to; a process that has some should be replaced."""
        self.key_observers: list[Callable[[KeyNotice], None]] = counts_in(bus.tally)
        """Told of everything that is counted of idempotency keys."""
        self.guard: Idempotency | None = None
        """The policy of idempotency keys, with its counts; None before it runs, and where off."""
        self._burst = burst
        self._app = app
        self._monitor_address = settings.monitor.address if monitor is None else monitor
        self._holdings = Holdings()
        self._backlog = Backlog()
        self._pace = Pace()
        self._stop_requested = asyncio.Event()
        self._release_requested = asyncio.Event()
        self._runners: set[asyncio.Task[None]] = set()
        self._suspect_slot: asyncio.Task[None] | None = None
        self._children: ChildPool | None = None

    @property
    def running(self) -> int:
        """Handlers at work."""
        return len(self._holdings.running())

    @property
    def degraded(self) -> str | None:
        """Why this worker, though alive, does less than it should; None when it does not."""
        return self.guard.degraded if self.guard is not None else None

    def stop(self) -> None:
        """Drain; called again, release at once. On the event loop; safe as its signal handler."""
        if self._stop_requested.is_set():
            self._release_requested.set()
        self._stop_requested.set()

    async def run(self) -> None:
        """Work until :meth:`stop`, or in a burst until nothing is left.

        Raises what opening the backend raises; afterwards it survives the backend's failures.
        """
        await self.bus.open()
        self._check_job_types()
        self.guard = await guard_for(self.bus, self.lease, self.key_observers)
        self._prepare()
        self._check_isolation()
        with self.monitor:
            await self._work()

    async def _work(self) -> None:
        await self._announce()
        await self._heartbeat.start()
        self.phase = Phase.RUNNING
        beside = (self._settler.run(), *self.monitor.services(), *self._services())
        background = [asyncio.create_task(service) for service in beside]
        fetching = asyncio.create_task(self._fetcher.run(), name="jobbus-fetch")
        for index in range(self.concurrency):
            self._start_runner(suspects=index == 0)
        try:
            await self._until_stopped([fetching, *background])
        finally:
            await self._wind_down(fetching)
            await end(background)
            self.phase = Phase.STOPPED

    # set-up

    def _prepare(self) -> None:
        queue = self.bus.queue
        store = queue if isinstance(queue, JobStore) else None
        self._store = store
        self._notices = Notices(self.bus.handlers.get, self.observers, self.bus.tally)
        self._settler = Settler(
            queue,
            store,
            self._holdings,
            on_lost=self._told_lost,
            on_settled=self._notices.recorded,
            on_progress=self._notices.progressed,
            guard=self.guard,
        )
        self._heartbeat = Heartbeat(
            queue,
            self._holdings,
            self.lease,
            on_lost=self._lost,
            on_cancel=self._cancel,
            guard=self.guard,
        )
        self._deadlines = Deadlines(CANCEL_GRACE, self._give_slot_up)
        self._threads = ThreadPoolExecutor(
            self.concurrency + _SPARE_THREADS, thread_name_prefix="jobbus-handler"
        )
        self.monitor = Monitor(self, self._holdings, self._backlog, address=self._monitor_address)
        self._attempts = Attempts(
            self.bus.handlers.get,
            bus=self.bus,
            threads=self._threads,
            children=self._child_pool,
            default_timeout=self.bus.settings.job_timeout,
            deadlines=self._deadlines,
            guard=self.guard,
        )
        self._fetcher = self.monitor.fetcher = Fetcher(
            queue,
            self.queues,
            self.lease,
            room=self._room,
            free=lambda: self.concurrency - self._busy(),
            freed=self._holdings.freed,
            deliver=self._deliver,
        )

    def _check_job_types(self) -> None:
        check_job_types(
            self.bus.handlers,
            self.bus.queue.capabilities,
            # A bare broker may bound it, and knows it best once it is open.
            longest=getattr(self.bus.queue, "max_job_timeout", None),
            default_timeout=self.bus.settings.job_timeout,
        )

    def _child_pool(self) -> ChildPool:
        if self._children is None:
            self._children = ChildPool(
                self.concurrency, app=self._app, term_grace=timedelta(seconds=RELEASE_GRACE)
            )
        return self._children

    def _check_isolation(self) -> None:
        isolated = [t for t in self.bus.handlers if t.isolation is Isolation.PROCESS]
        if isolated:
            self._child_pool().check(isolated)

    def _services(self) -> list[Coroutine[Any, Any, None]]:
        freed = self._holdings.freed.set
        return services(self.bus.settings, self._store, self._settler, self.guard, freed)

    async def _announce(self) -> None:
        if self._store is not None:
            await self._store.announce([job_type.record() for job_type in self.bus.handlers])

    # fetching

    def _busy(self) -> int:
        """Deliveries that run here or wait for a slot; not those whose outcome is on its way."""
        return len(self._holdings) - self._settler.pending

    def _room(self) -> int:
        """How many more deliveries this worker can use soon."""
        idle = self.guard is not None and self.guard.nothing_runs(self.bus.handlers)
        if idle or self._settler.pending > _SETTLE_BACKLOG:
            return 0
        prefetch = self._pace.prefetch()
        capacity = self.concurrency + prefetch
        room = capacity - self._busy()
        # With work at hand, one large claim later is better than many small ones now.
        worthwhile = min(capacity // 2, LARGEST_CLAIM)
        return room if prefetch < self.concurrency or room >= worthwhile else 0

    def _deliver(self, deliveries: Sequence[Delivery], valid_until: float) -> None:
        taken = [Held(delivery, valid_until) for delivery in deliveries]
        if self._store is None:
            taken = self._with_one_suspect(taken)
        self._holdings.add(taken)
        if self.phase is Phase.RUNNING:
            if self.guard is not None:
                self.guard.begin_ahead(taken)
            self._backlog.put(taken)
            return
        for held in taken:
            self._settle(held, release(held.delivery), 0.0)

    def _with_one_suspect(self, taken: list[Held]) -> list[Held]:
        """Of several suspects hand back all but one.

        Without a ledger nothing says which of them a process died of, and all would be charged.
        """
        suspect = any(h.delivery.crashes and not h.finished for h in self._holdings.snapshot())
        kept = []
        for held in taken:
            if held.delivery.crashes and suspect:
                self._holdings.add([held])
                self._settle(held, release(held.delivery, after=_SUSPECT_PAUSE), 0.0)
            else:
                suspect = suspect or held.delivery.crashes > 0
                kept.append(held)
        return kept

    # running

    def _start_runner(self, *, suspects: bool) -> None:
        task = asyncio.create_task(self._run_slot(suspects), name="jobbus-slot")
        if suspects:
            self._suspect_slot = task
        self._runners.add(task)
        task.add_done_callback(self._runners.discard)

    async def _run_slot(self, suspects: bool) -> None:
        """One slot: the next job, to its end, and again. A slot lives as long as the worker."""
        task = asyncio.current_task()
        while (held := await self._backlog.get(suspects=suspects)) is not None:
            held.runner = task
            held.started_at = time.monotonic()
            settlement = await self._attempt(held)
            while task is not None and task.cancelling():
                task.uncancel()
            if held.finished:
                return  # it was given up on; another slot has taken this one's place
            held.runner = None
            now = time.monotonic()
            if settlement is None:
                self._settler.drop(held)
                self._notices.attempted(held, None, now - held.started_at)
            else:
                self._settle(held, settlement, now - held.started_at)
            if suspects and held.delivery.crashes:
                # The next suspect may kill this process, and this one must not be blamed for it.
                await self._holdings.removal(held)
            await self._backlog.give_way(now)

    async def _attempt(self, held: Held) -> Settlement | None:
        try:
            # A job that may have killed a process: if it does again, it was this one.
            store = self._store if held.delivery.crashes else None
            if store is not None and not await store.suspect(held.delivery):
                return None
            return await self._attempts.run(held)
        except asyncio.CancelledError:
            if held.lost:
                return None
            if held.cancel_requested:
                return Completion(delivery=held.delivery, cancelled=True, reason="asked to stop")
            return release(held.delivery)
        except Exception:
            log.exception("job %s could not be attempted; it goes back", held.delivery.job_id)
            return Abandonment(
                delivery=held.delivery, delay=timedelta(seconds=30), counts_as=CountsAs.SNOOZE
            )

    def _settle(self, held: Held, settlement: Settlement, duration: float) -> None:
        self._pace.finished()
        self._settler.submit(held, settlement)
        self._holdings.freed.set()
        self._notices.attempted(held, settlement, duration)

    # what befalls jobs from outside

    def _lost(self, held: Held) -> None:
        if held.finished:
            return
        log.warning("job %s was taken over by another worker; stopping it", held.delivery.job_id)
        self._stop_handler(held)

    def _cancel(self, held: Held) -> None:
        if not held.finished:
            self._stop_handler(held)

    def _stop_handler(self, held: Held) -> None:
        if self._children is not None:
            self._children.request_cancel(held.delivery.job_id)
            job_type = self.bus.handlers.get(held.delivery.message.job_type)
            if job_type is not None and job_type.isolation is Isolation.PROCESS and not held.lost:
                return  # its process is asked, and killed if it does not listen
        held.interrupt()

    def _told_lost(self, delivery: Delivery) -> None:
        self._notices.refused(delivery)
        log.warning(
            "job %s had been taken over: its outcome here was refused (attempt %d)",
            delivery.job_id,
            delivery.attempt,
        )

    def _give_slot_up(self, held: Held) -> None:
        """A handler ignored its time limit: report it, and let another slot do the work."""
        if held.finished:
            return
        self.stuck += 1
        delivery = held.delivery
        log.error(
            "the handler of job %s (%s) goes on %s after its time was up; its slot is replaced",
            delivery.job_id,
            delivery.message.job_type,
            CANCEL_GRACE,
        )
        job_type = self.bus.handlers.get(delivery.message.job_type)
        if job_type is None or held.lost:
            self._settler.drop(held)
        else:
            late = TimeoutError("the handler ran out of time and did not stop when told to")
            self._settle(held, conclude(late, delivery, job_type), 0.0)
        if self.phase is Phase.RUNNING:
            self._start_runner(suspects=held.runner is self._suspect_slot)

    # the end

    async def _until_stopped(self, tasks: Sequence[asyncio.Task[None]]) -> None:
        stopping = asyncio.create_task(self._stop_requested.wait())
        waits: set[asyncio.Task[Any]] = {stopping, *tasks}
        if self._burst:
            burst = until_empty(self.bus.queue, self.queues, self._fetcher, self._holdings)
            waits.add(asyncio.create_task(burst))
        done, _ = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for task in waits - set(tasks):
            task.cancel()
        for task in done:
            if task in tasks:
                task.result()  # a background task ended by itself: that is a fault of ours

    async def _wind_down(self, fetching: asyncio.Task[None]) -> None:
        self.phase = Phase.DRAINING
        await end([fetching])
        for held in self._backlog.drain():
            self._settle(held, release(held.delivery), 0.0)
        self._backlog.close()
        await self._drain()
        await self._release_rest()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(RELEASE_GRACE):
                await self._settler.flushed()
                await self._notices.told()
        self._deadlines.stop()
        await self._heartbeat.stop()
        if self._children is not None:
            await self._children.close()
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _drain(self) -> None:
        """Let what runs finish, until the drain time is over or a second signal comes."""
        if not self._runners:
            return
        impatient = asyncio.create_task(self._release_requested.wait())
        everybody = asyncio.gather(*self._runners, return_exceptions=True)
        try:
            waits: set[asyncio.Future[Any]] = {impatient, everybody}
            await asyncio.wait(
                waits,
                timeout=self.drain_timeout.total_seconds(),
                return_when=asyncio.FIRST_COMPLETED,
            )
        finally:
            impatient.cancel()

    async def _release_rest(self) -> None:
        """Cancel what still runs and hand its jobs back; nobody is charged for it."""
        self.phase = Phase.RELEASING
        left = [h for h in self._holdings.snapshot() if not h.finished]
        for held in left:
            held.releasing = True
            held.interrupt()
        if self._runners:
            await asyncio.wait(self._runners, timeout=RELEASE_GRACE)
        for held in left:
            if not held.finished and not held.lost:
                log.warning("job %s did not stop in time; it is released", held.delivery.job_id)
                self._settle(held, release(held.delivery), 0.0)
                self.stuck += 1
        for task in self._runners:
            task.cancel()
