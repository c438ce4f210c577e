"""Fitting frames to a contract's size and masks back."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from edgeseg.runtime.contract import PAD_LEVEL, Contract, Fit, Fitter
from edgeseg.runtime.errors import FrameError

IGNORE = 255
sides = st.integers(1, 150)
fits = st.sampled_from(get_args(Fit))


def _contract(fit: Fit, height: int = 64, width: int = 96) -> Contract:
    return Contract(
        height=height, width=width, fit=fit, classes=("a", "b"), palette=((0, 0, 0), (9, 9, 9)), ignore_index=IGNORE
    )


@given(fit=fits, height=sides, width=sides)
def test_frames_of_any_size_come_to_the_contracts_and_masks_back(fit: Fit, height: int, width: int) -> None:
    fitter = Fitter(_contract(fit), (height, width))
    fitted = fitter.fit(np.full((height, width, 3), 50, np.uint8))
    assert fitted.shape == (1, 64, 96, 3) and fitted.dtype == np.uint8
    assert set(np.unique(fitted)) <= {50, PAD_LEVEL}
    mask = fitter.unfit(np.ones((64, 96), np.uint8))
    assert mask.shape == (height, width) and mask.dtype == np.uint8
    assert set(np.unique(mask)) <= {1, IGNORE} and 1 in mask
    if fit != "crop":
        assert IGNORE not in mask
    if fit != "letterbox":
        assert PAD_LEVEL not in fitted


@given(fit=fits, scale=st.integers(1, 4), seed=st.integers(0, 99))
def test_labels_survive_the_way_there_and_back_when_upscaled_by_whole_numbers(fit: Fit, scale: int, seed: int) -> None:
    labels = np.random.default_rng(seed).integers(0, 2, (32, 48)).astype(np.uint8)
    fitter = Fitter(_contract(fit, 32 * scale, 48 * scale), (32, 48))
    np.testing.assert_array_equal(fitter.unfit(fitter.fit_mask(labels)), labels)


def test_letterbox_keeps_the_aspect_and_centres_grey_bars() -> None:
    fitter = Fitter(_contract("letterbox", 96, 96), (48, 96))
    fitted = fitter.fit(np.zeros((48, 96, 3), np.uint8))[0, :, 0, 0]
    np.testing.assert_array_equal(fitted == PAD_LEVEL, [True] * 24 + [False] * 48 + [True] * 24)
    assert (fitter.fit_mask(np.zeros((48, 96), np.uint8))[:24] == IGNORE).all()


def test_crop_says_that_it_saw_nothing_beyond_its_window() -> None:
    fitter = Fitter(_contract("crop", 64, 64), (64, 128))
    mask = fitter.unfit(np.ones((64, 64), np.uint8))
    np.testing.assert_array_equal(mask[0] == IGNORE, [True] * 32 + [False] * 64 + [True] * 32)


def test_image_and_label_stay_aligned_at_awkward_sizes() -> None:
    """A half-black, half-white frame and its label have their edge within half a pixel of each other."""
    for fit in get_args(Fit):
        image = np.zeros((333, 517, 3), np.uint8)
        image[:, 250:] = 255
        fitter = Fitter(_contract(fit), (333, 517))
        fitted, label = fitter.fit(image)[0, 32, :, 0], fitter.fit_mask(image[..., 0] // 255)[32]
        assert abs(int(np.argmax(fitted > 200)) - int(np.argmax(label == 1))) <= 1


def test_large_reductions_average_rather_than_skip() -> None:
    stripes = np.zeros((640, 960, 3), np.uint8)
    stripes[:, ::2] = 255
    fitted = Fitter(_contract("stretch"), (640, 960)).fit(stripes)
    assert fitted.min() >= 120 and fitted.max() <= 135


@pytest.mark.parametrize(
    "frame",
    [
        np.zeros((10, 20, 4), np.uint8),
        np.zeros((10, 20), np.uint8),
        np.zeros((10, 20, 3), np.float32),
        np.zeros((20, 10, 3), np.uint8),
    ],
    ids=["four-channel", "grey", "float", "another-size"],
)
def test_a_frame_that_is_not_8_bit_bgr_of_the_size_is_refused(
    frame: np.ndarray[tuple[int, ...], np.dtype[np.uint8]],
) -> None:
    with pytest.raises(FrameError, match=r"expected \(10, 20, 3\), uint8"):
        Fitter(_contract("stretch"), (10, 20)).fit(frame)


@pytest.mark.parametrize(
    "wrong",
    [
        {"palette": ((0, 0, 0),)},
        {"classes": ("a", "a")},
        {"ignore_index": 1},
        {"height": 0},
        {"fit": "squash"},
        {"palette": ((0, 0, 0), (0, 0, 256))},
        {"surprise": 1},
    ],
)
def test_contract_refuses_what_contradicts_itself(wrong: dict[str, object]) -> None:
    sound = _contract("stretch").model_dump()
    with pytest.raises(ValidationError):
        Contract(**{**sound, **wrong})
