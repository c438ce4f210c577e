"""Overlays as an MP4 that appears whole when the run ends."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np

from edgeseg.runtime.errors import SinkError
from edgeseg.runtime.files import whole_file
from edgeseg.runtime.frame import Image, Result
from edgeseg.runtime.overlay import RateMeter, draw_overlay
from edgeseg.runtime.sinks.feed import Feed

FOURCCS = ("avc1", "mp4v")
"""H.264 plays everywhere, browsers included, but pip's OpenCV has no encoder for it; MPEG-4 is always there."""

DEFAULT_FPS = 25.0
"""For sources that have no rate of their own."""


class VideoSink:
    """Writes overlays at the source's nominal rate, in the first frame's size.

    Of a file, one per result. Of a live source as many as its capture times ask for, so that the clip's clock is the
    camera's to within one frame: the overlay before is repeated where frames are missing, and of two that fall
    into one period the first is kept.

    The file is opened at the first frame and takes its name in `close`, once its index is written and it has been
    opened again to count its frames. A run without frames leaves no file.
    """

    def __init__(self, spec: str, place: str, feed: Feed) -> None:
        self.spec, self.contract, self.path = spec, feed.contract, Path(place)
        if self.path.suffix.lower() != ".mp4":
            raise SinkError(f"video {place}", expected="a name that ends in .mp4", fix=f"use video:{place}.mp4")
        if self.path.is_dir():
            raise SinkError(f"{place} is a folder", expected="the name of a file", fix="name another file")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise SinkError(
                f"folder {self.path.parent} cannot be made ({error.strerror})", fix="name a file in a writable folder"
            ) from error
        # MPEG-4's clock allows five digits, so two decimals are kept.
        self._fps = round(feed.fps or DEFAULT_FPS, 2)
        self._live = feed.live
        self._fourccs = usable_fourccs()
        self._rate = RateMeter()
        self._open = ExitStack()
        self._writer: cv2.VideoWriter | None = None
        self._partial = self.path
        self._size_hw = (0, 0)
        self._frames = 0
        self._first_captured_ns = 0
        self._last: Image | None = None

    def write(self, result: Result) -> None:
        """Append the overlay of `result`. Raises `SinkError` if no encoder takes its size."""
        due = self._frames_due(result.frame.captured_ns) if self._live else 1
        if not due:
            return
        overlay = _even(draw_overlay(result, self.contract, fps=self._rate.tick(result.masked_ns)))
        writer = self._writer or self._start(overlay.shape[:2])
        if overlay.shape[:2] != self._size_hw:
            overlay = cv2.resize(overlay, self._size_hw[::-1], interpolation=cv2.INTER_AREA)  # type: ignore[assignment]
        for _ in range(due - 1):
            writer.write(self._last if self._last is not None else overlay)
        writer.write(overlay)
        self._last = overlay if self._live else None
        self._frames += due

    def _frames_due(self, captured_ns: int) -> int:
        """Return how many frames bring the clip up to `captured_ns`; 0 if it is a period ahead already."""
        if not self._frames:
            self._first_captured_ns = captured_ns
        place = (captured_ns - self._first_captured_ns) / 1e9 * self._fps
        # A camera's jitter must not make it skip one frame and repeat the next, so one that is early takes its place.
        return round(place) - self._frames + 1 if place > self._frames else int(place > self._frames - 1)

    def close(self) -> None:
        """Finish the file and give it its name. Raises `SinkError`, leaving nothing, if it cannot be read back."""
        if self._writer is None:
            return
        writer, self._writer = self._writer, None
        writer.release()
        fix = "free some space on that disk or name a file on another"
        try:
            with self._open:
                found = _count_frames(self._partial)
                if found != self._frames:
                    raise SinkError(f"{self.path} came out with {found} of {self._frames} frames", fix=fix)
        except OSError as error:
            raise SinkError(f"{self.path} cannot be written ({error.strerror})", fix=fix) from error

    def _start(self, size_hw: tuple[int, int]) -> cv2.VideoWriter:
        with ExitStack() as opening:
            self._partial = opening.enter_context(whole_file(self.path))
            writer = self._open_writer(size_hw)
            self._open = opening.pop_all()
        self._writer, self._size_hw = writer, size_hw
        return writer

    def _open_writer(self, size_hw: tuple[int, int]) -> cv2.VideoWriter:
        for fourcc in self._fourccs:
            writer = _open_writer(self._partial, fourcc, self._fps, size_hw)
            if writer.isOpened():
                return writer
        raise SinkError(
            f"OpenCV cannot write {self.path} as {' or '.join(self._fourccs)}, {size_hw[1]}x{size_hw[0]}",
            fix="name a file in a writable folder, use an OpenCV built with FFmpeg, or use images:DIR",
        )


def _even(image: Image) -> Image:
    """Repeat the last row or column where the size is odd: encoders halve the colour planes."""
    height, width = image.shape[:2]
    if height % 2 == 0 and width % 2 == 0:
        return image
    return cv2.copyMakeBorder(image, 0, height % 2, 0, width % 2, cv2.BORDER_REPLICATE)  # type: ignore[return-value]


def _open_writer(path: Path, fourcc: str, fps: float, size_hw: tuple[int, int]) -> cv2.VideoWriter:
    return cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*fourcc), fps, size_hw[::-1])


def _count_frames(path: Path) -> int:
    video = cv2.VideoCapture(str(path))
    try:
        return int(video.get(cv2.CAP_PROP_FRAME_COUNT)) if video.isOpened() and video.grab() else 0
    finally:
        video.release()


@lru_cache(maxsize=1)
def usable_fourccs() -> tuple[str, ...]:
    """Those of `FOURCCS` that this OpenCV can encode, best first; all of them if none can.

    Tried once, on a small file: a missing encoder shows only by failing, and by several lines on standard error.
    """
    with tempfile.TemporaryDirectory() as folder, _quiet_stderr():
        usable = tuple(f for f in FOURCCS if _can_encode(Path(folder) / f"{f}.mp4", f))
    return usable or FOURCCS


def _can_encode(path: Path, fourcc: str) -> bool:
    writer = _open_writer(path, fourcc, DEFAULT_FPS, (240, 320))
    for _ in range(3):
        writer.write(np.zeros((240, 320, 3), np.uint8))
    writer.release()
    return path.exists() and _count_frames(path) == 3


@contextmanager
def _quiet_stderr() -> Iterator[None]:
    """Send what C libraries write to standard error nowhere."""
    kept = os.dup(2)
    try:
        with Path(os.devnull).open("wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
