"""What graphs cost on ONNX Runtime's CPU kernels beside a peer's graph at the same input size.

`python -m edgeseg.benchmarks.cost GRAPH.onnx … --peers FOLDER` measures whole graphs in turns, pre- and postprocessing
inside as far as each holds them. `FOLDER` is what `benchmarks/peers/set_up` made; its environment exports the peer's
network once for each input size among the graphs, with random weights, which time does not depend on.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import click

from edgeseg.benchmarks.contest import Contest, Contestant, Turn, hold_contest
from edgeseg.benchmarks.contest_command import (
    duration_option,
    print_contest,
    run_standalone,
    threads_option,
    write_contest,
)
from edgeseg.benchmarks.errors import BenchmarkError
from edgeseg.benchmarks.peers import PUBLISHED_CLASSES, export_ultralytics
from edgeseg.runtime.commands.common import json_option, progress
from edgeseg.runtime.onnx_facts import read_facts

TIMED = "the graph alone: its input in host memory to its output in host memory"


@click.command(epilog="Example: python -m edgeseg.benchmarks.cost model.int8-cpu.onnx --peers peers --json cost.json")
@click.argument("graphs", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--peers",
    "folder",
    required=True,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    metavar="FOLDER",
    help="What benchmarks/peers/set_up made.",
)
@threads_option
@duration_option
@json_option
def cost(graphs: tuple[Path, ...], folder: Path, threads: int, duration_s: float, json_path: Path | None) -> None:
    """Measure GRAPHS in turns with a peer's network of the same input size.

    The peer stands there twice: as it is published, with 19 classes, and with as many as the graph has.
    """
    with progress("cost"):
        found = measure_cost(graphs, folder, threads=threads, duration_s=duration_s)
    print_contest(found)
    write_contest(json_path, found)


def measure_cost(graphs: tuple[Path, ...], peers: Path, *, threads: int, duration_s: float) -> Contest:
    """Measure each graph in turns with the peer's at its size. Raises `BenchmarkError` for what goes wrong."""
    with tempfile.TemporaryDirectory(prefix="edgeseg-cost-") as folder:
        contestants, pairs = list[Contestant](), list[tuple[str, str]]()
        for graph in graphs:
            height, width = read_size(graph)
            name = "/".join(graph.absolute().parts[-2:])
            for classes in dict.fromkeys((PUBLISHED_CLASSES, read_facts(graph).class_count or PUBLISHED_CLASSES)):
                peer = f"yolo26n-sem {height}x{width} {classes} classes"
                if peer not in [contestant.name for contestant in contestants]:
                    exported = Path(folder) / f"{height}x{width}x{classes}.onnx"
                    export_ultralytics(peers, exported, size_hw=(height, width), classes=classes)
                    contestants.append(_contestant(peer, exported, threads))
                pairs.append((name, peer))
            contestants.append(_contestant(name, graph, threads))
        turn = Turn(timed=TIMED, frames=3, uncounted=1, environment={"OMP_NUM_THREADS": str(threads)})
        return hold_contest("cost", contestants, pairs, turn, duration_s=duration_s, source="a noisy picture in memory")


def read_size(graph: Path) -> tuple[int, int]:
    """Return height and width of the graph's picture: (1, H, W, 3) or (1, 3, H, W).

    Raises `BenchmarkError` for any other input, and `BundleError` for what is no graph.
    """
    inputs = read_facts(graph).inputs
    shape = inputs[0].shape if len(inputs) == 1 else ()
    match shape:
        case (1, int(height), int(width), 3) | (1, 3, int(height), int(width)):
            return height, width
    raise BenchmarkError(
        f"{graph.name} takes {', '.join(map(str, inputs))}", expected="one picture of three channels, its size fixed"
    )


def _contestant(name: str, graph: Path, threads: int) -> Contestant:
    command = (sys.executable, "-m", "edgeseg.benchmarks.cost_worker", str(graph), str(threads))
    return Contestant(name=name, what="an ONNX graph on ONNX Runtime's CPU kernels", command=command)


if __name__ == "__main__":
    run_standalone(cost)
