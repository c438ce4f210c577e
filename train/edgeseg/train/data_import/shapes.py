"""What labelling tools draw, turned into pixels.

A pixel belongs to a shape if its centre lies inside, so neighbours that share an edge neither overlap nor leave a gap.
(OpenCV's `fillPoly` would also take every pixel that the outline touches.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from edgeseg.runtime.frame import Mask
from edgeseg.train.data_import.notes import Kind, Notes

UNLABELLED, VOID = 254, 255
"""Values of a painted mask that are no class: what nothing covers, and what the source says to ignore."""

Points = npt.NDArray[np.float64]
"""(n, 2): x and y in pixels, (0, 0) the outer corner of the first pixel."""

_LIMIT = 1e7
_CHUNK = 4_000_000


class Filled(NamedTuple):
    """A shape's pixels: a window of the image, and which of its pixels are inside."""

    top: int
    left: int
    inside: npt.NDArray[np.bool_]


class ShapeError(Exception):
    """A shape that gives no pixels, and which kind of note says why."""

    def __init__(self, kind: Kind) -> None:
        super().__init__(kind)
        self.kind = kind


class OtherSizeError(Exception):
    """Labels that were drawn on an image of another size."""


class Shape(Protocol):
    """Anything that covers pixels."""

    def fill(self, size_hw: tuple[int, int]) -> Filled:
        """Return its pixels in an image of that size. Raises `ShapeError` if there are none."""

    def reaches_out(self, size_hw: tuple[int, int]) -> bool:
        """Whether a part of it lies outside of the image."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Polygons:
    """One or more outlines, all filled."""

    rings: Sequence[Points]
    relative: bool = False
    """Whether coordinates are shares of the image's width and height."""

    def fill(self, size_hw: tuple[int, int]) -> Filled:
        filled, whys = [], []
        for ring in self._rings(size_hw):
            try:
                filled.append(fill_polygon(ring, size_hw))
            except ShapeError as error:
                whys.append(error)
        if not filled:
            raise whys[0] if whys else ShapeError("no-area")
        return filled[0] if len(filled) == 1 else _union(filled)

    def reaches_out(self, size_hw: tuple[int, int]) -> bool:
        # Up to a pixel is how tools round, and nothing to tell of.
        far = np.array(size_hw[::-1]) + 1
        return any(bool((ring < -1).any() or (ring > far).any()) for ring in self._rings(size_hw))

    def _rings(self, size_hw: tuple[int, int]) -> list[Points]:
        unit = np.array(size_hw[::-1] if self.relative else (1, 1), np.float64)
        return [ring * unit for ring in self.rings]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Runs:
    """Lengths of runs, outside and inside in turn, over a box that is read in rows or in columns."""

    counts: Sequence[int]
    size_hw: tuple[int, int]
    top: int = 0
    left: int = 0
    in_columns: bool = False
    whole: bool = False
    """Whether the box must be the image itself."""

    def fill(self, size_hw: tuple[int, int]) -> Filled:
        if self.whole and self.size_hw != size_hw:
            raise ShapeError("bad-shape")
        height, width = self.size_hw
        # By Python's numbers: those of a hostile file are larger than numpy's.
        if min(self.counts, default=-1) < 0 or sum(self.counts) != height * width or height * width > 1 << 30:
            raise ShapeError("bad-shape")
        inside = np.repeat(np.arange(len(self.counts)) % 2 == 1, self.counts)
        box = inside.reshape(width, height).T if self.in_columns else inside.reshape(height, width)
        return crop(Filled(self.top, self.left, box), size_hw)

    def reaches_out(self, size_hw: tuple[int, int]) -> bool:
        ends = self.top + self.size_hw[0], self.left + self.size_hw[1]
        return min(self.top, self.left) < 0 or ends[0] > size_hw[0] or ends[1] > size_hw[1]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Bitmap:
    """Pixels as they are, at a place."""

    inside: npt.NDArray[np.bool_]
    top: int
    left: int

    def fill(self, size_hw: tuple[int, int]) -> Filled:
        return crop(Filled(self.top, self.left, self.inside), size_hw)

    def reaches_out(self, size_hw: tuple[int, int]) -> bool:
        ends = self.top + self.inside.shape[0], self.left + self.inside.shape[1]
        return min(self.top, self.left) < 0 or ends[0] > size_hw[0] or ends[1] > size_hw[1]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Region:
    """A shape of a class."""

    index: int
    """Of the class in the source's order, or `VOID`."""
    shape: Shape
    order: int = 0
    """Higher lies on top."""


def paint(
    regions: Sequence[Region], size_hw: tuple[int, int], notes: Notes, name: str, *, smaller_on_top: bool
) -> Mask:
    """Paint regions over each other into a new (H, W) mask of class indices, `UNLABELLED` and `VOID`.

    The higher `order` lies on top; of equal ones the smaller, or else the later one. What gives no pixels is noted.
    """
    layers: list[tuple[tuple[int, int], int, Filled]] = []
    for number, region in enumerate(regions):
        try:
            filled = region.shape.fill(size_hw)
        except ShapeError as error:
            notes.add(error.kind, name)
            continue
        if region.shape.reaches_out(size_hw):
            notes.add("cut-off", name)
        layers.append(((region.order, -int(filled.inside.sum()) if smaller_on_top else number), region.index, filled))
    mask = np.full(size_hw, UNLABELLED, np.uint8)
    for _, index, (top, left, inside) in sorted(layers, key=lambda layer: layer[0]):
        mask[top : top + inside.shape[0], left : left + inside.shape[1]][inside] = index
    return mask


