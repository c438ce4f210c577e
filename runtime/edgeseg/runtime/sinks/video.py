"""Overlays as an MP4 that plays in a browser, with the camera's own time, and appears whole when the run ends."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from fractions import Fraction
from pathlib import Path

import cv2

from edgeseg.runtime.errors import SinkError
from edgeseg.runtime.files import whole_file
from edgeseg.runtime.frame import Image, Result
from edgeseg.runtime.overlay import RateMeter, draw_overlay
from edgeseg.runtime.sinks.feed import Feed

try:
    import av
    import av.container
    import av.video.stream
except ImportError as error:
    # OpenCV has no encoder that a browser plays in pip's build, and no time of a frame's own in the older ones.
    raise SinkError(f"a video needs PyAV ({error})", fix="pip install av, or use images:DIR") from error

DEFAULT_FPS = 25.0
"""For sources that have no rate of their own."""

TICKS = 90_000
"""Of a second: the clock of MPEG, fine enough for any camera."""

# H.264 plays everywhere. Without look-ahead a frame is in the file soon, and no memory is needed for those to come.
_ENCODER = {"preset": "veryfast", "tune": "zerolatency", "crf": "23"}
# A fragment at each key frame, so that what a power cut leaves can be played; made one whole at the end.
_MUXER = {"movflags": "hybrid_fragmented+frag_keyframe", "flush_packets": "1"}
_KEY_S = 2.0
"""Between two key frames: how far apart the places are that a player can jump to, and what a power cut may cost."""


class VideoSink:
    """Writes overlays in the first frame's size.

    Of a live source each is shown when it was captured, counted from the first: what is missing is a pause, not a jump.
    Of a file, one per result at the source's nominal rate.

    The file is opened at the first frame and takes its name in `close`, once it has been opened again to count its
    frames. A run without frames leaves no file. One that is killed leaves `.NAME.*.partial.mp4`, which plays.
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
        self._fps = feed.fps or DEFAULT_FPS
        self._live = feed.live
        self._rate = RateMeter()
        self._open = ExitStack()
        self._output: tuple[av.container.OutputContainer, av.video.stream.VideoStream] | None = None
        self._partial = self.path
        self._frames = 0
        self._first_captured_ns = self._last_pts = 0

    def write(self, result: Result) -> None:
        """Append the overlay of `result`. Raises `SinkError` if it cannot be written."""
        overlay = _even(draw_overlay(result, self.contract, fps=self._rate.tick(result.masked_ns)))
        with self._failing():
            container, stream = self._output or self._start(overlay.shape[:2], result.frame.captured_ns)
            if overlay.shape[:2] != (stream.height, stream.width):
                size = stream.width, stream.height
                overlay = cv2.resize(overlay, size, interpolation=cv2.INTER_AREA)  # type: ignore[assignment]
            picture = av.VideoFrame.from_ndarray(overlay, format="bgr24")
            picture.pts, picture.time_base = self._next_pts(result.frame.captured_ns), Fraction(1, TICKS)
            self._frames += 1
            container.mux(stream.encode(picture))

    def _next_pts(self, captured_ns: int) -> int:
        """Return when the frame is to be shown, in ticks: always after the one before."""
        seconds = (captured_ns - self._first_captured_ns) / 1e9 if self._live else self._frames / self._fps
        self._last_pts = max(round(seconds * TICKS), self._last_pts + 1 if self._frames else 0)
        return self._last_pts

    def close(self) -> None:
        """Finish the file and give it its name. Raises `SinkError`, leaving nothing, if it cannot be read back."""
        if self._output is None:
            return
        (container, stream), self._output = self._output, None
        with self._failing(), self._open:
            try:
                container.mux(stream.encode(None))
            finally:
                container.close()
            found = count_frames(self._partial)
            if found != self._frames:
                raise SinkError(f"{self.path} came out with {found} of {self._frames} frames", fix=_ROOM)

    def _start(
        self, size_hw: tuple[int, ...], captured_ns: int
    ) -> tuple[av.container.OutputContainer, av.video.stream.VideoStream]:
        with ExitStack() as opening:
            self._partial = opening.enter_context(whole_file(self.path))
            container = opening.enter_context(av.open(str(self._partial), "w", options=_MUXER))
            stream = container.add_stream("libx264", rate=Fraction(self._fps).limit_denominator(1001), options=_ENCODER)
            stream.height, stream.width = size_hw
            stream.pix_fmt = "yuv420p"
            stream.codec_context.time_base = Fraction(1, TICKS)
            stream.codec_context.gop_size = max(1, round(self._fps * _KEY_S))
            container.start_encoding()
            self._open = opening.pop_all()
        self._first_captured_ns = captured_ns
        self._output = container, stream
        return self._output

    @contextmanager
    def _failing(self) -> Iterator[None]:
        """Tell what the encoder or the disk did as one line."""
        try:
            yield
        except (OSError, av.FFmpegError) as error:
            reason = error.strerror or type(error).__name__
            raise SinkError(f"{self.path} cannot be written ({reason})", fix=_ROOM) from error


_ROOM = "free some space on that disk, or name a file on another"


def count_frames(path: Path) -> int:
    """Return how many frames the index of the video at `path` has; 0 if it cannot be read."""
    try:
        with av.open(str(path)) as video:
            return video.streams.video[0].frames
    except (OSError, av.FFmpegError, IndexError):
        return 0


def _even(image: Image) -> Image:
    """Repeat the last row or column where the size is odd: encoders halve the colour planes."""
    height, width = image.shape[:2]
    if height % 2 == 0 and width % 2 == 0:
        return image
    return cv2.copyMakeBorder(image, 0, height % 2, 0, width % 2, cv2.BORDER_REPLICATE)  # type: ignore[return-value]
