"""GStreamer's pipelines as text, and what is said where OpenCV has no GStreamer."""

from __future__ import annotations

import json
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeseg.runtime.errors import SourceError
from edgeseg.runtime.sources import open_source, redact
from edgeseg.runtime.sources.argus import NO_CAMERA, RESTART, SIGNS, advise, read_journal
from edgeseg.runtime.sources.gstreamer import csi_pipeline, has_end, quote_value, rtsp_pipeline

TAIL = "video/x-raw,format=BGRx ! videoconvert ! video/x-raw,format=BGR ! appsink drop=true max-buffers=1 sync=false"


def test_csi_camera_goes_through_argus_in_the_mode_asked_for() -> None:
    assert csi_pipeline(1, (720, 1280), 30) == (
        "nvarguscamerasrc sensor-id=1 ! video/x-raw(memory:NVMM),width=1280,height=720,framerate=30/1,format=NV12 ! "
        f"nvvidconv ! {TAIL}"
    )
    assert "framerate=30000/1001," in csi_pipeline(0, (720, 1280), 30000 / 1001)


@pytest.mark.parametrize("codec", ["h264", "h265"])
def test_rtsp_is_decoded_by_nvdec_with_its_password_quoted(codec: str) -> None:
    assert rtsp_pipeline('rtsp://u:p" ! filesink@cam/1', codec) == (
        f'rtspsrc location="rtsp://u:p\\" ! filesink@cam/1" protocols=tcp latency=0 ! rtp{codec}depay ! {codec}parse ! '
        f"nvv4l2decoder ! nvvidconv ! {TAIL}"
    )


@given(st.text())
def test_nothing_in_a_value_ends_its_quotes(text: str) -> None:
    inner = quote_value(text)[1:-1]
    assert '"' not in inner.replace("\\\\", "").replace('\\"', "")


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("gst:videotestsrc ! appsink", "gst:videotestsrc ! appsink"),
        ("gst:rtspsrc location=rtsp://u:secret@cam user-pw=secret ! decodebin ! appsink name=x",
         "gst:rtspsrc ! decodebin ! appsink"),
        ('gst:rtspsrc location="rtsp://u:x ! secret ! y@cam" ! appsink', "gst:rtspsrc ! appsink"),
        ('gst:rtspsrc location="rtsp://u:secret ! appsink', "gst:***"),
        ("csi://0?size=640x480", "csi://0?size=640x480"),
    ],
)  # fmt: skip
def test_no_property_of_a_pipeline_is_shown(url: str, shown: str) -> None:
    assert redact(url) == shown


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("csi://front", "names no sensor; expected csi://0?size=1280x720&fps=30"),
        ("csi://0?size=big", "size 'big'"),
        ("csi://0?gain=3", "unknown parameter 'gain'"),
        ("gst:videotestsrc ! fakesink", "gst:videotestsrc ! fakesink does not end in an appsink; fix: end it in"),
    ],
)
def test_what_is_no_pipeline_is_named_in_one_line(url: str, said: str) -> None:
    with pytest.raises(SourceError) as raised:
        open_source(url)
    assert said in str(raised.value) and "\n" not in str(raised.value)


