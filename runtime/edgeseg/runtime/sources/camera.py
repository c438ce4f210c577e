"""USB cameras through V4L2."""

from __future__ import annotations

import time
from pathlib import Path

import cv2

from edgeseg.runtime.errors import SourceError
from edgeseg.runtime.frame import Image
from edgeseg.runtime.sources.capture import Capture, CaptureSource, decode_first, open_capture
from edgeseg.runtime.sources.url import parse_number, parse_query, parse_size_hw

_MAX_AGE_NS = 2_000_000_000
_MAX_AHEAD_NS = 1_000_000


class DriverClock:
    """Believes a driver's timestamps as long as they look like `time.monotonic()` at capture.

    V4L2 lets a driver stamp with another clock, or not at all, and OpenCV does not tell which. A stamp is believed
    if it is later than the one before, at most 2 s old and not in the future. After the first that is not, none is.
    """

    def __init__(self) -> None:
        self.name = "driver"
        self._last_ns = -1.0

    def stamp(self, driver_ms: float, now_ns: int) -> int:
        """Return the time of capture in monotonic ns, `now_ns` where the driver is not believed."""
        if self.name == "driver":
            driver_ns = driver_ms * 1e6  # NaN and infinity fail the comparison
            if driver_ns > self._last_ns and -_MAX_AHEAD_NS <= now_ns - driver_ns <= _MAX_AGE_NS:
                self._last_ns = driver_ns
                return min(int(driver_ns), now_ns)
            self.name = "arrival"
        return now_ns


class CameraSource(CaptureSource):
    """Frames of a camera, from its next one on. Raises `SourceError` when it stops giving any."""

    live = True

    def __init__(self, device: str, capture: Capture, probe_bgr: Image) -> None:
        super().__init__(capture, (probe_bgr.shape[0], probe_bgr.shape[1]), None)
        self._device = device
        self._driver = DriverClock()
        # The probe's own stamp tells which clock it is, before the first frame is asked for.
        self._captured_ns()

    @property
    def clock(self) -> str:  # type: ignore[override]
        """`driver` or `arrival`."""
        return self._driver.name

    def _captured_ns(self) -> int:
        return self._driver.stamp(self._capture.get(cv2.CAP_PROP_POS_MSEC), time.monotonic_ns())

    def _out_of_frames(self) -> None:
        raise SourceError(f"{self._device} stopped giving frames after {self._next_id}", fix="check cable and power")


def set_mode(capture: Capture, size_hw: tuple[int, int] | None, fps: float | None) -> None:
    """Ask a camera for compressed pictures, then for size and rate, and for one buffer.

    MJPG comes first: in YUYV many cameras offer large sizes at a few frames per second only, and a size asked for
    before it is refused.
    """
    capture.set(cv2.CAP_PROP_FOURCC, cv2.VideoWriter.fourcc(*"MJPG"))
    if size_hw is not None:
        capture.set(cv2.CAP_PROP_FRAME_HEIGHT, size_hw[0])
        capture.set(cv2.CAP_PROP_FRAME_WIDTH, size_hw[1])
    if fps is not None:
        capture.set(cv2.CAP_PROP_FPS, fps)
    capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)


def open_camera(url: str) -> CameraSource:
    """Open `N` or `/dev/...`, with an optional `?size=WxH&fps=F`, and wait for a decoded frame."""
    place, _, query = url.partition("?")
    mode = parse_query(url, query, ("size", "fps"))
    size_hw = parse_size_hw(url, mode["size"]) if "size" in mode else None
    fps = parse_number(url, "fps", mode["fps"], 1, 1000) if "fps" in mode else None
    device = f"/dev/video{int(place)}" if place.isdigit() else place
    if not Path(device).exists():
        others = ", ".join(sorted(str(path) for path in Path("/dev").glob("video*"))) or "no /dev/video* at all"
        raise SourceError(f"no camera at {device} (there is {others})", fix="plug it in, or name another source")
    capture = open_capture(device, cv2.CAP_V4L2)
    if capture.isOpened():
        set_mode(capture, size_hw, fps)
    probe_bgr = decode_first(capture)
    if probe_bgr is None:
        capture.release()
        raise SourceError(
            f"{device} gave no frame",
            expected="a camera that no other program uses, and the right to read it",
            fix="close other programs; `sudo usermod -aG video $USER`; `v4l2-ctl --list-devices` names the right node",
        )
    return CameraSource(device, capture, probe_bgr)
