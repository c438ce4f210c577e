"""The laws of painting: outlines, run lengths and their order."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeseg.train.data_import.coco import unpack_counts
from edgeseg.train.data_import.notes import Notes
from edgeseg.train.data_import.palette import palette, voc_colours
from edgeseg.train.data_import.shapes import (
    UNLABELLED,
    Polygons,
    Region,
    Runs,
    ShapeError,
    box,
    ellipse,
    fill_polygon,
    paint,
)

Bools = npt.NDArray[np.bool_]
SIZE = (9, 12)

corners = st.tuples(st.integers(-40, 100), st.integers(-40, 80)).map(lambda pair: (pair[0] / 8, pair[1] / 8))


def whole(points: Any, size_hw: tuple[int, int] = SIZE) -> Bools:
    """The outline's pixels in an image of their own, none where it has none."""
    inside = np.zeros(size_hw, np.bool_)
    try:
        top, left, part = fill_polygon(np.array(points, np.float64), size_hw)
    except ShapeError:
        return inside
    inside[top : top + part.shape[0], left : left + part.shape[1]] = part
    return inside


def even_odd(points: Any, x: float, y: float) -> bool:
    """Whether a ray from the point to the left crosses the outline an odd number of times."""
    crossings = 0
    for (x0, y0), (x1, y1) in zip(points, [*points[1:], points[0]], strict=True):
        if (y0 <= y) != (y1 <= y):
            crossings += x0 + (y - y0) * (x1 - x0) / (y1 - y0) <= x
    return crossings % 2 == 1


@given(st.lists(corners, min_size=3, max_size=9))
def test_pixels_are_those_whose_centre_is_inside(points: list[tuple[float, float]]) -> None:
    expected = [[even_odd(points, x + 0.5, y + 0.5) for x in range(SIZE[1])] for y in range(SIZE[0])]
    np.testing.assert_array_equal(whole(points), np.array(expected))


@given(st.floats(0, 12), st.floats(0, 9))
def test_neighbours_neither_overlap_nor_leave_a_gap(x: float, y: float) -> None:
    """Four triangles between the image's corners and any point within."""
    frame = [(0, 0), (SIZE[1], 0), (SIZE[1], SIZE[0]), (0, SIZE[0])]
    parts = [whole([frame[i], frame[(i + 1) % 4], (x, y)]) for i in range(4)]
    np.testing.assert_array_equal(sum(part.astype(int) for part in parts), np.ones(SIZE, int))


def test_outline_of_many_long_edges_is_filled_in_parts() -> None:
    """A comb of teeth as high as the image: millions of crossings, by a few at a time."""
    x = np.linspace(0, 64, 2001)
    points = np.column_stack([x, np.where(np.arange(len(x)) % 2, 0, 3000)])
    middle = whole(points, (3000, 64))[1500]
    assert 20 < middle.sum() < 44


def test_ellipse_has_its_area_and_box_its_corners() -> None:
    inside = whole(ellipse(50, 40, 30, 20), (80, 100))
    assert inside.sum() == pytest.approx(np.pi * 30 * 20, rel=0.01)
    turned = whole(ellipse(50, 40, 30, 20, degrees=90), (80, 100))
    assert turned[11:69, 50].all() and not turned[40, :29].any()
    np.testing.assert_array_equal(np.argwhere(whole(box(5, 4, 2, 1)))[[0, -1]], [[1, 2], [3, 4]])


# --- run lengths


def packed(counts: list[int]) -> str:
    """COCO's packing, written from its description."""
    text = ""
    for place, count in enumerate(counts):
        value = count - counts[place - 2] if place > 2 else count
        more = True
        while more:
            bits, value = value & 31, value >> 5
            more = value != (-1 if bits & 16 else 0)
            text += chr(48 + (bits | (32 if more else 0)))
    return text


@given(st.lists(st.integers(0, 10**6), max_size=30))
def test_packed_counts_come_back(counts: list[int]) -> None:
    assert unpack_counts(packed(counts)) == counts


@pytest.mark.parametrize(
    ("text", "counts"),
    [
        ("252", [2, 5, 2]),
        ("35X1MoNOKS3", [3, 5, 40, 2, 7, 1, 2, 100]),
        ("Xo0h0V2[OlMNjaQ3", [1000, 24, 70, 3, 2, 1, 99900]),
        ("01;000P2", [0, 1, 11, 1, 11, 1, 75]),
        ("", []),
    ],
)
def test_packed_counts_of_pycocotools_are_read(text: str, counts: list[int]) -> None:
    assert unpack_counts(text) == counts


@given(st.data(), st.integers(1, 12), st.integers(1, 12), st.booleans())
def test_runs_are_the_mask_that_they_were_taken_from(
    data: st.DataObject, height: int, width: int, columns: bool
) -> None:
    mask = np.array(data.draw(st.lists(st.booleans(), min_size=height * width, max_size=height * width)), np.bool_)
    mask[0] |= not mask.any()
    mask = mask.reshape(height, width)
    values = (mask.T if columns else mask).ravel()
    edges = np.flatnonzero(np.diff(np.concatenate([[False], values, [not values[-1]]])))
    counts = np.diff(np.concatenate([[0], edges])).tolist()
    filled = Runs(counts=counts, size_hw=(height, width), in_columns=columns).fill((height, width))
    np.testing.assert_array_equal(filled.inside, mask)


# --- order


def square(side: int) -> Polygons:
    return Polygons(rings=[box(0, 0, side, side)])


def test_smaller_lies_on_top_or_else_the_later_and_the_higher_always() -> None:
    regions = [
        Region(index=0, shape=square(2)),
        Region(index=1, shape=square(4)),
        Region(index=2, shape=square(6)),
        Region(index=3, shape=square(5), order=1),
    ]

    def corners_of(smaller_on_top: bool, count: int) -> list[int]:
        mask = paint(regions[:count], (9, 9), Notes(), "x", smaller_on_top=smaller_on_top)
        return [int(mask[at, at]) for at in (1, 3, 5, 8)]

    assert corners_of(True, 3) == [0, 1, 2, UNLABELLED]
    assert corners_of(False, 3) == [2, 2, 2, UNLABELLED]
    assert corners_of(True, 4) == [3, 3, 2, UNLABELLED]


# --- colours


def test_voc_colours_are_vocs_and_all_differ() -> None:
    colours = voc_colours(256)
    assert len(set(colours)) == 256
    assert colours[:3] == ((0, 0, 0), (128, 0, 0), (0, 128, 0))
    assert (colours[15], colours[255]) == ((192, 128, 128), (224, 224, 192))


def test_given_colours_are_kept_only_if_they_tell_all_classes_apart() -> None:
    assert palette([(1, 2, 3), (4, 5, 6)], 2) == ((1, 2, 3), (4, 5, 6))
    for given_colours in ([(1, 2, 3), (1, 2, 3)], [(1, 2, 3), None], [(1, 2, 3)], []):
        assert palette(given_colours, 2) == voc_colours(2)
