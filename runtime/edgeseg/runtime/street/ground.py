"""The ground: asphalt with its marks, kerbs and slabs, seen through the pinhole row by row."""

from __future__ import annotations

import cv2
import numpy as np

from edgeseg.runtime.street.canvas import Canvas
from edgeseg.runtime.street.labels import Label
from edgeseg.runtime.street.style import Style
from edgeseg.runtime.street.textures import Bytes, Floats, noise, speckle
from edgeseg.runtime.street.view import CAMERA_HEIGHT_M, Points, View

PERIOD_M = 48.0
"""The ground's texture comes again after this."""
_HALF_M = 16.0
_TEXELS = 32
"""Texels a metre."""
_LEVELS = 6
_FARTHEST_M = 2000.0


class Ground:
    """The ground of a style, painted once from above and halved again and again along the street."""

    def __init__(self, style: Style, rng: np.random.Generator) -> None:
        self._style = style
        finest = _seen_from_above(style, rng)
        self._levels = [
            cv2.resize(
                finest,
                (max(1, finest.shape[1] >> max(0, level - 2)), finest.shape[0] >> level),
                interpolation=cv2.INTER_AREA,
            )
            for level in range(_LEVELS)
        ]

    def draw(self, canvas: Canvas, view: View, shadow: Bytes) -> None:
        """Draw all rows below the horizon; `shadow` (H, W) is 255 where the sun is hidden."""
        first = max(0, int(np.floor(view.horizon_px)) + 1)
        if first >= view.height:
            return
        rows = np.arange(first, view.height, dtype=np.float64)
        depth = np.minimum(view.focal_px * CAMERA_HEIGHT_M / (rows - view.horizon_px), _FARTHEST_M)
        step_m = depth / view.focal_px  # metres from one column to the next
        left_m = view.x_m - self._style.bend.centres(view.z_m + depth)
        left_m += (view.heading * view.focal_px - 0.5 * view.width) * step_m
        columns = np.arange(view.width, dtype=np.float32)
        s = left_m.astype(np.float32)[:, None] + step_m.astype(np.float32)[:, None] * columns

        target = canvas.pixels[first:]
        along = np.remainder(view.z_m + depth, PERIOD_M) * _TEXELS
        texels_per_row = depth**2 / (view.focal_px * CAMERA_HEIGHT_M) * _TEXELS
        levels = np.clip(np.floor(np.log2(np.maximum(texels_per_row, 1.0)) + 0.5), 0, _LEVELS - 1).astype(int)
        for level in np.unique(levels).tolist():
            band = slice(*_run(levels == level))
            texture = self._levels[level]
            across = _TEXELS / 2 ** max(0, level - 2)
            map_x = np.minimum(np.maximum(s[band] * across + (_HALF_M * across - 0.5), 0), texture.shape[1] - 1)
            map_y = np.repeat((along[band] / 2**level - 0.5).astype(np.float32)[:, None], view.width, axis=1)
            target[band] = cv2.remap(texture, map_x, map_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)
        self._shade(canvas, first, depth, shadow)
        target[..., 3] = np.where(np.abs(s) < self._style.road_half_m, int(Label.ROAD), int(Label.PAVEMENT))

    def _shade(self, canvas: Canvas, first: int, depth: Points, shadow: Bytes) -> None:
        target, light = canvas.pixels[first:], canvas.light
        table = np.clip(np.arange(256) * light.shadow_gain, 0, 255).astype(np.uint8)
        cv2.copyTo(cv2.LUT(target, table), shadow[first:], target)
        far = int(np.count_nonzero(depth > 12))
        keep = np.exp(-depth[:far] / light.haze_m).astype(np.float32)[:, None, None]
        target[:far, :, :3] = target[:far, :, :3] * keep + np.array(light.haze, dtype=np.float32) * (1 - keep)


def _run(chosen: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> tuple[int, int]:
    """First and last + 1 of the rows chosen (they are neighbours, as depth falls from row to row)."""
    where = np.flatnonzero(chosen)
    return int(where[0]), int(where[-1]) + 1


def _seen_from_above(style: Style, rng: np.random.Generator) -> Bytes:
    """(48 m, 32 m, 4) at _TEXELS a metre; the fourth channel is left 0."""
    height, width = int(PERIOD_M * _TEXELS), int(2 * _HALF_M * _TEXELS)
    s = ((np.arange(width) + 0.5) / _TEXELS - _HALF_M).astype(np.float32)
    z = ((np.arange(height) + 0.5) / _TEXELS).astype(np.float32)
    grain = speckle(rng, height, width)
    wear = noise(rng, height, width, 24, 3)

    tracks = 6 * np.cos((np.abs(s) - 1.6) * np.pi / 0.75) * (np.abs(np.abs(s) - 1.6) < 1.5)
    road = style.asphalt + tracks[None, :] + 9 * grain + 9 * wear
    picture = np.repeat(road[..., None], 3, axis=2) * np.array((1.02, 1.0, 0.98), dtype=np.float32)
    for _ in range(7):  # patches of other asphalt
        left, near = int(rng.integers(0, width - 120)), int(rng.integers(0, height - 200))
        tall, wide = int(rng.integers(30, 200)), int(rng.integers(25, 110))
        picture[near : near + tall, left : left + wide] += rng.uniform(-22, 12)
    _mark(picture, z, s, style, wear)

    slab = np.array(style.slab, dtype=np.float32) * (1 + 0.06 * grain + 0.10 * wear)[..., None]
    tones = rng.random((height // 20 + 1, width // 20 + 1), dtype=np.float32) * 0.16 + 0.92
    y, x = np.arange(height) // 20, np.arange(width) // 20
    slab *= tones[np.ix_(y, x)][..., None]
    slab[np.arange(height) % 20 == 0] *= 0.82
    slab[:, np.arange(width) % 20 == 0] *= 0.82
    off_road = np.abs(s) >= style.road_half_m
    picture[:, off_road] = slab[:, off_road]
    kerb = off_road & (np.abs(s) < style.road_half_m + 0.16)
    picture[:, kerb] = (176, 180, 182) + 10 * grain[:, kerb][..., None]
    gutter = ~off_road & (np.abs(s) > style.road_half_m - 0.14)
    picture[:, gutter] *= 0.62
    above = np.zeros((height, width, 4), dtype=np.uint8)
    above[..., :3] = np.clip(picture, 0, 255)
    return above


def _mark(picture: Floats, z: Floats, s: Floats, style: Style, wear: Floats) -> None:
    """Lane marks: a dashed centre line and, at both edges, double yellow lines along half of the street."""
    worn = wear > -0.42
    dash = (np.remainder(z, 6.0) < 2.6)[:, None] & (np.abs(s) < 0.075)[None, :]
    picture[dash & worn] = (214, 216, 214)
    edge = style.road_half_m - np.abs(s)
    lines = ((edge > 0.28) & (edge < 0.36)) | ((edge > 0.46) & (edge < 0.54))
    yellow = (z < 0.5 * PERIOD_M)[:, None] & lines[None, :]
    picture[yellow & worn] = (70, 176, 206)
