"""Fronts of English town houses and shops."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from edgeseg.runtime.street.labels import Label
from edgeseg.runtime.street.textures import Bgr, Bytes, Floats, Texture, labelled, noise, speckle

_TEXELS = 24
"""Texels a metre."""
HOUSE_DEPTH_M = 8.0
_ROOF_M = 3.6

_BRICKS: tuple[Bgr, ...] = (
    (62, 76, 122), (78, 96, 138), (88, 116, 140), (120, 148, 166), (52, 62, 96), (100, 128, 158), (74, 82, 100),
)  # fmt: skip
_RENDERS: tuple[Bgr, ...] = (
    (196, 208, 212), (168, 188, 200), (150, 170, 186), (140, 142, 144), (198, 196, 188), (156, 178, 170),
    (178, 166, 190),
)  # fmt: skip
_FASCIAS: tuple[Bgr, ...] = (
    (40, 36, 150), (110, 60, 30), (50, 90, 36), (30, 30, 32), (140, 120, 40), (60, 150, 190), (90, 40, 96),
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Facade:
    """A front and what the rest of its house is made of."""

    texture: Texture
    gable: Texture
    """The wall towards the next house, up to the ridge."""
    tone: Bgr
    """The front's colour from afar."""
    wall: Bgr
    """The gable's colour from afar."""
    height_m: float
    roof: Bgr
    pitched: bool

    @property
    def ridge_m(self) -> float:
        """Height of the roof's ridge."""
        return self.height_m + (_ROOF_M if self.pitched else 0.0)


def facade(rng: np.random.Generator) -> Facade:
    """Make up one front: two to four floors of windows over a shop or a front door."""
    floors, bays = (2, 3, 3, 4)[int(rng.integers(4))], int(rng.integers(2, 5))
    bay_m, floor_m = float(rng.uniform(2.3, 3.2)), float(rng.uniform(2.7, 3.2))
    height, width = int(_TEXELS * (floors * floor_m + 0.5)), int(_TEXELS * bays * bay_m)
    brick, pitched = rng.random() < 0.6, floors < 4 and rng.random() < 0.8
    palette = _BRICKS if brick else _RENDERS
    wall = palette[int(rng.integers(len(palette)))]
    picture = np.array(wall, dtype=np.float32) * _bond(rng, height, width, brick)[..., None]
    front = np.clip(picture, 0, 255).astype(np.uint8)

    floor, bay = _TEXELS * floor_m, _TEXELS * bay_m
    window = (int(bay * rng.uniform(0.34, 0.52)), int(floor * rng.uniform(0.48, 0.62)))
    frame = (225, 228, 228) if rng.random() < 0.75 else (60, 58, 56)
    shop = rng.random() < 0.5
    for level in range(1 if shop else 0, floors):
        sill = int(height - floor * level - 0.28 * floor)
        for index in range(bays):
            middle = int((index + 0.5) * bay)
            if level == 0 and index == bays // 2:
                _door(rng, front, middle, height, int(0.78 * floor))
            else:
                _window(rng, front, middle, sill, window, frame)
        if level:
            cv2.rectangle(
                front, (0, sill + int(0.2 * floor)), (width, sill + int(0.2 * floor) + 1), _tone(wall, 0.8), -1
            )
    if shop:
        _shop(rng, front, int(height - 0.98 * floor))
    cv2.rectangle(front, (0, 0), (width, int(0.35 * _TEXELS)), _tone(wall, 1.15), -1)
    cv2.rectangle(front, (0, int(0.35 * _TEXELS)), (width, int(0.45 * _TEXELS)), _tone(wall, 0.55), -1)
    cv2.rectangle(front, (1, 0), (3, height), _tone(wall, 0.5), -1)  # the drainpipe
    weathered = front * (1 + 0.10 * noise(rng, height, width, 5) + 0.05 * speckle(rng, height, width))[..., None]
    mean = weathered.mean(axis=(0, 1))
    return Facade(
        texture=Texture(pixels=labelled(weathered, Label.BUILDING)),
        gable=_gable(rng, wall, brick, height + (int(_ROOF_M * _TEXELS) if pitched else 0)),
        tone=(int(mean[0]), int(mean[1]), int(mean[2])),
        wall=_tone(wall, 0.89),
        height_m=height / _TEXELS,
        roof=((70, 66, 64), (62, 74, 104), (84, 84, 88))[int(rng.integers(3))],
        pitched=pitched,
    )


