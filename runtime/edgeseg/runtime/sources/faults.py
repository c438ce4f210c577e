"""Faults of a live source, told from its frames alone: what, at which frame, and how long until it was well again.

Times are the frames' own capture times, so a slow reader is never taken for a slow camera.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np

from edgeseg.runtime.errors import SourceError
from edgeseg.runtime.frame import Frame, Image

KINDS = ("stall", "freeze", "resize", "corrupt", "disconnect", "slow")

FROZEN_S = 1.0
"""How long frames must be the same to the last bit before the camera counts as frozen.

A camera's noise changes some pixel of every frame, however still the scene. Drivers that repeat a frame do so once or
twice; a stream's encoder may repeat an untouched scene until its next key frame.
"""
FROZEN_FRAMES = 5
"""How many such frames there must be, for cameras of few frames a second."""
SLOW_FACTOR = 2.0
"""How many nominal periods from frame to frame are slow."""
SLOW_FRAMES = 5
"""How many slow periods on end make a fault, and how many that are not end it."""
KEPT = 1000
"""How many faults are kept, the newest; all are counted."""


class CorruptFrameError(SourceError):
    """One frame that could not be decoded; the next may well be. `frame` is the number that it took."""

    def __init__(self, frame: int) -> None:
        super().__init__(f"frame {frame} cannot be decoded")
        self.frame = frame


@dataclass(frozen=True, kw_only=True, slots=True)
class Fault:
    """One fault that was seen."""

    kind: str
    """One of `KINDS`."""
    frame: int
    """The source's number of the first frame that it touched."""
    recovery_ms: float | None = None
    """From the last good frame before it to the first one after; None if none came."""

    def document(self) -> dict[str, str | int | float]:
        """Return the fields as JSON's types, without a recovery that did not come."""
        fields: dict[str, str | int | float] = {"kind": self.kind, "frame": self.frame}
        return fields if self.recovery_ms is None else {**fields, "recovery_ms": round(self.recovery_ms, 3)}


@dataclass(slots=True)
class _Streak:
    """Frames on end that may be, or are, a fault."""

    first: int
    good_ns: int
    length: int = 0
    well: int = 0
    """Good frames on end since."""
    counted: bool = False


class FaultMonitor:
    """Watches one source over all its connections. For one thread at a time."""

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}
        """Faults by kind, those under way included."""
        self.drops = {"freeze": 0, "corrupt": 0}
        """Frames that were not worth giving out, by kind of fault."""
        self._slow_ns = float("inf")
        self._past: deque[Fault] = deque(maxlen=KEPT)
        self._next_id = 0
        self._last: Frame | None = None
        self._good_ns: int | None = None
        self._outages: dict[str, int] = {}
        """Kind -> first frame of what happened since the last decoded frame."""
        self._freeze: _Streak | None = None
        self._slow: _Streak | None = None

    def expect(self, period_s: float | None) -> None:
        """Take `period_s` for the time between frames from now on; slow frames are not told without one."""
        self._slow_ns = period_s * SLOW_FACTOR * 1e9 if period_s else float("inf")

    @property
    def faults(self) -> tuple[Fault, ...]:
        """The newest faults, those under way last and without a recovery."""
        streaks = (("freeze", self._freeze), ("slow", self._slow))
        under_way = [Fault(kind=kind, frame=streak.first) for kind, streak in streaks if streak and streak.counted]
        under_way += [Fault(kind=kind, frame=first) for kind, first in self._outages.items()]
        return (*self._past, *under_way)[-KEPT:]

    def lost(self, kind: str) -> bool:
        """Note that frames stopped coming, by `kind`. Returns False if that is known already."""
        if kind in self._outages:
            return False
        self._count(kind)
        self._outages[kind] = self._next_id
        if self._good_ns is not None:
            self._end_slow(self._good_ns)
        return True

    def corrupt(self, number: int) -> None:
        """Note that frame `number` could not be decoded."""
        self.drops["corrupt"] += 1
        if "corrupt" not in self._outages:
            self._count("corrupt")
            self._outages["corrupt"] = number
        self._next_id = number + 1

    def saw(self, frame: Frame) -> bool:
        """Note a decoded frame. Returns whether it is worth giving out: a frozen camera's frames are not."""
        before, self._last = self._last, frame
        if before is not None and not self._outages:
            self._time(before, frame)
        for kind, first in self._outages.items():
            self._end(kind, first, self._good_ns, frame)
        self._outages.clear()
        if before is not None:
            self._compare(before, frame)
        self._next_id = frame.id + 1
        if self._freeze is not None and self._freeze.counted:
            self.drops["freeze"] += 1
            return False
        self._good_ns = frame.captured_ns
        return True

    def _compare(self, before: Frame, frame: Frame) -> None:
        if same_picture(before.image_bgr, frame.image_bgr):
            streak = self._freeze = self._freeze or _Streak(first=frame.id, good_ns=before.captured_ns)
            streak.length += 1
            lasted_ns = frame.captured_ns - streak.good_ns
            if not streak.counted and streak.length >= FROZEN_FRAMES and lasted_ns >= FROZEN_S * 1e9:
                streak.counted = True
                self._count("freeze")
            return
        if self._freeze is not None and self._freeze.counted:
            self._end("freeze", self._freeze.first, self._freeze.good_ns, frame)
        self._freeze = None
        if before.image_bgr.shape != frame.image_bgr.shape:
            self._count("resize")
            self._end("resize", frame.id, before.captured_ns, frame)

    def _time(self, before: Frame, frame: Frame) -> None:
        if frame.captured_ns - before.captured_ns > self._slow_ns:
            streak = self._slow = self._slow or _Streak(first=self._next_id, good_ns=before.captured_ns)
            streak.length, streak.well = streak.length + 1, 0
            if streak.length == SLOW_FRAMES:
                streak.counted = True
                self._count("slow")
        elif self._slow is not None:
            self._slow.well += 1
            if not self._slow.counted:
                self._slow = None
            elif self._slow.well == SLOW_FRAMES:
                self._end_slow(frame.captured_ns)

    def _end_slow(self, now_ns: int) -> None:
        if self._slow is not None and self._slow.counted:
            self._add("slow", self._slow.first, now_ns - self._slow.good_ns)
        self._slow = None

    def _end(self, kind: str, first: int, good_ns: int | None, frame: Frame) -> None:
        self._add(kind, first, None if good_ns is None else frame.captured_ns - good_ns)

    def _add(self, kind: str, first: int, outage_ns: int | None) -> None:
        recovery_ms = None if outage_ns is None else outage_ns / 1e6
        self._past.append(Fault(kind=kind, frame=first, recovery_ms=recovery_ms))

    def _count(self, kind: str) -> None:
        self.counts[kind] = self.counts.get(kind, 0) + 1


def same_picture(first_bgr: Image, second_bgr: Image) -> bool:
    """Return whether two images are the same to the last bit; looks at all of them only if a sample is the same."""
    if first_bgr.shape != second_bgr.shape:
        return False
    if first_bgr is second_bgr:
        return True
    sample = np.s_[::16, ::16]
    return np.array_equal(first_bgr[sample], second_bgr[sample]) and np.array_equal(first_bgr, second_bgr)
