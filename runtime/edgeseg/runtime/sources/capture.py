"""What files, cameras and streams share: `cv2.VideoCapture` in one thread, closed from any other."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import cv2

from edgeseg.runtime.frame import Frame, Image
from edgeseg.runtime.sources.faults import CorruptFrameError

_OPENING = threading.Lock()


class Capture(Protocol):
    """The part of `cv2.VideoCapture` that is used here."""

    def isOpened(self) -> bool: ...  # noqa: N802
    def grab(self) -> bool: ...
    def retrieve(self) -> tuple[bool, Any]: ...
    def get(self, prop: int, /) -> float: ...
    def set(self, prop: int, value: float, /) -> bool: ...
    def release(self) -> None: ...


class CaptureSource:
    """Frames of a capture whose first frame was decoded already.

    `first_bgr` is given out as the first frame, where no frame may be lost; None where only fresh ones matter.
    """

    live: bool
    clock = "arrival"

    def __init__(self, capture: Capture, size_hw: tuple[int, int], first_bgr: Image | None) -> None:
        self.size_hw = size_hw
        rate = capture.get(cv2.CAP_PROP_FPS)
        # A container or driver that does not know its rate says 0, NaN or its time base, such as 90000.
        self.fps: float | None = rate if 0 < rate <= 1000 else None
        self._capture, self._first_bgr = capture, first_bgr
        self._next_id = 0
        self._reading, self._closing = threading.Lock(), False

    def read(self) -> Frame | None:
        """Wait for the next frame; None at the end and after `close`.

        Raises `CorruptFrameError` for one that cannot be decoded; the next may be.
        """
        try:
            with self._reading:
                return None if self._closing else self._read()
        finally:
            if self._closing:
                self.close()

    def close(self) -> None:
        """Release the capture now, or, where a read is in progress, when it returns: releasing under it crashes."""
        self._closing = True
        if self._reading.acquire(blocking=False):
            try:
                self._capture.release()
            finally:
                self._reading.release()

    def _read(self) -> Frame | None:
        image, self._first_bgr = self._first_bgr, None
        captured_ns = time.monotonic_ns()
        if image is None and self._capture.grab():
            # Before it is retrieved: decoding a camera's picture is part of its age.
            captured_ns = self._captured_ns()
            decoded, image = self._capture.retrieve()
            if not decoded:
                self._next_id += 1
                raise CorruptFrameError(self._next_id - 1)
        if image is None:
            if not self._closing:
                self._out_of_frames()
            return None
        frame = Frame(image_bgr=image, id=self._next_id, captured_ns=captured_ns, name=f"frame-{self._next_id:06d}")
        self._next_id += 1
        return frame

    def _captured_ns(self) -> int:
        return time.monotonic_ns()

    def _out_of_frames(self) -> None:
        """Return if that is the end, raise `SourceError` if it should not be."""


def open_capture(where: str, api: int, *, parameters: Sequence[int] = (), ffmpeg_options: str = "") -> Capture:
    """Open `where` with OpenCV's backend `api`; the caller looks at `isOpened`.

    FFmpeg's own messages are silenced: they can carry URLs, and a damaged stream writes one per block for months.
    Both variables are left alone where the user has set them.
    """
    wanted = {"OPENCV_FFMPEG_LOGLEVEL": "-8"}  # AV_LOG_QUIET
    if ffmpeg_options:
        wanted["OPENCV_FFMPEG_CAPTURE_OPTIONS"] = ffmpeg_options
    with _OPENING, _environment(wanted):
        return cv2.VideoCapture(where, api, list(parameters))


def decode_first(capture: Capture) -> Image | None:
    """Return the first frame, None if there is none."""
    decoded, image = capture.retrieve() if capture.isOpened() and capture.grab() else (False, None)
    return image if decoded else None


@contextmanager
def _environment(wanted: dict[str, str]) -> Iterator[None]:
    added = {name: value for name, value in wanted.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)