def fill_polygon(points: Points, size_hw: tuple[int, int]) -> Filled:
    """Return the pixels whose centre is inside the outline by the even-odd rule.

    Raises `ShapeError` for fewer than three points, numbers that are no places, and where no pixel is covered.
    """
    if len(points) < 3:
        raise ShapeError("no-area")
    if not np.isfinite(points).all() or np.abs(points).max() > _LIMIT:
        raise ShapeError("bad-shape")
    (right, bottom), (left, top) = points.max(axis=0), points.min(axis=0)
    if right <= 0 or bottom <= 0 or left >= size_hw[1] or top >= size_hw[0]:
        raise ShapeError("outside")
    first_row, last_row = (int(np.clip(np.ceil(edge - 0.5), 0, size_hw[0])) for edge in (top, bottom))
    first_column, last_column = (int(np.clip(np.ceil(edge - 0.5), 0, size_hw[1])) for edge in (left, right))
    height, width = last_row - first_row, last_column - first_column
    if not height or not width:
        raise ShapeError("no-area")
    crossings = np.zeros((height, width + 1), np.uint8)
    # Each edge from its upper end, so that two shapes that share it round alike.
    following = np.roll(points, -1, axis=0)
    falls = (points[:, 1] <= following[:, 1])[:, None]
    (x0, y0), (x1, y1) = np.where(falls, points, following).T, np.where(falls, following, points).T
    starts, ends = (np.clip(np.ceil(y - 0.5), first_row, last_row).astype(np.int64) for y in (y0, y1))
    rows_of = ends - starts
    # In parts, as an outline of many long edges crosses more rows than there is memory.
    for part in np.split(np.arange(len(points)), np.flatnonzero(np.diff(np.cumsum(rows_of) // _CHUNK)) + 1):
        edge = np.repeat(part, rows_of[part])
        within = np.arange(len(edge)) - np.repeat(np.cumsum(rows_of[part]) - rows_of[part], rows_of[part])
        row = starts[edge] + within
        x = x0[edge] + (row + 0.5 - y0[edge]) * (x1[edge] - x0[edge]) / (y1[edge] - y0[edge])
        column = np.clip(np.ceil(x - 0.5), first_column, last_column).astype(np.int64)
        np.bitwise_xor.at(crossings, (row - first_row, column - first_column), 1)
    inside = np.bitwise_xor.accumulate(crossings, axis=1)[:, :width].astype(np.bool_)
    if not inside.any():
        raise ShapeError("no-area")
    return Filled(first_row, first_column, inside)


def crop(filled: Filled, size_hw: tuple[int, int]) -> Filled:
    """Return the part that lies in an image of that size. Raises `ShapeError` if nothing does."""
    top, left, inside = filled
    if not inside.any():
        raise ShapeError("no-area")
    part = inside[max(0, -top) : max(0, size_hw[0] - top), max(0, -left) : max(0, size_hw[1] - left)]
    if not part.any():
        raise ShapeError("outside")
    return Filled(max(0, top), max(0, left), part)


def _union(filled: Sequence[Filled]) -> Filled:
    top, left = min(one.top for one in filled), min(one.left for one in filled)
    bottom = max(one.top + one.inside.shape[0] for one in filled)
    right = max(one.left + one.inside.shape[1] for one in filled)
    inside = np.zeros((bottom - top, right - left), np.bool_)
    for one in filled:
        rows, columns = one.inside.shape
        inside[one.top - top : one.top - top + rows, one.left - left : one.left - left + columns] |= one.inside
    return Filled(top, left, inside)


def points_of(numbers: Any) -> Points:
    """Turn pairs of numbers, or one flat list of them, into points. Raises `ShapeError` if they are not that."""
    try:
        points = np.array(numbers, np.float64)
        return points.reshape(-1, 2) if points.ndim == 1 else points.reshape(len(points), 2)
    except (ValueError, TypeError, OverflowError):
        raise ShapeError("bad-shape") from None


def box(x0: float, y0: float, x1: float, y1: float, *, degrees: float = 0) -> Points:
    """Return a rectangle by two opposite corners, turned clockwise about its middle."""
    corners = np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], np.float64)
    return _turned(corners, degrees)


def ellipse(x: float, y: float, across: float, down: float, *, degrees: float = 0) -> Points:
    """Return an ellipse by its middle and radii, as an outline with a corner about every second pixel."""
    radius = max(abs(across), abs(down))
    if not np.isfinite(radius) or radius > _LIMIT:
        raise ShapeError("bad-shape")
    angles = np.linspace(0, 2 * np.pi, int(np.clip(3 * radius, 16, 10_000)), endpoint=False)
    return _turned(np.column_stack([x + across * np.cos(angles), y + down * np.sin(angles)]), degrees)


def _turned(points: Points, degrees: float) -> Points:
    if not degrees:
        return points
    angle = np.deg2rad(degrees)
    middle = points.mean(axis=0)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    return np.asarray((points - middle) @ turn + middle)
