"""Flicker and class areas of one camera's masks, and how far the areas are from what the bundle was made on.

`changed` is the share of pixels whose class is another than in the mask before: motion and flicker together. `flicker`
leaves motion out: the share of pixels whose class changed and was back in the very next mask. Temporal consistency is
usually measured by warping one mask to the next with optical flow (Varghese et al., "Unsupervised Temporal Consistency
Metric for Video Segmentation in Highly-Automated Driving", CVPR Workshops 2020), which costs more than the network;
what moves rarely comes back within two frames, what flickers does. Thin things that move by more than their own width
are counted too.

`area_drift` is the Jensen-Shannon divergence in bits (Lin, "Divergence Measures Based on the Shannon Entropy", IEEE
Transactions on Information Theory 37, 1991) between the class areas seen and the reference: 0 where they are the same,
1 where they have no class in common, and finite where a class is missing on one side, which the population stability
index is not.

`unsure` is the share of the picture where the network gives its class a softmax probability of less than a half, the
baseline of Hendrycks and Gimpel ("A Baseline for Detecting Misclassified and Out-of-Distribution Examples", ICLR 2017).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from edgeseg.runtime.contract import Contract
from edgeseg.runtime.frame import Mask, Result

Areas = npt.NDArray[np.float64]
"""(classes,) shares of the pixels that have a class, 0 to 1; all 0 where none has."""

WINDOW_S = 600.0
"""Figures are means that fade with this time constant, so that a bad hour shows after a good month."""
NEIGHBOUR_S = 1.0
"""Masks further apart in time are not compared."""
UNSURE_BELOW = 128
"""255ths of a probability: a half."""
SAMPLE = 1 << 16
"""Pixels of a mask that are looked at, at most; spread evenly."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Reading:
    """What one mask showed. Shares are 0 to 1; None where there was no mask before to compare with."""

    areas: Areas
    changed: float | None = None
    flicker: float | None = None
    unsure: float | None = None
    """None where the graph tells no confidence."""


@dataclass(frozen=True, kw_only=True)
class Health:
    """The figures of one camera, of late (`WINDOW_S`). A figure that is not there is None."""

    changed: float | None
    """Percent of pixels whose class changed from mask to mask."""
    flicker: float | None
    """Percent of pixels whose class changed and was back at once."""
    unsure: float | None
    """Percent of the picture whose class has a probability of less than a half; None where the graph tells none."""
    areas: Mapping[str, float]
    """Class -> percent of the pixels that have a class; classes not seen are left out."""
    area_drift: float | None
    """Bits, 0 to 1, between `areas` and the reference; None without one."""
    area_reference: str | None
    """Where the reference comes from."""

    def document(self) -> dict[str, Any]:
        """Return the figures as JSON's types; those that are not there are left out."""
        fields = {
            "changed": _rounded(self.changed, 3),
            "flicker": _rounded(self.flicker, 3),
            "unsure": _rounded(self.unsure, 3),
            "areas": {name: round(area, 3) for name, area in self.areas.items()},
            "area_drift": _rounded(self.area_drift, 4),
            "area_reference": self.area_reference,
        }
        return {name: value for name, value in fields.items() if value is not None}


@dataclass(frozen=True, kw_only=True)
class Reference:
    """The class areas that are usual."""

    areas: Mapping[str, float]
    """Class -> share; need not add up to 1."""
    origin: str
    """Where they come from, for people."""


class FadingMean:
    """A mean of numbers or arrays in which what is `WINDOW_S` older counts 1/e; a plain mean in a shorter time."""

    def __init__(self) -> None:
        self.count = 0
        self._weight, self._sum, self._squares = 0.0, 0.0, 0.0
        self._last_s = 0.0

    def add(self, value: Any, now_s: float) -> None:
        """Count `value`, seen at `now_s`."""
        kept = math.exp(-max(0.0, now_s - self._last_s) / WINDOW_S) if self.count else 0.0
        self._last_s = now_s
        self._weight = self._weight * kept + 1
        self._sum = self._sum * kept + value
        self._squares = self._squares * kept + value * value
        self.count += 1

    @property
    def mean(self) -> Any:
        """The mean. Raises `ZeroDivisionError` before the first value."""
        return self._sum / self._weight

    @property
    def deviation(self) -> Any:
        """The standard deviation, of numbers."""
        return math.sqrt(max(0.0, self._squares / self._weight - self.mean**2))


