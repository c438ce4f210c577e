from __future__ import annotations

import http.server
import itertools
import json
import queue
import resource
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeseg.runtime.contract import Contract
from edgeseg.runtime.errors import SinkError
from edgeseg.runtime.frame import Frame, Result
from edgeseg.runtime.sinks import Sink, open_sink
from edgeseg.runtime.sinks.feed import Feed
from edgeseg.runtime.sinks.jsonl import encode_runs
from edgeseg.runtime.sinks.video import TICKS, VideoSink, count_frames
from edgeseg.runtime.sinks.window import missing_display

CONTRACT = Contract(
    height=64, width=96, classes=("road", "car"), palette=((128, 64, 128), (250, 10, 20)), ignore_index=11
)

VOID = np.full((120, 160), 11, np.uint8)


def result(index: int, *, size_hw: tuple[int, int] = (120, 160), name: str | None = None) -> Result:
    rng = np.random.default_rng(index)
    frame = Frame(
        image_bgr=rng.integers(0, 256, (*size_hw, 3), dtype=np.uint8),
        id=index,
        captured_ns=index * 40_000_000,
        name=name or f"frame-{index:06d}",
    )
    mask = rng.choice(np.array([0, 1, 11], np.uint8), size_hw)
    return Result(frame=frame, mask=mask, inference_ms=3.0, masked_ns=index * 40_000_000 + 5_000_000)


def open_(spec: str, fps: float | None = 30.0, *, live: bool = False) -> Sink:
    return open_sink(spec, contract=CONTRACT, fps=fps, live=live)


def read_video(path: Path) -> list[npt.NDArray[np.uint8]]:
    video = cv2.VideoCapture(str(path))
    frames = []
    while (read := video.read())[0]:
        frames.append(np.asarray(read[1], np.uint8))
    video.release()
    return frames


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Let no file of this process grow beyond `size` bytes: what a full disk does, on any disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("vidoe:a.mp4", "video:FILE, images:DIR, masks:DIR, jsonl:FILE, window, null"),
        ("window:x", "takes nothing"),
        ("jsonl", "names no FILE"),
        ("", "video:FILE"),
        ("video:", "names no FILE"),
        ("video", "names no FILE"),
        ("masks", "names no DIR"),
        ("null:x", "takes nothing"),
        ("video:a.avi", "ends in .mp4"),
    ],
)
def test_wrong_spec_is_one_line_that_says_what_is_right(spec: str, words: str) -> None:
    with pytest.raises(SinkError) as caught:
        open_(spec)
    assert words in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "spec", ["masks:{}/file/sub", "images:{}/file/sub", "video:{}/file/sub/a.mp4", "masks:{}/file"]
)
def test_folder_that_cannot_be_made_is_refused_before_the_run(spec: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SinkError, match="cannot be made"):
        open_(spec.format(tmp_path))


def test_null_keeps_nothing() -> None:
    sink = open_("null")
    sink.write(result(0))
    sink.close()
    assert sink.spec == "null"


def test_masks_come_back_exactly_under_the_frames_names(tmp_path: Path) -> None:
    sink = open_(f"masks:{tmp_path}/new/masks")
    results = [result(i, name=name, size_hw=(33 + i, 47)) for i, name in enumerate(["b.01", "a", "frame-000002"])]
    for item in results:
        sink.write(item)
    sink.close()
    folder = tmp_path / "new" / "masks"
    assert {p.name for p in folder.iterdir()} == {"b.01.png", "a.png", "frame-000002.png"}
    for item in results:
        mask = cv2.imread(str(folder / f"{item.frame.name}.png"), cv2.IMREAD_UNCHANGED)
        assert mask is not None and mask.dtype == np.uint8 and mask.ndim == 2
        assert (mask == item.mask).all()


def test_images_have_the_frames_size_and_name(tmp_path: Path) -> None:
    sink = open_(f"images:{tmp_path}")
    sink.write(result(4, size_hw=(121, 163)))
    sink.close()
    picture = cv2.imread(str(tmp_path / "frame-000004.jpg"))
    assert picture is not None and picture.shape == (121, 163, 3)


@pytest.mark.parametrize("kind", ["masks", "images"])
def test_second_frame_of_the_same_name_is_refused(kind: str, tmp_path: Path) -> None:
    sink = open_(f"{kind}:{tmp_path}")
    sink.write(result(0, name="left"))
    with pytest.raises(SinkError, match="two frames are named 'left'"):
        sink.write(result(1, name="left"))


