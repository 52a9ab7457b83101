"""Random interleavings of everything that may happen, against the model.

``JOBBUS_EXAMPLES`` says how many are tried, instead of a number that fits into every run.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from jobbus.testing import saboteurs
from jobbus.testing.wrapping import LedgerQueue
from tests.backends.machine import JobMachine
from tests.backends.machine_base import Stage
from tests.backends.stages import PostgresStage, RedisStage, SqliteStage
from tests.services import RedisServer
from tests.services.redis import client


@pytest.fixture
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as runner:
        yield runner


def play(stage: Stage, chosen: settings) -> None:
    """Let the machine loose on a stage."""

    class Player(JobMachine):
        def __init__(self) -> None:
            super().__init__(stage)

    run_state_machine_as_test(Player, settings=chosen)


def searching(*, examples: int, steps: int) -> settings:
    """Look for what nobody has thought of, and for the shortest way to it."""
    return settings(
        max_examples=int(os.environ.get("JOBBUS_EXAMPLES", examples)),
        stateful_step_count=steps,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        # Explaining traces every line that runs, for minutes.
        phases=[phase for phase in Phase if phase is not Phase.explain],
    )


NOTICING = settings(
    max_examples=300,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.generate],
    derandomize=True,
    database=None,
)
"""The same attempts in every run, up to the first that fails."""


# Finding the shortest way to a failure takes longer than finding none.
@pytest.mark.timeout(600)
@pytest.mark.slow
def test_sqlite_does_nothing_that_the_model_forbids(tmp_path: Path, runner: asyncio.Runner) -> None:
    play(SqliteStage(tmp_path, runner), searching(examples=60, steps=40))


@pytest.mark.timeout(600)
@pytest.mark.slow
def test_postgres_does_nothing_that_the_model_forbids(
    migrated_database: str, bystander: psycopg.Connection[Any], runner: asyncio.Runner
) -> None:
    stage = PostgresStage(migrated_database, runner, bystander)
    play(stage, searching(examples=15, steps=30))


@pytest.mark.timeout(600)
@pytest.mark.slow
def test_redis_does_nothing_that_the_model_forbids(
    owned_redis: RedisServer, runner: asyncio.Runner
) -> None:
    with client(owned_redis.url) as bystander:
        stage = RedisStage(owned_redis.url, "jobbus-test-machine", runner, bystander)
        play(stage, searching(examples=4, steps=30))


@pytest.mark.parametrize(
    "saboteur",
    [
        saboteurs.NoFencing,
        saboteurs.LosesOnAbandon,
        saboteurs.BuriesAlive,
        saboteurs.DeliversTwice,
        saboteurs.IgnoresPriority,
        saboteurs.CancelResurrects,
        saboteurs.RecoveryRobsTheLiving,
        saboteurs.HistoryOmitsCrashes,
        saboteurs.DropsDependencyFailure,
    ],
)
def test_the_machine_notices_a_saboteur(
    saboteur: Callable[[LedgerQueue], LedgerQueue], tmp_path: Path, runner: asyncio.Runner
) -> None:
    stage = SqliteStage(tmp_path, runner, saboteur)
    with pytest.raises(AssertionError):
        play(stage, NOTICING)
