"""Calibration: whether a network that says 80 % is right in 80 % of such pixels.

Expected calibration error (Guo et al., "On Calibration of Modern Neural Networks", ICML 2017): pixels are put into
15 bins of equal width by the probability of the class that won, and the gaps between each bin's mean probability and
its share of right pixels are averaged, weighted by pixels. A graph tells a probability for each cell of a few pixels
(a run for each two by two), in 255ths rounded down; only the pixel in the middle of a cell is counted, which it is of.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgeseg.runtime.evaluate import Certainty

BINS = 15
LEVELS = 256


@dataclass(frozen=True, kw_only=True, slots=True)
class Bin:
    """The pixels whose confidence lies in one interval. Shares are 0 to 1."""

    low: float
    high: float
    pixels: int
    confidence: float
    """Mean of the probability that the network gave."""
    accuracy: float
    """Share that is right."""


class Calibration:
    """Gathers pixels over images. Void ones, and those of no class in the prediction, are left out."""

    def __init__(self, classes: Sequence[str], ignore_index: int) -> None:
        self._classes, self._ignore_index = len(classes), ignore_index
        self._pixels = np.zeros(LEVELS, np.int64)
        self._right = np.zeros(LEVELS, np.int64)

    def add(self, seen: Certainty) -> None:
        """Count one image."""
        scored = (seen.truth != self._ignore_index) & (seen.mask < self._classes)
        self._pixels += np.bincount(seen.confidence[scored], minlength=LEVELS)
        self._right += np.bincount(seen.confidence[scored & (seen.truth == seen.mask)], minlength=LEVELS)

    @property
    def bins(self) -> list[Bin]:
        """The bins that hold a pixel, from unsure to certain."""
        level = np.arange(LEVELS)
        place = np.minimum(level * BINS // (LEVELS - 1), BINS - 1)
        found = []
        for index in range(BINS):
            inside = place == index
            pixels = int(self._pixels[inside].sum())
            if pixels:
                mean = float(self._pixels[inside] @ level[inside]) / (LEVELS - 1) / pixels
                accuracy = int(self._right[inside].sum()) / pixels
                found.append(
                    Bin(
                        low=index / BINS,
                        high=(index + 1) / BINS,
                        pixels=pixels,
                        confidence=mean,
                        accuracy=accuracy,
                    )
                )
        return found

    @property
    def error(self) -> float | None:
        """Expected calibration error in percent; None without a pixel."""
        bins = self.bins
        total = sum(one.pixels for one in bins)
        return 100.0 * sum(one.pixels * abs(one.confidence - one.accuracy) for one in bins) / total if total else None

    def document(self) -> dict[str, Any]:
        """Return the figures for JSON; absent ones are absent."""
        if self.error is None:
            return {"absent": "no labelled pixel"}
        rows = [{name: getattr(one, name) for name in one.__slots__} for one in self.bins]
        return {"ece": self.error, "bins": rows}
