"""A picture and its truth, drawn as one.

The canvas is (H, W, 4) uint8: blue, green, red and the class. Every primitive writes all four channels of the same
pixels, without anti-aliasing, so the truth is exact by construction.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import cv2
import numpy as np

from edgeseg.runtime.street.labels import Label
from edgeseg.runtime.street.style import Light
from edgeseg.runtime.street.textures import Bgr, Bytes, Texture
from edgeseg.runtime.street.view import Pixels, Points, whole_pixels

Paint = tuple[int, int, int, int]

_RAMP = np.arange(256, dtype=np.float32)[:, None]


class Canvas:
    """Drawing primitives with distance haze."""

    def __init__(self, *, height: int, width: int, light: Light) -> None:
        self.height, self.width, self.light = height, width, light
        self.pixels: Bytes = np.zeros((height, width, 4), dtype=np.uint8)

    def paint(self, bgr: Bgr, label: Label, distance_m: float, gain: float = 1.0) -> Paint:
        """A colour lit by `gain` and seen through `distance_m` of haze."""
        keep = math.exp(-max(0.0, distance_m) / self.light.haze_m)
        haze, own = self.light.haze, gain * keep
        return (
            round(min(255.0, bgr[0] * own + haze[0] * (1 - keep))),
            round(min(255.0, bgr[1] * own + haze[1] * (1 - keep))),
            round(min(255.0, bgr[2] * own + haze[2] * (1 - keep))),
            int(label),
        )

    def convex(self, pixels: Pixels, paint: Paint) -> None:
        """Fill a convex polygon (N, 2)."""
        cv2.fillConvexPoly(self.pixels, pixels, paint)

    def stroke(self, pixels: Pixels, thickness_px: float, paint: Paint) -> None:
        """Draw a line of two or more points, one pixel thick or more."""
        cv2.polylines(self.pixels, [pixels], False, paint, max(1, min(255, round(thickness_px))))

    def disc(self, centre: Sequence[int], radius_px: float, paint: Paint) -> None:
        """Fill a circle."""
        cv2.circle(self.pixels, (int(centre[0]), int(centre[1])), max(0, round(radius_px)), paint, -1)

    def wall(
        self,
        corners: Points,
        texture: Texture,
        *,
        part: tuple[float, float] = (0.0, 1.0),
        outline: Pixels | None = None,
        distance_m: float,
        gain: float,
    ) -> None:
        """Draw a texture in perspective.

        `corners` (4, 2) are the exact pixels of top-left, top-right, bottom-right and bottom-left of the texture's
        columns from share part[0] to share part[1]; `outline`, where given, is the convex part of it to draw.
        """
        if outline is None:
            outline = whole_pixels(corners)
        box = self._box(outline)
        if box is None:
            return
        left, top, right, bottom = box
        span_px = float(np.abs(corners[1] - corners[0]).max()) / max(1e-3, part[1] - part[0])
        tall_px = float(max(corners[3, 1] - corners[0, 1], corners[2, 1] - corners[1, 1]))
        pixels, cutout = texture.near_size(span_px, tall_px)
        rows, columns = pixels.shape[:2]
        x0, x1 = part[0] * columns, part[1] * columns
        source = np.array([[x0, 0], [x1, 0], [x1, rows], [x0, rows]], dtype=np.float32)
        matrix = cv2.getPerspectiveTransform(source, (corners - (left, top)).astype(np.float32))
        size = (right - left, bottom - top)
        picture = cv2.warpPerspective(pixels, matrix, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        mask = np.zeros((size[1], size[0]), dtype=np.uint8)
        cv2.fillConvexPoly(mask, outline - np.array((left, top), dtype=np.int32), 255)
        if cutout is not None:
            mask &= cv2.warpPerspective(cutout, matrix, size, flags=cv2.INTER_NEAREST).astype(np.uint8)
        self._put(picture, mask, (left, top), distance_m, gain)

    def card(
        self, texture: Texture, *, left: float, top: float, right: float, bottom: float, distance_m: float, gain: float
    ) -> None:
        """Draw a cut-out texture upright, facing the camera, its edges at the given pixels."""
        outline = whole_pixels(np.array([[left, top], [right, bottom]], dtype=np.float64))
        box = self._box(outline)
        if box is None or right - left < 1 or bottom - top < 1:
            return
        x0, y0, x1, y1 = box
        pixels, cutout = texture.near_size(right - left, bottom - top)
        rows, columns = pixels.shape[:2]
        step_x, step_y = columns / (right - left), rows / (bottom - top)
        matrix = np.array(
            [[step_x, 0, (x0 + 0.5 - left) * step_x - 0.5], [0, step_y, (y0 + 0.5 - top) * step_y - 0.5]],
            dtype=np.float64,
        )
        size, back = (x1 - x0, y1 - y0), cv2.WARP_INVERSE_MAP
        border = cv2.BORDER_REPLICATE
        picture = cv2.warpAffine(pixels, matrix, size, flags=cv2.INTER_LINEAR | back, borderMode=border)
        mask = np.full((size[1], size[0]), 255, dtype=np.uint8)
        if cutout is not None:
            mask = cv2.warpAffine(cutout, matrix, size, flags=cv2.INTER_NEAREST | back).astype(np.uint8)
        self._put(picture, mask, (x0, y0), distance_m, gain)

    def _box(self, outline: Pixels) -> tuple[int, int, int, int] | None:
        """The part of the canvas around an outline: left, top, right, bottom, or None when it is outside."""
        left, top = (max(0, int(value)) for value in outline.min(axis=0))
        right, bottom = (int(value) + 1 for value in outline.max(axis=0))
        right, bottom = min(self.width, right), min(self.height, bottom)
        return None if right <= left or bottom <= top else (left, top, right, bottom)

    def _put(self, picture: cv2.typing.MatLike, mask: Bytes, at: tuple[int, int], distance: float, gain: float) -> None:
        keep = math.exp(-max(0.0, distance) / self.light.haze_m)
        table = np.empty((256, 4), dtype=np.uint8)
        haze = np.array(self.light.haze, dtype=np.float32) * (1 - keep) + 0.5
        table[:, :3] = np.minimum(_RAMP * (gain * keep) + haze, 255)
        table[:, 3:] = _RAMP  # the class stays
        target = self.pixels[at[1] : at[1] + mask.shape[0], at[0] : at[0] + mask.shape[1]]
        cv2.copyTo(cv2.LUT(picture, table[None]), mask, target)