def test_files_of_an_earlier_run_are_replaced(tmp_path: Path) -> None:
    for seed in (0, 1):
        sink = open_(f"masks:{tmp_path}")
        sink.write(result(seed, name="left"))
        sink.close()
    mask = cv2.imread(str(tmp_path / "left.png"), cv2.IMREAD_UNCHANGED)
    assert np.array_equal(np.asarray(mask), result(1).mask)


def test_mask_on_a_full_disk_is_one_line_and_leaves_no_half_file(tmp_path: Path) -> None:
    sink = open_(f"masks:{tmp_path}")
    with largest_file(100), pytest.raises(SinkError, match="cannot be written"):
        sink.write(result(0))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("size_hw", "stored_hw"), [((120, 160), (120, 160)), ((121, 163), (122, 164))])
def test_video_reads_back_with_its_frames_size_and_rate(
    size_hw: tuple[int, int], stored_hw: tuple[int, int], tmp_path: Path
) -> None:
    path = tmp_path / "out.mp4"
    sink = open_(f"video:{path}", fps=29.97)
    for index in range(12):
        sink.write(result(index, size_hw=size_hw))
        assert not path.exists()
    sink.close()
    sink.close()
    frames = read_video(path)
    assert len(frames) == 12
    assert {frame.shape for frame in frames} == {(*stored_hw, 3)}
    assert cv2.VideoCapture(str(path)).get(cv2.CAP_PROP_FPS) == pytest.approx(29.97, abs=0.01)
    assert [p.name for p in tmp_path.iterdir()] == ["out.mp4"]


def test_video_keeps_the_first_size_when_the_camera_changes_its_own(tmp_path: Path) -> None:
    sink = open_(f"video:{tmp_path}/out.mp4", fps=None)
    for index, size_hw in enumerate([(120, 160), (241, 321), (60, 80), (120, 160)]):
        sink.write(result(index, size_hw=size_hw))
    sink.close()
    assert [frame.shape for frame in read_video(tmp_path / "out.mp4")] == [(120, 160, 3)] * 4


def test_video_without_frames_leaves_no_file(tmp_path: Path) -> None:
    open_(f"video:{tmp_path}/out.mp4").close()
    assert not list(tmp_path.iterdir())


def test_video_whose_folder_went_away_is_one_line(tmp_path: Path) -> None:
    sink = open_(f"video:{tmp_path}/gone/out.mp4")
    (tmp_path / "gone").rmdir()
    with pytest.raises(SinkError, match="cannot be written"):
        sink.write(result(0))
    sink.close()
    assert not list(tmp_path.iterdir())


def test_video_on_a_full_disk_is_one_line_and_keeps_the_earlier_video(tmp_path: Path) -> None:
    path = tmp_path / "out.mp4"
    path.write_bytes(b"the earlier one")
    sink = open_(f"video:{path}")
    with largest_file(20_000), pytest.raises(SinkError, match=r"out\.mp4 (cannot be written|came out with)"):
        try:
            for index in range(60):
                sink.write(result(index))
        finally:
            sink.close()
    assert path.read_bytes() == b"the earlier one"
    assert [p.name for p in tmp_path.iterdir()] == ["out.mp4"]


def shown_s(path: Path) -> list[float]:
    """When each frame of a video is shown, in seconds."""
    with av.open(str(path)) as video:
        return [float(frame.time or 0) for frame in video.decode(video=0)]


@pytest.mark.parametrize(
    "captured_ms",
    [[0, 40, 80, 120], [0, 40, 80, 5080, 5120], [7, 140, 141, 300], [0, 33.4, 66.7, 3_600_000, 3_600_040]],
)
def test_clip_of_a_live_source_shows_each_frame_when_it_was_captured(captured_ms: list[float], tmp_path: Path) -> None:
    sink = open_(f"video:{tmp_path}/out.mp4", fps=25, live=True)
    for index, moment in enumerate(captured_ms):
        sink.write(replace(result(index), frame=replace(result(index).frame, captured_ns=round(moment * 1e6))))
    sink.close()
    shown = shown_s(tmp_path / "out.mp4")
    assert shown == pytest.approx([(moment - captured_ms[0]) / 1e3 for moment in captured_ms], abs=1 / TICKS)
    assert len(read_video(tmp_path / "out.mp4")) == len(captured_ms)


def test_clip_of_a_file_has_its_rate_however_long_the_frames_took(tmp_path: Path) -> None:
    sink = open_(f"video:{tmp_path}/out.mp4", fps=12.5)
    for index, captured_ns in enumerate((0, 10**9, 10**9 + 1, 10**12)):
        sink.write(replace(result(index), frame=replace(result(index).frame, captured_ns=captured_ns)))
    sink.close()
    assert shown_s(tmp_path / "out.mp4") == pytest.approx([0, 0.08, 0.16, 0.24])


