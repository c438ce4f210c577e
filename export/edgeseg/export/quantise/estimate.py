"""How far a tensor's integers should reach: four estimators over the same observed histogram.

Sources: percentile and entropy, Wu et al. 2020, "Integer quantization for deep learning inference" (entropy after
Migacz, GTC 2017); MSE, Sung et al. 2015 and Choukroun et al. 2019.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt

from edgeseg.export.quantise.observe import BINS, Histogram, Range

LEVELS = 128
"""Magnitudes that a symmetric 8-bit integer tells apart."""
_PERCENTILE = 99.99
_STEP = 16


def _min_max(histogram: Histogram) -> float:
    return histogram.peak


def _percentile(histogram: Histogram) -> float:
    total = np.cumsum(histogram.counts)
    place = int(np.searchsorted(total, total[-1] * _PERCENTILE / 100))
    return float((place + 1) * histogram.reach / BINS)


def _mse(histogram: Histogram) -> float:
    """The reach with the least squared error of rounding and clipping."""
    centres = (np.arange(BINS) + 0.5) * histogram.reach / BINS
    errors = []
    reaches = _candidates(histogram)
    for reach in reaches:
        step = reach / (LEVELS - 1)
        rounded = np.minimum(np.rint(centres / step), LEVELS - 1) * step
        errors.append(float((histogram.counts * (centres - rounded) ** 2).sum()))
    return float(reaches[int(np.argmin(errors))])


def _entropy(histogram: Histogram) -> float:
    """The reach at which the integers' distribution diverges least (Kullback-Leibler) from what was seen."""
    reaches = _candidates(histogram)
    ends = np.rint(reaches / histogram.reach * BINS).astype(int)
    divergences = [_divergence(histogram.counts, int(end)) for end in ends]
    return float(reaches[int(np.argmin(divergences))])


def _divergence(counts: npt.NDArray[np.int64], end: int) -> float:
    seen = counts[:end].astype(np.float64)
    clipped = seen.copy()
    clipped[-1] += counts[end:].sum()
    starts = np.linspace(0, end, LEVELS, endpoint=False).astype(int)
    sizes = np.diff(np.append(starts, end))
    filled = np.add.reduceat((seen > 0).astype(np.float64), starts)
    mean = np.divide(np.add.reduceat(seen, starts), filled, out=np.zeros(LEVELS), where=filled > 0)
    told = np.repeat(mean, sizes) * (seen > 0)
    if told.sum() == 0:
        return float("inf")
    # A small mass everywhere, so that what the integers cannot tell costs much and not everything.
    p, q = clipped / clipped.sum(), (told + 1e-6 * told.sum()) / (told + 1e-6 * told.sum()).sum()
    held = p > 0
    return float((p[held] * np.log(p[held] / q[held])).sum())


def _candidates(histogram: Histogram) -> npt.NDArray[np.float64]:
    """Reaches to try: ends of bins up to the one that holds the greatest value."""
    last = max(int(np.flatnonzero(histogram.counts)[-1]) + 1, LEVELS + 1)
    ends = np.append(np.arange(LEVELS, last, _STEP), last)
    return np.minimum(ends * histogram.reach / BINS, max(histogram.peak, LEVELS * histogram.reach / BINS))


ESTIMATORS: Mapping[str, Callable[[Histogram], float]] = {
    "min-max": _min_max,
    "percentile": _percentile,
    "entropy": _entropy,
    "mse": _mse,
}
"""Name -> reach, the greatest magnitude to represent."""


def estimate_ranges(histograms: Mapping[str, Histogram], estimator: str) -> dict[str, Range]:
    """Return the range of each observed tensor: what was seen, cut at the estimator's reach."""
    find = ESTIMATORS[estimator]
    ranges = {}
    for name, histogram in histograms.items():
        reach = find(histogram) if histogram.counts.any() else histogram.peak
        ranges[name] = Range(low=max(histogram.low, -reach), high=min(histogram.high, reach))
    return ranges
