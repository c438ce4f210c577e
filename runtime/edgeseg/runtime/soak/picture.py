"""A soak's curves as an SVG: one panel a figure, with its trend, over the same time."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import numpy as np

from edgeseg.runtime.soak.report import WARM_UP_SHARE, SoakReport
from edgeseg.runtime.soak.trend import Series, Trend

_WIDTH, _PANEL, _LEFT, _RIGHT, _TOP, _GAP = 900, 110, 64, 20, 56, 44
_NAMES = {"memory_mib": "memory, MiB", "handles": "open handles", "threads": "threads", "frame_age_ms": "frame age, ms"}
_STYLE = (
    "text{font:12px sans-serif;fill:#333}.title{font-size:15px;font-weight:bold}.note{fill:#777}"
    ".curve{fill:none;stroke:#2b6cb0;stroke-width:1.2}.trend{stroke:#c05621;stroke-width:1.6;stroke-dasharray:6 4}"
    ".frame{fill:none;stroke:#bbb}.early{fill:#f1f1f1}.fault{stroke:#e8c4c4;stroke-width:1}"
)


def draw_soak(report: SoakReport, *, title: str, fault_s: Sequence[float]) -> str:
    """Return an SVG document of `report`. `fault_s` are the seconds, from the start, at which faults ended."""
    seconds = report.series["seconds"]
    trends = report.trends()
    height = _TOP + len(trends) * (_PANEL + _GAP)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" height="{height}">',
        f'<style>{_STYLE}</style><rect width="{_WIDTH}" height="{height}" fill="#fff"/>',
        f'<text x="{_LEFT}" y="24" class="title">{escape(title)}</text>',
        f'<text x="{_LEFT}" y="42" class="note">grey: does not count; red: a fault ends; dashed: trend</text>',
    ]
    for row, (name, trend) in enumerate(trends.items()):
        top = _TOP + 14 + row * (_PANEL + _GAP)
        parts += _draw_panel(name, seconds, report.series[name], trend, top, fault_s)
    return "\n".join([*parts, "</svg>", ""])


def _draw_panel(
    name: str, seconds: Series, values: Series, trend: Trend, top: int, fault_s: Sequence[float]
) -> list[str]:
    width, last_s = _WIDTH - _LEFT - _RIGHT, float(seconds[-1])
    known = ~np.isnan(values)
    low, high = float(values[known].min()), float(values[known].max())
    margin = max((high - low) * 0.1, 0.5)
    low, high = low - margin, high + margin

    def x(second: float) -> float:
        return _LEFT + width * second / last_s

    def y(value: float) -> float:
        return top + _PANEL * (high - min(max(value, low), high)) / (high - low)

    early_s = float(seconds[int(len(seconds) * WARM_UP_SHARE)])
    # A gap in a figure is a gap in its curve.
    runs = np.split(np.arange(len(seconds)), np.flatnonzero(np.diff(known.astype(int))) + 1)
    curves = [" ".join(f"{x(seconds[i]):.1f},{y(values[i]):.1f}" for i in run) for run in runs if known[run[0]]]
    growth = f"{trend.slope:+.3g} an hour (95 %: {trend.low:+.3g} to {trend.high:+.3g})"
    unit_s, unit = (60.0, "min") if last_s >= 120 else (1.0, "s")
    return [
        f'<rect x="{_LEFT}" y="{top}" width="{x(early_s) - _LEFT:.1f}" height="{_PANEL}" class="early"/>',
        *(f'<path d="M{x(s):.1f} {top}v{_PANEL}" class="fault"/>' for s in fault_s if 0 <= s <= last_s),
        *(f'<polyline points="{points}" class="curve"/>' for points in curves),
        f'<path d="M{x(early_s):.1f} {y(trend.at(early_s / 3600)):.1f}L{x(last_s):.1f} '
        f'{y(trend.at(last_s / 3600)):.1f}" class="trend"/>',
        f'<rect x="{_LEFT}" y="{top}" width="{width}" height="{_PANEL}" class="frame"/>',
        f'<text x="{_LEFT}" y="{top - 5}">{_NAMES[name]}: {growth}</text>',
        f'<text x="{_LEFT - 6}" y="{top + 10}" text-anchor="end">{high:.5g}</text>',
        f'<text x="{_LEFT - 6}" y="{top + _PANEL}" text-anchor="end">{low:.5g}</text>',
        f'<text x="{_WIDTH - _RIGHT}" y="{top + _PANEL + 14}" text-anchor="end">{last_s / unit_s:.0f} {unit}</text>',
    ]
