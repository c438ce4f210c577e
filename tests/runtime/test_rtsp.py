"""Real streams over loopback, whose servers are killed and stopped: the run goes on, and frames are as fresh as before.

Each frame carries the time at which it was made, so that its age is measured and not believed.
"""

from __future__ import annotations

import itertools
import os
import select
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from statistics import median

import numpy as np
import pytest

from edgeseg.runtime.errors import SourceError
from edgeseg.runtime.frame import Frame, Image
from edgeseg.runtime.sources import Source, open_source
from edgeseg.runtime.sources.supervised import Patience, SupervisedSource, supervise

WAIT_S = 60
PATIENCE = Patience(stall_s=1.0, backoff_s=0.1, backoff_cap_s=1.0)
BOUND_S = PATIENCE.backoff_cap_s + 1.0
"""What recovery may take after a fault has ended."""
BUSY_S = 1.5
"""More, for the server and us on a machine with other work."""
OPENING_S = 8.0
"""For a feed of FFmpeg's own to be there and be opened, on a busy machine."""
AGE_S = 0.3
"""By how much a fault may age what comes after it."""
ROWS, COLUMNS, BLOCK = 4, 8, 16
"""A frame is this many blocks of so many pixels, each a bit of its time in ms: JPEG leaves black and white apart."""

_SERVER = f"""
import sys, time
import gi
gi.require_version("Gst", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtspServer

Gst.init(None)
rows, columns, block = {ROWS}, {COLUMNS}, {BLOCK}
caps = f"video/x-raw,format=GRAY8,width={{columns * block}},height={{rows * block}},framerate=20/1"

def picture():
    now_ms = time.monotonic_ns() // 1_000_000
    lines = []
    for row in range(rows):
        bits = [(now_ms >> (row * columns + column)) & 1 for column in range(columns)]
        lines.append(b"".join(bytes([255 * bit]) * block for bit in bits) * block)
    return b"".join(lines)

def push(source, _length):
    time.sleep(0.05)
    source.emit("push-buffer", Gst.Buffer.new_wrapped(picture()))

class Camera(GstRtspServer.RTSPMediaFactory):
    def __init__(self):
        super().__init__()
        self.set_launch(
            f"( appsrc name=source is-live=true format=time do-timestamp=true caps={{caps}} "
            "! videoconvert ! video/x-raw,format=I420 ! jpegenc quality=95 ! rtpjpegpay name=pay0 pt=26 )"
        )
        self.set_shared(True)

    def do_configure(self, media):
        media.get_element().get_child_by_name("source").connect("need-data", push)

server = GstRtspServer.RTSPServer()
server.set_address("127.0.0.1")
server.set_service(sys.argv[1])
server.get_mount_points().add_factory("/live", Camera())
server.attach(None)
print("ready", flush=True)
GLib.MainLoop().run()
"""


class Server:
    """A camera in a process of its own: an RTSP server, or what `command` starts."""

    def __init__(self, command: list[str], url: str, *, says_when_ready: bool) -> None:
        self.command, self.url, self._says = command, url, says_when_ready
        self.process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        out = subprocess.PIPE if self._says else subprocess.DEVNULL
        self.process = subprocess.Popen(self.command, stdout=out, stderr=subprocess.DEVNULL, text=True)
        if self.process.stdout is not None:
            ready, _, _ = select.select([self.process.stdout], [], [], WAIT_S)
            assert ready and self.process.stdout.readline() == "ready\n"

    def stop(self) -> None:
        """Let it do nothing, as a machine that hangs: its connections stay open."""
        assert self.process is not None
        os.kill(self.process.pid, signal.SIGSTOP)

    def go_on(self) -> None:
        """End `stop`."""
        assert self.process is not None
        os.kill(self.process.pid, signal.SIGCONT)

    def kill(self) -> None:
        if self.process is None:
            return
        self.process.kill()
        self.process.wait(WAIT_S)
        if self.process.stdout is not None:
            self.process.stdout.close()
        self.process = None


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@pytest.fixture
def rtsp() -> Iterator[Server]:
    """An RTSP camera of 20 frames a second."""
    python, probe = "/usr/bin/python3", 'import gi; gi.require_version("GstRtspServer", "1.0")'
    found = shutil.which(python) and subprocess.run([python, "-c", probe], capture_output=True, timeout=60)
    if not found or found.returncode:
        pytest.skip("no RTSP server: apt-get install python3-gi gir1.2-gst-rtsp-server-1.0 gstreamer1.0-plugins-good")
    port = free_port()
    url = f"rtsp://user:hunter2@127.0.0.1:{port}/live"
    server = Server([python, "-c", _SERVER, str(port)], url, says_when_ready=True)
    server.start()
    yield server
    server.kill()


