"""`edgeseg scaling`."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path

import click
from rich.table import Table

from edgeseg.benchmarks.document import Bounded
from edgeseg.benchmarks.errors import BenchmarkError
from edgeseg.benchmarks.scaling.axes import AXES, Settings, count_steps
from edgeseg.benchmarks.scaling.document import Axis, Scaling, read_scaling
from edgeseg.benchmarks.surroundings import watch_surroundings
from edgeseg.runtime.commands.common import console, json_option, progress, write_document
from edgeseg.runtime.environment import environment


@click.command(epilog="Example: edgeseg scaling street --json scaling.json --html scaling.html")
@click.argument("bundle", default="street")
@click.option(
    "--axis",
    "names",
    type=click.Choice([*AXES]),
    multiple=True,
    help="Measure along this axis only. May be repeated.",
)
@click.option(
    "--rounds",
    type=click.IntRange(min=1),
    default=Settings.rounds,
    show_default=True,
    metavar="N",
    help="How often each point has its turn.",
)
@click.option(
    "--video-minutes",
    type=click.FloatRange(min=0, min_open=True),
    default=Settings.video_minutes,
    show_default=True,
    metavar="MINUTES",
    help="How long the video is. It is run as fast as it goes.",
)
@click.option(
    "--html",
    "html_path",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Write the curves as one self-contained page.",
)
@click.option("--resume", is_flag=True, help="Keep the axes that --json's file has, if measured alike.")
@json_option
def scaling(
    bundle: str,
    names: Sequence[str],
    rounds: int,
    video_minutes: float,
    html_path: Path | None,
    resume: bool,
    json_path: Path | None,
) -> None:
    """Measure how time and memory grow: with input size, model size, threads, cameras and video length.

    Threads, cameras and video take BUNDLE (a path or a shipped model's name), the sizes networks with random weights.
    After each axis the document is written, so that a run that was cut off can be resumed.
    """
    if resume and json_path is None:
        raise click.UsageError("--resume needs --json, the file to go on with")
    settings = Settings(bundle=bundle, rounds=rounds, video_minutes=video_minutes)
    found = _begin(json_path if resume else None)
    wanted = list(names) or [name for name in AXES if name != "threads" or settings.cores > 1]
    with watch_surroundings() as watch:
        for name in wanted:
            if name in found.axes and _is_alike(found.axes[name], settings):
                console.print(f"{name}: kept from {json_path}", markup=False)
                continue
            with progress(name, total=count_steps(name, settings)) as advance:
                axis = AXES[name](settings, advance)
            found = found.model_copy(update={"axes": {**found.axes, name: axis}})
            _write(json_path, found)
    found = found.model_copy(update={"surroundings": watch.found})
    _write(json_path, found)
    _print(found)
    if html_path is not None:
        from edgeseg.benchmarks.scaling.report import write_scaling_report

        write_scaling_report(html_path, found)
        console.print(f"report: {html_path}", markup=False, soft_wrap=True)


def _begin(path: Path | None) -> Scaling:
    """Return an empty document, or the one at `path`. Raises `BenchmarkError` if it is of another machine."""
    now, machine = datetime.now(timezone.utc).isoformat(timespec="seconds"), environment()
    if path is None or not path.exists():
        return Scaling(schema="edgeseg/scaling/1", started=now, axes={}, environment=machine)
    found = read_scaling(path)
    if found.environment != machine:
        raise BenchmarkError(
            f"{path} is of another machine or other packages", fix="write a new file, without --resume"
        )
    return found


def _is_alike(axis: Axis, settings: Settings) -> bool:
    now = {"bundle": settings.bundle, "rounds": settings.rounds, "video_minutes": settings.video_minutes}
    return all(axis.settings.get(name, value) == value for name, value in now.items())


def _write(path: Path | None, found: Scaling) -> None:
    fields = found.document()
    fields.pop("schema")
    write_document(path, "scaling", **fields)


def _print(found: Scaling) -> None:
    table = Table(title="Growth: time and memory as x to the power of")
    for column in ("axis", "x from", "to", "time from", "to", "grows by", "memory MiB", "to", "grows by"):
        table.add_column(column, justify="left" if column == "axis" else "right")
    for name, axis in found.axes.items():
        first, last = axis.points[0], axis.points[-1]
        table.add_row(
            name,
            f"{first.x:.3g}",
            f"{last.x:.3g} {axis.x_unit}",
            f"{first.time:.3g}",
            f"{last.time:.3g} {axis.time_unit}",
            show_exponent(axis.time_exponent),
            "" if first.memory_mib is None else f"{first.memory_mib:.1f}",
            "" if last.memory_mib is None else f"{last.memory_mib:.1f}",
            show_exponent(axis.memory_exponent),
        )
    console.print(table)


def show_exponent(exponent: Bounded | None) -> str:
    """Return an exponent with its interval, or that there are too few points."""
    if exponent is None:
        return "too few points"
    return f"{exponent.value:.2f} [{exponent.low:.2f}, {exponent.high:.2f}]"
