from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeseg.runtime.contract import Contract
from edgeseg.runtime.frame import Frame, Image, Mask, Result
from edgeseg.runtime.overlay import RateMeter, blend_classes, class_shares, draw_overlay

IGNORE = 11
CONTRACT = Contract(
    height=64,
    width=96,
    classes=("road", "car", "tree"),
    palette=((128, 64, 128), (250, 10, 20), (0, 128, 0)),
    ignore_index=IGNORE,
)


def result_of(image: Image, mask: Mask) -> Result:
    return Result(
        frame=Frame(image_bgr=image, id=7, captured_ns=0, name="frame-000007"),
        mask=mask,
        inference_ms=12.5,
        masked_ns=40_000_000,
    )


def grey(height: int, width: int) -> Image:
    return np.full((height, width, 3), 100, np.uint8)


def test_overlay_is_new_and_leaves_frame_and_mask_as_they_were() -> None:
    image, mask = grey(240, 320), np.zeros((240, 320), np.uint8)
    image.flags.writeable = mask.flags.writeable = False
    overlay = draw_overlay(result_of(image, mask), CONTRACT, fps=25.0)
    assert overlay.shape == image.shape and overlay.dtype == np.uint8
    assert not np.shares_memory(overlay, image)
    assert (image == 100).all() and not mask.any()


def test_palette_is_rgb_and_frame_is_bgr() -> None:
    blended = blend_classes(grey(8, 8), np.ones((8, 8), np.uint8), CONTRACT)
    blue, _, red = blended[4, 4].tolist()
    assert red > 150 > blue


@given(seed=st.integers(0, 2**32 - 1), height=st.integers(1, 90), width=st.integers(1, 90))
def test_pixels_without_a_class_keep_the_frames_colours(seed: int, height: int, width: int) -> None:
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    mask = rng.choice(np.array([0, 1, 2, 5, IGNORE, 255], np.uint8), (height, width))
    blended = blend_classes(image, mask, CONTRACT)
    unclassed = mask >= len(CONTRACT.classes)
    assert (blended[unclassed] == image[unclassed]).all()


def test_border_between_classes_is_darker_than_either() -> None:
    mask = np.zeros((40, 40), np.uint8)
    mask[:, 20:] = 2
    row = blend_classes(grey(40, 40), mask, CONTRACT)[20].astype(int).sum(axis=1)
    assert row[19:22].min() < 0.7 * min(row[5], row[35])


@pytest.mark.parametrize("size_hw", [(240, 320), (360, 480), (540, 960), (1080, 1920), (960, 540)])
def test_legend_and_figures_stay_in_their_corners(size_hw: tuple[int, int]) -> None:
    height, width = size_hw
    mask = np.full(size_hw, IGNORE, np.uint8)
    mask[-1, -3:] = 0, 1, 2
    overlay = draw_overlay(result_of(grey(*size_hw), mask), CONTRACT, fps=1234.5)
    changed = (overlay != 100).any(axis=2)
    changed[-2:, -4:] = False
    assert changed[: height // 2, : width // 2].any(), "figures are drawn"
    assert changed[height // 2 :, : width // 2].any(), "legend is drawn"
    assert not changed[:, width // 2 :].any()


@pytest.mark.parametrize("size_hw", [(1, 1), (2, 300), (300, 2), (17, 33), (40, 60)])
def test_tiny_frames_are_drawn_too(size_hw: tuple[int, int]) -> None:
    overlay = draw_overlay(result_of(grey(*size_hw), np.zeros(size_hw, np.uint8)), CONTRACT, fps=None)
    assert overlay.shape == (*size_hw, 3)


def test_many_classes_are_summed_rather_than_covering_more_than_half_the_height() -> None:
    count = 60
    contract = Contract(
        height=64,
        width=96,
        classes=tuple(f"class {i} with a name that is far too long for any legend" for i in range(count)),
        palette=((200, 100, 50),) * count,
        ignore_index=255,
    )
    mask = np.full((240, 320), 255, np.uint8)
    mask[-1, -count:] = np.arange(count)
    changed = (draw_overlay(result_of(grey(240, 320), mask), contract, fps=None) != 100).any(axis=2)
    changed[-3:, -count - 1 :] = False
    assert not changed[:, 160:].any()
    assert not changed[60:120].any()


def test_shares_name_only_present_classes_largest_first() -> None:
    mask = np.full((10, 10), IGNORE, np.uint8)
    mask[:2], mask[2:5] = 0, 2
    assert class_shares(mask, CONTRACT) == [(2, 30.0), (0, 20.0)]


def test_names_beyond_ascii_are_drawn_without_error() -> None:
    contract = CONTRACT.model_copy(update={"classes": ("Straße", "車", "árbol")})
    draw_overlay(result_of(grey(240, 320), np.zeros((240, 320), np.uint8)), contract, fps=25.0)


def test_rate_is_unknown_after_one_result_and_then_follows_the_last_two_seconds() -> None:
    meter = RateMeter()
    assert meter.tick(0) is None
    assert meter.tick(0) is None, "no time has passed"
    rates = [meter.tick(n * 100_000_000) for n in range(1, 100)]
    assert rates[-1] == pytest.approx(10.0)
    start_ns = 99 * 100_000_000
    faster = [meter.tick(start_ns + n * 20_000_000) for n in range(1, 150)]
    assert faster[-1] == pytest.approx(50.0)
