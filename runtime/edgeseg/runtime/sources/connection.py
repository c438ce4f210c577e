"""One opened camera, read in a thread that can be left behind when its driver never returns."""

from __future__ import annotations

import atexit
import ctypes
import threading
import time
import weakref
from collections.abc import Callable

from edgeseg.runtime.frame import Frame
from edgeseg.runtime.slot import Policy, Slot
from edgeseg.runtime.sources import Source
from edgeseg.runtime.sources.faults import CorruptFrameError

_EXIT_GRACE_S = 2.0
_reading: weakref.WeakSet[threading.Thread] = weakref.WeakSet()


@atexit.register
def _let_reads_return() -> None:
    """Wait for reads under way: one that comes back from OpenCV to an interpreter that has ended aborts the process."""
    deadline_s = time.monotonic() + _EXIT_GRACE_S
    for thread in list(_reading):
        thread.join(max(0.0, deadline_s - time.monotonic()))


def trim_memory() -> None:
    """Give what was freed back to the system, where the C library is glibc.

    It keeps an arena for every thread that allocated at the same time, as large as it ever was; with a thread for each
    connection that is hundreds of MiB after an hour of a camera that comes and goes.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)


class Connection:
    """One opened source, read in a thread that can be left behind when the driver never returns."""

    def __init__(self, opener: Callable[[], Source], see: Callable[[Connection, Frame | int], Frame | None]) -> None:
        self.frames: Slot[Frame] = Slot(Policy.NEWEST)
        self.error: Exception | None = None
        """Why no more frames come; None at the end of the stream."""
        self.source: Source | None = None
        self.decoded, self.settled = False, threading.Event()
        """Whether a frame came, and whether that is known."""
        self._opener, self._see = opener, see
        self._left = False
        self._state = threading.Lock()
        self.thread = threading.Thread(target=self._run, name="edgeseg-camera", daemon=True)
        _reading.add(self.thread)
        self.thread.start()

    def leave(self) -> None:
        """Give no more frames, and the source back: now, or as soon as its driver returns."""
        with self._state:
            self._left = True
            # An error's traceback holds this object and the source: a circle, which may stand for hours.
            source, self.source, self.error = self.source, None, None
        self.frames.close()
        self.settled.set()
        if source is not None:
            source.close()

    def _run(self) -> None:
        try:
            source = self._opener()
            with self._state:
                self.source = None if self._left else source
            try:
                # Left while it was opening, it is closed here; left later, by `leave`.
                while not self._left and self._read(source):
                    pass
            finally:
                source.close()
        except Exception as error:
            with self._state:
                self.error = None if self._left else error
        finally:
            self.frames.close()
            self.settled.set()

    def _read(self, source: Source) -> bool:
        try:
            frame = source.read()
        except CorruptFrameError as error:
            self._see(self, error.frame)
            return True
        if frame is None:
            return False
        if (seen := self._see(self, frame)) is not None:
            self.frames.put(seen)
        return True
