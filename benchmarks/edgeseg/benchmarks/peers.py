"""Peers side by side: one clip through edgeseg and through what a user would run instead, in turns.

Each peer has an environment of its own, which `benchmarks/peers/set_up FOLDER` makes with the script that runs it;
nothing of a peer is imported here. Every side is given the whole video path, decoding included, the same clip, the
same input size and the same number of threads for inference; Ultralytics' network has the classes it is published for.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
import tempfile
from pathlib import Path

import click
import cv2

from edgeseg.benchmarks.contest import Contest, Contestant, Turn, hold_contest
from edgeseg.benchmarks.contest_command import (
    duration_option,
    print_contest,
    run_standalone,
    threads_option,
    write_contest,
)
from edgeseg.benchmarks.errors import BenchmarkError
from edgeseg.runtime.bundle import open_bundle
from edgeseg.runtime.commands.common import console, json_option, progress
from edgeseg.runtime.street import StreetCamera

TIMED = "the mean of a turn, from one frame's result to the last one's: decoding, network and a mask of the clip's size"
TURN_FRAMES = 16
PUBLISHED_CLASSES = 19
"""Those of Cityscapes, which Ultralytics publishes the network for."""
_DRAWN = "drawn by synthetic://street, 640x480"


@click.command(epilog="Example: python -m edgeseg.benchmarks.peers street --peers peers --json peers.json")
@click.argument("bundles", nargs=-1, required=True, metavar="BUNDLE…")
@click.option(
    "--peers",
    "folder",
    required=True,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    metavar="FOLDER",
    help="What benchmarks/peers/set_up made.",
)
@click.option(
    "--clip",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help=f"A video of {TURN_FRAMES + 1} frames at least; default one that is {_DRAWN}.",
)
@threads_option
@duration_option
@json_option
def peers(
    bundles: tuple[str, ...], folder: Path, clip: Path | None, threads: int, duration_s: float, json_path: Path | None
) -> None:
    """Measure BUNDLEs beside Ultralytics and a naive loop, frames a second from the file to the mask.

    Masks against Ultralytics' masks; overlays against the naive loop's, which has the bundle's own fp32 network.
    """
    with progress("peers"):
        found = measure_peers(bundles, folder, clip, threads=threads, duration_s=duration_s)
    print_contest(found)
    for ratio in found.ratios:
        rate = f"{ratio.time.value:.2f} [{ratio.time.low:.2f}, {ratio.time.high:.2f}]"
        console.print(f"{ratio.over}: {rate} times the frames a second of {ratio.of}", markup=False, soft_wrap=True)
    write_contest(json_path, found)


def measure_peers(
    bundles: tuple[str, ...], peers: Path, clip: Path | None, *, threads: int, duration_s: float
) -> Contest:
    """Measure all sides in turns. A ratio's `of` is the peer. Raises `EdgesegError` for what goes wrong."""
    turn = Turn(timed=TIMED, frames=TURN_FRAMES, warm_up_turns=1, environment={"OMP_NUM_THREADS": str(threads)})
    with tempfile.TemporaryDirectory(prefix="edgeseg-peers-") as folder:
        source = clip.name if clip else _DRAWN
        clip = clip or draw_clip(Path(folder) / "street.mp4")
        sides, pairs = list[Contestant](), list[tuple[str, str]]()
        for given in bundles:
            _add_bundle(given, peers, Path(folder), clip, threads, sides, pairs)
        return hold_contest("peers", sides, pairs, turn, duration_s=duration_s, source=source)


def draw_clip(path: Path) -> Path:
    """Write a clip (640x480, MPEG-4) of the street camera, long enough for a turn."""
    camera = StreetCamera(size_hw=(480, 640))
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 25.0, (640, 480))
    for index in range(TURN_FRAMES + 1):
        writer.write(camera.render(index)[0])
    writer.release()
    return path


def peer_command(folder: Path, peer: str) -> tuple[str, str]:
    """Return what starts `peer`, an environment in `folder`. Raises `BenchmarkError` if it is absent."""
    python, script = folder / peer / "bin" / "python", folder / peer / "peer.py"
    if not (python.is_file() and script.is_file()):
        raise BenchmarkError(
            f"{folder} holds no environment {peer}", fix=f"run benchmarks/peers/set_up {folder}, from a checkout"
        )
    return str(python), str(script)


