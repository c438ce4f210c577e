"""Every kind of source, and what is said of those that give no frames."""

from __future__ import annotations

import http.server
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from edgeseg.runtime.cli import main
from edgeseg.runtime.errors import SourceError
from edgeseg.runtime.frame import Frame, Image
from edgeseg.runtime.sources import Source, open_source, redact
from edgeseg.runtime.sources.camera import CameraSource, DriverClock, set_mode
from edgeseg.runtime.sources.faults import CorruptFrameError
from edgeseg.runtime.sources.file import FileSource
from edgeseg.runtime.sources.synthetic import SyntheticSource
from edgeseg.runtime.street import STREET_CLASSES, StreetCamera


def write_video(path: Path, *, size_hw: tuple[int, int], frames: int, fps: float = 20) -> Path:
    """Write frames of rising brightness: frame i is 8 i everywhere."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), fps, size_hw[::-1])
    for index in range(frames):
        writer.write(np.full((*size_hw, 3), 8 * index, np.uint8))
    writer.release()
    return path


def read_all(source: Source) -> list[Frame]:
    frames = []
    while (frame := source.read()) is not None:
        frames.append(frame)
    source.close()
    return frames


@pytest.mark.parametrize("size_hw", [(48, 64), (64, 48), (240, 426)])
def test_file_gives_every_frame_in_order(tmp_path: Path, size_hw: tuple[int, int]) -> None:
    source = open_source(str(write_video(tmp_path / "clip.avi", size_hw=size_hw, frames=9)))
    assert (source.size_hw, source.fps, source.live, source.clock) == (size_hw, 20, False, "arrival")
    frames = read_all(source)
    assert [frame.id for frame in frames] == list(range(9))
    assert [round(float(frame.image_bgr.mean()) / 8) for frame in frames] == list(range(9))
    assert [frame.name for frame in frames[:2]] == ["frame-000000", "frame-000001"]
    captured_ns = [frame.captured_ns for frame in frames]
    assert captured_ns == sorted(captured_ns) and captured_ns[-1] <= time.monotonic_ns()


def test_first_frame_of_a_file_is_captured_when_it_is_read_not_when_it_is_opened(tmp_path: Path) -> None:
    source = open_source(str(write_video(tmp_path / "clip.avi", size_hw=(48, 64), frames=2)))
    before_ns = time.monotonic_ns()
    frame = source.read()
    assert frame is not None and frame.captured_ns >= before_ns
    source.close()


def test_real_clips_open_with_their_size(videos: Path) -> None:
    for path in sorted(videos.glob("*.mp4")):
        source = open_source(str(path))
        frame = source.read()
        assert frame is not None and frame.image_bgr.shape == (*source.size_hw, 3)
        assert source.fps is not None and 5 < source.fps < 120
        source.close()


def test_close_ends_a_source_and_may_come_twice(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    cv2.imwrite(str(tmp_path / "images" / "a.png"), np.zeros((16, 16, 3), np.uint8))
    for url in (
        str(write_video(tmp_path / "clip.avi", size_hw=(48, 64), frames=3)),
        str(tmp_path / "images"),
        "synthetic://street?size=64x48",
    ):
        source = open_source(url)
        source.close()
        source.close()
        assert source.read() is None


def test_folder_gives_images_by_name_with_their_stems(tmp_path: Path) -> None:
    for name, level in (("b.png", 2), ("a.jpg", 1), ("c.PNG", 3)):
        cv2.imwrite(str(tmp_path / name), np.full((20 + level, 30, 3), level, np.uint8))
    (tmp_path / "notes.txt").write_text("not an image")
    (tmp_path / "deeper.png").mkdir()
    source = open_source(str(tmp_path))
    assert (source.size_hw, source.fps, source.live) == ((21, 30), None, False)
    frames = read_all(source)
    assert [(frame.name, frame.id, frame.image_bgr.shape[0]) for frame in frames] == [
        ("a", 0, 21),
        ("b", 1, 22),
        ("c", 2, 23),
    ]


def test_16_bit_images_are_scaled_by_the_level_that_the_network_learned_as_white(
    make_tiny_bundle: Callable[..., Path], tiny_bundle: Path, tmp_path: Path
) -> None:
    """12-bit grey frames look black to a network unless its bundle says how they were read in training."""
    bundle, frames = make_tiny_bundle(tmp_path / "bundle", white_level=4095), tmp_path / "frames"
    frames.mkdir()
    cv2.imwrite(str(frames / "a.png"), np.full((64, 96), round(128 / 255 * 4095), np.uint16))
    for network, seen in ((bundle, "sky"), (tiny_bundle, "pedestrian")):  # by its nearest colour
        masks = tmp_path / network.name
        done = CliRunner().invoke(main, ["run", str(network), "--source", str(frames), "--sink", f"masks:{masks}"])
        assert done.exit_code == 0, done.output
        mask = cv2.imread(str(masks / "a.png"), cv2.IMREAD_UNCHANGED)
        assert np.all(mask == STREET_CLASSES.index(seen))


@pytest.mark.parametrize("damage", ["zeros", "cut"])
def test_a_damaged_video_gives_what_can_be_decoded_and_says_what_is_missing(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = write_video(tmp_path / "clip.avi", size_hw=(48, 64), frames=30)
    data = path.read_bytes()
    third = len(data) // 3
    broken = data[: 2 * third] if damage == "cut" else data[:third] + bytes(third) + data[2 * third :]
    path.write_bytes(broken)
    source = open_source(str(path))
    frames = read_all(source)
    assert 0 < len(frames) < 30
    assert f"clip.avi announces 30 frames and gave {len(frames)}: it is damaged or cut short" in caplog.text
    assert isinstance(source, FileSource)
    assert [(fault.kind, fault.frame) for fault in source.faults] == [("corrupt", len(frames))]


def test_healthy_clips_have_no_faults(videos: Path, caplog: pytest.LogCaptureFixture) -> None:
    for path in sorted(videos.glob("*.mp4"))[:3]:
        source = open_source(str(path))
        while source.read() is not None:
            pass
        source.close()
    assert not caplog.text


def test_a_single_image_is_a_source_of_one_frame(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "photo.png"), np.zeros((20, 30), np.uint8))
    (frame,) = read_all(open_source(str(tmp_path / "photo.png")))
    assert frame.name == "photo" and frame.image_bgr.shape == (20, 30, 3)


def test_a_damaged_image_is_named(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((20, 30, 3), np.uint8))
    (tmp_path / "b.png").write_bytes((tmp_path / "a.png").read_bytes()[:40])
    source = open_source(str(tmp_path))
    source.read()
    with pytest.raises(SourceError, match=r"b\.png"):
        source.read()


def test_two_images_of_one_stem_are_refused(tmp_path: Path) -> None:
    for name in ("a.png", "a.jpg"):
        cv2.imwrite(str(tmp_path / name), np.zeros((20, 30, 3), np.uint8))
    with pytest.raises(SourceError, match=r"a\.jpg and a\.png share a stem"):
        open_source(str(tmp_path))


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("nowhere.mp4", "nowhere.mp4 is no file or folder"),
        ("gopher://host/clip", "unknown scheme"),
        ("synthetic://moon", "no known scene"),
        ("synthetic://street?size=640", "size '640'; expected WIDTHxHEIGHT"),
        ("synthetic://street?size=8x8", "size '8x8'"),
        ("synthetic://street?fps=0", "fps '0'"),
        ("synthetic://street?fps=nan", "fps 'nan'"),
        ("synthetic://street?fps=fast", "fps 'fast'"),
        ("synthetic://street?seed=1.5", "seed '1.5'; expected a whole number"),
        ("synthetic://street?frames=0", "frames '0'"),
        ("synthetic://street?pace=slow", "pace 'slow'; expected live or none"),
        ("synthetic://street?colour=red", "unknown parameter 'colour'"),
        ("synthetic://street?fps", "cannot be read"),
        ("synthetic://street?fps=", "no value for 'fps'"),
        ("synthetic://street?fps=1&fps=2", "a parameter twice"),
        ("97", "no camera at /dev/video97"),
        ("/dev/v4l/by-id/usb-nothing", "no camera at /dev/v4l/by-id/usb-nothing"),
        ("97?size=big", "size 'big'"),
    ],
)
def test_what_cannot_be_opened_is_named_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SourceError) as raised:
        open_source(url)
    assert said in str(raised.value) and "\n" not in str(raised.value)


def test_unreadable_files_and_folders_are_refused(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "noise.mp4").write_bytes(bytes(range(256)) * 40)
    (tmp_path / "empty.avi").touch()
    (tmp_path / "folder").mkdir()
    for name, said in (("noise.mp4", "no frame"), ("empty.avi", "no frame"), ("folder", "no images")):
        with pytest.raises(SourceError, match=said):
            open_source(str(tmp_path / name))
    with pytest.raises(SourceError, match="gave no frame"):
        open_source("/dev/null")
    assert not capfd.readouterr().out


# --- the street camera as a source


def test_synthetic_without_pace_gives_every_frame_with_truth() -> None:
    source = open_source("synthetic://street?size=96x64&fps=10&seed=3&frames=4&pace=none")
    assert (source.size_hw, source.fps, source.live) == ((64, 96), 10, False)
    frames = read_all(source)
    camera = StreetCamera(size_hw=(64, 96), fps=10, seed=3)
    assert [frame.id for frame in frames] == [0, 1, 2, 3]
    for frame in frames:
        image, truth = camera.render(frame.id)
        assert np.array_equal(frame.image_bgr, image)
        assert frame.truth is not None and np.array_equal(frame.truth, truth)
        assert int(truth.max()) <= len(STREET_CLASSES)


def test_live_synthetic_frames_are_captured_at_their_scheduled_instants() -> None:
    source = open_source("synthetic://street?size=64x48&fps=50&frames=5")
    assert source.live and source.clock == "synthetic"
    frames = read_all(source)
    start_ns = frames[0].captured_ns
    assert [frame.captured_ns - start_ns for frame in frames] == [20_000_000 * frame.id for frame in frames]


def test_live_synthetic_frames_never_come_before_their_instant() -> None:
    source = open_source("synthetic://street?size=64x48&fps=100&frames=6")
    while (frame := source.read()) is not None:
        assert time.monotonic_ns() >= frame.captured_ns


def test_live_synthetic_frames_that_were_not_read_in_time_are_a_gap_in_ids() -> None:
    now_ns = [0]
    camera = StreetCamera(size_hw=(48, 64), fps=1000.0, seed=0)
    source = SyntheticSource(camera, size_hw=(48, 64), fps=1000.0, now_ns=lambda: now_ns[0])
    ids = []
    for now_ms in (0, 3.4, 3.5, 9.0, 9.1):
        now_ns[0] = int(now_ms * 1e6)
        frame = source.read()
        assert frame is not None
        ids.append(frame.id)
    # At 3.5 ms frame 4 was given out already; at 9 ms frame 9 is just being captured.
    assert ids == [0, 4, 5, 9, 10]


def test_close_wakes_a_read_that_waits_for_its_instant() -> None:
    source = open_source("synthetic://street?size=64x48&fps=0.01")
    assert source.read() is not None
    ended: list[Frame | None] = []
    thread = threading.Thread(target=lambda: ended.append(source.read()))
    thread.start()
    source.close()
    thread.join(10)
    assert ended == [None]


# --- cameras, through a stand-in for the driver


class FakeCapture:
    """A camera whose frames and timestamps are lists."""

    def __init__(self, stamps_ms: list[Callable[[], float]]) -> None:
        self.stamps_ms, self.index, self.released = stamps_ms, -1, 0
        self.calls: list[tuple[int, float]] = []

    def isOpened(self) -> bool:  # noqa: N802
        return True

    def grab(self) -> bool:
        self.index += 1
        return self.index < len(self.stamps_ms)

    def retrieve(self) -> tuple[bool, Any]:
        return True, np.full((48, 64, 3), self.index, np.uint8)

    def get(self, prop: int, /) -> float:
        return self.stamps_ms[max(self.index, 0)]() if prop == cv2.CAP_PROP_POS_MSEC else 30.0

    def set(self, prop: int, value: float, /) -> bool:
        self.calls.append((prop, value))
        return True

    def release(self) -> None:
        self.released += 1


PROBE = np.zeros((48, 64, 3), np.uint8)


def _ago(age_ms: float) -> Callable[[], float]:
    return lambda: time.monotonic_ns() / 1e6 - age_ms


def test_camera_uses_the_drivers_timestamp_where_it_is_plausible() -> None:
    camera = CameraSource("/dev/video0", FakeCapture([_ago(30), _ago(20), _ago(10)]), PROBE)
    camera.read()
    frame = camera.read()
    assert frame is not None and camera.clock == "driver"
    assert 20e6 <= time.monotonic_ns() - frame.captured_ns < 1e9
    assert camera.live and camera.fps == 30


@pytest.mark.parametrize(
    "stamp", [lambda: 0.0, lambda: -1.0, lambda: float("nan"), lambda: time.time() * 1e3, _ago(5000)]
)
def test_camera_uses_arrival_where_the_drivers_timestamp_is_not(stamp: Callable[[], float]) -> None:
    camera = CameraSource("/dev/video0", FakeCapture([stamp] * 3), PROBE)
    before_ns = time.monotonic_ns()
    frame = camera.read()
    assert frame is not None and camera.clock == "arrival"
    assert before_ns <= frame.captured_ns <= time.monotonic_ns()


@given(st.lists(st.floats(allow_nan=True, allow_infinity=True), max_size=30))
def test_no_driver_can_make_capture_times_fall_or_lie_ahead(stamps_ms: list[float]) -> None:
    clock, last_ns = DriverClock(), -1
    for index, stamp_ms in enumerate(stamps_ms):
        now_ns = 1_000_000_000 + index
        captured_ns = clock.stamp(stamp_ms, now_ns)
        assert captured_ns <= now_ns
        if clock.name == "driver":
            assert captured_ns >= last_ns
        last_ns = captured_ns


def test_camera_that_stops_is_an_error_and_a_closed_one_is_not() -> None:
    capture = FakeCapture([_ago(1)])
    camera = CameraSource("/dev/video0", capture, PROBE)
    assert camera.read() is not None
    with pytest.raises(SourceError, match="/dev/video0 stopped giving frames after 1"):
        camera.read()
    camera.close()
    assert camera.read() is None
    assert capture.released


def test_a_picture_that_cannot_be_decoded_takes_a_number_and_the_next_one_comes() -> None:
    class Rotten(FakeCapture):
        def retrieve(self) -> tuple[bool, Any]:
            return (False, None) if self.index == 1 else super().retrieve()

    camera = CameraSource("/dev/video0", Rotten([_ago(3), _ago(2), _ago(1)]), PROBE)
    first = camera.read()
    with pytest.raises(CorruptFrameError):
        camera.read()
    third = camera.read()
    assert first is not None and third is not None and (first.id, third.id) == (0, 2)


def test_camera_closed_during_a_read_is_released_after_it() -> None:
    reading, go_on = threading.Event(), threading.Event()

    class Slow(FakeCapture):
        def grab(self) -> bool:
            reading.set()
            assert go_on.wait(10)
            assert not self.released, "released under a read"
            return False

    capture = Slow([_ago(1)])
    camera = CameraSource("/dev/video0", capture, PROBE)
    read: list[Frame | None] = []
    thread = threading.Thread(target=lambda: read.append(camera.read()))
    thread.start()
    assert reading.wait(10)
    camera.close()
    go_on.set()
    thread.join(10)
    assert read == [None] and capture.released == 1


def test_compressed_pictures_are_asked_for_before_the_size() -> None:
    capture = FakeCapture([])
    set_mode(capture, (720, 1280), 30)
    props = [prop for prop, _ in capture.calls]
    assert props[0] == cv2.CAP_PROP_FOURCC and capture.calls[0][1] == cv2.VideoWriter.fourcc(*"MJPG")
    assert dict(capture.calls)[cv2.CAP_PROP_FRAME_WIDTH] == 1280
    assert dict(capture.calls)[cv2.CAP_PROP_FRAME_HEIGHT] == 720
    assert dict(capture.calls)[cv2.CAP_PROP_BUFFERSIZE] == 1


# --- streams, from a server on loopback


class _Server(http.server.BaseHTTPRequestHandler):
    """Serves a file as it is, and its frames as an endless multipart stream that breaks off after twelve."""

    def __init__(self, video: Path, *rest: Any) -> None:
        self.video = video
        super().__init__(*rest)

    def do_GET(self) -> None:
        self.send_response(200)
        if self.path.startswith("/clip.avi"):
            data = self.video.read_bytes()
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self._write(data)
            return
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
        self.end_headers()
        for index in range(12):
            jpeg = cv2.imencode(".jpg", np.full((48, 64, 3), 8 * index, np.uint8))[1].tobytes()
            head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n"
            self._write(head.encode() + jpeg + b"\r\n")

    def _write(self, data: bytes) -> None:
        try:
            self.wfile.write(data)
        except OSError:
            self.close_connection = True

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    video = write_video(tmp_path / "clip.avi", size_hw=(48, 64), frames=5)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(_Server, video)) as served:
        thread = threading.Thread(target=served.serve_forever)
        thread.start()
        yield f"127.0.0.1:{served.server_address[1]}"
        served.shutdown()
        thread.join()


def test_endless_stream_is_live_and_its_end_is_an_error_without_credentials(server: str) -> None:
    source = open_source(f"http://user:secret@{server}/camera.mjpg?token=hidden")
    assert source.live and source.size_hw == (48, 64) and source.clock == "arrival"
    images: list[Image] = []
    with pytest.raises(SourceError, match="stopped giving frames") as raised:
        while (frame := source.read()) is not None:
            images.append(frame.image_bgr)
    source.close()
    assert images and images[0].mean() > 4, "the frame that proved the stream open is stale, and not given out"
    assert "secret" not in str(raised.value) and "hidden" not in str(raised.value)


def test_video_on_a_web_server_is_treated_like_a_file(server: str) -> None:
    source = open_source(f"http://{server}/clip.avi")
    assert not source.live
    assert len(read_all(source)) == 5


@pytest.mark.parametrize("url", ["rtsp://user:secret@127.0.0.1:1/live", "http://user:secret@127.0.0.1:1/x?key=secret"])
def test_unreachable_stream_is_refused_without_credentials(url: str, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SourceError, match="gave no frame") as raised:
        open_source(url)
    captured = capfd.readouterr()
    assert "secret" not in str(raised.value) + repr(raised.value) + captured.out + captured.err


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("rtsp://cam/live", "rtsp://cam/live"),
        ("rtsp://admin:pw@cam:554/live", "rtsp://***@cam:554/live"),
        ("rtsp://admin:p/w@cam/live", "rtsp://***@cam/live"),
        ("rtsp://admin:p/w?x@cam/live", "rtsp://***"),
        ("http://cam/s?user=a@b.org&password=c", "http://***"),
        ("RTSP://admin@cam/live", "rtsp://***@cam/live"),
        ("http://cam/s?user=a&password=b", "http://cam/s?user=***&password=***"),
        ("http://a:b@cam/s?token=c;d=e", "http://***@cam/s?token=***;d=***"),
        ("clip@home?.mp4", "clip@home?.mp4"),
        ("0?size=640x480", "0?size=640x480"),
        ("rtsp:/admin:pw@cam/live", "***@cam/live"),
        (" rtsp://admin:pw@cam/live", "rtsp://***@cam/live"),
        ("admin:pw@cam/live", "***@cam/live"),
        ("http:/cam/s?password=b", "http:/cam/s?password=***"),
        ("GST:rtspsrc user-pw=b ! appsink", "gst:rtspsrc ! appsink"),
        ("synthetic://street?fps=25", "synthetic://street?fps=25"),
    ],
)
def test_credentials_are_redacted(url: str, shown: str) -> None:
    assert redact(url) == shown


# Lower case, so that no chance letter of the rest of the URL is taken for the secret's.
_SECRET = st.text(st.characters(codec="ascii", categories=("Lu", "Nd", "Po")), min_size=4).map(lambda t: f"Z{t}Z")


@given(user=_SECRET, password=_SECRET, token=_SECRET, scheme=st.sampled_from(["rtsp", "http", "udp", "srt"]))
def test_no_secret_survives_redaction(user: str, password: str, token: str, scheme: str) -> None:
    shown = redact(f"{scheme}://{user}:{password}@cam/live?key={token}")
    assert not any(secret in shown for secret in (user, password, token))
    assert shown.startswith(f"{scheme}://***")


_FORMS = st.sampled_from(
    [
        "rtsp:/{0}:{1}@cam/live",
        " rtsp://{0}:{1}@cam/live",
        "{0}:{1}@cam/live",
        "srt://{0}:{1}@cam/live?key={2}",
        "http:/cam/live?user={0}&password={1}",
        "gst:rtspsrc location=rtsp://{0}:{1}@cam ! decodebin",
        "GST:rtspsrc user-id={0} user-pw={1} ! fakesink",
        'gst:rtspsrc location="rtsp://{0}:{1}@cam/{2} ! appsink',
        "gst:rtspsrc user-id={0} user-pw={1} ! appsink",
    ]
)


@given(form=_FORMS, user=_SECRET, password=_SECRET, token=_SECRET)
def test_no_secret_is_in_what_is_said_of_a_source_that_is_refused(
    form: str, user: str, password: str, token: str
) -> None:
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SourceError) as raised:
        patch.setattr("edgeseg.runtime.sources.gstreamer.has_gstreamer", lambda: False)
        open_source(form.format(user, password, token))
    said = str(raised.value) + repr(raised.value)
    assert not any(secret in said for secret in (user, password, token))
