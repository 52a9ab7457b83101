"""One run: workers under load, everything that the plan does to them, and the evidence."""

from __future__ import annotations

import asyncio
import random
import signal
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Final, TypeVar

from jobbus.bus import JobBus
from jobbus.errors import BackendError
from jobbus.job import UNFINISHED, JobState
from jobbus.message import Message
from jobbus.store import CancelOutcome
from tests.chaos.battlefield import Battlefield, battlefield
from tests.chaos.draws import POINTS, job_types
from tests.chaos.plan import Plan
from tests.chaos.planted import BUGS
from tests.crash.checker import Evidence, Violation, violations
from tests.crash.place import Process, point

T = TypeVar("T")
QUEUE: Final = "default"
BATCH: Final = 100
BACKLOG: Final = 600
"""Jobs that wait or run at the most, so that the load lasts as long as the attacks."""
LIFE: Final = 3600
"""Seconds after which a worker ends by itself, whatever becomes of the run."""
GLANCE: Final = 0.05
OUTAGE: Final = 2.0
"""Seconds that a black hole or a slow network lasts."""
RESCUE: Final = 5.0
"""Seconds beyond a lease in which its jobs have to be taken up (F1 of the test plan)."""
SLACK: Final = 60.0
"""Seconds that the rest may take after that, on a busy machine."""
PLANTED_SLACK: Final = 10.0
NEVER: Final = 1000


@dataclass(frozen=True, kw_only=True)
class Result:
    """What came of it."""

    plan: Plan
    where: str
    evidence: Evidence
    violations: list[Violation]
    done: Counter[str]
    """What was done to the workers, how often."""
    seconds: float
    """Until the last attack."""
    quiet_after: float
    """Seconds from the last attack until everything had ended."""
    processes: int
    served: int
    """Workers that still took jobs when it was over."""


def run(plan: Plan) -> Result:
    """Work a plan off, on a database of its own."""
    with ExitStack() as stack:
        field = stack.enter_context(battlefield(plan.backend))
        if plan.planted:
            stack.enter_context(BUGS[plan.planted].planted())
        return asyncio.run(_run(plan, field))


async def _run(plan: Plan, field: Battlefield) -> Result:
    async with field.place.bus() as bus:
        return await Campaign(plan, field, bus).run()


