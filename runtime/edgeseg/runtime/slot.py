"""A hand-off of one item between two threads.

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
    """Holds at most one item between one putting and one getting thread.

    Either side may close it, and any other thread too: whoever waits is woken at once. An item already in the slot can
    still be taken, so nothing that was accepted is lost.
    """

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self._changed = threading.Condition()
        self._items: list[T] = []
        self._closed = False
        self._dropped = 0

    def put(self, item: T) -> bool:
        """Hand over `item`. Returns False, without taking it, once the slot is closed."""
        with self._changed:
            if self.policy is Policy.EVERY:
                while self._items and not self._closed:
                    self._changed.wait()
            if self._closed:
                return False
            self._dropped += len(self._items)
            self._items[:] = [item]
            self._changed.notify()
            return True

    def get(self, timeout_s: float | None = None) -> T | None:
        """Take the item, waiting for one. Returns None once the slot is closed and empty.

        Raises `TimeoutError` if nothing came and nobody closed within `timeout_s`; None waits for ever.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: self._items or self._closed, timeout_s):
                raise TimeoutError
            if not self._items:
                return None
            self._changed.notify()
            return self._items.pop()

    def close(self) -> None:
        """Refuse further items and wake everyone who waits. Safe to call twice."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    @property
    def closed(self) -> bool:
        """Whether `put` refuses items."""
        return self._closed

    @property
    def dropped(self) -> int:
        """How many items were overwritten before anyone took them."""
        return self._dropped