def export_ultralytics(folder: Path, out: Path, *, size_hw: tuple[int, int], classes: int) -> None:
    """Have Ultralytics write yolo26n-sem, weights at random, to `out` (.onnx). Raises `BenchmarkError`."""
    command = [*peer_command(folder, "ultralytics"), "export", *map(str, size_hw), str(classes), str(out)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        last = (done.stderr or done.stdout).strip().splitlines()[-1:]
        raise BenchmarkError(f"Ultralytics could not export: {' '.join(last)}", fix="set its environment up again")


def strip_graph(model: Path, out: Path) -> None:
    """Write the network alone, from normalised pixels to scores: the bundle's graph without its two ends.

    A graph that decides before its sub-pixels are laid out, as edgeseg's do, gets its scores laid out at the end.
    """
    import onnx
    from onnx import helper
    from onnx.utils import Extractor

    whole = onnx.shape_inference.infer_shapes(onnx.load(model), data_prop=True)
    nodes = whole.graph.node
    shapes = {
        value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim] for value in whole.graph.value_info
    }
    first = next(node for node in nodes if node.op_type == "Conv")
    scores = next(node for node in nodes if node.op_type == "ArgMax").input[0]
    stacked = next((node for node in nodes if node.op_type == "Reshape" and scores in node.output), None)
    if stacked is not None:
        classes, (_, channels, rows, columns) = shapes[scores][1], shapes[stacked.input[0]]
        block, scores = math.isqrt(channels // classes), "scores"
        laid = helper.make_node("DepthToSpace", [stacked.input[0]], [scores], name=scores, blocksize=block, mode="CRD")
        nodes.insert(list(nodes).index(stacked) + 1, laid)
        shape = [1, classes, rows * block, columns * block]
        whole.graph.value_info.append(helper.make_tensor_value_info(scores, onnx.TensorProto.FLOAT, shape))
    onnx.save(Extractor(whole).extract_model([first.input[0]], [scores]), out)


def _add_bundle(
    given: str,
    peers: Path,
    folder: Path,
    clip: Path,
    threads: int,
    sides: list[Contestant],
    pairs: list[tuple[str, str]],
) -> None:
    """Add edgeseg's sides of one bundle and those that they are measured against."""
    with open_bundle(given) as bundle:
        name, contract, precisions = bundle.name, bundle.contract, bundle.precisions
        naive_graph = folder / f"{len(sides)}.onnx"
        strip_graph(bundle.model_path("fp32"), naive_graph)
    height, width = contract.size_hw
    common = (str(height), str(width), str(threads), str(clip))

    yolo = f"yolo26n-sem {height}x{width} {PUBLISHED_CLASSES} classes"
    if yolo not in [side.name for side in sides]:
        exported = folder / f"yolo26n-sem-{height}x{width}.onnx"
        export_ultralytics(peers, exported, size_hw=contract.size_hw, classes=PUBLISHED_CLASSES)
        command = (*peer_command(peers, "ultralytics"), "run", str(exported), *common)
        sides.append(Contestant(name=yolo, what="Ultralytics predict(stream=True), ONNX, fp32", command=command))
    for precision in ("fp32", "int8-cpu"):
        if precision in precisions:
            side = _edgeseg(name, given, precision, clip, threads, overlays=False)
            sides.append(side)
            pairs.append((yolo, side.name))
    overlays = _edgeseg(name, given, "fp32", clip, threads, overlays=True)
    naive = Contestant(
        name=f"naive loop {name} fp32",
        what="VideoCapture, blobFromImage, session.run, argmax, addWeighted",
        command=(*peer_command(peers, "naive"), "run", str(naive_graph), *common),
    )
    sides += [overlays, naive]
    pairs.append((naive.name, overlays.name))


def _edgeseg(name: str, given: str, precision: str, clip: Path, threads: int, *, overlays: bool) -> Contestant:
    order = {"bundle": given, "precision": precision, "threads": threads, "clip": str(clip), "overlays": overlays}
    return Contestant(
        name=f"edgeseg {name} {precision}" + (" overlays" if overlays else ""),
        what="edgeseg's pipeline, " + ("class colours drawn over each frame" if overlays else "null sink"),
        command=(sys.executable, "-m", "edgeseg.benchmarks.peers_worker", json.dumps(order)),
    )


if __name__ == "__main__":
    run_standalone(peers)
