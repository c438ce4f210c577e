"""Several drawn cameras on one network: how old their frames get, beside what fair turns allow.

`python -m edgeseg.benchmarks.cameras BUNDLE` runs them in this process, all with frames due at the same instants, which
is the hardest that cameras of one rate can do. A frame waits for the inference under way, then for one of every other
camera, and has its own: at most N + 1 inferences. Drawing takes the same cores, and is no part of a frame's age.
"""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import click
from rich.table import Table

from edgeseg.benchmarks.contest_command import run_standalone
from edgeseg.benchmarks.errors import BenchmarkError
from edgeseg.benchmarks.surroundings import watch_surroundings
from edgeseg.runtime.backends import open_backend
from edgeseg.runtime.bundle import open_bundle
from edgeseg.runtime.commands.common import console, json_option, write_document
from edgeseg.runtime.environment import environment
from edgeseg.runtime.pipeline import Camera, Stop, run_cameras
from edgeseg.runtime.sources import open_source
from edgeseg.runtime.summary import RunSummary


@click.command(epilog="Example: python -m edgeseg.benchmarks.cameras street --json eight-cameras.json")
@click.argument("bundle")
@click.option("--cameras", "count", type=click.IntRange(min=1, max=64), default=8, show_default=True, metavar="N")
@click.option("--fps", type=click.FloatRange(min=0.1, max=100), default=5.0, show_default=True, help="Of each camera.")
@click.option("--size", default="320x240", show_default=True, metavar="WxH", help="Of each camera's frames.")
@click.option("--threads", type=click.IntRange(min=1), metavar="N", help="For inference; default one for each core.")
@click.option(
    "--duration",
    "duration_s",
    type=click.FloatRange(min=0, min_open=True),
    default=60.0,
    show_default=True,
    metavar="SECONDS",
)
@json_option
def cameras(
    bundle: str, count: int, fps: float, size: str, threads: int | None, duration_s: float, json_path: Path | None
) -> None:
    """Run drawn cameras through BUNDLE's network, and tell the age of their frames beside its bound."""
    threads = threads or len(os.sched_getaffinity(0))
    with watch_surroundings() as watch:
        summary = _run(bundle, count, fps, size, threads, duration_s)
    found = find_age(summary, count)
    table = Table("camera", "frames", "fps", "dropped", "age p50 ms", "age p99 ms", "age max ms")
    for one in summary.cameras:
        age = one.frame_age_ms or {}
        rates = (str(one.frames), f"{one.fps or 0:.2f}", str(one.dropped))
        table.add_row(one.camera, *rates, *(f"{age[name]:.1f}" if age else "" for name in ("p50", "p99", "max")))
    console.print(table)
    console.print(
        f"age p99 {found['age_p99_ms']:.1f} ms of at most {found['bound_ms']:.1f}: {found['ratio']:.2f}; "
        f"{found['fps']:.2f} of {fps * count:g} frames a second got a mask",
        markup=False,
        soft_wrap=True,
    )
    write_document(
        json_path,
        "cameras",
        cameras=count,
        asked_fps=fps,
        size=size,
        threads=threads,
        duration_s=duration_s,
        figures=found,
        run=summary.document(),
        environment=environment(),
        surroundings=watch.found.model_dump(mode="json", by_alias=True, exclude_none=True),
    )


def _run(given: str, count: int, fps: float, size: str, threads: int, duration_s: float) -> RunSummary:
    stop = Stop()
    with open_bundle(given) as bundle:
        contract = bundle.contract
        backend = open_backend(bundle, backend="ort", threads=threads)
    backend.warm_up()
    timer = threading.Timer(duration_s, stop.set)
    each = [
        Camera(source=open_source(f"synthetic://street?size={size}&fps={fps}&seed={index}"), name=f"camera-{index + 1}")
        for index in range(count)
    ]
    try:
        timer.start()
        return run_cameras(each, backend, contract, stop=stop)
    finally:
        timer.cancel()
        backend.close()


def find_age(summary: RunSummary, count: int) -> dict[str, Any]:
    """Return the worst camera's p99 of frame age, what it is bounded by, their ratio, and the masks a second of all.

    Of an inference the 99th percentile counts. Raises `BenchmarkError` if a camera got no mask.
    """
    missing = [one.camera for one in summary.cameras if one.frame_age_ms is None]
    if missing or summary.inference_ms is None or summary.fps is None:
        raise BenchmarkError(f"no mask of {', '.join(missing) or 'any camera'}", fix="give it a longer --duration")
    ages_ms = [one.frame_age_ms["p99"] for one in summary.cameras if one.frame_age_ms is not None]
    bound_ms = (count + 1) * summary.inference_ms["p99"]
    return {
        "age_p99_ms": max(ages_ms),
        "bound_ms": round(bound_ms, 3),
        "ratio": round(max(ages_ms) / bound_ms, 4),
        "fps": round(summary.fps, 3),
    }


if __name__ == "__main__":
    run_standalone(cameras)