@given(st.lists(st.integers(-(10**9), 10**9), min_size=1, max_size=60))
def test_no_clock_can_make_a_clip_run_backwards(steps_ns: list[int]) -> None:
    sink = VideoSink("video:x.mp4", "x.mp4", Feed(contract=CONTRACT, fps=25, live=True))
    now_ns, last = 0, -1
    for step_ns in steps_ns:
        now_ns += step_ns
        shown = sink._next_pts(now_ns)
        sink._frames += 1
        assert shown > last
        last = shown


_KILLED = """
import os, signal, sys
import numpy as np
from edgeseg.runtime.contract import Contract
from edgeseg.runtime.frame import Frame, Result
from edgeseg.runtime.sinks import open_sink

contract = Contract(height=64, width=96, classes=("road",), palette=((128, 64, 128),), ignore_index=11)
sink = open_sink("video:out.mp4", contract=contract, fps=10, live=True)
for index in range(100):
    image = np.full((64, 96, 3), index, np.uint8)
    frame = Frame(image_bgr=image, id=index, captured_ns=index * 10**8, name="")
    sink.write(Result(frame=frame, mask=np.zeros((64, 96), np.uint8), inference_ms=1.0))
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_is_left_of_a_clip_whose_program_was_killed_can_be_played(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", _KILLED], cwd=tmp_path, timeout=120)
    assert done.returncode == -signal.SIGKILL
    (left,) = tmp_path.iterdir()
    assert left.name.startswith(".out.") and left.name.endswith(".partial.mp4")
    # Ten seconds, of which up to the last two, since the newest key frame, may be lost.
    assert len(read_video(left)) >= 75


_PAGE = b"""<video id="video" muted src="out.mp4"></video><script>
const video = document.getElementById("video"), times = [];
const tell = (error) => fetch("/found", {method: "POST", body: JSON.stringify({
  times, error, duration: video.duration, size: [video.videoHeight, video.videoWidth]})});
