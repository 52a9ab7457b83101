"""Where the limits lie among ended jobs that were counted by intervals of time."""

from __future__ import annotations

import pytest

from jobbus.backends.sql.tally import FIRST, Crossing, Limits, Tally, crossing
from jobbus.job import TERMINAL

ENDED = {3: (2, 20), 7: (5, 50), 9: (1, 10)}
"""Two jobs of ten bytes each in interval 3, and so on."""


def limits(count: int | None = None, size: int | None = None) -> Limits:
    return Limits(TERMINAL, count, size)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (limits(), None),
        (limits(count=9), None),
        (limits(count=8), Crossing(3, (6, 60), (8, 80))),
        (limits(count=6), Crossing(7, (1, 10), (6, 60))),
        (limits(count=2), Crossing(7, (1, 10), (6, 60))),
        (limits(count=1), Crossing(9, (0, 0), (1, 10))),
        (limits(count=0), Crossing(9, (0, 0), (1, 10))),
        (limits(size=61), Crossing(3, (6, 60), (8, 80))),
        (limits(size=60), Crossing(7, (1, 10), (6, 60))),
        (limits(count=8, size=10), Crossing(9, (0, 0), (1, 10))),
    ],
)
def test_a_limit_lies_in_the_newest_interval_with_which_it_is_reached(
    given: Limits, expected: Crossing | None
) -> None:
    assert crossing(ENDED, given) == expected


@pytest.mark.parametrize(
    ("given", "jobs", "size", "beyond"),
    [
        (limits(count=10), 10, 0, False),
        (limits(count=10), 11, 0, True),
        (limits(count=1000), 1020, 0, False),
        (limits(count=1000), 1021, 0, True),
        (limits(size=1000), 1, 1020, False),
        (limits(size=1000), 1, 1021, True),
        (limits(), 10**9, 10**12, False),
    ],
)
def test_two_in_a_hundred_more_are_not_worth_a_deletion(
    given: Limits, jobs: int, size: int, beyond: bool
) -> None:
    assert given.clearly_beyond(jobs, size) is beyond


def test_there_is_room_for_as_many_jobs_as_may_come_before_a_deletion_is_worth_it() -> None:
    assert limits(count=1000).room(900, 0, 10.0) == 120
    assert limits(size=1000).room(5, 900, 10.0) == 12
    assert limits(count=1000, size=1000).room(900, 900, 10.0) == 12
    assert limits().room(900, 900, 10.0) == float("inf")


def test_newer_jobs_take_their_part_of_the_limits() -> None:
    assert limits(count=5, size=50).beside(2, 60) == limits(count=3, size=0)
    assert limits().beside(2, 60) == limits()


def test_a_tally_adds_up_page_by_page() -> None:
    tally = Tally()
    assert tally.reached == FIRST
    assert tally.add([("a", 3, 2, 20, None), ("a", None, 4, 0, None), ("", None, 6, 0, "id6")]) == 6
    assert tally.add([("a", 3, 1, 10, None), ("b", 4, 1, 5, None), ("", None, 2, 0, "id8")]) == 2
    assert tally.add([]) == 0
    assert (tally.ended, tally.reached) == ({"a": {3: (3, 30)}, "b": {4: (1, 5)}}, "id8")
    assert (tally.total("a"), tally.unfinished["a"]) == ((3, 30), 4)
    assert tally.queues == frozenset({"a", "b"})
    assert tally.average == 35 / 4
