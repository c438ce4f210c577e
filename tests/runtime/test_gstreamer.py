"""GStreamer's pipelines as text, and what is said where OpenCV has no GStreamer."""

from __future__ import annotations

import threading

import cv2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeseg.runtime.errors import SourceError
from edgeseg.runtime.sources import open_source, redact
from edgeseg.runtime.sources.gstreamer import csi_pipeline, has_gstreamer, quote_value, rtsp_pipeline

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


@pytest.mark.skipif(not has_gstreamer(), reason="this OpenCV has no GStreamer")
def test_a_pipeline_of_ones_own_gives_frames() -> None:
    caps = "video/x-raw,width=64,height=48,framerate=30/1"
    source = open_source(f"gst:videotestsrc is-live=true ! {caps} ! videoconvert ! video/x-raw,format=BGR ! appsink")
    frame = source.read()
    source.close()
    assert source.live and frame is not None and frame.image_bgr.shape == (48, 64, 3)
