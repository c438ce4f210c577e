"""Keeps a live source going for months: whatever happens to the camera, frames come again once it gives some."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import cv2
import numpy as np

from edgeseg.runtime.errors import SourceError
from edgeseg.runtime.frame import Frame
from edgeseg.runtime.sources import Source
from edgeseg.runtime.sources.connection import Connection, trim_memory
from edgeseg.runtime.sources.faults import Fault, FaultMonitor

_log = logging.getLogger(__name__)

_LOOK_S = 0.25
"""Between two looks at a camera that gives nothing new: only a look tells that it froze meanwhile."""


@dataclass(frozen=True, kw_only=True)
class Patience:
    """How long to wait, in seconds, and how often to try."""

    stall_s: float = 2.0
    """Without a frame before the connection is given up; never less than four nominal periods."""
    open_s: float = 15.0
    """For the first frame of a new connection: longer than FFmpeg's own time-outs."""
    backoff_s: float = 0.25
    """Before the first reconnection; doubled for every further one."""
    backoff_cap_s: float = 8.0
    """At most, however often it failed."""
    frozen_s: float = 10.0
    """Of the same picture before the connection is given up; doubled each time that it did not help."""
    frozen_cap_s: float = 300.0
    """At most: a scene may be still indeed, such as a test picture."""
    stuck_reads: int = 8
    """Reads that never returned, each of which keeps a thread, before the run is ended instead."""

    def backoff(self, attempt: int, chance: float) -> float:
        """Return the seconds before reconnection `attempt` (from 0): half of it by `chance` (0 to 1).

        Jitter keeps the cameras of one switch from coming back in step (Brooker, "Exponential Backoff And Jitter").
        """
        longest_s = min(self.backoff_s * 2.0 ** min(attempt, 30), self.backoff_cap_s)
        return longest_s * (0.5 + 0.5 * chance)


def supervise(
    source: Source,
    reopen: Callable[[], Source],
    *,
    name: str = "source",
    patience: Patience | None = None,
    chance: Callable[[], float] = random.random,
) -> Source:
    """Return `source` with its faults survived where it is live; any other comes back as it is."""
    return SupervisedSource(source, reopen, name, patience or Patience(), chance) if source.live else source


