"""Whether a run was the same at its end as at its beginning, and whether the machine slowed down within it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgeseg.benchmarks.statistics import Estimate, Samples, estimate_ratio

LEAST_SAMPLES = 60
"""Below, a third of the run has too few samples to say anything."""
DRIFT_SHARE = 0.02
"""A change that is certainly larger than this is called drift."""
THROTTLE_SHARE = 0.10
"""A lasting slowdown that is certainly larger than this looks like throttling."""
_WINDOWS = 30
_EDGE = 3


@dataclass(frozen=True, kw_only=True)
class Drift:
    """How the median changed within a run."""

    ratio: Estimate
    """Last third over first third."""
    drifted: bool
    """Whether the change is certainly larger than `DRIFT_SHARE`."""
    throttled_from: float | None
    """Share of the run (0 to 1, by samples) after which it stayed slower by more than `THROTTLE_SHARE`, if it did."""
    throttled_ratio: Estimate | None
    """The medians after that point over before."""


def find_drift(samples_ms: Samples) -> Drift | None:
    """Compare the ends of a run, and look for one lasting slowdown in it.

    None below `LEAST_SAMPLES` samples, and where a time is not above zero. The slowdown is the split of the run's
    windows into two levels that leaves the least absolute deviation of their medians, which single slow moments do not
    move. It counts if the interval of the two sides' ratio lies wholly above `1 + THROTTLE_SHARE` and the run's last
    tenth is that much slower as well.
    """
    if samples_ms.size < LEAST_SAMPLES:
        return None
    third = samples_ms.size // 3
    ratio = estimate_ratio(samples_ms[:third], samples_ms[-third:])
    if ratio is None:
        return None
    split = _find_split(samples_ms)
    throttled = estimate_ratio(samples_ms[:split], samples_ms[split:])
    limit = 1 + THROTTLE_SHARE
    end = samples_ms[-samples_ms.size * _EDGE // _WINDOWS :]
    lasting = np.median(end) > limit * np.median(samples_ms[:split])
    slowed = throttled is not None and throttled.low > limit and bool(lasting)
    return Drift(
        ratio=ratio,
        drifted=ratio.excludes(1, by=DRIFT_SHARE),
        throttled_from=split / samples_ms.size if slowed else None,
        throttled_ratio=throttled if slowed else None,
    )


def _find_split(samples_ms: Samples) -> int:
    """Return the sample at which two levels part the run best."""
    windows = np.array_split(samples_ms, _WINDOWS)
    medians = np.array([np.median(window) for window in windows])
    deviations = [_deviation(medians[:at]) + _deviation(medians[at:]) for at in range(_EDGE, _WINDOWS - _EDGE)]
    return sum(window.size for window in windows[: _EDGE + int(np.argmin(deviations))])


def _deviation(levels: Samples) -> float:
    return float(np.abs(levels - np.median(levels)).sum())
