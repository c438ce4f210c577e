"""The built-in street camera as a source, at a real camera's pace or as fast as it can be drawn."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable

from edgeseg.runtime.errors import SourceError
from edgeseg.runtime.frame import Frame
from edgeseg.runtime.sources.url import parse_number, parse_query, parse_size_hw
from edgeseg.runtime.street import StreetCamera

_FORM = "synthetic://street?size=640x480&fps=25&seed=0, and at will &frames=N and &pace=live or none"


class SyntheticSource:
    """Frames of a `StreetCamera` with their truth.

    Live, frame `i` is captured `i / fps` seconds after the first. It is drawn before that instant, as light is no
    part of a frame's age; an instant that has passed unread is skipped, as a real camera does, and leaves a gap in the
    ids. Not live, every frame is given out as soon as it is drawn.
    """

    def __init__(
        self,
        camera: StreetCamera,
        *,
        size_hw: tuple[int, int],
        fps: float,
        frames: int | None = None,
        live: bool = True,
        now_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self.size_hw, self.fps, self.live = size_hw, fps, live
        self.clock = "synthetic" if live else "arrival"
        self._camera, self._frames, self._now_ns = camera, frames, now_ns
        self._next_id = 0
        self._started_ns: int | None = None
        self._drawing_ns = 0
        self._closed = threading.Event()

    def read(self) -> Frame | None:
        """Wait for the next frame; None after the last and after `close`."""
        index = self._next_id if self._started_ns is None else self._next_index(self._started_ns)
        if self._closed.is_set() or (self._frames is not None and index >= self._frames):
            return None
        began_ns = self._now_ns()
        image_bgr, truth = self._camera.render(index)
        captured_ns = self._now_ns()
        if self._started_ns is None:
            self._started_ns = captured_ns
        else:
            self._drawing_ns = captured_ns - began_ns
        if self.live:
            captured_ns = self._started_ns + round(index * 1e9 / self.fps)
            if self._closed.wait(max(0.0, (captured_ns - self._now_ns()) / 1e9)):
                return None
        self._next_id = index + 1
        return Frame(image_bgr=image_bgr, id=index, captured_ns=captured_ns, name=f"frame-{index:06d}", truth=truth)

    def _next_index(self, started_ns: int) -> int:
        """Return the first frame that was not given out and, live, can still be drawn before its instant."""
        if not self.live:
            return self._next_id
        return max(self._next_id, math.ceil((self._now_ns() + self._drawing_ns - started_ns) * self.fps / 1e9))

    def close(self) -> None:
        """Give no more frames; a read that waits for its instant ends now."""
        self._closed.set()


def open_synthetic(url: str) -> SyntheticSource:
    """Open `synthetic://street?...`. Raises `SourceError` for another scene and for parameters out of range."""
    place, _, query = url.partition("?")
    if place.lower().rstrip("/") != "synthetic://street":
        raise SourceError(f"source {url} names no known scene", expected=_FORM)
    given = parse_query(url, query, ("size", "fps", "seed", "frames", "pace"))
    size_hw = parse_size_hw(url, given.get("size", "640x480"))
    fps = parse_number(url, "fps", given.get("fps", "25"), 0.01, 1000)
    seed = int(parse_number(url, "seed", given.get("seed", "0"), 0, 2**31 - 1, whole=True))
    frames = int(parse_number(url, "frames", given["frames"], 1, 2**31 - 1, whole=True)) if "frames" in given else None
    pace = given.get("pace", "live")
    if pace not in ("live", "none"):
        raise SourceError(f"source {url} has pace {pace!r}", expected="live or none")
    camera = StreetCamera(size_hw=size_hw, fps=fps, seed=seed)
    return SyntheticSource(camera, size_hw=size_hw, fps=fps, frames=frames, live=pace == "live")
