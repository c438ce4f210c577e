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
