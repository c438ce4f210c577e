"""What the pipeline adds to bare inference: age behind a paced camera, and rate behind a file.

`python -m edgeseg.benchmarks.overhead BUNDLE` takes five sides in turns, each in a process of its own:

* `bare`: inference looped on fitted frames in memory, each frame's time;
* `paced`: the same at the paced source's rate: between two frames the processor rests and its caches go cold;
* `live`: the pipeline behind a paced source with a null sink, each frame's age;
* `bare loop`: as `bare`, the mean of a turn;
* `file`: the pipeline behind a video file with a null sink, the mean of a turn.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path

import click

from edgeseg.benchmarks.contest import Contest, Contestant, Turn, hold_contest
from edgeseg.benchmarks.contest_command import print_contest, run_standalone, write_contest
from edgeseg.benchmarks.document import Bounded
from edgeseg.benchmarks.peers import draw_clip
from edgeseg.benchmarks.statistics import Samples, estimate_over_rounds, estimate_paired, percentile
from edgeseg.runtime.commands.common import console, json_option, progress
from edgeseg.runtime.manifest import PRECISIONS

MOST_LOAD = 0.8
"""Of the period that inference may take for `age_p99_over_bare_p50` to mean anything: beyond it frames must wait."""
_SIDES = {
    "bare": "inference looped on fitted frames in memory: each frame's time",
    "paced": "inference of a fitted frame in memory whenever one is due: each frame's time",
    "live": "the pipeline behind a paced source, null sink: each frame's age",
    "bare loop": "inference looped on fitted frames in memory: the mean of a turn",
    "file": "the pipeline behind a video file, decoding included, null sink: the mean of a turn",
}
_TURN_FRAMES = 6
"""Short turns: what slows the machine for a second or two then slows both sides of a difference."""
_TIMED = "milliseconds a frame; each side says from and to what"


@click.command(epilog="Example: python -m edgeseg.benchmarks.overhead street --json overhead.json")
@click.argument("bundle")
@click.option(
    "--precision", type=click.Choice(["auto", *PRECISIONS]), default="auto", show_default=True, help="Which graph."
)
@click.option(
    "--threads", type=click.IntRange(min=1), metavar="N", help="Threads for inference; default one for each core."
)
@click.option(
    "--load",
    type=click.FloatRange(min=0.05, max=1),
    default=0.6,
    show_default=True,
    metavar="SHARE",
    help="How much of the paced source's period inference shall take.",
)
@click.option(
    "--duration",
    "duration_s",
    type=click.FloatRange(min=0, min_open=True),
    default=90.0,
    show_default=True,
    metavar="SECONDS",
    help="How long to measure, after the warm-up; twenty rounds at least.",
)
@json_option
def overhead(
    bundle: str, precision: str, threads: int | None, load: float, duration_s: float, json_path: Path | None
) -> None:
    """Measure what the pipeline adds to BUNDLE's bare inference."""
    threads = threads or len(os.sched_getaffinity(0))
    with progress("overhead"):
        found = measure_overhead(bundle, precision=precision, threads=threads, load=load, duration_s=duration_s)
    print_contest(found)
    for name, figure in found.figures.items():
        console.print(f"{name}: {figure.value:.3f} [{figure.low:.3f}, {figure.high:.3f}]", markup=False)
    write_contest(json_path, found)


def measure_overhead(given: str, *, precision: str, threads: int, load: float, duration_s: float) -> Contest:
    """Measure the five sides and what follows from them. Raises `EdgesegError` for what goes wrong."""
    with tempfile.TemporaryDirectory(prefix="edgeseg-overhead-") as folder:
        clip = draw_clip(Path(folder) / "street.mp4")
        order = {"bundle": given, "precision": precision, "threads": threads, "load": load, "clip": str(clip)}
        sides = [
            Contestant(
                name=name,
                what=what,
                command=(
                    *(sys.executable, "-m", "edgeseg.benchmarks.overhead_worker"),
                    json.dumps({**order, "side": name}),
                ),
            )
            for name, what in _SIDES.items()
        ]
        turn = Turn(timed=_TIMED, frames=_TURN_FRAMES, warm_up_turns=2, environment={"OMP_NUM_THREADS": str(threads)})
        pairs = [("live", "bare"), ("live", "paced"), ("file", "bare loop")]
        found = hold_contest("overhead", sides, pairs, turn, duration_s=duration_s, source=f"street, load {load:g}")
    return found.model_copy(update={"figures": find_figures(found)})


def find_figures(found: Contest) -> dict[str, Bounded]:
    """Return `overhead_ms`, `own_ms`, `load`, `throughput` and, below `MOST_LOAD`, `age_p99_over_bare_p50`."""
    bare, paced, live = found.rounds_ms("bare"), found.rounds_ms("paced"), found.rounds_ms("live")
    loop, file = found.rounds_ms("bare loop"), found.rounds_ms("file")
    period_ms = found.sides["live"].facts["period_ms"]
    figures = {
        "overhead_ms": estimate_paired((live, bare), lambda age, alone: _p50(age) - _p50(alone)),
        "own_ms": estimate_paired((live, paced), lambda age, alone: _p50(age) - _p50(alone)),
        "load": estimate_over_rounds((bare,), lambda alone: _p50(alone) / period_ms),
        "age_p99_over_bare_p50": estimate_over_rounds(
            (live, bare), lambda age, alone: percentile(age, 99) / _p50(alone)
        ),
        "throughput": estimate_paired((file, loop), lambda whole, alone: _p50(alone) / _p50(whole)),
    }
    bounded = {name: Bounded.of(figure) for name, figure in figures.items() if figure is not None}
    if bounded["load"].value > MOST_LOAD:
        del bounded["age_p99_over_bare_p50"]
    return bounded


def _p50(samples: Samples) -> float:
    return percentile(samples, 50)


if __name__ == "__main__":
    run_standalone(overhead)
