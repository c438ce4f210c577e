"""The curves as one HTML file, with nothing to fetch and readable on paper."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from bokeh.embed import components
from bokeh.models import FixedTicker, HoverTool
from bokeh.plotting import figure
from bokeh.resources import Resources

from edgeseg.benchmarks.document import Bounded
from edgeseg.benchmarks.errors import BenchmarkError
from edgeseg.benchmarks.page import write_page
from edgeseg.benchmarks.scaling.document import Axis, Scaling

COLOURS = ("#0072b2", "#d55e00")
_WIDTH, _HEIGHT = 340, 300  # two beside each other fit an A4 page at 96 dots an inch


def write_scaling_report(path: Path, found: Scaling) -> None:
    """Write the page, whole or not at all. Raises `BenchmarkError` if it cannot."""
    if not found.axes:
        raise BenchmarkError("nothing was measured", fix="name an --axis")
    plots: list[Any] = []
    for axis in found.axes.values():
        plots.append(_draw(axis, [point.time for point in axis.points], axis.time_exponent, axis.time_unit, 0))
        plots.append(_draw(axis, [point.memory_mib for point in axis.points], axis.memory_exponent, "MiB", 1))
    script, divs = components(plots)
    template = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined).from_string(
        (resources.files("edgeseg.benchmarks") / "templates" / "scaling.html").read_text()
    )
    page = template.render(
        found=found,
        divs=[divs[index : index + 2] for index in range(0, len(divs), 2)],
        resources=Resources(mode="inline", components=["bokeh"]).render(),
        script=script,
    )
    write_page(path, page)


def _draw(axis: Axis, y: list[float | None], exponent: Bounded | None, unit: str, index: int) -> Any:
    """Points and the fitted line, both scales logarithmic: a power is a straight line."""
    known = [(point.x, value) for point, value in zip(axis.points, y, strict=True) if value]
    plot = figure(
        width=_WIDTH,
        height=_HEIGHT,
        x_axis_type="log",
        y_axis_type="log",
        x_axis_label=axis.x_unit,
        y_axis_label=("time, " if index == 0 else "memory, ") + unit,
        tools="pan,wheel_zoom,box_zoom,reset,save",
        output_backend="svg",  # stays sharp on paper
    )
    plot.toolbar.logo = None
    plot.toolbar.autohide = True
    if known:
        x, values = np.array([at for at, _ in known]), np.array([value for _, value in known])
        # Ticks of its own would lie on top of each other in a plot this small.
        plot.xaxis.ticker = FixedTicker(ticks=[at for at, _ in known])
        plot.xaxis.major_label_overrides = {at: f"{at:.3g}" for at, _ in known}
        plot.scatter(x, values, size=8, color=COLOURS[index], marker="circle" if index == 0 else "square")
        if exponent is not None:
            level = float(np.mean(np.log(values) - exponent.value * np.log(x)))
            plot.line(x, np.exp(level) * x**exponent.value, color=COLOURS[index], line_dash="dashed", line_width=2)
    plot.add_tools(HoverTool(tooltips=[(axis.x_unit, "$x{0.000}"), (unit, "$y{0.000}")]))
    return plot
