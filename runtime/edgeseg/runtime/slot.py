"""A hand-off of one item between two threads, or from several threads to one that serves them in turn.

One item and no queue: behind a camera a queue only adds age, and in front of a file one item is enough for the two
sides to overlap.
"""

from __future__ import annotations

import enum
import threading
from typing import Generic, TypeVar

T = TypeVar("T")


class Policy(enum.Enum):
    """What `Slot.put` does while the item before has not been taken."""

    NEWEST = enum.auto()
    """Overwrite it and count a drop: for live sources, where only the newest matters."""
    EVERY = enum.auto()
    """Wait until it is taken: for files, where every frame is done."""


class Slot(Generic[T]):
    """Holds at most one item in each of its lanes, between one putting thread for each lane and one getting thread.

    The lane that has waited longest is served first, with what is newest in it. An item that overwrites another takes
    over its turn: a lane that is written to all the time goes neither before nor behind the others, so each waits for
    one item of every other lane at most.

    Either side may close it, and any other thread too: whoever waits is woken at once. An item already in the slot can
    still be taken, so nothing that was accepted is lost.
    """

    def __init__(self, *policies: Policy) -> None:
        """Make a slot with a lane for each of `policies`."""
        lock = threading.RLock()
        self._filled, self._emptied = threading.Condition(lock), threading.Condition(lock)
        self._policies = policies
        self._items: dict[int, T] = {}
        """Lane -> its item. A dict keeps its order when a value is replaced, and that is the order of turns."""
        self._open = set(range(len(policies)))
        self._dropped = [0] * len(policies)

    def put(self, item: T, lane: int = 0) -> bool:
        """Hand over `item`. Returns False, without taking it, once the lane is closed."""
        with self._filled:
            if self._policies[lane] is Policy.EVERY:
                while lane in self._items and lane in self._open:
                    self._emptied.wait()
            if lane not in self._open:
                return False
            self._dropped[lane] += lane in self._items
            self._items[lane] = item
            self._filled.notify()
            return True

    def get(self, timeout_s: float | None = None) -> T | None:
        """Take the item whose turn it is, waiting for one. Returns None once every lane is closed and empty.

        Raises `TimeoutError` if nothing came and nobody closed within `timeout_s`; None waits for ever.
        """
        with self._filled:
            if not self._filled.wait_for(lambda: self._items or not self._open, timeout_s):
                raise TimeoutError
            if not self._items:
                return None
            item = self._items.pop(next(iter(self._items)))
            self._emptied.notify_all()
            return item

    def close(self, lane: int | None = None) -> None:
        """Refuse further items, of one lane or of all, and wake everyone who waits. Safe to call twice."""
        with self._filled:
            self._open -= self._open if lane is None else {lane}
            self._filled.notify_all()
            self._emptied.notify_all()

    @property
    def closed(self) -> bool:
        """Whether `put` refuses items in every lane."""
        return not self._open

    @property
    def dropped(self) -> int:
        """How many items were overwritten before anyone took them."""
        return sum(self._dropped)

    def dropped_in(self, lane: int) -> int:
        """How many of them there were in one lane."""
        return self._dropped[lane]
