"""RTSP, HTTP and UDP through FFmpeg."""

from __future__ import annotations

import time

import cv2

from edgeseg.runtime.errors import SourceError
from edgeseg.runtime.frame import Image
from edgeseg.runtime.sources.capture import Capture, CaptureSource, decode_first, open_capture
from edgeseg.runtime.sources.url import redact, scheme_of

STREAM_SCHEMES = ("rtsp", "rtsps", "http", "https", "udp")

OPEN_TIMEOUT_MS = 5000
READ_TIMEOUT_MS = 5000

# TCP, because lost UDP packets smear through the picture for seconds; nobuffer, because a buffer is age. Not for HTTP:
# nobuffer throws away what was read to find out the format, which is the start of a video there.
_OPTIONS = {"rtsp": "rtsp_transport;tcp|fflags;nobuffer", "udp": "fflags;nobuffer"}
_OPTIONS["rtsps"] = _OPTIONS["rtsp"]
_BRIEF_S = 0.4
"""Of a live stream is what FFmpeg shall look at to find out its rate: by itself it takes more than a second."""
_BRIEF = f"|analyzeduration;{_BRIEF_S * 1e6:.0f}"


class StreamSource(CaptureSource):
    """Frames of a network stream.

    A stream without an end is live: its first frame, already old, is not given out, and its end is an error. One of
    known length, such as a video on a web server, is treated like a file.
    """

    def __init__(self, url: str, capture: Capture, first_bgr: Image) -> None:
        self._url = redact(url)
        self.live = capture.get(cv2.CAP_PROP_FRAME_COUNT) <= 0
        super().__init__(capture, (first_bgr.shape[0], first_bgr.shape[1]), None if self.live else first_bgr)

    def _out_of_frames(self) -> None:
        if self.live:
            raise SourceError(
                f"{self._url} stopped giving frames after {self._next_id}", fix="check the camera and its network"
            )


def open_stream(url: str) -> StreamSource:
    """Open `url` and wait for its first decoded frame. Raises `SourceError`, without credentials."""
    # Older OpenCV knows neither time-out, and refuses to open with parameters that it does not know.
    limits = {"CAP_PROP_OPEN_TIMEOUT_MSEC": OPEN_TIMEOUT_MS, "CAP_PROP_READ_TIMEOUT_MSEC": READ_TIMEOUT_MS}
    parameters = [
        number for name, value in limits.items() if hasattr(cv2, name) for number in (getattr(cv2, name), value)
    ]
    options = _OPTIONS.get(scheme_of(url) or "", "")
    began_s = time.monotonic()
    for wanted in [options + _BRIEF, options] if options else [""]:
        capture = open_capture(url, cv2.CAP_FFMPEG, parameters=parameters, ffmpeg_options=wanted)
        first_bgr = decode_first(capture)
        if first_bgr is not None:
            return StreamSource(url, capture, first_bgr)
        capture.release()
        # What refuses at once, or does not answer, would not do so for being looked at longer.
        if not _BRIEF_S < time.monotonic() - began_s < OPEN_TIMEOUT_MS / 2e3:
            break
    raise SourceError(
        f"{redact(url)} gave no frame within {(OPEN_TIMEOUT_MS + READ_TIMEOUT_MS) / 1000:g} s",
        fix="check address, user, password and that the camera is on; try the URL in ffplay",
    )
