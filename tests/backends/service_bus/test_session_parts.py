"""What is written into sessions' states, and which session a message goes into."""

from __future__ import annotations

from collections import Counter

import pytest

from jobbus.backends.service_bus.accounts import Account, decode, encode
from jobbus.backends.service_bus.lanes import (
    LANES,
    LONGEST,
    group_of,
    group_property,
    is_lane,
    session_of,
)
from jobbus.ids import new_id

GROUPS = ("tenant-1", "x" * 128, "x" * 129, "~", "~lane-00", "", " a", "Ærø", "\ud800", "a\nb")


def test_what_was_written_is_read() -> None:
    accounts = {7: Account(3, 2, 1, 1_900_000_000.5, True), 2**60: Account(handed=1)}
    assert decode(encode(accounts)) == accounts


def test_nothing_to_tell_is_no_state() -> None:
    assert encode({}) is None
    assert decode(None) == {}


@pytest.mark.parametrize(
    "state",
    [
        b"\xff",
        b"[]",
        b"{}",
        b'{"jobbus":2,"messages":{"1":[1,0,0,0,0]}}',
        b'{"jobbus":1}',
        b'{"jobbus":1,"messages":{"one":[1,0,0,0,0]}}',
        b'{"jobbus":1,"messages":{"1":[1]}}',
        b"[" * 100_000,
    ],
)
def test_a_state_that_is_none_of_ours_tells_nothing(state: bytes) -> None:
    assert decode(state) == {}


@pytest.mark.parametrize("group", GROUPS)
def test_a_group_is_found_again_in_its_session(group: str) -> None:
    session_id = session_of(group, new_id())
    assert 1 <= len(session_id) <= LONGEST
    assert session_id.isprintable()
    assert session_id.isascii()
    assert not is_lane(session_id)
    assert group_of(session_id, group_property(group, session_id)) == group


def test_no_two_groups_share_a_session() -> None:
    assert len({session_of(group, new_id()) for group in GROUPS}) == len(GROUPS)


def test_jobs_without_a_group_are_spread_over_the_lanes_and_stay_in_theirs() -> None:
    ids = [new_id() for _ in range(100 * LANES)]
    lanes = Counter(session_of(None, job_id) for job_id in ids)
    assert len(lanes) == LANES
    assert all(map(is_lane, lanes))
    assert max(lanes.values()) < 200
    assert session_of(None, ids[0]) == session_of(None, ids[0])
    assert group_of(session_of(None, ids[0]), group_property(None, "any")) is None