@dataclass
class Campaign:
    """Works a plan off."""

    plan: Plan
    ground: Battlefield
    bus: JobBus
    done: Counter[str] = field(default_factory=Counter)
    found: list[Violation] = field(default_factory=list)
    workers: dict[str, Process] = field(default_factory=dict)
    """By the name of the queue that each serves alone."""
    frozen: dict[str, Process] = field(default_factory=dict)
    ids: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.chance = random.Random(self.plan.seed)
        self.place = self.ground.place
        self._mix = job_types(self.plan.backend)
        self._started = 0
        self._appointing = True
        self._thawing: set[asyncio.Task[None]] = set()

    async def run(self) -> Result:
        began = time.monotonic()
        for _ in range(self.plan.workers):
            self._start()
        enqueuing = asyncio.create_task(self._enqueue_all())
        replacing = asyncio.create_task(self._replace_the_dead())
        try:
            await self._attack()
            await enqueuing
        finally:
            enqueuing.cancel()
            replacing.cancel()
        healed = await self._heal()
        await self._until_quiet(healed)
        quiet = time.monotonic()
        served = await self._all_serve()
        await self._send_home()
        evidence = await self.place.evidence(self.bus, effects=await self.place.effects())
        return Result(
            plan=self.plan,
            where=self.ground.where,
            evidence=evidence,
            violations=[*violations(evidence), *self.found],
            done=self.done,
            seconds=healed - began,
            quiet_after=quiet - healed,
            processes=self._started,
            served=served,
        )

    # workers

    def _start(self) -> None:
        """A new worker. Two in five have an appointment at which they kill themselves."""
        self._started += 1
        appointment = None
        if self._appointing and self.done["kill"] < self.plan.kills and self.chance.random() < 0.4:
            label = self.chance.choice(POINTS[self.plan.backend])
            appointment = point(label, time=self.chance.randint(1, 8))
        name = f"worker-{self._started}"
        self.workers[name] = self.place.start(
            name,
            point=appointment,
            address=self.ground.address,
            queues=[QUEUE, name],
            lease=self.plan.lease,
            concurrency=8,
            drain=1.0,
            life=LIFE,
            planted=self.plan.planted,
        )

    async def _replace_the_dead(self) -> None:
        while True:
            await asyncio.sleep(GLANCE)
            for name, worker in list(self.workers.items()):
                if not worker.alive:
                    del self.workers[name]
                    await self._account(worker)
                    self._start()

    async def _account(self, worker: Process) -> None:
        code = await worker.ended()
        if code == -signal.SIGKILL:
            self.done["kill"] += 1
        elif code == 1 and _could_not_start(worker.log):
            self.done["start without a database"] += 1
        elif code != 0:
            text = f"{worker.name} ended with {code}: {worker.log[-2000:]}"
            self.found.append(Violation("C11", "", text))

    # load

    async def _enqueue_all(self) -> None:
        while len(self.ids) < self.plan.jobs:
            if await self._unfinished() >= BACKLOG:
                await asyncio.sleep(GLANCE)
                continue
            messages = [await self._message() for _ in range(BATCH)]

            async def enqueue(batch: list[Message] = messages) -> list[str]:
                return await self.bus.enqueue_many(batch)

            # Enqueueing a known job again changes nothing: so one may insist.
            self.ids.extend(await self._insist(enqueue))

    async def _message(self) -> Message:
        (name,) = self.chance.choices(list(self._mix), list(self._mix.values()))
        seconds = self.chance.choice([0.0, 0.0, 0.005, 0.05, 0.5])
        payload = {"seconds": seconds} if name in ("plain", "fails_once") else {}
        message = await self.bus.message_for(name, payload, queue=QUEUE)
        return replace(
            message,
            max_attempts=NEVER,
            max_crashes=NEVER,
            group=f"group-{self.chance.randrange(10)}" if self.chance.random() < 0.03 else None,
            delay=timedelta(seconds=self.chance.choice([0, 0, 0, 0, 1])),
        )

    async def _unfinished(self) -> int:
        counts = await self._insist(self.bus.counts)
        return sum(n for (_, state), n in counts.items() if state in UNFINISHED)

    async def _insist(self, call: Callable[[], Awaitable[T]]) -> T:
        """Survive a database that is away."""
        async with asyncio.timeout(2 * SLACK):
            while True:
                try:
                    return await call()
                except BackendError:
                    await asyncio.sleep(GLANCE)

    # attacks

    async def _attack(self) -> None:
        deeds = {
            "kill": self._kill, "stop": self._stop, "restart": self._restart, "cut": self._cut,
            "drain": self._drain, "cancel": self._cancel, "pause": self._pause,
        }  # fmt: skip
        faults = self.plan.faults()
        for number, name in enumerate(faults):
            due = self.plan.jobs * number / len(faults)
            while len(self.ids) < due:  # noqa: ASYNC110 - it grows a batch at a time
                await asyncio.sleep(GLANCE / 5)
            await asyncio.sleep(self.chance.uniform(0, 0.1))
            await deeds[name]()
        while self.done["kill"] < self.plan.kills:
            await self._kill()
            await asyncio.sleep(2 * GLANCE)

    def _victim(self, *, ready: bool = False) -> str | None:
        """Some worker; with ``ready`` one that knows what to do with a signal."""
        able = [n for n, w in self.workers.items() if w.alive and n not in self.frozen]
        if ready:
            there = {record.process for record in self.place.records("ready")}
            able = [name for name in able if self.workers[name].name in there]
        return self.chance.choice(able) if able else None

    async def _kill(self) -> None:
        name = self._victim()
        if name is not None and self.done["kill"] < self.plan.kills:
            self.workers[name].kill()

    async def _stop(self) -> None:
        """Freeze a worker until its leases are over; others go on meanwhile."""
        name = self._victim()
        if name is None:
            return
        self.frozen[name] = self.workers[name]
        self.frozen[name].stop()
        self.done["stop"] += 1
        seconds = self.plan.lease * self.chance.uniform(1.1, 2.0)
        task = asyncio.create_task(self._thaw_after(name, seconds))
        self._thawing.add(task)
        task.add_done_callback(self._thawing.discard)

    async def _thaw_after(self, name: str, seconds: float) -> None:
        await asyncio.sleep(seconds)
        self._thaw(name)

    def _thaw(self, name: str) -> None:
        process = self.frozen.pop(name, None)
        if process is not None and process.alive:
            process.resume()

    async def _restart(self) -> None:
        due = self.done["crash restart"] <= 2 * self.done["graceful restart"]
        crash = due or not self.ground.shuts_down
        await self.ground.restart(crash=crash)
        self.done["crash restart" if crash else "graceful restart"] += 1

    async def _cut(self) -> None:
        proxy = self.ground.proxy
        assert proxy is not None
        way = self.chance.choice(["reset", "lost reply", "lost commit", "black hole", "slow"])
        self.done[f"cut: {way}"] += 1
        match way:
            case "reset":
                proxy.cut_all()
            case "lost reply":
                proxy.cut_at(self.ground.commit, forward=True, times=3)
            case "lost commit":
                proxy.cut_at(self.ground.commit, forward=False, times=3)
            case "black hole":
                self.ground.note_cut()
                proxy.swallow()
                await asyncio.sleep(OUTAGE)
                proxy.flow()
            case "slow":
                proxy.slow_down(0.1)
                await asyncio.sleep(OUTAGE)
                proxy.flow()

    async def _drain(self) -> None:
        name = self._victim(ready=True)
        if name is not None:
            self.done["drain"] += 1
            self.workers[name].terminate()

    async def _cancel(self) -> None:
        """Something that waits, or anything: then it may be too late."""
        if self.chance.random() < 0.5 and self.ids:
            job_id = self.chance.choice(self.ids)
        else:
            later = replace(await self._message(), delay=timedelta(minutes=1))
            (job_id,) = await self._insist(lambda: self.bus.enqueue_many([later]))
        try:
            outcomes = await self.bus.cancel(job_id)
        except BackendError:
            return
        self.done["cancel"] += 1
        if outcomes[job_id] is CancelOutcome.CANCELLED:
            self.place.note_about("cancelled", job_id)

    async def _pause(self) -> None:
        if self.done["pause"] == 0:
            await self._insist(lambda: self.place.look(self.bus))
        await self._insist(lambda: self.bus.store.pause(QUEUE))
        self.place.note("paused", queue=QUEUE)
        self.done["pause"] += 1
        await asyncio.sleep(self.chance.uniform(0.2, 1.0))
        self.place.note("resuming", queue=QUEUE)
        await self._insist(lambda: self.bus.store.resume(QUEUE))

    # the end

    async def _heal(self) -> float:
        for name in list(self.frozen):
            self._thaw(name)
        if self.ground.proxy is not None:
            self.ground.proxy.flow()
        await self._refill()
        self.place.note("healed")
        return time.monotonic()

    async def _refill(self) -> None:
        """Put workers without appointments in the places of the dead."""
        self._appointing = False
        for name, worker in list(self.workers.items()):
            if not worker.alive:
                del self.workers[name]
                await self._account(worker)
                self._start()

    async def _until_quiet(self, healed: float) -> None:
        slack = PLANTED_SLACK if self.plan.planted else SLACK
        allowed = self.plan.lease + RESCUE + slack
        while left := await self._unfinished():
            if time.monotonic() - healed > allowed:
                text = f"{left} jobs have not ended {allowed:.0f} s after the last attack"
                self.found.append(Violation("C10", "", text))
                return
            await asyncio.sleep(2 * GLANCE)

    async def _all_serve(self) -> int:
        """Whoever survived takes jobs again: none has become one that is there and does nothing."""
        await self._refill()
        asked = {
            await self.bus.enqueue("plain", queue=name): name
            for name, worker in self.workers.items()
            if worker.alive
        }
        deadline = time.monotonic() + (PLANTED_SLACK if self.plan.planted else SLACK)
        waiting = dict(asked)
        while waiting and time.monotonic() < deadline:
            await asyncio.sleep(2 * GLANCE)
            for job_id in list(waiting):
                if await self.bus.get_status(job_id) is JobState.COMPLETED:
                    del waiting[job_id]
        for name in waiting.values():
            self.found.append(Violation("C11", "", f"{name} lives, and takes no jobs any more"))
        return len(asked) - len(waiting)

    async def _send_home(self) -> None:
        for worker in self.workers.values():
            if worker.alive:
                worker.terminate()
        for worker in self.workers.values():
            try:
                await self._account(worker)
            except AssertionError as error:
                self.found.append(Violation("D-19", "", str(error)[:500]))


def _could_not_start(log: str) -> bool:
    """Opening may raise, and starting again is its supervisor's affair; later a worker goes on."""
    lines = log.strip().splitlines() or [""]
    opening = any(f"in {name}" in line for line in lines for name in ("open", "_announce"))
    return opening and lines[-1].startswith("jobbus.errors.Backend")
