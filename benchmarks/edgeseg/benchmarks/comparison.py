"""Two runs side by side, or the reason why they cannot be."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from edgeseg.benchmarks.document import Document, TimingPolicy
from edgeseg.benchmarks.roof import Roof
from edgeseg.benchmarks.statistics import Estimate, estimate_ratio

FIGURES = ("p50", "p90", "p95", "p99", "p99_9", "max")


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A field in which two runs must agree and do not."""

    field: str
    base: Any
    other: Any

    def __str__(self) -> str:
        return f"{self.field}: {self.base} against {self.other}"


@dataclass(frozen=True, kw_only=True)
class LineComparison:
    """One line of both runs."""

    name: str
    what: str
    base: dict[str, float]
    other: dict[str, float]
    """Figures that both have, in `FIGURES`' order."""
    ratio: Estimate | None
    """Median of the other run over that of the base; None where the samples are too few."""


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A figure of a whole run, of both runs."""

    name: str
    what: str
    base: float
    other: float

    @property
    def ratio(self) -> float | None:
        return self.other / self.base if self.base else None

    def document(self) -> dict[str, float]:
        """Return the fields as JSON's types."""
        found = {"base": self.base, "other": self.other, "ratio": self.ratio}
        return {name: round(value, 6) for name, value in found.items() if value is not None}


def find_differences(base: Document, other: Document) -> list[Difference]:
    """Return what makes an honest comparison of two runs impossible; nothing if they can be compared.

    Precision, backend, threads and device may differ: they are what is compared.
    """
    pairs = [
        ("bundle.manifest_sha256", base.bundle.manifest_sha256, other.bundle.manifest_sha256),
        ("input_size", base.input_size, other.input_size),
        ("source_size", base.source_size, other.source_size),
        ("scenario", base.scenario, other.scenario),
    ]
    for name in TimingPolicy.model_fields:
        mine, theirs = getattr(base.timing_policy, name), getattr(other.timing_policy, name)
        pairs.append((f"timing_policy.{name}", mine, theirs))
    return [
        Difference(field=name, base=_show(mine), other=_show(theirs)) for name, mine, theirs in pairs if mine != theirs
    ]


def compare_lines(base: Document, other: Document) -> list[LineComparison]:
    """Return the lines that both runs timed."""
    found = []
    for name, line in base.lines.items():
        theirs = other.lines.get(name)
        if theirs is None:
            continue
        figures = [f for f in FIGURES if getattr(line, f) is not None and getattr(theirs, f) is not None]
        found.append(
            LineComparison(
                name=name,
                what=line.what,
                base={figure: getattr(line, figure) for figure in figures},
                other={figure: getattr(theirs, figure) for figure in figures},
                ratio=estimate_ratio(line.samples_ms, theirs.samples_ms),
            )
        )
    return found


def compare_figures(base: Document, other: Document) -> list[Figure]:
    """Return the figures of a whole run that both have."""
    found = []
    for name, (what, value) in _FIGURES.items():
        mine, theirs = value(base), value(other)
        if mine is not None and theirs is not None:
            found.append(Figure(name=name, what=what, base=mine, other=theirs))
    return found


def find_accuracy_rate(document: Document) -> float | None:
    """Return points of mIoU a millisecond of the whole path, or of frame age; None where either is not known."""
    line = document.whole_path_ms or document.frame_age_ms
    return None if line is None or document.miou is None or not line.p50 else document.miou / line.p50


_FIGURES: dict[str, tuple[str, Callable[[Document], float | None]]] = {
    "fps": ("frames a second", lambda document: document.fps),
    "frames_per_joule": ("frames a joule", lambda document: document.frames_per_joule),
    "miou_per_ms": ("points of mIoU a millisecond", find_accuracy_rate),
}


def comparison_document(
    base: Document,
    other: Document,
    lines: list[LineComparison],
    figures: list[Figure],
    roofs: list[Roof],
    differences: list[Difference],
) -> dict[str, Any]:
    """Return the comparison as JSON's types."""
    return {
        "base": _identity(base),
        "other": _identity(other),
        "forced_over": [difference.field for difference in differences],
        "lines": {
            line.name: {
                "base": line.base,
                "other": line.other,
                **({"ratio": dict(line.ratio.__dict__)} if line.ratio else {}),
            }
            for line in lines
        },
        "figures": {figure.name: figure.document() for figure in figures},
        "rooflines": [roof.document() for roof in roofs],
    }


def find_remarks(document: Document) -> list[str]:
    """Return what a reader must know of a run: a warm-up that did not settle, drift, throttling, a busy machine."""
    remarks = []
    if document.warm_up is not None and not document.warm_up.steady:
        remarks.append(f"warm-up was not steady after {document.warm_up.frames} frames")
    for name, line in document.lines.items():
        change = line.change
        if change is None:
            continue
        if change.throttled_from is not None and change.throttled_ratio is not None:
            factor = change.throttled_ratio
            remarks.append(
                f"{name} stayed {factor.value:.2f}x [{factor.low:.2f}, {factor.high:.2f}] as long after "
                f"{change.throttled_from:.0%} of the run: throttling, or another load"
            )
        elif change.drifted:
            ratio = change.ratio
            remarks.append(
                f"{name} drifted: its last third took {ratio.value:.2f}x [{ratio.low:.2f}, {ratio.high:.2f}] its first"
            )
    others, cores = document.surroundings.other_cores, document.environment.get("cores")
    if others is not None and others > 0.2:
        remarks.append(f"the machine was busy: others used {others:.1f}{f' of {cores}' if cores else ''} cores")
    return remarks


def _identity(document: Document) -> dict[str, Any]:
    facts = ("bundle", "scenario", "precision", "backend", "threads", "input_size", "started", "fps", "miou")
    found = {name: value for name, value in document.document().items() if name in facts}
    return {**found, "device": document.environment.get("device"), "remarks": find_remarks(document)}


def _show(value: Any) -> Any:
    return "x".join(map(str, value)) if isinstance(value, tuple) else value
