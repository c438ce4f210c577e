from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from edgeseg.runtime.contact_sheet import ContactSheet
from edgeseg.runtime.contract import Contract
from edgeseg.runtime.errors import SinkError
from edgeseg.runtime.frame import Frame, Result

CONTRACT = Contract(
    height=64, width=96, classes=("road", "car"), palette=((128, 64, 128), (250, 10, 20)), ignore_index=11
)


def result(index: int, *, truth: bool = True, size_hw: tuple[int, int] = (48, 64)) -> Result:
    mask = np.full(size_hw, index % 2, np.uint8)
    frame = Frame(
        image_bgr=np.full((*size_hw, 3), index % 256, np.uint8),
        id=index,
        captured_ns=0,
        name=f"frame-{index:06d}",
        truth=mask if truth else None,
    )
    return Result(frame=frame, mask=mask, inference_ms=3.0, masked_ns=5_000_000)


def sheet_of(count: int, *, rows: int = 4, truth: bool = True) -> ContactSheet:
    sheet = ContactSheet(CONTRACT, rows=rows)
    for index in range(count):
        sheet.write(result(index, truth=truth))
    return sheet


def shown_levels(sheet: ContactSheet) -> list[int]:
    """Grey levels of the frames in the left column, top to bottom."""
    column = sheet.render("", [])[:, 200]
    pure = [int(p[0]) for p in column if p[0] == p[1] == p[2]]
    return [level for i, level in enumerate(pure) if i == 0 or pure[i - 1] != level]


@pytest.mark.parametrize("count", [1, 7, 8, 9, 1000])
def test_memory_does_not_grow_with_the_run(count: int) -> None:
    assert 1 <= len(sheet_of(count)) < 8


@pytest.mark.parametrize("count", [5, 40, 101, 233])
def test_frames_are_spread_over_the_whole_run(count: int) -> None:
    levels = shown_levels(sheet_of(count))
    assert len(levels) == 4
    assert levels[0] == 0
    assert levels[-1] >= count / 2
    steps = np.diff(levels)
    assert steps.min() > 0 and steps.max() <= 2 * steps.min() + 1


def test_short_run_shows_each_frame_once() -> None:
    assert shown_levels(sheet_of(2)) == [0, 1]


def test_truth_takes_a_third_column_only_where_it_is_known() -> None:
    with_truth, without = sheet_of(4).render("t", []), sheet_of(4, truth=False).render("t", [])
    assert with_truth.shape[1] > without.shape[1]


def test_results_of_different_sizes_and_partial_truth_share_a_sheet() -> None:
    sheet = ContactSheet(CONTRACT)
    sheet.write(result(0))
    sheet.write(result(1, truth=False, size_hw=(720, 1280)))
    sheet.write(result(2, size_hw=(9, 333)))
    assert sheet.render("title", ["a fact"]).ndim == 3


def test_empty_run_still_renders() -> None:
    assert ContactSheet(CONTRACT).render("nothing", ["0 frames"]).ndim == 3


def test_frame_is_not_written_to() -> None:
    item = result(3)
    item.frame.image_bgr.flags.writeable = item.mask.flags.writeable = False
    sheet = ContactSheet(CONTRACT)
    sheet.write(item)
    sheet.render("t", [])


def test_saved_sheet_is_the_rendered_one(tmp_path: Path) -> None:
    sheet = sheet_of(9)
    path = tmp_path / "deep" / "sheet.png"
    sheet.save(path, title="t", facts=["f"])
    assert np.array_equal(np.asarray(cv2.imread(str(path))), sheet.render("t", ["f"]))
    assert [p.name for p in path.parent.iterdir()] == ["sheet.png"]


def test_unwritable_place_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SinkError, match="cannot be written"):
        sheet_of(2).save(tmp_path / "file" / "sheet.png", title="t", facts=[])
