"""Common corruptions of a photo, each at five severities.

After Hendrycks and Dietterich, "Benchmarking Neural Network Robustness to Common Corruptions and Perturbations", ICLR
2019: their parameters, applied to the photo at its own size. Two of their fifteen are left out: elastic transform moves
things away from under their labels, and frost needs photographs of ice.

Where albumentations (what training augments with) has the corruption with those parameters, it is taken from there.
Packages of the whole benchmark exist; all of them bring `opencv-python`, which overwrites the headless build.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import albumentations as A
import cv2
import numpy as np
import numpy.typing as npt

from edgeseg.runtime.frame import Image

SEVERITIES = (1, 2, 3, 4, 5)

_Floats = npt.NDArray[np.float32]
_Random = np.random.Generator


@dataclass(frozen=True, kw_only=True, slots=True)
class Corruption:
    """One corruption of an RGB photo."""

    group: str
    """noise, blur, weather or digital."""
    levels: Sequence[Any]
    """Its parameters at each of `SEVERITIES`."""
    apply: Callable[[Image, Any, _Random], Image | _Floats]
    """(H, W, 3) uint8 RGB, a level and where chance comes from → (H, W, 3) in 0 to 255, floats unclipped."""


def corrupt(image_bgr: Image, name: str, severity: int, *, seed: int = 0, picture: str = "") -> Image:
    """Return `image_bgr` (H, W, 3 uint8, at least 32 pixels a side) with corruption `name` at `severity` (1 to 5).

    The outcome depends on the arguments alone; `picture`, the photo's name, gives each photo its own chance. Raises
    `KeyError` for an unknown name.
    """
    corruption = CORRUPTIONS[name]
    chance = np.random.default_rng([seed, zlib.crc32(name.encode()), severity, zlib.crc32(picture.encode())])
    rgb = np.ascontiguousarray(image_bgr[..., ::-1])
    changed = corruption.apply(rgb, corruption.levels[SEVERITIES.index(severity)], chance)
    levels = np.clip(np.rint(changed), 0, 255).astype(np.uint8)
    return np.ascontiguousarray(levels[..., ::-1])


def _run(transform: A.BasicTransform, rgb: Image, chance: _Random) -> Image:
    pipeline = A.Compose([transform])
    pipeline.set_random_seed(int(chance.integers(2**31)))
    return cast(Image, pipeline(image=rgb)["image"])


def _gaussian_noise(rgb: Image, deviation: float, chance: _Random) -> Image:
    return _run(A.GaussNoise(std_range=(deviation, deviation), p=1), rgb, chance)


def _shot_noise(rgb: Image, photons: float, chance: _Random) -> _Floats:
    return (chance.poisson(rgb * (photons / 255)) * (255 / photons)).astype(np.float32)


def _impulse_noise(rgb: Image, share: float, chance: _Random) -> Image:
    noisy = rgb.copy()
    hit = chance.random(rgb.shape) < share
    noisy[hit] = 255 * chance.integers(0, 2, np.count_nonzero(hit), np.uint8)
    return noisy


def _defocus_blur(rgb: Image, level: tuple[int, float], chance: _Random) -> Image:
    radius, alias = level
    return _run(A.Defocus(radius=(radius, radius), alias_blur=(alias, alias), p=1), rgb, chance)


def _glass_blur(rgb: Image, level: tuple[float, int, int], chance: _Random) -> Image:
    sigma, reach, rounds = level
    return _run(A.GlassBlur(sigma=sigma, max_delta=reach, iterations=rounds, p=1), rgb, chance)


def _motion_blur(rgb: Image, level: tuple[int, float], chance: _Random) -> _Floats:
    return _smear(rgb.astype(np.float32), *level, degrees=chance.uniform(-45, 45))


def _zoom_blur(rgb: Image, level: tuple[float, float], chance: _Random) -> Image:
    furthest, step = level
    return _run(A.ZoomBlur(max_factor=(furthest, furthest), step_factor=(step, step), p=1), rgb, chance)


def _snow(rgb: Image, level: tuple[float, ...], chance: _Random) -> _Floats:
    """Flakes, enlarged from noise and smeared by their fall, over a photo whose colours are bleached."""
    mean, deviation, zoom, least, radius, sigma, kept = level
    height, width = rgb.shape[:2]
    small = (math.ceil(height / zoom), math.ceil(width / zoom))
    noise = chance.normal(mean, deviation, small).astype(np.float32)
    flakes = cv2.resize(noise, (width, height), interpolation=cv2.INTER_LINEAR)
    layer = np.where(flakes < least, 0, np.clip(flakes, 0, 1)).astype(np.float32)
    falling = _smear(layer, int(radius), sigma, degrees=chance.uniform(-135, -45))
    photo = (rgb / 255).astype(np.float32)
    grey = cv2.cvtColor(photo, cv2.COLOR_RGB2GRAY)[..., None]
    bleached = kept * photo + (1 - kept) * np.maximum(photo, grey * 1.5 + 0.5)
    return cast(_Floats, 255 * (bleached + (falling + falling[::-1, ::-1])[..., None]))


def _fog(rgb: Image, level: tuple[float, float], chance: _Random) -> _Floats:
    density, decay = level
    brightest = float(rgb.max())
    clouds = _make_clouds((rgb.shape[0], rgb.shape[1]), decay, chance)[..., None]
    return cast(_Floats, (rgb + 255 * density * clouds) * (brightest / (brightest + 255 * density)))


def _brightness(rgb: Image, more: float, chance: _Random) -> _Floats:
    hsv = cv2.cvtColor((rgb / 255).astype(np.float32), cv2.COLOR_RGB2HSV)
    hsv[..., 2] = np.minimum(hsv[..., 2] + more, 1)
    return cast(_Floats, 255 * cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB))


def _contrast(rgb: Image, kept: float, chance: _Random) -> _Floats:
    mean = rgb.mean(axis=(0, 1))
    return cast(_Floats, ((rgb - mean) * kept + mean).astype(np.float32))


def _pixelate(rgb: Image, kept: float, chance: _Random) -> Image:
    height, width = rgb.shape[:2]
    small = cv2.resize(rgb, (int(width * kept), int(height * kept)), interpolation=cv2.INTER_AREA)
    return cast(Image, cv2.resize(small, (width, height), interpolation=cv2.INTER_NEAREST_EXACT))


def _jpeg_compression(rgb: Image, quality: int, chance: _Random) -> Image:
    return _run(A.ImageCompression(quality_range=(quality, quality), p=1), rgb, chance)


def _smear(picture: _Floats, radius: int, sigma: float, *, degrees: float) -> _Floats:
    """Average `picture` along a line that begins at each pixel, nearer ones weighing more: one half of a Gaussian."""
    step = np.arange(2 * radius + 1)
    weights = np.exp(-(step**2) / (2 * sigma**2))
    rows = np.rint(step * math.sin(math.radians(degrees))).astype(int)
    columns = np.rint(step * math.cos(math.radians(degrees))).astype(int)
    kernel = np.zeros((4 * radius + 1, 4 * radius + 1), np.float32)
    np.add.at(kernel, (2 * radius + rows, 2 * radius + columns), weights / weights.sum())
    return cast(_Floats, cv2.filter2D(picture, -1, kernel, borderType=cv2.BORDER_REPLICATE))


def _make_clouds(size_hw: tuple[int, int], decay: float, chance: _Random) -> _Floats:
    """Fractal noise, 0 to 1: each octave is twice as fine and `decay` times as weak as the one before."""
    height, width = size_hw
    clouds, weight = np.zeros(size_hw, np.float32), 1.0
    cell = 2 ** math.ceil(math.log2(max(size_hw)))
    while cell > 1:
        cell //= 2
        grid = chance.uniform(-weight, weight, (height // cell + 2, width // cell + 2)).astype(np.float32)
        large = cv2.resize(grid, (grid.shape[1] * cell, grid.shape[0] * cell), interpolation=cv2.INTER_LINEAR)
        clouds += large[cell // 2 :, cell // 2 :][:height, :width]
        weight /= decay
    clouds -= clouds.min()
    return cast(_Floats, clouds / clouds.max())


CORRUPTIONS: dict[str, Corruption] = {
    "gaussian_noise": Corruption(group="noise", levels=(0.08, 0.12, 0.18, 0.26, 0.38), apply=_gaussian_noise),
    "shot_noise": Corruption(group="noise", levels=(60, 25, 12, 5, 3), apply=_shot_noise),
    "impulse_noise": Corruption(group="noise", levels=(0.03, 0.06, 0.09, 0.17, 0.27), apply=_impulse_noise),
    "defocus_blur": Corruption(
        group="blur", levels=((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5)), apply=_defocus_blur
    ),
    "glass_blur": Corruption(
        group="blur",
        levels=((0.7, 1, 2), (0.9, 2, 1), (1, 2, 3), (1.1, 3, 2), (1.5, 4, 2)),
        apply=_glass_blur,
    ),
    "motion_blur": Corruption(group="blur", levels=((10, 3), (15, 5), (15, 8), (15, 12), (20, 15)), apply=_motion_blur),
    "zoom_blur": Corruption(
        group="blur", levels=((1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03)), apply=_zoom_blur
    ),
    "snow": Corruption(
        group="weather",
        levels=(
            (0.1, 0.3, 3, 0.5, 10, 4, 0.8),
            (0.2, 0.3, 2, 0.5, 12, 4, 0.7),
            (0.55, 0.3, 4, 0.9, 12, 8, 0.7),
            (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
            (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
        ),
        apply=_snow,
    ),
    "fog": Corruption(group="weather", levels=((1.5, 2), (2.0, 2), (2.5, 1.7), (2.5, 1.5), (3.0, 1.4)), apply=_fog),
    "brightness": Corruption(group="weather", levels=(0.1, 0.2, 0.3, 0.4, 0.5), apply=_brightness),
    "contrast": Corruption(group="digital", levels=(0.4, 0.3, 0.2, 0.1, 0.05), apply=_contrast),
    "pixelate": Corruption(group="digital", levels=(0.6, 0.5, 0.4, 0.3, 0.25), apply=_pixelate),
    "jpeg_compression": Corruption(group="digital", levels=(25, 18, 15, 10, 7), apply=_jpeg_compression),
}
