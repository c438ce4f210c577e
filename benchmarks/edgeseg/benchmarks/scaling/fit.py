"""The exponent by which a quantity grows: y = a x^b, a straight line in logarithms."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np

from edgeseg.benchmarks.statistics import CONFIDENCE, Estimate

LEAST_POINTS = 5
"""With fewer than three degrees of freedom an interval says next to nothing."""


def fit_exponent(x: Sequence[float], y: Sequence[float]) -> Estimate | None:
    """Return b of y = a x^b by least squares in logarithms, with Student's interval for a slope.

    What the points lie off the line widens the interval, whether it is noise or a law that is no power. None for fewer
    than `LEAST_POINTS` points, for fewer than two different x, and where something is not above zero.
    """
    if len(x) < LEAST_POINTS or len(set(x)) < 2 or min(*x, *y) <= 0:
        return None
    log_x, log_y = np.log(x), np.log(y)
    off = log_x - log_x.mean()
    spread = float(off @ off)
    slope = float(off @ log_y) / spread
    rest = log_y - log_y.mean() - slope * off
    freedom = len(x) - 2
    error = math.sqrt(float(rest @ rest) / freedom / spread)
    reach = student_quantile((1 + CONFIDENCE) / 2, freedom) * error
    return Estimate(value=slope, low=slope - reach, high=slope + reach)


def student_quantile(share: float, freedom: int) -> float:
    """Return the quantile of Student's distribution, to within 1 % from three degrees of freedom on.

    The expansion about the normal quantile in Abramowitz and Stegun, "Handbook of Mathematical Functions", 26.7.5.
    """
    z = NormalDist().inv_cdf(share)
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + sum(term / float(freedom) ** power for power, term in enumerate(terms, start=1))
