"""A video file, decoded by FFmpeg: every frame, as fast as they are taken."""

from __future__ import annotations

import logging
from pathlib import Path

import cv2

from edgeseg.runtime.errors import SourceError
from edgeseg.runtime.frame import Frame
from edgeseg.runtime.sources.capture import CaptureSource, decode_first, open_capture
from edgeseg.runtime.sources.faults import CorruptFrameError, Fault

_log = logging.getLogger(__name__)


class FileSource(CaptureSource):
    """Every frame of the video at `path`. Raises `SourceError` if none can be decoded.

    Damaged frames are skipped, most of them by FFmpeg itself. What is missing at the end is one fault.
    """

    live = False

    def __init__(self, path: Path) -> None:
        capture = open_capture(str(path), cv2.CAP_FFMPEG)
        first_bgr = decode_first(capture)
        if first_bgr is None:
            capture.release()
            raise SourceError(
                f"{path} has no frame that OpenCV can decode",
                expected="a video that FFmpeg reads, or an image",
                fix="try `ffmpeg -i IN -c:v libx264 OUT.mp4`",
            )
        super().__init__(capture, (first_bgr.shape[0], first_bgr.shape[1]), first_bgr)
        self._path = path
        # Some containers tell no number of frames, and others estimate it.
        self._announced = int(max(0.0, capture.get(cv2.CAP_PROP_FRAME_COUNT)))
        self._decoded = 0
        self.faults: tuple[Fault, ...] = ()

    def read(self) -> Frame | None:
        """Return the next frame that can be decoded; None after the last."""
        while True:
            try:
                frame = super().read()
            except CorruptFrameError:
                continue
            self._decoded += frame is not None
            return frame

    def _out_of_frames(self) -> None:
        if self._decoded < self._announced and not self.faults:
            self.faults = (Fault(kind="corrupt", frame=self._decoded),)
            _log.warning(
                "%s announces %d frames and gave %d: it is damaged or cut short",
                self._path, self._announced, self._decoded,
            )  # fmt: skip
