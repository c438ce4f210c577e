"""A video file, decoded by FFmpeg: every frame, as fast as they are taken."""

from __future__ import annotations

from pathlib import Path

import cv2

from edgeseg.runtime.errors import SourceError
from edgeseg.runtime.sources.capture import CaptureSource, decode_first, open_capture


class FileSource(CaptureSource):
    """Every frame of the video at `path`. Raises `SourceError` if none can be decoded."""

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
