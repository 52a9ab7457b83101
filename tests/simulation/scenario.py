"""What happens in one simulation: workers at work, and everything that a seed does to them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Final
from uuid import UUID

from jobbus.bus import JobBus
from jobbus.errors import BackendError
from jobbus.job import UNFINISHED, Job
from jobbus.message import Dependency, Message, OnFailure
from jobbus.store import CancelOutcome, JobFilter
from jobbus.worker import Worker
from jobbus.worker.reports import AttemptReport
from tests.crash.checker import EVERYBODY, Evidence, Violation, violations
from tests.crash.history import Record
from tests.simulation.machine import Machine, VirtualProcess, simulated

LEASE: Final = timedelta(seconds=6)
QUEUE: Final = "default"
PATIENCE: Final = 150.0
"""Virtual seconds in which everything has to end once nothing is disturbed any more (C10)."""
NEVER_POISON: Final = 1000
JOB_TYPES: Final = {
    "plain": 8, "fails_once": 4, "fails_for_good": 1, "late_parent": 1, "spawner": 1,
}  # fmt: skip
"""With their weights."""
TAKE_TIME: Final = ("plain", "fails_once")


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """A simulation that is over."""

    seed: int
    records: Sequence[Record]
    jobs: dict[str, Job]
    violations: Sequence[Violation]
    steps: int
    seconds: float
    """Virtual ones."""
    faults: dict[str, int] = field(default_factory=dict)

    def told(self) -> list[str]:
        """All that happened, as text: equal for equal runs."""
        return [
            f"{r.monotonic:.9f} {r.process} {r.event} {r.job} {r.attempt} {dict(r.detail)}"
            for r in self.records
        ]


def simulate(seed: int) -> Outcome:
    """Run the scenario of this seed, and judge it."""
    with simulated(seed) as machine:
        scenario = Scenario(machine)
        evidence: Evidence = machine.loop.run_until_complete(scenario.play())
        found = violations(evidence)
        found += [Violation("escaped", "", str(one)) for one in machine.loop.failures]
        return Outcome(
            seed=seed,
            records=machine.records,
            jobs=dict(evidence.jobs),
            violations=found,
            steps=machine.loop.steps,
            seconds=machine.loop.time() - 1000.0,
            faults=scenario.faults,
        )


class Scenario:
    """Jobs come in, faults befall the workers, and in the end everything is left in peace."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.chance = machine.chance
        self.bus = machine.bus(machine.test)
        self.workers: list[VirtualProcess] = []
        self.looks: list[Job] = []
        self.faults: dict[str, int] = {}
        self._started = 0

    async def play(self) -> Evidence:
        await self.bus.open()
        for _ in range(self.chance.randint(2, 3)):
            self._start_worker()
        producing = asyncio.create_task(self._produce())
        await self._torment()
        await producing
        self._heal()
        await self._until_done()
        await self._stop_all()
        return await self._evidence()

    # workers

    def _start_worker(self) -> None:
        self._started += 1
        self.workers.append(self.machine.start(f"worker-{self._started}", self._work))

    async def _work(self, process: VirtualProcess, bus: JobBus) -> None:
        worker = Worker(
            bus,
            queues=[QUEUE],
            concurrency=self.chance.randint(1, 4),
            lease=LEASE,
            drain_timeout=timedelta(seconds=self.chance.choice([0.0, 1.0, 5.0])),
        )
        worker.observers.append(lambda report: _reported(process, report))
        process.stop = worker.stop
        try:
            await worker.run()
        except BackendError:  # it could not even start: its supervisor starts another
            self._start_worker()
        await bus.close()  # what it took and did not start goes back before it is gone
        process.agent.note("left")
        process.ended = True

    # work

    async def _produce(self) -> None:
        for _ in range(self.chance.randint(2, 4)):
            messages = [self._message() for _ in range(self.chance.randint(1, 6))]
            earlier: list[str] = []
            for index, message in enumerate(messages):
                if earlier and self.chance.random() < 0.2:
                    policy = self.chance.choice(list(OnFailure))
                    edge = Dependency(self.chance.choice(earlier), policy)
                    messages[index] = replace(message, depends_on=(edge,))
                earlier.append(message.job_id)
            await self.bus.enqueue_many(messages)
            await asyncio.sleep(self.chance.uniform(0, 4))

    def _message(self) -> Message:
        names = list(JOB_TYPES)
        name = self.chance.choices(names, [JOB_TYPES[n] for n in names])[0]
        # Some outlast their leases, so that it matters whether these are renewed.
        seconds = self.chance.choice([0.0, 0.01, 0.3, 2.0, 9.0, 14.0])
        payload = b'{"seconds": %f}' % seconds if name in TAKE_TIME else b"{}"
        return Message(
            job_id=str(UUID(int=self.chance.getrandbits(128), version=4)),
            job_type=name,
            payload=payload,
            queue=QUEUE,
            max_crashes=NEVER_POISON,
            group=self.chance.choice([None, None, None, "one", "two"]),
            delay=timedelta(seconds=self.chance.choice([0, 0, 0, 1, 3])),
        )

    # faults

    async def _torment(self) -> None:
        deeds: Sequence[tuple[Callable[[], Awaitable[None]], int]] = (
            (self._kill, 6), (self._freeze, 3), (self._cut, 2), (self._flake, 2),
            (self._slow, 3),
            (self._terminate, 2), (self._cancel, 2), (self._pause_queue, 1), (self._jump, 1),
        )  # fmt: skip
        for _ in range(self.chance.randint(3, 7)):
            await asyncio.sleep(self.chance.uniform(0, 3))
            (deed,) = self.chance.choices([d for d, _ in deeds], [w for _, w in deeds])
            name = deed.__name__.strip("_")
            self.faults[name] = self.faults.get(name, 0) + 1
            await deed()

    def _victim(self) -> VirtualProcess | None:
        alive = [w for w in self.workers if not w.group.dead and not w.group.frozen]
        return self.chance.choice(alive) if alive else None

    async def _kill(self) -> None:
        """At a step that the seed chooses: between any two that the event loop tells apart."""
        victim = self._victim()
        if victim is not None:
            victim.group.fuse = self.chance.randint(0, 400)
        await asyncio.sleep(self.chance.uniform(0, 1))
        self._start_worker()

    async def _freeze(self) -> None:
        victim = self._victim()
        if victim is not None:
            self.machine.test.agent.note("stopped", process=victim.name)
            victim.group.frozen = True
            seconds = self.chance.uniform(0.2, 3) * LEASE.total_seconds()
            self.machine.loop.call_later(seconds, self._thaw, victim)

    def _thaw(self, victim: VirtualProcess) -> None:
        if victim.group.frozen:
            self.machine.test.agent.note("resumed", process=victim.name)
            victim.group.frozen = False

    async def _cut(self) -> None:
        """Nothing gets through, for longer than a lease perhaps."""
        victim = self._victim()
        if victim is not None:
            self.machine.test.agent.note("cut", process=victim.name)
            seconds = self.chance.uniform(0.2, 2.5) * LEASE.total_seconds()
            victim.cut_until = self.machine.loop.time() + seconds

    async def _flake(self) -> None:
        victim = self._victim()
        if victim is not None:
            victim.flaky_until = self.machine.loop.time() + self.chance.uniform(1, 10)

    async def _slow(self) -> None:
        """Calls take as long as a lease does, and are answered."""
        victim = self._victim()
        if victim is not None:
            victim.slow_until = self.machine.loop.time() + self.chance.uniform(5, 25)

    async def _terminate(self) -> None:
        victim = self._victim()
        if victim is not None:
            self.machine.loop.within(victim.group, lambda: _told_to_stop(victim))
            self.workers.remove(victim)
        self._start_worker()

    async def _cancel(self) -> None:
        self.looks.extend([job async for job in self.bus.find_all(JobFilter())])
        if not self.looks:
            return
        job_id = self.chance.choice(self.looks).id
        outcomes = await self.bus.cancel(job_id)
        if outcomes[job_id] is CancelOutcome.CANCELLED:
            self.machine.test.agent.note("cancelled", job_id)

    async def _pause_queue(self) -> None:
        await self.bus.store.pause(QUEUE)
        self.machine.test.agent.note("paused", queue=QUEUE)
        await asyncio.sleep(self.chance.uniform(0, 5))
        self.machine.test.agent.note("resuming", queue=QUEUE)
        await self.bus.store.resume(QUEUE)

    async def _jump(self) -> None:
        """Somebody sets the clock by which the database goes."""
        by = self.chance.choice([-10.0, -1.0, 1.0, 10.0, 3600.0])
        self.machine.jump(timedelta(seconds=by))
        self.machine.test.agent.note("jumped", process=EVERYBODY, by=by)

    # the end

    def _heal(self) -> None:
        for worker in self.workers:
            self._thaw(worker)
            worker.cut_until = worker.flaky_until = worker.slow_until = 0.0
            worker.group.fuse = None
        self.machine.test.agent.note("healed")
        if all(w.group.dead for w in self.workers):
            self._start_worker()

    async def _until_done(self) -> None:
        deadline = self.machine.loop.time() + PATIENCE
        while self.machine.loop.time() < deadline:
            if not any(state in UNFINISHED for _, state in await self.bus.counts()):
                return
            await asyncio.sleep(2.0)

    async def _stop_all(self) -> None:
        for worker in self.workers:
            if not worker.group.dead:
                self.machine.loop.within(worker.group, lambda w=worker: _told_to_stop(w))  # type: ignore[misc]  # bound at once
        deadline = self.machine.loop.time() + 60
        while any(not w.ended and not w.group.dead for w in self.workers):
            await asyncio.sleep(0.25)
            if self.machine.loop.time() > deadline:
                raise AssertionError("a worker that was told to stop goes on")

    async def _evidence(self) -> Evidence:
        jobs = {job.id: job async for job in self.bus.find_all(JobFilter())}
        histories = {id: await self.bus.history(id) for id in jobs}
        return Evidence(
            records=self.machine.records, jobs=jobs, histories=histories, earlier=self.looks
        )


def _told_to_stop(process: VirtualProcess) -> None:
    process.agent.note("draining")
    process.stop()


def _reported(process: VirtualProcess, report: AttemptReport) -> None:
    held = report.delivery
    process.agent.note("reported", held.job_id, held.attempt, outcome=report.outcome)
