"""The built-in street camera."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeseg.runtime.errors import SourceError
from edgeseg.runtime.street import STREET_CLASSES, STREET_IGNORE, STREET_PALETTE, StreetCamera

SMALL = (96, 128)


@cache
def small_street(seed: int) -> StreetCamera:
    """A camera for several tests: rendering leaves nothing behind in it."""
    return StreetCamera(size_hw=SMALL, seed=seed)


def test_classes_and_palette_are_camvids() -> None:
    assert STREET_CLASSES == (
        "sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car", "pedestrian", "bicyclist",
    )  # fmt: skip
    assert len(set(STREET_PALETTE)) == len(STREET_CLASSES) == STREET_IGNORE
    assert STREET_PALETTE[STREET_CLASSES.index("road")] == (128, 64, 128)


def test_frames_are_the_same_bytes_whatever_was_rendered_before() -> None:
    forward, backward = small_street(3), StreetCamera(size_hw=SMALL, seed=3)
    indices = [0, 1, 40, 700, 20_000]
    first = {index: forward.render(index) for index in indices}
    second = {index: backward.render(index) for index in reversed(indices)}
    for index in indices:
        for one, other in zip(first[index], second[index], strict=True):
            np.testing.assert_array_equal(one, other)


def test_writing_to_a_frame_leaves_later_frames_alone() -> None:
    camera = small_street(0)
    image, mask = camera.render(5)
    kept = image.copy(), mask.copy()
    image[:], mask[:] = 0, 0
    np.testing.assert_array_equal(camera.render(5)[0], kept[0])
    np.testing.assert_array_equal(camera.render(5)[1], kept[1])


@pytest.mark.parametrize("seed", range(3))
def test_truth_holds_all_classes_in_most_frames(seed: int) -> None:
    camera = StreetCamera(seed=seed)
    frames = [np.bincount(camera.render(index)[1].ravel(), minlength=11) for index in range(0, 300, 30)]
    present = (np.array(frames) > 0).mean(axis=0)
    assert dict(zip(STREET_CLASSES, present.tolist(), strict=True)) == pytest.approx(
        dict.fromkeys(STREET_CLASSES, 1.0), abs=0.2
    )


def test_class_shares_are_like_camvids() -> None:
    cameras = [StreetCamera(size_hw=(240, 320), seed=seed) for seed in range(3)]
    masks = np.stack([camera.render(index)[1] for camera in cameras for index in (50, 350)])
    counts = np.bincount(masks.ravel(), minlength=11)
    shares = dict(zip(STREET_CLASSES, (100 * counts / counts.sum()).tolist(), strict=True))
    assert 8 < shares["sky"] < 28
    assert 14 < shares["building"] < 35
    assert 24 < shares["road"] < 40
    assert 2 < shares["pavement"] < 10
    assert 4 < shares["tree"] < 20
    assert 2 < shares["car"] < 12


def test_truth_follows_the_picture() -> None:
    image, mask = StreetCamera(seed=0).render(40)
    sky = image[mask == STREET_CLASSES.index("sky")].astype(float)
    road = image[mask == STREET_CLASSES.index("road")].astype(float)
    assert sky[:, 0].mean() > road[:, 0].mean() + 60
    assert (mask[0] == STREET_CLASSES.index("road")).sum() == 0
    assert (mask[-1] == STREET_CLASSES.index("sky")).sum() == 0


def test_neighbouring_frames_move_a_little() -> None:
    camera = StreetCamera(size_hw=(240, 320), seed=1)
    for index in (10, 200):
        before, after = camera.render(index)[1], camera.render(index + 1)[1]
        assert 0.001 < np.mean(before != after) < 0.12


def test_frame_rate_sets_the_pace_and_not_the_street() -> None:
    slow, fast = StreetCamera(size_hw=SMALL, fps=5.0), StreetCamera(size_hw=SMALL, fps=50.0)
    np.testing.assert_array_equal(slow.render(3)[1], fast.render(30)[1])


def test_seeds_differ() -> None:
    images = [small_street(seed).render(0)[0].astype(int) for seed in (0, 1, 2)]
    masks = [small_street(seed).render(0)[1] for seed in (0, 1, 2)]
    for one, other in ((0, 1), (1, 2), (0, 2)):
        assert np.mean(masks[one] != masks[other]) > 0.1
        assert np.abs(images[one] - images[other]).mean() > 10


def test_light_changes_slowly() -> None:
    camera = small_street(2)
    road = STREET_CLASSES.index("road")
    levels = [float(image[mask == road].mean()) for image, mask in map(camera.render, range(0, 3000, 150))]
    assert max(levels) - min(levels) > 8
    now, next_second = (image[mask == road].mean() for image, mask in map(camera.render, (0, 25)))
    assert abs(now - next_second) < 12


@pytest.mark.parametrize("size_hw", [(64, 96), (97, 131), (33, 400), (400, 33), (270, 480)])
def test_any_size_is_rendered(size_hw: tuple[int, int]) -> None:
    image, mask = StreetCamera(size_hw=size_hw).render(12)
    assert image.shape == (*size_hw, 3)
    assert mask.shape == size_hw


@settings(max_examples=8, deadline=None)
@given(
    height=st.integers(32, 150),
    width=st.integers(32, 200),
    seed=st.integers(0, 2**63),
    index=st.one_of(st.integers(0, 10_000), st.integers(0, 10**9)),
)
def test_frames_keep_their_promise(height: int, width: int, seed: int, index: int) -> None:
    image, mask = StreetCamera(size_hw=(height, width), seed=seed).render(index)
    assert image.shape == (height, width, 3)
    assert mask.shape == (height, width)
    assert image.dtype == mask.dtype == np.uint8
    assert mask.max() < len(STREET_CLASSES)
    assert image.std() > 5
    assert image.flags.c_contiguous and mask.flags.c_contiguous


@pytest.mark.parametrize(
    "settings_", [{"size_hw": (31, 96)}, {"size_hw": (64, 9000)}, {"fps": 0.0}, {"fps": float("nan")}, {"seed": -1}]
)
def test_impossible_cameras_are_refused(settings_: dict[str, object]) -> None:
    with pytest.raises(SourceError, match="street"):
        StreetCamera(**settings_)  # type: ignore[arg-type]


def test_frames_before_the_first_are_refused() -> None:
    with pytest.raises(SourceError, match="frame -1"):
        small_street(0).render(-1)