def age_s(frame: Frame) -> float:
    """Seconds from when the server made a frame to its capture, from the picture itself."""
    grey: Image = frame.image_bgr[..., 1]
    bits = grey.reshape(ROWS, BLOCK, COLUMNS, BLOCK)[:, 4:12, :, 4:12].mean(axis=(1, 3)).ravel() > 127
    made_ms = int((bits * (1 << np.arange(bits.size))).sum())
    return float((frame.captured_ns // 1_000_000 - made_ms) % (1 << bits.size)) / 1000


class Watched:
    """A supervised camera that is being watched."""

    def __init__(self, url: str, patience: Patience = PATIENCE) -> None:
        self.opener = partial(open_source, url)
        source = supervise(self._open_first(), self.opener, name="yard", patience=patience)
        assert isinstance(source, SupervisedSource)
        self.source = source

    def _open_first(self) -> Source:
        """Open the camera, which may still be starting."""
        deadline_s = time.monotonic() + WAIT_S
        while True:
            try:
                return self.opener()
            except SourceError:
                assert time.monotonic() < deadline_s
                time.sleep(0.5)

    def read(self, count: int) -> list[Frame]:
        frames = list(itertools.islice(iter(self.source.read, None), count))
        assert len(frames) == count
        return frames

    def survive(self, begin: Callable[[], object], seconds: float, end: Callable[[], object]) -> float:
        """Read on while a fault begins, lasts and ends; returns how long after its end a new frame came, in seconds."""
        well_again_s: list[float] = []

        def end_it() -> None:
            end()
            well_again_s.append(time.monotonic())

        begin()
        timer = threading.Timer(seconds, end_it)
        timer.start()
        while (frame := self.source.read()) is not None:
            if well_again_s and frame.captured_ns / 1e9 > well_again_s[0]:
                timer.join()
                return frame.captured_ns / 1e9 - well_again_s[0]
        raise AssertionError("the stream ended")

    def age_s(self) -> float:
        """Median age of the next thirty frames."""
        return median(map(age_s, self.read(30)))


@contextmanager
def watching(url: str) -> Iterator[Watched]:
    watched = Watched(url)
    try:
        yield watched
    finally:
        watched.source.close()


def test_a_camera_whose_server_is_killed_and_stopped_comes_back_and_is_no_older(
    rtsp: Server, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    with watching(rtsp.url) as watched:
        before_s = watched.age_s()
        back_s = watched.survive(rtsp.kill, 1.5, rtsp.start)
        killed_s, counts = watched.age_s(), watched.source.fault_counts
        assert counts.get("disconnect", 0) + counts.get("stall", 0) >= 1
        on_s = watched.survive(rtsp.stop, 3, rtsp.go_on)
        stopped_s = watched.age_s()
        faults, counts = watched.source.faults, watched.source.fault_counts
    assert counts["stall"] >= 1
    assert before_s < 1 and killed_s < before_s + AGE_S and stopped_s < before_s + AGE_S
    assert max(back_s, on_s) < BOUND_S + BUSY_S
    assert all(fault.recovery_ms is not None for fault in faults)
    captured = capfd.readouterr()
    assert "hunter2" not in caplog.text + captured.out + captured.err


@pytest.mark.heavy
def test_recovery_is_bounded_and_age_does_not_grow_over_ten_faults(rtsp: Server) -> None:
    with watching(rtsp.url) as watched:
        before_s, back_s = watched.age_s(), []
        for turn in range(5):
            back_s.append(watched.survive(rtsp.kill, 0.5 + turn, rtsp.start))
            back_s.append(watched.survive(rtsp.stop, 2 + 3 * turn, rtsp.go_on))
            assert watched.age_s() < before_s + AGE_S
        assert sum(watched.source.fault_counts.values()) >= 10
        print("recovered after", *(f"{seconds:.2f}" for seconds in back_s))  # noqa: T201 - docs/run.md tells
        assert median(back_s) < BOUND_S and max(back_s) < BOUND_S + BUSY_S
    assert not [thread for thread in threading.enumerate() if thread.name == "edgeseg-camera" and stays(thread)]


def stays(thread: threading.Thread) -> bool:
    thread.join(20)
    return thread.is_alive()


@pytest.mark.heavy
@pytest.mark.parametrize("kind", ["http", "udp"])
def test_feeds_of_ffmpeg_that_are_killed_and_stopped_come_back(kind: str) -> None:
    ffmpeg = shutil.which("ffmpeg")
    if ffmpeg is None:
        pytest.skip("no ffmpeg: apt-get install ffmpeg")
    port = free_port()
    picture = [ffmpeg, "-re", "-f", "lavfi", "-i", "testsrc=size=160x120:rate=20"]
    if kind == "http":
        url, feed = f"http://127.0.0.1:{port}/live", ["-c:v", "mjpeg", "-f", "mpjpeg", "-listen", "1"]
    else:
        url, feed = f"udp://127.0.0.1:{port}", ["-c:v", "mpeg2video", "-g", "10", "-f", "mpegts"]
    server = Server([*picture, *feed, url], url, says_when_ready=False)
    server.start()
    try:
        with watching(url) as watched:
            watched.read(20)
            assert watched.survive(server.kill, 1.5, server.start) < PATIENCE.backoff_cap_s + 2 * OPENING_S
            watched.read(20)
            assert sum(watched.source.fault_counts.values()) >= 1
            if kind == "udp":  # `-listen 1` serves one client in its life, so it cannot be stopped and met again
                watched.survive(server.stop, 3, server.go_on)
                watched.read(20)
    finally:
        server.kill()
