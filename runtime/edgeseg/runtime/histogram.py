"""Percentiles in memory that does not grow, after a minute and after a month.

Bins are logarithmic, the method of HdrHistogram and DDSketch (Masson, Rim and Lee, "DDSketch", VLDB 2019); no sample is
stored.
"""

from __future__ import annotations

import math

PERCENTILES = (50, 90, 95, 99)


class LogHistogram:
    """Percentiles of positive values to within 0.5 % between `LEAST` and `MOST`, in memory that does not grow.

    What is less than `LEAST` counts as `LEAST`; what is more than `MOST` is only exact as the maximum.
    """

    LEAST = 1e-3
    MOST = 1e7
    _LOG_STEP = math.log(1.01)

    def __init__(self) -> None:
        self.count = 0
        self.max = 0.0
        self._bins = [0] * (self._bin(self.MOST) + 1)

    def _bin(self, value: float) -> int:
        # Rounded, so that a bin's value is its middle: half a step of 1 % to either side.
        return round(math.log(min(max(value, self.LEAST), self.MOST) / self.LEAST) / self._LOG_STEP)

    def add(self, value: float) -> None:
        """Count one value."""
        self._bins[self._bin(value)] += 1
        self.count += 1
        self.max = max(self.max, value)

    def merge(self, other: LogHistogram) -> LogHistogram:
        """Return a new histogram of both sides' values."""
        merged = LogHistogram()
        merged._bins = [mine + theirs for mine, theirs in zip(self._bins, other._bins, strict=True)]
        merged.count, merged.max = self.count + other.count, max(self.max, other.max)
        return merged

    def percentile(self, percent: float) -> float:
        """Return the least value that `percent` (0 to 100) of all values do not exceed (nearest rank).

        Raises `ValueError` if nothing was counted.
        """
        if not self.count:
            raise ValueError("no values")
        rank, seen = max(1, math.ceil(percent / 100 * self.count)), 0
        for index, amount in enumerate(self._bins):
            seen += amount
            if seen >= rank:
                return min(self.LEAST * math.exp(index * self._LOG_STEP), self.max)
        return self.max

    def document(self) -> dict[str, float] | None:
        """Return `{p50, p90, p95, p99, max}`, to the microsecond where values are milliseconds; None without values."""
        if not self.count:
            return None
        figures = {f"p{percent}": round(self.percentile(percent), 3) for percent in PERCENTILES}
        return {**figures, "max": round(self.max, 3)}
