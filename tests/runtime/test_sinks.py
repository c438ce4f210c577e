from __future__ import annotations

import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from edgeseg.runtime.contract import Contract
from edgeseg.runtime.errors import SinkError
from edgeseg.runtime.frame import Frame, Result
from edgeseg.runtime.sinks import Sink, open_sink
from edgeseg.runtime.sinks.video import usable_fourccs

CONTRACT = Contract(
    height=64, width=96, classes=("road", "car"), palette=((128, 64, 128), (250, 10, 20)), ignore_index=11
)


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


def open_(spec: str, fps: float | None = 30.0) -> Sink:
    return open_sink(spec, contract=CONTRACT, fps=fps)


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
        ("vidoe:a.mp4", "video:FILE, images:DIR, masks:DIR, null"),
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


def test_video_that_no_encoder_opens_is_one_line(tmp_path: Path) -> None:
    sink = open_(f"video:{tmp_path}/gone/out.mp4")
    (tmp_path / "gone").rmdir()
    with pytest.raises(SinkError, match="cannot write"):
        sink.write(result(0))
    sink.close()
    assert not list(tmp_path.iterdir())


def test_video_on_a_full_disk_is_one_line_and_keeps_the_earlier_video(tmp_path: Path) -> None:
    path = tmp_path / "out.mp4"
    path.write_bytes(b"the earlier one")
    sink = open_(f"video:{path}")
    with largest_file(20_000):
        for index in range(12):
            sink.write(result(index))
        with pytest.raises(SinkError, match="of 12 frames"):
            sink.close()
    assert path.read_bytes() == b"the earlier one"
    assert [p.name for p in tmp_path.iterdir()] == ["out.mp4"]


def test_looking_for_an_encoder_is_silent(capfd: pytest.CaptureFixture[str]) -> None:
    usable_fourccs.cache_clear()
    assert usable_fourccs()
    assert capfd.readouterr() == ("", "")
