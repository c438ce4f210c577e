"""Textures painted once for a seed: facades, fences, trees, ground, sky and skyline.

A texture is (h, w, 4) uint8: BGR and, in the fourth channel, the class. So whatever is drawn draws its truth with it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import cv2
import numpy as np
import numpy.typing as npt

from edgeseg.runtime.street.labels import Label

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]
Bgr = tuple[int, int, int]

_MAX_LEVEL = 4


def noise(rng: np.random.Generator, height: int, width: int, cells: int, octaves: int = 3) -> Floats:
    """Smooth noise (height, width) float32 of mean about 0 within -1..1; `cells` blobs across the longer side."""
    total = np.zeros((height, width), dtype=np.float32)
    longer = max(height, width)
    for octave in range(octaves):
        count = cells * 2**octave
        grid_h, grid_w = max(2, count * height // longer), max(2, count * width // longer)
        grid = rng.random((grid_h, grid_w), dtype=np.float32) * 2 - 1
        total += cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC) / 2**octave
    return total / np.float32(2 - 0.5 ** (octaves - 1))


def speckle(rng: np.random.Generator, height: int, width: int) -> Floats:
    """Noise without correlation, (height, width) float32 within -1..1."""
    return rng.random((height, width), dtype=np.float32) * 2 - 1


def labelled(bgr: npt.NDArray[np.generic], label: Label) -> Bytes:
    """Clip a picture (h, w, 3) to bytes and put the class behind it."""
    texture = np.full((*bgr.shape[:2], 4), int(label), dtype=np.uint8)
    texture[..., :3] = np.clip(bgr, 0, 255)
    return texture


@dataclass(kw_only=True)
class Texture:
    """Pixels, an optional cut-out (255 = there), and smaller copies made on demand, halved apart in x and y."""

    pixels: Bytes
    cutout: Bytes | None = None
    _smaller: dict[tuple[int, int], tuple[Bytes, Bytes | None]] = field(default_factory=dict)

    def near_size(self, width_px: float, height_px: float) -> tuple[Bytes, Bytes | None]:
        """The copy whose size is nearest above (width_px, height_px), so that far walls do not flicker."""
        height, width = self.pixels.shape[:2]
        key = _level(width, width_px), _level(height, height_px)
        if key not in self._smaller:
            size = max(2, width >> key[0]), max(2, height >> key[1])
            pixels = cv2.resize(self.pixels, size, interpolation=cv2.INTER_AREA)
            cutout = None
            if self.cutout is not None:
                grey = cv2.resize(self.cutout, size, interpolation=cv2.INTER_AREA)
                cutout = np.where(grey > 127, 255, 0).astype(np.uint8)
            self._smaller[key] = (pixels.astype(np.uint8), cutout)
        return self._smaller[key]


def _level(texels: int, pixels: float) -> int:
    level = 0
    while level < _MAX_LEVEL and texels / 2 ** (level + 1) >= max(1.0, pixels):
        level += 1
    return level


def fence(rng: np.random.Generator, kind: int) -> Texture:
    """Close boards (0) or railings before a hedge (1), 12 m of them, or open railings (2), 2 m of them."""
    height, width = (64, 768) if kind < 2 else (96, 128)
    x = np.arange(width)[None, :]
    tone = 1 + 0.12 * noise(rng, height, width, 8)[..., None]
    if kind == 0:
        base = np.array((60, 85, 115) if rng.random() < 0.6 else (90, 100, 105), dtype=np.float32)
        board = rng.random(width // 8 + 1, dtype=np.float32)[np.arange(width) // 8] * 0.3 + 0.8
        board[::8] *= 0.5
        return Texture(pixels=labelled(base * tone * board[None, :, None], Label.FENCE))
    hedge = np.array((40, 62, 52), dtype=np.float32) * (1 + 0.5 * noise(rng, height, width, width // 8))[..., None]
    bars = np.broadcast_to(x % 8 < 3, (height, width)).copy()
    bars[4:12] = bars[-14:-8] = True
    bars[:, :5] = True
    steel = np.array((60, 55, 52) if kind == 1 else (150, 150, 148), dtype=np.float32)
    picture = np.where(bars[..., None], steel * tone, hedge)
    cutout = None if kind == 1 else np.where(bars, 255, 0).astype(np.uint8)
    return Texture(pixels=labelled(picture, Label.FENCE), cutout=cutout)


def tree(rng: np.random.Generator, leaf: Bgr, bare: bool) -> Texture:
    """A tree filling a 400 x 320 picture, its foot at the middle of the bottom edge; `bare` leaves more wood to see."""
    height, width = 400, 320
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    crown_y, crown_h = 0.40 * height, 0.36 * height
    round_ = ((x - width / 2) / (0.42 * width)) ** 2 + ((y - crown_y) / crown_h) ** 2
    clumps, leaves = noise(rng, height, width, 6, 3), noise(rng, height, width, 70, 2)
    edge = 1 - round_ + 0.6 * clumps + (0.9 if bare else 0.5) * leaves
    inside = (round_ < 1.15) & (edge > (0.55 if bare else 0.15))
    wood = np.zeros((height, width), dtype=np.uint8)
    _branch(
        rng, wood, (width / 2, float(height)), (0.0, -1.0), 0.36 * height, float(rng.uniform(13, 20)), 7 if bare else 5
    )
    wood[round_ > 1.1] *= y[round_ > 1.1] > crown_y
    lit = 1.0 + 0.28 * (crown_y - y) / crown_h + 0.7 * clumps + 0.55 * leaves
    picture = np.array(leaf, dtype=np.float32) * np.clip(lit, 0.25, 1.9)[..., None]
    bark = np.array((46, 54, 62), dtype=np.float32) * (1 + 0.35 * leaves - 0.3 * (x - width / 2) / width)[..., None]
    seen = (wood > 0) & (bare | ~inside | (clumps + 0.8 * leaves < -0.32))
    picture = np.where(seen[..., None], bark, picture)
    return Texture(pixels=labelled(picture, Label.TREE), cutout=np.where(inside | (wood > 0), 255, 0).astype(np.uint8))


def _branch(
    rng: np.random.Generator,
    wood: Bytes,
    foot: tuple[float, float],
    way: tuple[float, float],
    length: float,
    thick: float,
    forks: int,
) -> None:
    """Draw a branch and, from its tip, two or three thinner ones."""
    tip = (foot[0] + way[0] * length, foot[1] + way[1] * length)
    cv2.line(wood, (round(foot[0]), round(foot[1])), (round(tip[0]), round(tip[1])), 255, max(2, round(thick)))
    if forks == 0:
        return
    for _ in range(2 + int(rng.random() < 0.45)):
        across, up = way[0] + float(rng.uniform(-0.85, 0.85)), way[1] - 0.12
        size = max(0.2, float(np.hypot(across, up)))
        share = float(rng.uniform(0.55, 0.85))
        _branch(rng, wood, tip, (across / size, up / size), length * share, thick * 0.62, forks - 1)


def sky(rng: np.random.Generator, height: int, width: int, top: Bgr, low: Bgr, cloud: Bgr, cover: float) -> Bytes:
    """A sky (height, 2 * width, 4) whose two halves are alike, so that a window can slide over it without end."""
    half = noise(rng, height, width // 2 + 1, 4, 5)
    clouds = np.concatenate([half, half[:, ::-1]], axis=1)[:, :width]
    up = np.linspace(1, 0, height, dtype=np.float32)[:, None, None]
    clear = np.array(top, dtype=np.float32) * up + np.array(low, dtype=np.float32) * (1 - up)
    share = np.clip((clouds + cover * 1.2 - 0.6) * 2.2, 0, 1)[..., None] * (0.35 + 0.65 * up)
    shaded = np.array(cloud, dtype=np.float32) * (1 + 0.16 * np.clip(-clouds, -0.6, 0.6))[..., None]
    picture = clear * (1 - share) + shaded * share
    once = labelled(picture, Label.SKY)
    return np.concatenate([once, once], axis=1)


def skyline(rng: np.random.Generator, height: int, width: int) -> Texture:
    """Far roofs and trees on the horizon, (height, 2 * width) with two like halves."""
    picture = np.zeros((height, width, 4), dtype=np.uint8)
    cutout = np.zeros((height, width), dtype=np.uint8)
    step = max(2, height // 2)
    for left in range(0, width, step):
        tall = int(height * rng.uniform(0.35, 0.95))
        is_tree = rng.random() < 0.65
        grey = int(rng.integers(-12, 13))
        colour = (78 + grey, 92 + grey, 86 + grey) if is_tree else (104 + grey, 106 + grey, 114 + grey)
        paint = (*colour, int(Label.TREE if is_tree else Label.BUILDING))
        for offset in (-width, 0, width):
            if is_tree:
                centre = (left + offset + step // 2, height - tall // 2)
                axes = (max(1, int(step * 0.8)), max(1, tall // 2))
                cv2.ellipse(picture, centre, axes, 0, 0, 360, paint, -1)
                cv2.ellipse(cutout, centre, axes, 0, 0, 360, 255, -1)
            else:
                corners = (left + offset, height - int(0.7 * tall)), (left + offset + step, height)
                cv2.rectangle(picture, *corners, paint, -1)
                cv2.rectangle(cutout, *corners, 255, -1)
        foot = (left, height - max(1, height // 3)), (left + step, height)
        unset = cutout[foot[0][1] :, left : left + step] == 0
        picture[foot[0][1] :, left : left + step][unset] = (80, 92, 88, int(Label.TREE))
        cutout[foot[0][1] :, left : left + step] = 255
    return Texture(pixels=np.concatenate([picture] * 2, axis=1), cutout=np.concatenate([cutout] * 2, axis=1))
