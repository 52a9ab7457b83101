"""Virtual time: it stands still, and moves forward when told."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest

from jobbus.testing import VirtualClock


def test_time_stands_still_until_it_is_moved() -> None:
    clock = VirtualClock()
    before = clock()
    assert clock() == before
    assert clock.advance(timedelta(days=3)) == before + timedelta(days=3)
    assert clock() == before + timedelta(days=3)


def test_every_run_starts_at_the_same_time() -> None:
    assert VirtualClock()() == VirtualClock()()


def test_the_time_is_told_in_utc_wherever_it_started() -> None:
    start = datetime(2030, 1, 1, 12, tzinfo=timezone(timedelta(hours=5)))
    assert VirtualClock(start)() == start
    assert VirtualClock(start)().tzinfo is UTC


def test_time_does_not_go_back() -> None:
    with pytest.raises(ValueError, match="forward"):
        VirtualClock().advance(timedelta(seconds=-1))


def test_a_naive_start_is_refused() -> None:
    with pytest.raises(ValueError, match="aware"):
        VirtualClock(datetime(2030, 1, 1))
