"""`edgeseg baseline`: one bundle on the engines of a desktop, in turns, with what each engine's masks are worth.

A fast wrong answer is no result, so beside each time stands how many pixels have the class that ONNX Runtime's fp32
gives them. Engines that are not installed are named as absent.
"""

from __future__ import annotations

import base64
import json
import sys
import tempfile
import zlib
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click
import numpy as np
import numpy.typing as npt

from edgeseg.benchmarks.contest import Contest, Contestant, Turn, hold_contest
from edgeseg.benchmarks.contest_command import duration_option, print_contest, threads_option, write_contest
from edgeseg.benchmarks.document import LINES
from edgeseg.benchmarks.errors import BenchmarkError
from edgeseg.benchmarks.process import Process
from edgeseg.benchmarks.segment import read_frames
from edgeseg.runtime.bundle import open_bundle
from edgeseg.runtime.commands.common import console, json_option, progress
from edgeseg.runtime.contract import Fitter
from edgeseg.runtime.sources import redact

REFERENCE = "ort fp32"

ENGINES = {
    "ort": ("ONNX Runtime, CPU", ("fp32", "int8-cpu"), ("onnxruntime",)),
    "torch": (
        "PyTorch eager: the fp32 graph as onnx2pytorch converts it",
        ("fp32",),
        ("torch", "onnx", "onnx2pytorch"),
    ),
    "openvino": ("OpenVINO, CPU", ("fp32", "int8-cpu"), ("openvino",)),
}
"""Name -> what it is, the precisions that it computes, and the modules that it needs."""


@click.command(epilog="Example: edgeseg baseline street --json baseline.json")
@click.argument("bundle")
@click.option(
    "--source",
    default="synthetic://street",
    show_default=True,
    metavar="S",
    help="Where frames come from: the first sixteen, held in memory.",
)
@threads_option
@duration_option
@json_option
def baseline(bundle: str, source: str, threads: int, duration_s: float, json_path: Path | None) -> None:
    """Measure BUNDLE on every engine of this desktop: ONNX Runtime, PyTorch eager and OpenVINO where installed."""
    with progress("baseline"):
        found = measure_baseline(bundle, source=source, threads=threads, duration_s=duration_s)
    print_contest(found)
    for engine, why in found.absent.items():
        console.print(f"{engine}: {why}", markup=False)
    write_contest(json_path, found)


def measure_baseline(given: str, *, source: str, threads: int, duration_s: float) -> Contest:
    """Measure the bundle `given` on what is installed. Raises `EdgesegError` for what goes wrong."""
    with open_bundle(given) as bundle, tempfile.TemporaryDirectory(prefix="edgeseg-baseline-") as folder:
        if "fp32" not in bundle.precisions:
            raise BenchmarkError(f"bundle {given} has only {', '.join(bundle.precisions)}", expected="fp32 among them")
        # Read once: a live source would give each side other frames.
        frames = read_frames(source)
        fitter = Fitter(bundle.contract, (frames[0].shape[0], frames[0].shape[1]))
        fitted = Path(folder) / "fitted.npy"
        np.save(fitted, np.stack([fitter.fit(frame).copy() for frame in frames]))
        sides, absent = _find_sides(given, bundle.precisions, fitted, threads)
        return hold_contest(
            "baseline",
            sides,
            [(side.name, REFERENCE) for side in sides if side.name != REFERENCE],
            Turn(timed=LINES["inference_ms"], frames=3, uncounted=1, environment={"OMP_NUM_THREADS": str(threads)}),
            duration_s=duration_s,
            source=redact(source),
            judge=_compare_masks,
            absent=absent,
        )


def _find_sides(
    given: str, precisions: Sequence[str], fitted: Path, threads: int
) -> tuple[list[Contestant], dict[str, str]]:
    """Return a side for each engine that is installed and precision that the bundle has, and why others are absent."""
    sides, absent = list[Contestant](), dict[str, str]()
    for engine, (what, computed, modules) in ENGINES.items():
        missing = [module for module in modules if find_spec(module) is None]
        if missing:
            absent[engine] = f"{', '.join(missing)} not installed"
            continue
        order = {"engine": engine, "bundle": given, "threads": threads, "fitted": str(fitted)}
        for precision in computed:
            if precision in precisions:
                arguments = json.dumps({**order, "precision": precision})
                command = (sys.executable, "-m", "edgeseg.benchmarks.baseline_worker", arguments)
                sides.append(Contestant(name=f"{engine} {precision}", what=what, command=command))
    return sides, absent


def _compare_masks(processes: dict[str, Process]) -> dict[str, float]:
    """Return the percent of pixels over all frames in which each agrees with the reference."""
    masks = {name: unpack_masks(process.do("masks")) for name, process in processes.items()}
    return {name: round(100 * float((found == masks[REFERENCE]).mean()), 4) for name, found in masks.items()}


def pack_masks(masks: npt.NDArray[np.uint8]) -> dict[str, Any]:
    """Return masks (N, H, W) as JSON's types."""
    return {"shape": masks.shape, "masks": base64.b64encode(zlib.compress(masks.tobytes())).decode()}


def unpack_masks(packed: dict[str, Any]) -> npt.NDArray[np.uint8]:
    """Undo `pack_masks`."""
    return np.frombuffer(zlib.decompress(base64.b64decode(packed["masks"])), np.uint8).reshape(packed["shape"])
