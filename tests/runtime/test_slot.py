"""The hand-off between two threads."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeseg.runtime.slot import Policy, Slot

WAIT_S = 10


def _in_thread(work: Callable[[], object]) -> Future[object]:
    with_thread: Future[object] = Future()
    threading.Thread(target=lambda: with_thread.set_result(work()), daemon=True).start()
    return with_thread


def test_put_overwrites_and_counts_drop() -> None:
    slot: Slot[int] = Slot(Policy.NEWEST)
    assert slot.put(1) and slot.put(2) and slot.put(3)
    assert slot.get() == 3
    assert slot.dropped == 2


def test_put_waits_until_the_item_before_is_taken() -> None:
    slot: Slot[int] = Slot(Policy.EVERY)
    slot.put(1)
    second = _in_thread(lambda: slot.put(2))
    assert not second.done()
    assert slot.get() == 1
    assert second.result(WAIT_S) is True
    assert slot.get() == 2
    assert slot.dropped == 0


def test_get_waits_for_an_item() -> None:
    slot: Slot[str] = Slot(Policy.NEWEST)
    taken = _in_thread(slot.get)
    slot.put("frame")
    assert taken.result(WAIT_S) == "frame"


def test_close_wakes_a_waiting_get() -> None:
    slot: Slot[int] = Slot(Policy.EVERY)
    taken = _in_thread(slot.get)
    slot.close()
    assert taken.result(WAIT_S) is None


def test_close_wakes_a_waiting_put_which_is_refused() -> None:
    slot: Slot[int] = Slot(Policy.EVERY)
    slot.put(1)
    second = _in_thread(lambda: slot.put(2))
    slot.close()
    assert second.result(WAIT_S) is False


@pytest.mark.parametrize("policy", Policy)
def test_what_was_accepted_can_be_taken_after_close(policy: Policy) -> None:
    slot: Slot[int] = Slot(policy)
    slot.put(1)
    slot.close()
    slot.close()
    assert slot.closed
    assert not slot.put(2)
    assert slot.get() == 1
    assert slot.get() is None


@pytest.mark.parametrize("policy", Policy)
@given(count=st.integers(0, 200))
def test_every_item_is_taken_in_order_or_counted_as_dropped(policy: Policy, count: int) -> None:
    slot: Slot[int] = Slot(policy)
    taken: list[int] = []

    def take() -> None:
        while (item := slot.get()) is not None:
            taken.append(item)

    with ThreadPoolExecutor(1) as pool:
        taker = pool.submit(take)
        for item in range(count):
            assert slot.put(item)
        slot.close()
        taker.result(WAIT_S)
    assert taken == sorted(set(taken))
    assert len(taken) + slot.dropped == count
    assert not count or taken[-1] == count - 1
    assert policy is Policy.NEWEST or slot.dropped == 0


def test_lanes_take_turns_however_often_one_is_written_to() -> None:
    slot: Slot[str] = Slot(Policy.NEWEST, Policy.NEWEST, Policy.NEWEST)
    served = []
    slot.put("0", 0)
    for _ in range(6):
        slot.put("1", 1)
        slot.put("2", 2)
        for _ in range(10):
            slot.put("0", 0)
        served.append(slot.get())
    assert served == ["0", "1", "2", "0", "1", "2"]


def test_an_overwritten_item_hands_its_turn_to_the_newer_one() -> None:
    slot: Slot[str] = Slot(Policy.NEWEST, Policy.NEWEST)
    slot.put("old", 0)
    slot.put("other", 1)
    slot.put("new", 0)
    assert [slot.get(), slot.get()] == ["new", "other"]
    assert (slot.dropped, slot.dropped_in(0), slot.dropped_in(1)) == (1, 1, 0)


def test_a_closed_lane_refuses_while_the_others_go_on() -> None:
    slot: Slot[int] = Slot(Policy.EVERY, Policy.NEWEST)
    slot.put(1, 0)
    slot.close(0)
    assert not slot.put(2, 0) and slot.put(3, 1) and not slot.closed
    assert [slot.get(), slot.get()] == [1, 3]
    with pytest.raises(TimeoutError):
        slot.get(0.0)
    slot.close(1)
    assert slot.closed and slot.get() is None


def test_two_lanes_that_wait_for_room_are_both_woken() -> None:
    slot: Slot[int] = Slot(Policy.EVERY, Policy.EVERY)
    for lane in (0, 1):
        slot.put(lane, lane)
    waiting = [_in_thread(lambda lane=lane: slot.put(lane + 2, lane)) for lane in (0, 1)]  # type: ignore[misc]
    assert sorted(slot.get(WAIT_S) or 0 for _ in range(4)) == [0, 1, 2, 3]
    assert all(put.result(WAIT_S) for put in waiting)


@given(st.lists(st.integers(0, 3), max_size=60), st.lists(st.booleans(), max_size=60))
def test_no_lane_waits_for_more_than_one_item_of_each_other(puts: list[int], gets: list[bool]) -> None:
    slot: Slot[int] = Slot(*[Policy.NEWEST] * 4)
    waiting: dict[int, int] = {}
    for lane, get in zip(puts, gets, strict=False):
        slot.put(lane, lane)
        waiting.setdefault(lane, 0)
        if get:
            served = slot.get()
            assert served is not None
            del waiting[served]
            waiting = {one: passed + 1 for one, passed in waiting.items()}
            assert all(passed <= 3 for passed in waiting.values())
