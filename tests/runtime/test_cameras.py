"""Several cameras behind one network: turns, faults of one, and what belongs to whom."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import cv2
import numpy as np
import pytest
from click.testing import CliRunner
from tests.runtime.test_pipeline import FakeBackend, FakeSink, FakeSource, raise_at, void

from edgeseg.runtime.awaited import any_present, is_present, may_appear
from edgeseg.runtime.backends import open_backend
from edgeseg.runtime.bundle import open_bundle
from edgeseg.runtime.cli import main
from edgeseg.runtime.commands.open_cameras import place_for
from edgeseg.runtime.contract import Contract
from edgeseg.runtime.errors import BackendError, SourceError
from edgeseg.runtime.frame import Frame, Image, Mask, Result
from edgeseg.runtime.mosaic import MosaicSink
from edgeseg.runtime.pipeline import Camera, Limits, Stop, run_cameras
from edgeseg.runtime.sources import open_source
from edgeseg.runtime.sources.synthetic import SyntheticSource

WAIT_S = 10
EIGHT_AGE_MS = 1000.0
"""What eight cameras at 5 fps must stay below here, on a machine that others may share."""


@pytest.fixture(autouse=True)
def no_thread_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    for thread in set(threading.enumerate()) - before:
        thread.join(WAIT_S)
    assert set(threading.enumerate()) <= before


def _cameras(*sources: FakeSource, sinks: list[FakeSink] | None = None) -> list[Camera]:
    own = sinks or [FakeSink() for _ in sources]
    return [
        Camera(source=source, sinks=[sink], name=f"camera-{number}")
        for number, (source, sink) in enumerate(zip(sources, own, strict=True), start=1)
    ]


def test_each_camera_has_its_own_sinks_and_shares_the_others(tiny_contract: Contract) -> None:
    own, shared = [FakeSink(), FakeSink()], FakeSink()
    cameras = _cameras(FakeSource(6), FakeSource(3), sinks=own)
    summary = run_cameras(cameras, FakeBackend(), tiny_contract, [shared])
    assert [sink.ids for sink in own] == [list(range(6)), list(range(3))]
    assert [{result.camera for result in sink.results} for sink in own] == [{0}, {1}]
    assert sorted((result.camera, result.frame.id) for result in shared.results) == [
        *((0, index) for index in range(6)),
        *((1, index) for index in range(3)),
    ]
    assert [(one.camera, one.frames, one.dropped) for one in summary.cameras] == [
        ("camera-1", 6, 0),
        ("camera-2", 3, 0),
    ]
    assert summary.frames == 9 and [report.frames for report in summary.sinks] == [6, 3, 9]
    assert [len(one.sinks) for one in summary.cameras] == [1, 1]
    assert own[0].closes == own[1].closes == shared.closes == 1


def test_frame_sizes_may_differ(tiny_contract: Contract) -> None:
    class Small(FakeSource):
        size_hw = (20, 30)

    sinks = [FakeSink(), FakeSink()]
    run_cameras(_cameras(FakeSource(4), Small(4), sinks=sinks), FakeBackend(), tiny_contract)
    assert [{result.mask.shape for result in sink.results} for sink in sinks] == [{(48, 64)}, {(20, 30)}]
    assert all(np.all(result.mask == result.frame.id) for sink in sinks for result in sink.results)


def test_cameras_take_turns_when_inference_is_too_slow_for_all(tiny_contract: Contract) -> None:
    read = [0, 0, 0]
    more = threading.Condition()
    order: list[int] = []

    class Marked(FakeSource):
        def __init__(self, camera: int) -> None:
            super().__init__(-1, live=True, before_read=self.note)
            self.camera = camera

        def note(self, index: int) -> None:
            with more:
                read[self.camera] = index
                more.notify_all()

        def image(self, index: int) -> Image:
            return np.full((*self.size_hw, 3), self.camera, np.uint8)

    class Slow(FakeBackend):
        """Takes until every camera has handed over another frame."""

        def infer(self, frame: Image) -> Mask:
            order.append(int(frame[0, 0, 0, 0]))
            with more:
                seen = list(read)
                assert more.wait_for(lambda: all(n > b + 1 for n, b in zip(read, seen, strict=True)), WAIT_S)
            return super().infer(frame)

    summary = run_cameras(_cameras(Marked(0), Marked(1), Marked(2)), Slow(), tiny_contract, max_frames=7)
    # The first inference began when only one camera may have been ready.
    turns = order[1:]
    assert sorted(turns[:3]) == [0, 1, 2] and turns == turns[:3] * 2
    assert all(one.drops["inference"] > 0 for one in summary.cameras)


@pytest.mark.parametrize("live", [True, False])
def test_a_camera_that_gives_nothing_keeps_no_other_waiting(tiny_contract: Contract, live: bool) -> None:
    class Dead(FakeSource):
        def read(self) -> Frame | None:
            self.closed.wait(WAIT_S)
            return None

    summary = run_cameras(
        _cameras(Dead(-1, live=True), FakeSource(-1, live=live)), FakeBackend(), tiny_contract, max_frames=20
    )
    dead, other = summary.cameras
    assert (dead.frames, other.frames) == (0, 20)


def test_a_camera_that_ends_leaves_the_others_running(tiny_contract: Contract) -> None:
    ended = threading.Event()

    class Ending(FakeSource):
        def close(self) -> None:
            super().close()
            ended.set()

    long = FakeSource(5, before_read=lambda index: void(index == 1 and ended.wait(WAIT_S)))
    summary = run_cameras(_cameras(Ending(2), long), FakeBackend(), tiny_contract)
    assert [one.frames for one in summary.cameras] == [2, 5]


def test_a_live_camera_that_fails_is_taken_out_and_told(
    tiny_contract: Contract, caplog: pytest.LogCaptureFixture
) -> None:
    failed = threading.Event()

    class Failing(FakeSource):
        def close(self) -> None:
            super().close()
            failed.set()

    broken = Failing(-1, live=True, before_read=raise_at(2, SourceError("8 reads never returned")))
    well = FakeSource(5, before_read=lambda index: void(index == 1 and failed.wait(WAIT_S)))
    summary = run_cameras(_cameras(broken, well), FakeBackend(), tiny_contract)
    assert summary.cameras[0].error == "SourceError: 8 reads never returned"
    assert summary.cameras[1].frames == 5 and not summary.cameras[1].error
    assert "camera-1 failed, and the others go on: 8 reads never returned" in caplog.text


def test_the_last_camera_that_fails_ends_the_run(tiny_contract: Contract) -> None:
    sources = [FakeSource(-1, live=True, before_read=raise_at(at, SourceError("it broke"))) for at in (1, 3)]
    with pytest.raises(SourceError, match="capture stage: it broke"):
        run_cameras(_cameras(*sources), FakeBackend(), tiny_contract)


def test_a_stuck_inference_names_the_camera(tiny_contract: Contract) -> None:
    release = threading.Event()
    backend = FakeBackend(before_infer=lambda _: void(release.wait(WAIT_S)))
    with pytest.raises(BackendError, match=r"frame 0 of camera-[12] has been in the backend for more than 0\.3 s"):
        run_cameras(_cameras(FakeSource(-1), FakeSource(-1)), backend, tiny_contract, limits=Limits(inference_s=0.3))
    release.set()
    for thread in threading.enumerate():
        if thread.name.startswith("edgeseg-"):
            thread.join(WAIT_S)


@pytest.mark.parametrize(
    ("spec", "several", "place"),
    [
        ("masks:out", True, "masks:out/camera-2"),
        ("masks:out", False, "masks:out"),
        ("masks:out/{camera}/masks", True, "masks:out/camera-2/masks"),
        ("jsonl:{camera}.jsonl", False, "jsonl:camera-2.jsonl"),
        ("video:a/drive.mp4", True, "video:a/drive-camera-2.mp4"),
        ("null", True, "null"),
        ("paper:x", True, "paper:x"),
    ],
)
def test_each_camera_writes_to_a_place_of_its_own(spec: str, several: bool, place: str) -> None:
    assert place_for(spec, "camera-2", several=several) == place


@pytest.mark.parametrize(
    ("url", "appears"),
    [("0", True), ("/dev/video9?fps=5", True), ("csi://0", True), ("rtsp://a/b", True), ("gst:a ! appsink", True),
     ("drive.mp4", False), ("synthetic://street", False), ("http://a/clip.mp4", False)],
)  # fmt: skip
def test_only_what_is_live_is_awaited(url: str, appears: bool) -> None:
    assert may_appear(url) is appears


def test_presence_is_told_where_it_can_be(tmp_path: Path) -> None:
    assert is_present(str(tmp_path)) is True and is_present("/dev/video-away") is False
    assert is_present("rtsp://door/") is None and is_present("gst:a ! appsink") is None
    assert any_present(["/dev/video-away", "rtsp://door/"]) is None
    assert any_present(["/dev/video-away", "synthetic://street"]) is True
    assert any_present(["/dev/video-away"]) is False


def test_the_mosaic_keeps_each_camera_in_its_cell(tiny_contract: Contract) -> None:
    class Keeping(FakeSink):
        def write(self, result: Result) -> None:
            self.seen = (result.frame.image_bgr.copy(), result.mask.copy())

    sink = Keeping()
    mosaic = MosaicSink(sink, 3, tiny_contract, size_hw=(80, 120))
    for camera, size_hw in enumerate([(40, 60), (20, 60), (90, 30)]):
        image = np.full((*size_hw, 3), 50 * (camera + 1), np.uint8)
        frame = Frame(image_bgr=image, id=0, captured_ns=0, name="f")
        mosaic.write(Result(frame=frame, mask=np.full(size_hw, camera, np.uint8), inference_ms=1, camera=camera))
    image, mask = sink.seen
    assert image.shape == (80, 120, 3) and mask.shape == (80, 120)
    cells = [mask[:40, :60], mask[:40, 60:], mask[40:, :60], mask[40:, 60:]]
    ignored = tiny_contract.ignore_index
    assert [set(np.unique(cell)) for cell in cells] == [{0}, {1, ignored}, {2, ignored}, {ignored}]
    assert set(np.unique(image[mask == 1])) == {100}
    mosaic.close()
    assert sink.closes == 1


def _run(*arguments: str | Path) -> Any:
    return CliRunner().invoke(main, ["run", *map(str, arguments)])


def _sources(*urls: str | Path) -> list[str]:
    return [word for url in urls for word in ("--source", str(url))]


def test_run_takes_several_sources(tiny_bundle: Path, tmp_path: Path) -> None:
    folders = []
    for name, count in (("front", 3), ("back", 2)):
        folders.append(tmp_path / name)
        folders[-1].mkdir()
        for index in range(count):
            assert cv2.imwrite(str(folders[-1] / f"{index}.png"), np.full((40, 60, 3), 128, np.uint8))
    document_path = tmp_path / "run.json"
    sinks = ("--sink", f"masks:{tmp_path}/masks", "--sink", f"jsonl:{tmp_path}/{{camera}}.jsonl")
    done = _run(tiny_bundle, *_sources(*folders), *sinks, "--json", document_path)
    assert done.exit_code == 0, done.output
    assert sorted(path.name for path in (tmp_path / "masks" / "camera-1").iterdir()) == ["0.png", "1.png", "2.png"]
    assert sorted(path.name for path in (tmp_path / "masks" / "camera-2").iterdir()) == ["0.png", "1.png"]
    assert len((tmp_path / "camera-2.jsonl").read_text().splitlines()) == 2
    document = json.loads(document_path.read_text())
    assert document["frames"] == 5 and len(document["sinks"]) == 4
    assert [(one["source"], one["frames"]) for one in document["cameras"]] == [
        (str(folders[0]), 3),
        (str(folders[1]), 2),
    ]
    assert document["source"] == f"{folders[0]}, {folders[1]}"
    assert "camera-2" in done.output


def test_a_camera_that_is_away_does_not_keep_the_others_from_starting(tiny_bundle: Path, tmp_path: Path) -> None:
    sources = _sources("rtsp://u:secret@127.0.0.1:1/x", "synthetic://street?size=96x64&fps=50")
    done = _run(tiny_bundle, *sources, "--backend", "null", "--max-frames", "5", "--json", tmp_path / "run.json")
    assert done.exit_code == 0, done.output
    away, there = json.loads((tmp_path / "run.json").read_text())["cameras"]
    assert (away["frames"], there["frames"]) == (0, 5) and away["fault_counts"] == {"disconnect": 1}
    assert "secret" not in done.output + (tmp_path / "run.json").read_text()


@pytest.mark.parametrize(
    ("urls", "said"),
    [
        (("rtsp://127.0.0.1:1/x", "/dev/video-away"), "127.0.0.1:1/x gave no frame"),
        (("synthetic://street", "nowhere.mp4"), "nowhere.mp4 is no file"),
    ],
)
def test_what_cannot_be_awaited_is_status_1(tiny_bundle: Path, urls: tuple[str, ...], said: str) -> None:
    done = _run(tiny_bundle, *_sources(*urls), "--backend", "null")
    assert done.exit_code == 1 and said in done.output.strip().splitlines()[-1]


class _Still:
    """Draws nothing: eight streets drawn at once would be what is measured."""

    def render(self, index: int) -> tuple[Image, Mask]:
        return np.full((48, 64, 3), index % 256, np.uint8), np.zeros((48, 64), np.uint8)


def test_eight_cameras_at_5_fps_hold_with_bounded_age(tiny_contract: Contract) -> None:
    sources = [SyntheticSource(cast(Any, _Still()), size_hw=(48, 64), fps=5, frames=10) for _ in range(8)]
    cameras = [Camera(source=source, name=f"camera-{number}") for number, source in enumerate(sources)]
    summary = run_cameras(cameras, FakeBackend(), tiny_contract)
    for one in summary.cameras:
        assert one.frames >= 5 and one.frames + one.dropped <= 10
        assert one.frame_age_ms is not None and one.frame_age_ms["max"] < EIGHT_AGE_MS


def test_drawn_cameras_wait_for_one_turn_of_each_other(tiny_bundle: Path) -> None:
    """In turns, not in time: `edgeseg.benchmarks.cameras` measures that, on a machine without other work."""
    count, each, stop = 8, 4, Stop()
    results: list[Result] = []

    class Counting(FakeSink):
        def write(self, result: Result) -> None:
            results.append(result)
            if min(Counter(one.camera for one in results)[camera] for camera in range(count)) >= each:
                stop.set()

    with open_bundle(tiny_bundle) as bundle:
        backend = open_backend(bundle, backend="ort", threads=1)
        cameras = [
            Camera(source=open_source(f"synthetic://street?size=96x64&fps=5&seed={seed}"), name=f"camera-{seed}")
            for seed in range(count)
        ]
        run_cameras(cameras, backend, bundle.contract, [Counting()], stop=stop)
    done_ns = np.array([one.masked_ns for one in results])
    turns = [int(np.sum((done_ns > one.frame.captured_ns) & (done_ns <= one.masked_ns))) for one in results]
    # The inference under way, one for each other camera and its own. A thread that gets no processor is late itself.
    assert np.mean(np.array(turns) <= count + 1) >= 0.9


def test_one_faulty_camera_leaves_the_other_its_rate(tiny_bundle: Path, tmp_path: Path) -> None:
    sources = _sources(*(f"synthetic://street?size=96x64&fps=20&seed={seed}" for seed in range(2)))
    arguments = ("--fault", "stall:1@5,disconnect:1@10", "--max-frames", "60", "--backend", "null")
    done = _run(tiny_bundle, *sources, *arguments, "--json", tmp_path / "run.json")
    assert done.exit_code == 0, done.output
    faulty, well = json.loads((tmp_path / "run.json").read_text())["cameras"]
    assert faulty["fault_counts"].get("disconnect") == 1 and "disconnect" not in well["fault_counts"]
    assert well["frames"] > faulty["frames"]