const note = (_now, frame) => { times.push(frame.mediaTime); video.requestVideoFrameCallback(note); };
video.requestVideoFrameCallback(note);
video.onended = () => tell(null);
video.onerror = () => tell(video.error.message);
video.play().catch((error) => tell(String(error)));
</script>"""


class _Watched(http.server.SimpleHTTPRequestHandler):
    """Serves a folder and the page that plays its `out.mp4`, and keeps what the page found."""

    found: queue.Queue[dict[str, Any]]

    def do_GET(self) -> None:
        if self.path != "/":
            return super().do_GET()
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(_PAGE)
        return None

    def do_POST(self) -> None:
        self.found.put(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def watch(tmp_path: Path) -> Callable[[Path], dict[str, Any]]:
    """Plays the `out.mp4` of a folder in a browser, to its end, and returns what that saw."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no chromium: apt-get install chromium")

    def play(folder: Path) -> dict[str, Any]:
        _Watched.found = queue.Queue()
        with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(_Watched, directory=str(folder))) as server:
            thread = threading.Thread(target=server.serve_forever)
            thread.start()
            options = ("--headless=new", "--no-sandbox", "--disable-gpu", "--autoplay-policy=no-user-gesture-required")
            browser = subprocess.Popen(
                [
                    chromium,
                    *options,
                    f"--user-data-dir={tmp_path / 'profile'}",
                    f"http://127.0.0.1:{server.server_port}/",
                ],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            try:
                return _Watched.found.get(timeout=120)
            finally:
                browser.terminate()
                browser.wait(30)
                server.shutdown()
                thread.join()

    return play


def test_a_clip_plays_in_a_browser_at_the_times_of_capture(
    watch: Callable[[Path], dict[str, Any]], tmp_path: Path
) -> None:
    moments_s = [index * 0.08 for index in (*range(10), *range(25, 30))]
    sink = open_(f"video:{tmp_path}/clip/out.mp4", fps=12.5, live=True)
    for index, moment_s in enumerate(moments_s):
        sink.write(replace(result(index), frame=replace(result(index).frame, captured_ns=round(moment_s * 1e9))))
    sink.close()
    found = watch(tmp_path / "clip")
    assert found["error"] is None and found["size"] == [120, 160]
    assert found["duration"] == pytest.approx(moments_s[-1] + 0.08, abs=0.09)
    # A busy machine may skip frames, but shows none at another time than its own.
    assert len(found["times"]) >= 3
    for time_s in found["times"]:
        assert min(abs(time_s - moment_s) for moment_s in moments_s) < 0.002


def test_a_video_that_is_none_has_no_frames(tmp_path: Path) -> None:
    (tmp_path / "x.mp4").write_bytes(bytes(1000))
    assert count_frames(tmp_path / "x.mp4") == count_frames(tmp_path / "y.mp4") == 0


def test_images_of_a_live_source_are_not_remembered(tmp_path: Path) -> None:
    sink = open_(f"masks:{tmp_path}", live=True)
    for index in range(3):
        sink.write(result(index))
    kept = [value for value in vars(sink).values() if isinstance(value, (set, list, dict))]
    assert len(list(tmp_path.iterdir())) == 3 and not kept


def test_records_hold_figures_areas_and_the_whole_mask(tmp_path: Path) -> None:
    path = tmp_path / "new" / "masks.jsonl"
    sink = open_(f"jsonl:{path}")
    results = [result(index, size_hw=(33 + index, 47)) for index in range(3)]
    for index, item in enumerate(results):
        sink.write(item)
        assert len(path.read_text().splitlines()) == index + 1, "every line is there at once"
    sink.close()
    sink.close()
    for item, line in zip(results, path.read_text().splitlines(), strict=True):
        record = json.loads(line)
        assert (record["id"], record["name"]) == (item.frame.id, item.frame.name)
        assert (record["captured_ns"], record["frame_age_ms"]) == (item.frame.captured_ns, 5.0)
        assert record["inference_ms"] == 3.0
        runs = record["mask"]
        assert np.array_equal(np.repeat(runs["values"], runs["lengths"]).reshape(runs["size"]), item.mask)
        expected = {name: int((item.mask == i).sum()) for i, name in enumerate(CONTRACT.classes)}
        assert record["area"] == {name: count for name, count in expected.items() if count}


@given(
    st.tuples(st.integers(1, 9), st.integers(1, 9)).flatmap(
        lambda hw: st.lists(st.integers(0, 3), min_size=hw[0] * hw[1], max_size=hw[0] * hw[1]).map(
            lambda levels: np.array(levels, np.uint8).reshape(hw)
        )
    )
)
def test_runs_decode_to_the_mask_and_are_as_few_as_can_be(mask: npt.NDArray[np.uint8]) -> None:
    runs = encode_runs(mask)
    assert np.array_equal(np.repeat(runs["values"], runs["lengths"]).reshape(runs["size"]), mask)
    assert all(a != b for a, b in itertools.pairwise(runs["values"])) and min(runs["lengths"]) > 0


def test_records_on_a_full_disk_are_one_line(tmp_path: Path) -> None:
    sink = open_(f"jsonl:{tmp_path}/masks.jsonl")
    with largest_file(100), pytest.raises(SinkError, match="cannot be written"):
        sink.write(result(0))
    with suppress(SinkError):
        sink.close()
    with pytest.raises(SinkError, match="cannot be written"):
        open_(f"jsonl:{tmp_path}")


def test_window_on_a_headless_machine_says_so_once_and_goes_on(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    sink = open_("window")
    for index in range(3):
        sink.write(result(index))
    sink.close()
    assert caplog.text.count("no window is shown: there is no display") == 1


class FakeScreen:
    """OpenCV's windows; `broken` is how they fail without a server."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, broken: bool = False) -> None:
        self.shown: list[tuple[int, ...]] = []
        self.closed = 0
        self.broken = broken
        monkeypatch.setenv("DISPLAY", ":0")
        monkeypatch.setattr(cv2, "getBuildInformation", lambda: "  GUI:   GTK3")
        monkeypatch.setattr(cv2, "imshow", self.show)
        monkeypatch.setattr(cv2, "waitKey", lambda _ms: -1)
        monkeypatch.setattr(cv2, "destroyWindow", self.close)

    def show(self, _title: str, picture: npt.NDArray[np.uint8]) -> None:
        if self.broken:
            raise cv2.error("Can't initialize\nGTK backend")
        self.shown.append(picture.shape)

    def close(self, _title: str) -> None:
        self.closed += 1


def test_window_shows_each_overlay_and_closes_once(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = FakeScreen(monkeypatch)
    sink = open_("window")
    for index in range(2):
        sink.write(result(index))
    sink.close()
    sink.close()
    assert screen.shown == [(120, 160, 3)] * 2 and screen.closed == 1


def test_window_without_a_server_says_so_once_and_goes_on(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    screen = FakeScreen(monkeypatch, broken=True)
    sink = open_("window")
    for index in range(3):
        sink.write(result(index))
    sink.close()
    assert caplog.text.count("no window is shown: Can't initialize GTK backend") == 1 and not screen.closed


def test_windows_are_missing_where_opencv_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cv2, "getBuildInformation", lambda: "  GUI:                           NONE\n")
    assert missing_display({"DISPLAY": ":0"}) == "this OpenCV was built without windows"
    assert missing_display({"DISPLAY": ""}) == "there is no display"
