"""Whether a figure grows, and how fast at least and at most.

A process's memory moves in steps, spikes where a camera is opened again, and remembers: each value is close to the one
before. Least squares takes such a curve for far more evidence than it is. Instead, the time is cut into blocks, each
stands for itself by its median (batch means, Schmeiser, Operations Research 30, 1982, with medians for means), and a
line is laid through the blocks by the median of all pairwise slopes (Theil 1950; Sen, "Estimates of the Regression
Coefficient Based on Kendall's Tau", JASA 63, 1968). Sen's interval comes from the variance of Kendall's S. What the
blocks still remember of each other widens it (Hamed and Rao, "A modified Mann-Kendall trend test for autocorrelated
data", Journal of Hydrology 204, 1998), taken for a first-order memory whose estimate is rid of its bias (Marriott and
Pope, Biometrika 41, 1954): the plain estimate is too small exactly where it matters.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Series = npt.NDArray[np.float64]
"""(N,) float64."""

BLOCKS = 30
"""Into how many blocks a measurement is cut."""
Z_95 = 1.959964
"""Normal deviate of a two-sided interval of 95 %."""
_STRONGEST = 0.97
"""The most that one block is believed to determine the next: at 1 there would be no interval."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Trend:
    """A line through a figure over time, with the 95 % interval of its slope."""

    slope: float
    """Units of the figure per unit of time."""
    low: float
    high: float
    middle: tuple[float, float]
    """A point of the line: time and figure."""

    def at(self, time: float) -> float:
        """Return the line's figure at `time`."""
        return self.middle[1] + self.slope * (time - self.middle[0])


def block_medians(times: Series, values: Series, blocks: int = BLOCKS) -> tuple[Series, Series]:
    """Cut two (N,) series into `blocks` parts of nearly equal length. Returns the medians of each, (blocks,).

    Raises `ValueError` if there are fewer values than blocks.
    """
    if len(times) < blocks:
        raise ValueError(f"{len(times)} values for {blocks} blocks")
    first, second = (
        np.array([np.median(part) for part in np.array_split(series, blocks)], np.float64) for series in (times, values)
    )
    return first, second


def fit_trend(times: Series, values: Series) -> Trend:
    """Fit a line through (n,) points, n from 5, `times` rising. See the module for the method."""
    first, second = np.triu_indices(len(times), 1)
    slopes = np.sort((values[second] - values[first]) / (times[second] - times[first]))
    slope = float(np.median(slopes))
    spread = Z_95 * math.sqrt(_kendall_variance(values) * _memory(values - slope * times))
    low = max(0, math.floor((len(slopes) - spread) / 2) - 1)
    high = min(len(slopes) - 1, math.ceil((len(slopes) + spread) / 2))
    return Trend(
        slope=slope,
        low=float(slopes[low]),
        high=float(slopes[high]),
        middle=(float(np.median(times)), float(np.median(values - slope * times) + slope * np.median(times))),
    )


def _kendall_variance(values: Series) -> float:
    """Return the variance of Kendall's S without a trend, less what equal values take from it."""
    n, tied = len(values), np.unique(values, return_counts=True)[1].astype(np.float64)
    return float(n * (n - 1) * (2 * n + 5) - np.sum(tied * (tied - 1) * (2 * tied + 5))) / 18


def _memory(residuals: Series) -> float:
    """Return by what factor (from 1) autocorrelation of the residuals' ranks raises the variance of Kendall's S."""
    n = len(residuals)
    ranks = np.argsort(np.argsort(residuals, kind="stable"), kind="stable") - (n - 1) / 2
    correlation = (n * float(ranks[1:] @ ranks[:-1]) / float(ranks @ ranks) + 1) / (n - 4)
    if correlation <= 0:
        return 1.0  # a factor below 1 would be a boast
    lag = np.arange(1, n - 2)
    weights = (n - lag) * (n - lag - 1) * (n - lag - 2) / (n * (n - 1) * (n - 2))
    return 1 + 2 * float(np.sum(weights * min(correlation, _STRONGEST) ** lag))
