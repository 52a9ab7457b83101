"""Job ids: UUIDs that sort by the time they were made, whatever the clock does."""

from __future__ import annotations

import threading
import time
from uuid import RFC_4122, UUID, uuid4

import pytest

from jobbus import ids
from jobbus.context import child_id
from jobbus.ids import new_id, parse_id


def test_an_id_is_a_uuid_of_version_7_with_the_time_in_front() -> None:
    before = time.time_ns() // 1_000_000
    made = UUID(new_id())
    after = time.time_ns() // 1_000_000
    assert made.variant == RFC_4122
    assert made.version == 7
    # An id may be ahead of the clock by as many ids as were made at once.
    assert before <= made.int >> 80 <= after + 1000


def test_ids_of_one_process_sort_in_the_order_in_which_they_were_made() -> None:
    made = [new_id() for _ in range(20_000)]
    assert made == sorted(made)
    assert len(set(made)) == len(made)


def test_ids_made_by_many_threads_at_once_are_all_different() -> None:
    made: list[list[str]] = [[] for _ in range(8)]

    def make(into: list[str]) -> None:
        into.extend(new_id() for _ in range(2000))

    threads = [threading.Thread(target=make, args=(into,)) for into in made]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({one for into in made for one in into}) == 16_000
    for into in made:
        assert into == sorted(into)


def test_a_clock_that_stands_still_or_goes_back_does_not_disturb_the_order(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = time.time_ns() + 10**9
    moments = iter([now, now, now - 5 * 10**9, now - 10**6, now + 10**6])
    monkeypatch.setattr(time, "time_ns", lambda: next(moments))
    made = [new_id() for _ in range(5)]
    assert made == sorted(made)
    assert len(set(made)) == 5


def test_more_ids_than_a_millisecond_holds_borrow_from_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = ids._Clock()
    monkeypatch.setattr(time, "time_ns", lambda: 5_000_000)
    clock.tick()
    clock._counter = (1 << 26) - 2
    ticks = [clock.tick() for _ in range(3)]
    assert ticks == [(5, (1 << 26) - 1), (6, 0), (6, 1)]


@pytest.mark.parametrize(
    "text",
    [
        "01980000-0000-7000-8000-00000000abcd",
        "01980000-0000-7000-8000-00000000ABCD",
        "0198000000007000800000000000abcd",
        "{01980000-0000-7000-8000-00000000abcd}",
        "urn:uuid:01980000-0000-7000-8000-00000000abcd",
    ],
)
def test_every_spelling_of_a_uuid_is_understood_and_brought_into_one_form(text: str) -> None:
    assert parse_id(text) == "01980000-0000-7000-8000-00000000abcd"


@pytest.mark.parametrize(
    "text", ["", "42", "not-a-uuid", "01980000-0000-7000-8000-00000000abc", None]
)
def test_what_is_no_uuid_is_no_id(text: str | None) -> None:
    assert parse_id(text) is None  # type: ignore[arg-type]


def test_a_childs_id_follows_from_its_parents_and_its_key_alone() -> None:
    parent, other = new_id(), new_id()
    assert child_id(parent, "a") == child_id(parent, "a")
    different = {child_id(parent, "a"), child_id(parent, "b"), child_id(other, "a")}
    assert len(different) == 3


def test_a_childs_id_sorts_beside_its_parents_and_is_no_uuid_of_another_kind() -> None:
    parent = new_id()
    child = UUID(child_id(parent, "#0"))
    assert child.bytes[:6] == UUID(parent).bytes[:6]
    assert (child.version, child.variant) == (8, RFC_4122)


def test_a_childs_id_can_be_made_of_any_uuid() -> None:
    assert parse_id(child_id(str(uuid4()), "#0"))