@pytest.mark.parametrize("url", ["csi://0", "gst:rtspsrc location=rtsp://u:secret@cam ! appsink"])
def test_opencv_without_gstreamer_is_one_line_with_its_fix(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgeseg.runtime.sources.gstreamer.has_gstreamer", lambda: False)
    with pytest.raises(SourceError, match=r"needs GStreamer, .* built without; fix: use the") as raised:
        open_source(url)
    assert "secret" not in str(raised.value)


def test_a_pipeline_that_never_starts_is_given_up_and_keeps_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    release, started = threading.Event(), []

    def start(pipeline: str, _api: int) -> object:
        started.append(pipeline)
        release.wait(20)
        return cv2_capture()

    cv2_capture = cv2.VideoCapture
    monkeypatch.setattr("edgeseg.runtime.sources.gstreamer.has_gstreamer", lambda: True)
    monkeypatch.setattr("edgeseg.runtime.sources.gstreamer.OPEN_TIMEOUT_S", 0.05)
    monkeypatch.setattr(cv2, "VideoCapture", start)
    for _ in range(3):
        with pytest.raises(SourceError, match=r"csi://7 gave no frame within .* sudo systemctl restart nvargus-daemon"):
            open_source("csi://7")
    assert len(started) == 1
    release.set()
    for thread in threading.enumerate():
        if thread.name == "edgeseg-gstreamer":
            thread.join(20)


@pytest.mark.parametrize(
    ("pipeline", "ends"),
    [
        ("videotestsrc num-buffers=30 ! appsink", True),
        ("videotestsrc ! appsink", False),
        ("videotestsrc num-buffers=-1 ! appsink", False),
        ('filesrc location="a b.mp4" ! decodebin ! appsink', True),
        ("multifilesrc location=%d.jpg ! jpegdec ! appsink", True),
        ("multifilesrc location=%d.jpg loop=true ! jpegdec ! appsink", False),
        ('uridecodebin uri="file:///a.mp4" ! appsink', True),
        ('rtspsrc location="rtsp://cam/filesrc num-buffers=3" ! decodebin ! appsink', False),
        ("nvarguscamerasrc ! nvvidconv ! appsink", False),
    ],
)
def test_a_pipeline_with_an_end_is_known(pipeline: str, ends: bool) -> None:
    assert has_end(pipeline) is ends


# --- NVIDIA's camera daemon

_STUCK = """=== python3[26820]: Connection closed (7FA1F661D0)
=== python3[26820]: WARNING: Cleaning up 1 outstanding requests...
SCF: Error Timeout:  (propagating from src/services/gl/EGLStreamProducer.cpp, function getBuffer(), line 349)
"""


@pytest.mark.parametrize("sign", SIGNS)
def test_a_stuck_camera_daemon_is_named_with_its_restart(sign: str) -> None:
    said = advise(f"something before\n{sign} and after\n")
    assert f'the camera daemon is stuck ("{sign}"): sudo systemctl restart nvargus-daemon' == said


def test_without_a_sign_of_it_cable_and_restart_are_both_named() -> None:
    assert advise("").startswith("check the ribbon cable") and RESTART in advise("")
    assert "device tree" in advise(f"{NO_CAMERA}\n") and RESTART not in advise(NO_CAMERA)


@pytest.fixture
def journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Puts a `journalctl` first on the path that does what a line of shell says, and notes its arguments in a file."""

    def write(shell: str) -> Path:
        program, noted = tmp_path / "journalctl", tmp_path / "arguments"
        program.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" > {noted}\n{shell}\n')
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
        return noted

    return write


def test_a_csi_camera_behind_a_stuck_daemon_says_so(
    journal: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    noted = journal(f"cat <<'END'\n{_STUCK}END")
    monkeypatch.setattr("edgeseg.runtime.sources.gstreamer.has_gstreamer", lambda: True)
    monkeypatch.setattr(cv2, "VideoCapture", lambda _pipeline, _api: Deaf())
    with pytest.raises(SourceError) as raised:
        open_source("csi://0")
    assert 'fix: the camera daemon is stuck ("SCF: Error Timeout"): sudo systemctl' in str(raised.value)
    assert "_SYSTEMD_UNIT=nvargus-daemon.service" in noted.read_text().splitlines()


class Deaf:
    """A capture that does not open."""

    def isOpened(self) -> bool:  # noqa: N802
        return False

    def release(self) -> None:
        pass


def test_a_journal_that_fails_or_is_not_there_says_nothing(
    journal: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    journal(f"echo '{_STUCK}'; exit 1")
    assert read_journal() == ""
    monkeypatch.setattr("edgeseg.runtime.sources.argus._JOURNAL_S", 0.2)
    journal("exec sleep 30")
    assert read_journal() == ""
    monkeypatch.setenv("PATH", "/nowhere")
    assert read_journal() == ""


# --- GStreamer itself, through the system's OpenCV in a process of its own

_SYSTEM_PYTHON = "/usr/bin/python3"
_PLAY = """
import json, sys, time
from edgeseg.runtime.errors import SourceError
from edgeseg.runtime.sources import open_source
from edgeseg.runtime.sources.supervised import Patience, supervise

url, most = sys.argv[1], int(sys.argv[2])
try:
    source = supervise(open_source(url), lambda: open_source(url), patience=Patience(backoff_s=0.01))
except SourceError as error:
    sys.exit(str(error))
frames = 0
while frames < most and source.read() is not None:
    frames += 1
source.close()
print(json.dumps({"live": source.live, "frames": frames, "counts": getattr(source, "fault_counts", {})}))
"""


@pytest.fixture(scope="module")
def play() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Reads a pipeline, supervised, with the system's Python."""
    probe = "import cv2, re, sys; sys.exit(not re.search(r'GStreamer:\\s+YES', cv2.getBuildInformation()))"
    try:
        subprocess.run([_SYSTEM_PYTHON, "-c", probe], check=True, capture_output=True, timeout=60)
    except (OSError, subprocess.SubprocessError):
        pytest.skip("no OpenCV with GStreamer: apt-get install python3-opencv")
    portion = str(Path(__file__).parents[2] / "runtime")

    def run(pipeline: str, most: int = 1000) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [_SYSTEM_PYTHON, "-c", _PLAY, f"gst:{pipeline}", str(most)],
            env={"PYTHONPATH": portion, "PATH": "/usr/bin:/bin", "PYTHONDONTWRITEBYTECODE": "1"},
            capture_output=True,
            text=True,
            timeout=60,
        )

    return run


