"""What training can add to its samples so that corrupted photos cost less.

AugMix (Hendrycks et al., "AugMix: A Simple Data Processing Method to Improve Robustness and Uncertainty", ICLR 2020),
its mixing alone: the consistency loss would treble the cost of a step. Chains of operations that are none of the
corruptions measured (docs/robustness.md) are mixed with the photo. Half of the mixed photos are then noisy (Rusak et
al., "A Simple Way to Make Neural Networks Robust Against Diverse Image Corruptions", ECCV 2020) or blurred: these two
kinds training does see.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import albumentations as A
import cv2
import numpy as np

from edgeseg.runtime.frame import Image

_CHAINS, _DEEPEST = 3, 3
_LEVELS = np.arange(256)

_Operation = Callable[[Image, np.random.Generator], Image]


def robust_augmentation(share: float) -> A.BaseCompose:
    """Return a transform that degrades a `share` (0 to 1) of the crops, (H, W, 3) uint8; masks stay as they are."""
    rough = A.OneOf([A.GaussNoise(std_range=(0.02, 0.25)), A.GaussianBlur(sigma_limit=(0.5, 3.0))], p=0.5)
    return A.Sequential([AugMix(p=1), rough], p=share)


class AugMix(A.ImageOnlyTransform):  # type: ignore[misc]  # albumentations carries no types
    """Mix a photo with three chains of one to three operations on it: weights by Dirichlet's, shares by Beta(1, 1)."""

    def get_params(self) -> dict[str, Any]:
        return {"seed": int(self.random_generator.integers(2**31))}

    def apply(self, img: Image, seed: int, **params: Any) -> Image:
        chance = np.random.default_rng(seed)
        kept = chance.beta(1, 1)
        mixed = kept * img.astype(np.float32)
        for weight in chance.dirichlet(np.ones(_CHAINS)):
            changed = img
            for _ in range(chance.integers(1, _DEEPEST + 1)):
                changed = _OPERATIONS[chance.integers(len(_OPERATIONS))](changed, chance)
            mixed += (1 - kept) * weight * changed
        levels: Image = np.rint(mixed).astype(np.uint8)
        return levels


def _autocontrast(image: Image, chance: np.random.Generator) -> Image:
    low, high = image.min(axis=(0, 1)).astype(int), image.max(axis=(0, 1)).astype(int)
    stretched = (_LEVELS[:, None] - low) * (255 / np.maximum(high - low, 1))
    return _look_up(image, np.clip(stretched, 0, 255))


def _equalize(image: Image, chance: np.random.Generator) -> Image:
    return cv2.merge([cv2.equalizeHist(channel) for channel in cv2.split(image)])  # type: ignore[return-value]


def _posterize(image: Image, chance: np.random.Generator) -> Image:
    dropped = int(chance.integers(2, 5))
    return _look_up(image, np.repeat((_LEVELS >> dropped << dropped)[:, None], 3, axis=1))


def _solarize(image: Image, chance: np.random.Generator) -> Image:
    threshold = chance.integers(100, 256)
    inverted = np.where(threshold > _LEVELS, _LEVELS, 255 - _LEVELS)
    return _look_up(image, np.repeat(inverted[:, None], 3, axis=1))


def _shift_colours(image: Image, chance: np.random.Generator) -> Image:
    """A gamma of its own for each channel: another white balance, another camera."""
    gamma = np.exp(chance.uniform(-0.5, 0.5, 3))
    return _look_up(image, 255 * (_LEVELS[:, None] / 255) ** gamma)


def _look_up(image: Image, table: Any) -> Image:
    return cv2.LUT(image, np.rint(table).astype(np.uint8)[:, None])  # type: ignore[return-value]


_OPERATIONS: tuple[_Operation, ...] = (_autocontrast, _equalize, _posterize, _solarize, _shift_colours)
