"""CSI cameras, hardware-decoded RTSP and pipelines of one's own, through OpenCV's GStreamer.

pip's OpenCV is built without it; JetPack's and Debian's have it. The pipelines are made by pure functions, so that
what a Jetson gets is tested without one.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from pathlib import Path
from queue import Empty, SimpleQueue

import cv2

from edgeseg.runtime.errors import SourceError
from edgeseg.runtime.frame import Image
from edgeseg.runtime.sources.argus import advise, read_journal
from edgeseg.runtime.sources.capture import Capture, CaptureSource, decode_first
from edgeseg.runtime.sources.url import QUOTED, parse_number, parse_query, parse_size_hw, redact

CODECS = ("h264", "h265")
"""What RTSP cameras send, in the order in which it is tried."""

# Converted to BGR as late as can be, the newest frame only, and given out when it comes instead of when it is due.
_SINK = "video/x-raw,format=BGRx ! videoconvert ! video/x-raw,format=BGR ! appsink drop=true max-buffers=1 sync=false"

OPEN_TIMEOUT_S = 10.0
"""For a pipeline's first frame."""

_JETSON = Path("/etc/nv_tegra_release")


def csi_pipeline(sensor: int, size_hw: tuple[int, int], fps: float) -> str:
    """Return the pipeline of CSI camera `sensor` through Argus, in a mode of (height, width) `size_hw` at `fps`."""
    height, width = size_hw
    rate = f"{round(fps)}/1" if fps == round(fps) else f"{round(fps * 1001)}/1001"
    return (
        f"nvarguscamerasrc sensor-id={sensor} ! video/x-raw(memory:NVMM),width={width},height={height},"
        f"framerate={rate},format=NV12 ! nvvidconv ! {_SINK}"
    )


def rtsp_pipeline(url: str, codec: str) -> str:
    """Return the pipeline of the RTSP stream `url`, decoded by a Jetson's NVDEC; `codec` is one of `CODECS`."""
    # TCP, because lost UDP packets smear through the picture for seconds.
    return (
        f"rtspsrc location={quote_value(url)} protocols=tcp latency=0 ! rtp{codec}depay ! {codec}parse ! "
        f"nvv4l2decoder ! nvvidconv ! {_SINK}"
    )


def quote_value(text: str) -> str:
    """Quote a property's value, so that nothing in a URL or password ends it."""
    return '"' + re.sub(r'(["\\])', r"\\\1", text) + '"'


def has_end(pipeline: str) -> bool:
    """Return whether `pipeline` is to end by itself: it reads a file, once, or a number of buffers."""
    bare = QUOTED.sub("", pipeline)
    if re.search(r"\bloop=(true|1)\b", bare):
        return False
    return bool(re.search(r"(^|[\s!])(\w*filesrc\b|num-buffers=[1-9])", bare) or re.search(r'\suri="?file:', pipeline))


def has_gstreamer() -> bool:
    """Return whether this OpenCV was built with GStreamer."""
    # OpenCV 5's registry lists backends that it was built without.
    return re.search(r"GStreamer:\s+YES", cv2.getBuildInformation()) is not None


def decodes_rtsp() -> bool:
    """Return whether RTSP should go through NVDEC: on a Jetson whose OpenCV has GStreamer."""
    return _JETSON.exists() and has_gstreamer()


class GstSource(CaptureSource):
    """Frames of a pipeline. One with an end is treated like a file.

    Any other is live, its first frame, already old, is not given out, and it raises `SourceError` when it stops giving
    frames: OpenCV tells the end of a stream and the loss of a camera by the same sign.
    """

    def __init__(self, name: str, capture: Capture, first_bgr: Image, *, live: bool, advise: Callable[[], str]) -> None:
        self.live = live
        super().__init__(capture, (first_bgr.shape[0], first_bgr.shape[1]), None if live else first_bgr)
        self._name, self._advise = name, advise

    def _out_of_frames(self) -> None:
        if self.live:
            raise SourceError(f"{self._name} stopped giving frames after {self._next_id}", fix=self._advise())


def open_csi(url: str) -> GstSource:
    """Open `csi://N?size=WxH&fps=F`. Raises `SourceError`."""
    place, _, query = url.partition("?")
    sensor = re.fullmatch(r"csi://(\d{1,2})/?", place, re.IGNORECASE)
    if not sensor:
        raise SourceError(f"source {url} names no sensor", expected="csi://0?size=1280x720&fps=30")
    mode = parse_query(url, query, ("size", "fps"))
    size_hw = parse_size_hw(url, mode.get("size", "1280x720"))
    fps = parse_number(url, "fps", mode.get("fps", "30"), 1, 1000)
    return _open(url, (csi_pipeline(int(sensor[1]), size_hw, fps),), lambda: advise(read_journal()))


def open_pipeline(url: str) -> GstSource:
    """Open `gst:PIPELINE`, which must end in an appsink. Raises `SourceError`, without the pipeline's properties."""
    pipeline = url.partition(":")[2].strip()
    if not re.search(r"(^|!)\s*appsink\b[^!]*$", pipeline):
        raise SourceError(
            f"{redact(url)} does not end in an appsink",
            fix="end it in: ! videoconvert ! video/x-raw,format=BGR ! appsink drop=true max-buffers=1 sync=false",
        )
    return _open(url, (pipeline,), lambda: "try it in gst-launch-1.0, with fakesink for appsink")


def open_rtsp(url: str) -> GstSource:
    """Open an RTSP stream through NVDEC. Raises `SourceError`, without credentials."""
    pipelines = tuple(rtsp_pipeline(url, codec) for codec in CODECS)
    return _open(url, pipelines, lambda: "check address, user, password and that the camera is on")


def _open(url: str, pipelines: tuple[str, ...], advise: Callable[[], str]) -> GstSource:
    if not has_gstreamer():
        raise SourceError(
            f"{redact(url)} needs GStreamer, which this OpenCV ({cv2.__version__}) was built without",
            fix="use the system's OpenCV: apt-get install python3-opencv, pip uninstall opencv-python-headless, and a "
            "virtual environment with --system-site-packages",
        )
    for pipeline in pipelines:
        opened = _open_within(pipeline, OPEN_TIMEOUT_S)
        if opened is not None:
            return GstSource(redact(url), *opened, live=not has_end(pipeline), advise=advise)
    raise SourceError(f"{redact(url)} gave no frame within {OPEN_TIMEOUT_S:g} s", fix=advise())


_opening: dict[str, threading.Thread] = {}
"""Pipelines that are being started, some of them for ever."""


def _open_within(pipeline: str, seconds: float) -> tuple[Capture, Image] | None:
    """Start `pipeline` and decode a frame; None if there is none in time.

    OpenCV waits for ever where an element is missing or a daemon hangs, so this is done in a thread that can be left
    behind: one a pipeline, however often it is tried.
    """
    if pipeline in _opening and _opening[pipeline].is_alive():
        return None
    opened: SimpleQueue[tuple[Capture, Image] | None] = SimpleQueue()
    given_up = threading.Event()

    def start() -> None:
        capture: Capture = cv2.VideoCapture(pipeline, cv2.CAP_GSTREAMER)
        probe_bgr = decode_first(capture)
        if probe_bgr is None or given_up.is_set():
            capture.release()
            opened.put(None)
        else:
            opened.put((capture, probe_bgr))

    thread = _opening[pipeline] = threading.Thread(target=start, name="edgeseg-gstreamer", daemon=True)
    thread.start()
    try:
        return opened.get(timeout=seconds)
    except Empty:
        given_up.set()
        return None