def _gable(rng: np.random.Generator, wall: Bgr, brick: bool, height: int) -> Texture:
    width = int(HOUSE_DEPTH_M * _TEXELS)
    stains = 1 + 0.16 * noise(rng, height, width, 4, 4)
    picture = np.array(_tone(wall, 0.92), dtype=np.float32) * (_bond(rng, height, width, brick) * stains)[..., None]
    front = np.clip(picture, 0, 255).astype(np.uint8)
    if rng.random() < 0.6:
        _window(rng, front, width // 2, height // 2, (20, 34), (225, 228, 228))
    return Texture(pixels=labelled(front, Label.BUILDING))


def _tone(colour: Bgr, gain: float) -> Bgr:
    blue, green, red = (min(255, int(channel * gain)) for channel in colour)
    return blue, green, red


def _bond(rng: np.random.Generator, height: int, width: int, brick: bool) -> Floats:
    if not brick:
        return 1 + 0.05 * noise(rng, height, width, 9)
    rows, columns = height // 2 + 1, width // 5 + 2
    tones = 0.82 + 0.3 * rng.random((rows, columns), dtype=np.float32)
    y, x = np.mgrid[0:height, 0:width]
    row = y // 2
    return np.asarray(tones[row, (x + 2 * (row % 2)) // 5], dtype=np.float32)


def _window(rng: np.random.Generator, front: Bytes, middle: int, sill: int, size: tuple[int, int], frame: Bgr) -> None:
    half, tall = size[0] // 2, size[1]
    left, right, top = middle - half, middle + half, sill - tall
    cv2.rectangle(front, (left - 3, top - 5), (right + 3, top), (150, 160, 165), -1)
    cv2.rectangle(front, (left - 2, top), (right + 2, sill), frame, -1)
    sheen = int(rng.integers(0, 60))
    glass = (62 + sheen, 54 + sheen, 46 + sheen)
    cv2.rectangle(front, (left, top + 2), (right, sill - 2), glass, -1)
    cv2.rectangle(front, (left, top + 2), (right, top + tall // 3), _tone(glass, 1.35), -1)
    if rng.random() < 0.4:
        cv2.rectangle(front, (left, top + 2), (left + half // 2, sill - 2), (170, 182, 186), -1)
    cv2.line(front, (middle, top), (middle, sill), frame, 2)
    cv2.line(front, (left, sill - tall // 2), (right, sill - tall // 2), frame, 2)
    cv2.rectangle(front, (left - 4, sill), (right + 4, sill + 3), (176, 182, 184), -1)


def _door(rng: np.random.Generator, front: Bytes, middle: int, height: int, tall: int) -> None:
    colour = _FASCIAS[int(rng.integers(len(_FASCIAS)))]
    cv2.rectangle(front, (middle - 14, height - tall - 4), (middle + 14, height), (215, 220, 220), -1)
    cv2.rectangle(front, (middle - 11, height - tall + 8), (middle + 11, height), colour, -1)
    cv2.rectangle(front, (middle - 11, height - tall), (middle + 11, height - tall + 6), (90, 80, 70), -1)


def _shop(rng: np.random.Generator, front: Bytes, top: int) -> None:
    height, width = front.shape[:2]
    colour = _FASCIAS[int(rng.integers(len(_FASCIAS)))]
    cv2.rectangle(front, (0, top), (width, height), _tone(colour, 0.75), -1)
    board = top + int(0.7 * _TEXELS)
    cv2.rectangle(front, (2, top), (width - 2, board), colour, -1)
    x = int(0.2 * width)
    while x < 0.75 * width:  # lettering
        letter = int(rng.integers(3, 9))
        cv2.rectangle(front, (x, top + 5), (x + letter, board - 5), (210, 225, 230), -1)
        x += letter + 3
    pane = int(1.6 * _TEXELS)
    for left in range(6, width - 12, pane):
        right = min(left + pane - 5, width - 6)
        lit = rng.random() < 0.45
        glass: Bgr = (110, 150, 170) if lit else (58, 56, 52)
        cv2.rectangle(front, (left, board + 5), (right, height - 9), glass, -1)
        for _ in range(5):  # what is in the window
            x, y = int(rng.integers(left, right)), int(rng.integers(board + 12, height - 12))
            shade = rng.integers(40, 200, 3)
            thing = (int(shade[0]), int(shade[1]), int(shade[2]))
            cv2.rectangle(front, (x, y), (min(right, x + 7), min(height - 10, y + 14)), thing, -1)