_CAPS = "video/x-raw,width=64,height=48,framerate=50/1"
_END = "videoconvert ! video/x-raw,format=BGR ! appsink"


def played(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_the_end_of_a_finite_pipeline_ends_the_run_and_is_no_fault(
    play: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    every = {"live": False, "frames": 12, "counts": {}}
    assert played(play(f"videotestsrc num-buffers=12 ! {_CAPS} ! {_END}")) == every
    assert played(play(f"videotestsrc is-live=true num-buffers=12 ! {_CAPS} ! {_END}")) == every
    path = tmp_path / "a clip.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 50, (64, 48))
    for index in range(12):
        writer.write(np.full((48, 64, 3), 8 * index, np.uint8))
    writer.release()
    assert played(play(f'filesrc location="{path}" ! avidemux ! jpegdec ! {_END}')) == every


def test_a_camera_that_ends_is_lost_and_connected_again(
    play: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    found = played(play(f"videotestsrc is-live=true pattern=snow ! identity eos-after=9 ! {_CAPS} ! {_END}", 25))
    assert found["live"] and found["frames"] == 25 and found["counts"]["disconnect"] >= 2


def test_a_missing_element_is_one_line_soon(play: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    done = play("videotestsrc ! no_such_element secret=1 ! appsink")
    assert done.returncode == 1
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("gst:")]
    assert line.startswith("gst:videotestsrc ! no_such_element ! appsink gave no frame within 10 s; fix: try it in")


@pytest.mark.parametrize(
    "pipeline",
    [
        'rtspsrc location="rtsp://user:hunter2@127.0.0.1:1/x" ! decodebin ! videoconvert ! appsink',
        "rtspsrc location=rtsp://user:hunter2@127.0.0.1:1/x user-pw=hunter2 nothing=hunter2 ! decodebin ! appsink",
        "souphttpsrc location=http://user:hunter2@127.0.0.1:1/x?key=hunter2 ! decodebin ! appsink",
        'rtspsrc location="rtsp://user:hunter2@127.0.0.1:1/x ! decodebin ! appsink',
    ],
)
def test_gstreamer_itself_tells_no_password(
    play: Callable[..., subprocess.CompletedProcess[str]], pipeline: str
) -> None:
    done = play(pipeline)
    assert done.returncode == 1 and "gave no frame" in done.stderr
    assert "hunter2" not in done.stderr + done.stdout
