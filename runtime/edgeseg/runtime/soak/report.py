"""What a soak found: how fast each figure grew, what was left behind, and whether that is a leak."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgeseg.runtime.errors import EdgesegError
from edgeseg.runtime.soak.gauges import Holdings
from edgeseg.runtime.soak.trend import BLOCKS, Series, Trend, block_medians, fit_trend
from edgeseg.runtime.sources.inject import InjectedFault

WARM_UP_SHARE = 0.2
"""Of the time, at the start, that does not count: engines, allocators and caches fill up then."""
TOLERANCES = {"memory_mib": 1.0, "handles": 0.5, "threads": 0.5}
"""Growth over the time that counts which is no leak; a longer soak finds slower ones."""
SETTLED_S, SETTLING_MIB = 300.0, 8.0
"""A process's memory settles for about a minute: a soak of less than this long tolerates this much of it."""
METHOD = (
    f"Theil-Sen slope over medians of {BLOCKS} blocks, after the first {WARM_UP_SHARE:.0%} of the time; "
    "95 % interval by Sen (1968), widened for autocorrelation by Hamed and Rao (1998)"
)
_UNITS = {"memory_mib": "MiB", "handles": "handles", "threads": "threads", "frame_age_ms": "ms"}


class LeakError(EdgesegError):
    """Something that grows, or that was not given back."""


@dataclass(frozen=True, kw_only=True)
class SoakReport:
    """What a soak measured. `series` are what `Watch.series` returns."""

    series: Mapping[str, Series]
    before: Holdings
    """With the engine loaded, before the source was opened."""
    after: Holdings
    """The same, after the source was closed."""
    injected: Sequence[InjectedFault]
    told: Mapping[str, int]
    """Faults by kind that the source's supervisor told."""

    @property
    def measured_h(self) -> float:
        """Hours that count."""
        seconds = self._counted("memory_mib")[0]
        return float(seconds[-1] - seconds[0]) / 3600

    def trends(self) -> dict[str, Trend]:
        """Return the trend of each figure, in units per hour; none of age where too few frames came.

        Raises `EdgesegError` if the soak was too short.
        """
        trends = {}
        for name in _UNITS:
            seconds, values = self._counted(name)
            known = ~np.isnan(values)
            if known.sum() >= BLOCKS:
                trends[name] = fit_trend(*block_medians(seconds[known] / 3600, values[known]))
        return trends

    def tolerance(self, name: str) -> float:
        """Return the growth of a figure of `TOLERANCES` that is no leak in this soak."""
        is_settling = name == "memory_mib" and self.series["seconds"][-1] < 0.99 * SETTLED_S
        return SETTLING_MIB if is_settling else TOLERANCES[name]

    def leaks(self) -> list[str]:
        """Return a line for each leak; none means that there is none to be seen."""
        lines = []
        for name, trend in self.trends().items():
            if name in TOLERANCES and trend.low * self.measured_h > self.tolerance(name):
                unit = _UNITS[name]
                lines.append(f"{trend.slope:.3g} {unit} an hour (95 %: {trend.low:.3g} to {trend.high:.3g})")
        left = self.left_behind()
        return lines + [f"{count} {name} left behind" for name, count in left.items() if count > 0]

    def left_behind(self) -> dict[str, int]:
        """Return how many more handles and threads there were after the run than before it."""
        return {
            "handles": self.after.handles - self.before.handles,
            "threads": self.after.threads - self.before.threads,
        }

    def require_clean(self) -> None:
        """Raise `LeakError`, naming each, if there is a leak."""
        if leaks := self.leaks():
            raise LeakError("leak: " + ", ".join(leaks))

    def document(self) -> dict[str, Any]:
        """Return the figures as JSON's types."""
        seconds = self.series["seconds"]
        return {
            "soaked_s": round(float(seconds[-1]), 1),
            "measured_s": round(self.measured_h * 3600, 1),
            "samples": len(seconds),
            "method": METHOD,
            "trends": {name: self._describe(name, trend) for name, trend in self.trends().items()},
            "left_behind": self.left_behind(),
            "faults_injected": dict(sorted(Counter(fault.kind for fault in self.injected).items())),
            "faults_told": dict(sorted(self.told.items())),
            "verdict": "leak" if self.leaks() else "clean",
        }

    def _describe(self, name: str, trend: Trend) -> dict[str, Any]:
        seconds, values = self._counted(name)
        known = ~np.isnan(values)
        blocks = zip(*block_medians(seconds[known], values[known]), strict=True)
        figures = {
            "unit": _UNITS[name],
            "per_hour": round(trend.slope, 4),
            "per_hour_95": [round(trend.low, 4), round(trend.high, 4)],
            "blocks": [[round(float(second), 1), round(float(value), 3)] for second, value in blocks],
        }
        return {**figures, "tolerated_growth": self.tolerance(name)} if name in TOLERANCES else figures

    def _counted(self, name: str) -> tuple[Series, Series]:
        skipped = int(len(self.series["seconds"]) * WARM_UP_SHARE)
        if len(self.series["seconds"]) - skipped < BLOCKS:
            raise EdgesegError(
                f"{len(self.series['seconds'])} samples are too few to tell a leak", fix="let the soak run for longer"
            )
        return self.series["seconds"][skipped:], self.series[name][skipped:]