class HealthMonitor:
    """Watches one camera's masks. `see` is for one thread, `health` for any."""

    def __init__(self, contract: Contract, reference: Reference | None = None) -> None:
        self._classes = contract.classes
        self._reference = reference
        self._changed, self._flicker, self._areas = FadingMean(), FadingMean(), FadingMean()
        self._unsure = FadingMean()
        self._past: list[tuple[float, Mask]] = []
        """The last two masks' samples, and when they were captured (seconds), the newest first."""
        self.latest: Reading | None = None
        """Of the mask that was seen last."""

    def see(self, result: Result) -> None:
        """Take in the next mask."""
        now_s, sample = result.frame.captured_ns / 1e9, _sample(result.mask)
        if self._past and not _neighbours(self._past[0], (now_s, sample)):
            self._past = []
        changed = flicker = None
        if self._past:
            differs = sample != self._past[0][1]
            changed = np.count_nonzero(differs) / sample.size
            self._changed.add(changed, now_s)
        if len(self._past) == 2:
            flicker = np.count_nonzero(differs & (sample == self._past[1][1])) / sample.size
            self._flicker.add(flicker, now_s)
        unsure = unsure_share(result)
        if unsure is not None:
            self._unsure.add(unsure, now_s)
        areas = class_areas(sample, len(self._classes))
        self._areas.add(areas, now_s)
        self._past = [(now_s, sample), *self._past[:1]]
        self.latest = Reading(areas=areas, changed=changed, flicker=flicker, unsure=unsure)

    def health(self) -> Health | None:
        """Return the figures of late; None before the first mask."""
        if self.latest is None:
            return None
        areas = self._areas.mean
        shares = areas / areas.sum() if areas.any() else areas
        reference = self._reference
        expected = None if reference is None else named_areas(reference.areas, self._classes)
        if expected is not None and not (expected.any() and shares.any()):
            expected = None
        return Health(
            changed=100 * self._changed.mean if self._changed.count else None,
            flicker=100 * self._flicker.mean if self._flicker.count else None,
            unsure=100 * self._unsure.mean if self._unsure.count else None,
            areas={name: 100 * float(share) for name, share in zip(self._classes, shares, strict=True) if share > 0},
            area_drift=None if expected is None else divergence_bits(shares, expected),
            area_reference=None if expected is None or reference is None else reference.origin,
        )


def unsure_share(result: Result) -> float | None:
    """Return the share of a result's cells, 0 to 1, that are unsure; None where the graph tells no confidence."""
    cells = result.confidence
    return None if cells is None else np.count_nonzero(cells < UNSURE_BELOW) / cells.size


def class_areas(mask: Mask, classes: int) -> Areas:
    """Return each class's share of those pixels of `mask` (H, W) that have a class."""
    counts = cv2.calcHist([mask], [0], None, [256], [0, 256]).ravel()[:classes].astype(np.float64)
    total = counts.sum()
    return counts / total if total else counts


def named_areas(areas: Mapping[str, float], classes: Sequence[str]) -> Areas:
    """Return `areas` by index of `classes`, 0 for those that it does not name."""
    return np.array([areas.get(name, 0.0) for name in classes], np.float64)


def divergence_bits(first: Areas, second: Areas) -> float:
    """Return the Jensen-Shannon divergence of two sets of shares, each of which need not add up to 1: 0 to 1 bit."""
    first, second = first / first.sum(), second / second.sum()
    middle = (first + second) / 2
    return min(1.0, max(0.0, (_relative_bits(first, middle) + _relative_bits(second, middle)) / 2))


def _relative_bits(shares: Areas, base: Areas) -> float:
    there = shares > 0
    return float(np.sum(shares[there] * np.log2(shares[there] / base[there])))


def _sample(mask: Mask) -> Mask:
    step = max(1, math.ceil(math.sqrt(mask.size / SAMPLE)))
    return np.ascontiguousarray(mask[::step, ::step])


def _neighbours(before: tuple[float, Mask], now: tuple[float, Mask]) -> bool:
    return before[1].shape == now[1].shape and now[0] - before[0] <= NEIGHBOUR_S


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits)
