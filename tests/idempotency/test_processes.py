"""Several processes on the same keys, with deaths and pauses past short leases."""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from pathlib import Path

import pytest

from jobbus.idempotency import KeyState
from tests.flow.support import ROOT
from tests.idempotency.contender import KEYS, opened

PROCESSES = 3
SECONDS = 1.5


@pytest.fixture(
    params=[
        "sqlite",
        pytest.param("postgres", marks=pytest.mark.services),
        pytest.param("redis", marks=pytest.mark.services),
    ]
)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, str, str]:
    """The kind of a store, its address, and a prefix."""
    if request.param == "postgres":
        request.getfixturevalue("beside_flow").execute("DELETE FROM background_job_idempotency")
        return "postgres", str(request.getfixturevalue("flow_database")), "-"
    if request.param == "redis":
        server = request.getfixturevalue("redis_default")
        return "redis", server.url, request.getfixturevalue("prefix")
    return "sqlite", str(tmp_path / "jobs.db"), "-"


@pytest.mark.crash
async def test_at_most_one_success_is_accepted_for_each_key(place: tuple[str, str, str]) -> None:
    """D-5: whoever was overtaken is fenced, however late it comes."""
    async with opened(*place):  # makes the file, where it is one
        pass
    processes = [
        await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "tests.idempotency.contender", str(seed), str(SECONDS), *place),
            cwd=ROOT,
            stdout=asyncio.subprocess.PIPE,
        )
        for seed in range(PROCESSES)
    ]
    outputs = await asyncio.wait_for(
        asyncio.gather(*(process.communicate() for process in processes)), 50
    )
    assert [process.returncode for process in processes] == [0] * PROCESSES
    accepted = [line.split("\t") for out, _ in outputs for line in out.decode().splitlines()]
    per_key = Counter(key for key, _, _ in accepted)
    assert accepted
    assert set(per_key.values()) == {1}
    async with opened(*place) as store:
        keys = [f"key {number}" for number in range(KEYS)]
        found = dict(zip(keys, await store.look(keys), strict=True))
    for key, fence, owner in accepted:
        record = found[key]
        assert record is not None
        assert (record.state, record.fence) == (KeyState.COMPLETED, int(fence))
        assert record.data == owner.encode()
