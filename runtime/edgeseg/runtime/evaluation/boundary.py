"""Boundary F-score: how well the outlines of classes are met, which IoU hardly feels.

Csurka, Larlus and Perronnin, "What is a good evaluation measure for semantic segmentation?", BMVC 2013. For one class
of one image, precision is the share of the prediction's border pixels that lie within the tolerance of the truth's
border, recall the share of the truth's within it of the prediction's; F is their harmonic mean. The tolerance is
0.75 % of the image's diagonal, as there: 4.5 pixels at 480×360; at least one pixel.

What the paper leaves open is settled so. A border pixel is one of the class with a neighbour (of four) of another
class; the image's edge and the edge of void are no border, since nobody knows what lies beyond. A predicted border
pixel within the tolerance of void may be right, and is not counted. A class with nothing to count in an image is left
out there; one that only one side has scores 0. A class's score is the mean over images, the whole is the mean over
classes, as with mIoU.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from edgeseg.runtime.frame import Mask

TOLERANCE = 0.0075
"""Of the image's diagonal."""

_Pixels = npt.NDArray[np.bool_]
_CROSS = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))


class BoundaryScore:
    """Gathers the score over images. Figures are percentages."""

    def __init__(self, classes: Sequence[str], ignore_index: int, *, tolerance: float = TOLERANCE) -> None:
        """`tolerance` is a share of each image's diagonal."""
        self.classes, self.ignore_index, self.tolerance = tuple(classes), ignore_index, tolerance
        self._sums = np.zeros(len(self.classes))
        self._images = np.zeros(len(self.classes), np.int64)

    def add(self, truth: Mask, prediction: Mask) -> None:
        """Score one image: two (H, W) uint8 masks of one shape."""
        void = truth == self.ignore_index
        reach_px = max(1.0, self.tolerance * math.hypot(*truth.shape))
        known = ~_within(void, reach_px)
        nowhere = np.zeros_like(void)
        for index in np.union1d(truth, prediction):
            if index >= len(self.classes):
                continue
            score = _f_score(
                _find_border(truth == index, void), _find_border(prediction == index, nowhere), known, reach_px
            )
            if score is not None:
                self._sums[index] += score
                self._images[index] += 1

    @property
    def per_class(self) -> dict[str, float]:
        """Class → mean F over the images in which there was something to count."""
        rows = zip(self.classes, self._sums.tolist(), self._images.tolist(), strict=True)
        return {name: 100.0 * total / images for name, total, images in rows if images}

    @property
    def mean(self) -> float | None:
        """Mean of `per_class`."""
        scores = self.per_class.values()
        return sum(scores) / len(scores) if scores else None

    def document(self) -> dict[str, Any]:
        """Return the figures for JSON; absent ones are absent."""
        if self.mean is None:
            return {}
        return {
            "boundary_f": self.mean,
            "per_class_boundary_f": self.per_class,
            "boundary_tolerance": self.tolerance,
        }


def _f_score(truth: _Pixels, prediction: _Pixels, known: _Pixels, reach_px: float) -> float | None:
    """F of two borders, 0 to 1; `known` is where the prediction's is counted. None if there is nothing to count."""
    counted = prediction & known
    if not truth.any() and not counted.any():
        return None
    precision = _share(counted, _within(truth, reach_px))
    recall = _share(truth, _within(prediction, reach_px))
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def _share(pixels: _Pixels, near: _Pixels) -> float:
    count = np.count_nonzero(pixels)
    return np.count_nonzero(pixels & near) / count if count else 1.0  # nothing said, nothing wrong


def _within(pixels: _Pixels, reach_px: float) -> _Pixels:
    """Where the Euclidean distance to the nearest of `pixels` is at most `reach_px`."""
    if not pixels.any():
        return np.zeros_like(pixels)
    distance_px = cv2.distanceTransform((~pixels).view(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    # A distance is the root of a whole number, in float32: equality must survive the rounding.
    return np.asarray(distance_px <= reach_px * (1 + 1e-6), np.bool_)


def _find_border(of_class: _Pixels, unknown: _Pixels) -> _Pixels:
    """Pixels of a class with a neighbour (of four) that is known to be of another."""
    inner = cv2.erode((of_class | unknown).view(np.uint8), _CROSS)  # beyond the image counts as the class
    border: _Pixels = of_class & (inner == 0)
    return border