class SupervisedSource:
    """A live source that outlives its camera's faults. Only a decoded frame counts as an open camera.

    `read` never raises for a fault; it waits, and frame numbers go on over reconnections. It raises `SourceError` when
    too many reads never returned, as the process must then be restarted to get their threads back.
    """

    live = True

    def __init__(
        self,
        source: Source,
        reopen: Callable[[], Source],
        name: str,
        patience: Patience,
        chance: Callable[[], float],
    ) -> None:
        self._first: Source | None = source
        """Until it is connected: a camera that is gone must not be held."""
        self._reopen, self._name = reopen, name
        self._patience, self._chance = patience, chance
        self.size_hw, self.fps, self._clock = source.size_hw, source.fps, source.clock
        self._stall_s = patience.stall_s
        self._monitor = FaultMonitor()
        self._adopt(source)
        self._state = threading.Lock()
        self._connection: Connection | None = None
        self._offset = self._next_id = 0
        self._arrived_s = 0.0
        """When the newest frame was decoded, `_changed_s` when the newest that was not frozen."""
        self._changed_s, self._frozen_s = 0.0, patience.frozen_s
        self._stuck: list[threading.Thread] = []
        self._closed = threading.Event()

    @property
    def clock(self) -> str:
        """The camera's own."""
        source = self._connection.source if self._connection else None
        self._clock = source.clock if source is not None else self._clock
        return self._clock

    @property
    def faults(self) -> tuple[Fault, ...]:
        """What was seen so far, the newest 1000."""
        with self._state:
            return self._monitor.faults

    @property
    def fault_counts(self) -> dict[str, int]:
        """How many faults of each kind there were."""
        with self._state:
            return dict(self._monitor.counts)

    @property
    def drops(self) -> dict[str, int]:
        """How many frames were not given out, by the kind of fault that spoilt them."""
        with self._state:
            return dict(self._monitor.drops)

    @property
    def reopening(self) -> bool:
        """Whether the camera is away and is being connected again."""
        return self._connection is not None and (self._connection.frames.closed or not self._connection.decoded)

    def read(self) -> Frame | None:
        """Wait for the next good frame, through any fault; None at the end of the stream and after `close`."""
        first, self._first = self._first, None
        if first is not None:
            self._connect(lambda: first)
        while not self._closed.is_set() and self._connection is not None:
            try:
                frame = self._connection.frames.get(min(self._remaining_s(), _LOOK_S))
            except TimeoutError:
                if (kind := self._overdue()) is not None:
                    self._reconnect(kind)
                continue
            if frame is not None:
                return frame
            error = self._connection.error
            if error is None:
                return None
            if not _may_recover(error):
                raise error
            self._reconnect("disconnect")
        return None

    def close(self) -> None:
        """End a `read` at once and give the camera back. Safe to call twice and from any thread."""
        self._closed.set()
        if (first := self._first) is not None:
            first.close()
        if self._connection is not None:
            self._connection.leave()

    def _remaining_s(self) -> float:
        with self._state:
            return min(self._arrived_s + self._stall_s, self._frozen_until_s()) - time.monotonic()

    def _frozen_until_s(self) -> float:
        """Return when a camera that gives frames, but the same one, is given up; for ever away if it does not."""
        return self._changed_s + self._frozen_s if self._arrived_s > self._changed_s else float("inf")

    def _overdue(self) -> str | None:
        """Return why the connection is to be given up now; None if it is not."""
        with self._state:
            now_s = time.monotonic()
            if now_s >= self._arrived_s + self._stall_s:
                return "stall"
            if now_s < self._frozen_until_s():
                return None
            self._frozen_s = min(2 * self._frozen_s, self._patience.frozen_cap_s)
            return "freeze"

    def _adopt(self, source: Source) -> None:
        """Go by the rate that a new connection announces."""
        period_s = 1 / source.fps if source.fps else None
        self._stall_s = max(self._patience.stall_s, 4 * (period_s or 0.0))
        self._monitor.expect(period_s)

    def _connect(self, opener: Callable[[], Source]) -> Connection:
        with self._state:
            self._offset = self._next_id
            self._arrived_s = self._changed_s = time.monotonic()
            connection = self._connection = Connection(opener, self._see)
        if self._closed.is_set():
            connection.leave()
        return connection

    def _see(self, connection: Connection, read: Frame | int) -> Frame | None:
        """Note what `connection` read: a frame, or a corrupt one's number. Returns the frame to give out, if any."""
        with self._state:
            if connection is not self._connection:
                return None
            number = (read if isinstance(read, int) else read.id) + self._offset
            self._next_id = number + 1
            if isinstance(read, int) or not _is_picture(read):
                self._monitor.corrupt(number)
                return None
            # Corrupt frames do not count: a camera that gives no others is connected again, too.
            self._arrived_s = time.monotonic()
            if not connection.decoded and connection.source is not None:
                connection.decoded = True
                connection.settled.set()
                self._adopt(connection.source)
            frame = replace(read, id=number, name=f"frame-{number:06d}") if self._offset else read
            if not self._monitor.saw(frame):
                return None
            self._changed_s, self._frozen_s = self._arrived_s, self._patience.frozen_s
            return frame

    def _reconnect(self, kind: str) -> None:
        """Leave the connection, and open others until one of them gives a frame."""
        with self._state:
            assert self._connection is not None
            connection, frame_id = self._connection, self._next_id
            # A freeze was counted when it was seen, and ends with the next new picture.
            new = kind == "freeze" or self._monitor.lost(kind)
        if new:
            _log.warning("%s: %s at frame %d, connecting again", self._name, kind, frame_id)
        began_s, attempt, told = time.monotonic(), 0, ""
        self._leave(connection)
        while not self._closed.wait(self._patience.backoff(attempt, self._chance())):
            connection = self._connect(self._reopen)
            connection.settled.wait(self._patience.open_s)
            if connection.decoded:
                _log.warning("%s: frames again after %.1f s", self._name, time.monotonic() - began_s)
                trim_memory()
                return
            error = connection.error
            self._leave(connection)
            if error is not None and not _may_recover(error):
                raise error
            reason = str(error or "it gave no frame")
            if reason != told:
                _log.warning("%s: still away: %s", self._name, reason)
            attempt, told = attempt + 1, reason

    def _leave(self, connection: Connection) -> None:
        connection.leave()
        self._stuck = [thread for thread in (*self._stuck, connection.thread) if thread.is_alive()]
        if len(self._stuck) > self._patience.stuck_reads:
            raise SourceError(
                f"{self._name}: {len(self._stuck)} reads of its driver never returned",
                fix="restart the program, and the camera's driver or daemon",
            )


def _may_recover(error: Exception) -> bool:
    """Return whether `error` is the camera's; any other is a mistake in a program, which no reconnection mends."""
    return isinstance(error, (SourceError, cv2.error, OSError))


def _is_picture(frame: Frame) -> bool:
    image = frame.image_bgr
    return image.ndim == 3 and image.shape[2] == 3 and image.size > 0 and image.dtype == np.uint8
