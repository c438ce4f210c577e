"""The comparison as one HTML file: interactive, with nothing to fetch, and readable on paper."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from bokeh.embed import components
from bokeh.models import FactorRange, FixedTicker, HoverTool, Range1d
from bokeh.plotting import figure
from bokeh.resources import Resources

from edgeseg.benchmarks.comparison import Difference, Figure, LineComparison, find_remarks
from edgeseg.benchmarks.document import Document, Surroundings
from edgeseg.benchmarks.page import write_page
from edgeseg.benchmarks.roof import Roof
from edgeseg.benchmarks.statistics import Samples

COLOURS = ("#0072b2", "#d55e00")
"""Told apart by colour-blind readers (Okabe and Ito); on grey paper the dashes do it."""
_BARS = {"bound": "#009e73", "bound without caches": "#56b4e9", "measured": "#cc79a7"}
_DASHES = ("solid", "dashed")
_MARKERS = ("circle", "x")
_WIDTH, _HEIGHT = 680, 300  # fits an A4 page at 96 dots an inch
_MOST_POINTS = 2000
_TAIL_TICKS = {1.0: "100 %", 0.5: "50 %", 0.1: "10 %", 0.05: "5 %", 0.01: "1 %", 0.001: "0.1 %"}


@dataclass(frozen=True, kw_only=True)
class _Plot:
    title: str
    note: str
    div: str


def write_report(
    path: Path,
    base: Document,
    other: Document,
    lines: list[LineComparison],
    compared: list[Figure],
    roofs: list[Roof],
    differences: list[Difference],
    *,
    names: tuple[str, str],
) -> None:
    """Write the page, whole or not at all; `differences` watermark it. Raises `BenchmarkError` if it cannot."""
    figures: list[tuple[str, str, Any]] = []
    for line in lines:
        pair = (base.lines[line.name].samples_ms, other.lines[line.name].samples_ms)
        figures.append(
            (f"Distribution of {line.name}", "Share of frames that took longer. The tail is at the bottom right.",
             _draw_tail(pair, names))
        )  # fmt: skip
        figures.append(
            (f"Course of {line.name}", "Each frame in its turn; a run that is evenly thinned where it is long.",
             _draw_course(pair, names))
        )  # fmt: skip
    if roofs:
        figures.append(
            ("Roofline beside measurement", "What the device's public figures allow at best, which is computed, beside "
             "the median that was measured.", _draw_roofs(roofs))
        )  # fmt: skip
    script, divs = components([drawn for _, _, drawn in figures])
    template = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined).from_string(
        (resources.files("edgeseg.benchmarks") / "templates" / "report.html").read_text()
    )
    page = template.render(
        title=f"{base.bundle.name}: {names[0]} and {names[1]}",
        base=base,
        names=names,
        colours=COLOURS,
        lines=lines,
        compared=compared,
        roofs=roofs,
        differences=[str(difference) for difference in differences],
        plots=[_Plot(title=t, note=n, div=div) for (t, n, _), div in zip(figures, divs, strict=True)],
        facts=_list_facts(base, other),
        remarks=[
            (name, remark) for name, run in zip(names, (base, other), strict=True) for remark in find_remarks(run)
        ],
        resources=Resources(mode="inline", components=["bokeh"]).render(),
        script=script,
    )
    write_page(path, page)


def _draw_tail(pair: tuple[Samples, Samples], names: tuple[str, str]) -> Any:
    """Share of frames that took longer, against milliseconds, on a logarithmic scale so that p99 can be read."""
    least = 0.5 / max(samples.size for samples in pair)
    plot = _new_figure(
        "milliseconds", "share of frames that took longer", y_axis_type="log", y_range=Range1d(start=least, end=1.1)
    )
    plot.yaxis.ticker = FixedTicker(ticks=[*_TAIL_TICKS])
    plot.yaxis.major_label_overrides = dict(_TAIL_TICKS)
    for samples, name, colour, dash in zip(pair, names, COLOURS, _DASHES, strict=True):
        ordered = np.sort(samples)
        longer = 1 - (np.arange(ordered.size) + 0.5) / ordered.size
        # Evenly spaced in the logarithm of the share: the tail keeps all of its points.
        chosen = np.unique(np.searchsorted(-longer, -np.geomspace(longer[0], longer[-1], _MOST_POINTS)))
        chosen = chosen[chosen < ordered.size]
        plot.line(
            ordered[chosen].astype(float), longer[chosen], legend_label=name, color=colour, line_dash=dash, line_width=2
        )
    plot.add_tools(HoverTool(tooltips=[("ms", "$x{0.000}"), ("share longer", "$y{0.0000}")]))
    plot.legend.location = "top_right"
    return plot


def _draw_course(pair: tuple[Samples, Samples], names: tuple[str, str]) -> Any:
    """Milliseconds against the share of the run that was done."""
    plot = _new_figure("share of the run", "milliseconds")
    for samples, name, colour, marker in zip(pair, names, COLOURS, _MARKERS, strict=True):
        chosen = np.unique(np.linspace(0, samples.size - 1, min(samples.size, _MOST_POINTS)).round().astype(int))
        plot.scatter(
            (chosen + 0.5) / samples.size,
            samples[chosen].astype(float),
            legend_label=name,
            color=colour,
            marker=marker,
            size=5,
            fill_alpha=0.5,
        )
    plot.legend.location = "top_left"
    return plot


def _draw_roofs(roofs: list[Roof]) -> Any:
    """A group of bars for each run: the bound, the roofline without caches, the median that was measured."""
    kinds = ("bound", "bound without caches", "measured")
    bars = [(f"{roof.run}, {roof.device}", kind) for roof in roofs for kind in kinds]
    heights = [value for roof in roofs for value in (roof.bound_ms, roof.uncached_ms, roof.measured_ms)]
    plot = _new_figure("", "milliseconds", x_range=FactorRange(factors=bars))
    plot.vbar(x=bars, top=heights, width=0.8, color=[_BARS[kind] for _, kind in bars])
    plot.y_range.start = 0
    plot.xaxis.major_label_orientation = 0.5
    return plot


def _new_figure(x_axis_label: str, y_axis_label: str, **options: Any) -> Any:
    plot = figure(
        width=_WIDTH,
        height=_HEIGHT,
        x_axis_label=x_axis_label,
        y_axis_label=y_axis_label,
        tools="pan,wheel_zoom,box_zoom,reset,save",
        output_backend="svg",  # stays sharp on paper
        **options,
    )
    plot.toolbar.logo = None
    plot.toolbar.autohide = True
    return plot


def _list_facts(base: Document, other: Document) -> list[tuple[str, str, str]]:
    """Return name and both values of all that one of the two knows."""
    mine, theirs = _flatten(base), _flatten(other)
    names = [*mine, *(name for name in theirs if name not in mine)]
    return [(name, mine.get(name, "–"), theirs.get(name, "–")) for name in names]


def _flatten(document: Document) -> dict[str, str]:
    environment = document.environment
    surroundings, telemetry = document.surroundings, document.telemetry or {}
    power_w, throttled = telemetry.get("power_w", {}).get("mean"), telemetry.get("throttled")
    facts: dict[str, Any] = {
        "measured": document.started,
        "manifest sha256": document.bundle.manifest_sha256[:16],
        "precision": document.precision,
        "backend": document.backend,
        "threads": document.threads,
        "frames": document.frames,
        "dropped": document.dropped,
        "mIoU, of the bundle's manifest": None if document.miou is None else f"{document.miou:.2f} %",
        "LoadGen": document.loadgen and f"{document.loadgen.version}: {document.loadgen.result}",
        **{name.replace("_", " "): environment.get(name) for name in ("device", "system", "cores", "memory_mib")},
        "instruction set": " ".join(environment.get("instruction_set", ())),
        "power mode": environment.get("power_mode"),
        **{f"clock {name}": value for name, value in environment.get("clocks", {}).items()},
        "clocks before, after": _pair(surroundings.before.clocks_mhz, surroundings.after.clocks_mhz, "MHz"),
        "hottest before, after": _pair(
            (surroundings.before.temperatures_c or {}).values(),
            (surroundings.after.temperatures_c or {}).values(),
            "°C",
        ),
        **_gpu_facts(surroundings),
        "mean power": None if power_w is None else f"{power_w} W",
        "throttled": None if throttled is None else ", ".join(throttled) or "no",
        "cores used by others": surroundings.other_cores,
        "python": environment.get("python"),
        **environment.get("packages", {}),
    }
    return {name: str(value) for name, value in facts.items() if value not in (None, "")}


def _gpu_facts(surroundings: Surroundings) -> dict[str, Any]:
    before, after = surroundings.before.gpu, surroundings.after.gpu
    if before is None or after is None:
        return {}
    return {
        "GPU": before.name,
        "GPU driver": before.driver,
        "GPU clock before, after": _pair([before.mhz or 0], [after.mhz or 0], "MHz"),
        "GPU power limit": None if before.power_limit_w is None else f"{before.power_limit_w:.0f} W",
    }


def _pair(before: Any, after: Any, unit: str) -> str | None:
    return f"{max(before):.0f}, {max(after):.0f} {unit}" if before and after else None
