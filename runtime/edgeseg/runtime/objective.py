"""Objectives that a run must meet, and what to say when it did not: `age_p99=100ms`, `fps>=20`, `dropped<=5%`."""

from __future__ import annotations

import re
from dataclasses import dataclass

import click

from edgeseg.runtime.errors import EdgesegError
from edgeseg.runtime.summary import RunSummary

_FORM = re.compile(r"(fps|dropped|age_(?:p50|p90|p95|p99|max))(<=|>=|=)(\d+(?:\.\d+)?)(ms|%|)")
_RULES = {"fps": ("", ">="), "dropped": ("%", "<=")}
"""Figure -> its unit and sign; those of age are milliseconds, and at most."""


class ObjectiveError(EdgesegError):
    """An objective that was not met."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Objective:
    """One figure and its limit: at most, or, for `fps`, at least."""

    figure: str
    """`age_p50` to `age_max` (milliseconds), `fps` or `dropped` (percent of the frames captured)."""
    limit: float
    text: str
    """As the user wrote it."""

    def breach(self, summary: RunSummary) -> str | None:
        """Return one line saying by how much `summary` missed the objective, and why; None if it was met."""
        found = self._measure(summary)
        if found is None:
            return f"{self.text}: no frame got a mask"
        missed = found < self.limit if self.figure == "fps" else found > self.limit
        if not missed:
            return None
        unit = _RULES.get(self.figure, (" ms", ""))[0]
        by = abs(found - self.limit)
        return f"{self.text}: found {found:.4g}{unit}, missed by {by:.3g}{unit}; {self._reason(summary)}"

    def _measure(self, summary: RunSummary) -> float | None:
        if self.figure == "fps":
            return summary.fps
        if self.figure == "dropped":
            captured = summary.frames + summary.dropped
            return 100 * summary.dropped / captured if captured else None
        return None if summary.frame_age_ms is None else summary.frame_age_ms[self.figure.partition("_")[2]]

    def _reason(self, summary: RunSummary) -> str:
        """Name what cost most: time without frames, inference, or everything around it."""
        without_s = sum(fault.recovery_ms or 0.0 for fault in summary.faults) / 1000
        elapsed_s = summary.frames / summary.fps * max(1, len(summary.cameras)) if summary.fps else 0.0
        if not self.figure.startswith("age") and elapsed_s and without_s > 0.1 * elapsed_s:
            told = ", ".join(f"{count} {kind}" for kind, count in (summary.fault_counts or {}).items())
            return f"faults of the source ({told}) cost {without_s:.1f} of {elapsed_s:.1f} s"
        percentile = self.figure.partition("_")[2] or "p50"
        inference_ms = (summary.inference_ms or {}).get(percentile, 0.0)
        overhead_ms = (summary.overhead_ms or {}).get(percentile, 0.0)
        drops = ", ".join(f"{count} at {stage}" for stage, count in summary.drops.items() if count) or "none"
        worst = self._worst(summary)
        larger = "inference" if inference_ms >= overhead_ms else "what is not inference"
        return (
            f"mostly {larger}: inference {inference_ms:.3g} ms, everything else {overhead_ms:.3g} ms "
            f"({percentile}), dropped: {drops}{worst}"
        )

    def _worst(self, summary: RunSummary) -> str:
        """Name the camera that missed most, where there are several."""
        found = {camera.camera: figure for camera in summary.cameras if (figure := self._measure(camera)) is not None}
        if len(found) < 2:
            return ""
        name = (min if self.figure == "fps" else max)(found, key=lambda name: found[name])
        return f", worst {name} with {found[name]:.4g}{_RULES.get(self.figure, (' ms', ''))[0]}"


def parse_objective(text: str) -> Objective:
    """Read `age_p99=100ms`, `fps>=20` or `dropped<=5%`. Raises `click.BadParameter` for anything else."""
    match = _FORM.fullmatch(text.replace(" ", ""))
    if match:
        figure, sign, number, unit = match.groups()
        wanted_unit, wanted_sign = _RULES.get(figure, ("ms", "<="))
        if unit == wanted_unit and sign in ("=", wanted_sign):
            return Objective(figure=figure, limit=float(number), text=text)
    raise click.BadParameter(
        f"{text!r} is no objective: expected age_p99=100ms (or p50, p90, p95, max), fps>=20 or dropped<=5%"
    )


def require(objectives: tuple[Objective, ...], summary: RunSummary) -> None:
    """Raise `ObjectiveError`, naming each, if `summary` misses one of `objectives`."""
    breaches = [breach for objective in objectives if (breach := objective.breach(summary))]
    if breaches:
        raise ObjectiveError("objective missed: " + " | ".join(breaches))
