"""What the frame path writes for one frame: how often each stage writes what it hands on, and how many bytes.

`python -m edgeseg.benchmarks.copies BUNDLE` takes frames one by one through source, fitting, inference and unfitting,
in one thread, and has tracemalloc, through which numpy's and OpenCV's arrays pass, tell how much each stage holds at
most beside what it was given; a result in memory that the stage keeps, or that an engine allocated, is added. Between
stages the pipeline hands arrays over as they are, which `tests/benchmarks/test_overhead.py` holds it to. What an
engine, a decoder or a driver does inside is not seen: of theirs, only what they hand out counts.
"""

from __future__ import annotations

import tempfile
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
import numpy.typing as npt
from rich.table import Table

from edgeseg.benchmarks.contest_command import run_standalone
from edgeseg.benchmarks.errors import BenchmarkError
from edgeseg.benchmarks.peers import draw_clip
from edgeseg.runtime.backends import open_backend
from edgeseg.runtime.bundle import open_bundle
from edgeseg.runtime.commands.common import console, json_option, write_document
from edgeseg.runtime.contract import Fitter
from edgeseg.runtime.frame import Image
from edgeseg.runtime.sources import Source, open_source

FRAMES = 4
"""Taken; the last one is what counts, for the first ones fill what is kept."""

_LEAST_ARRAY_BYTES = 2048
"""What is smaller are Python's own objects."""

Array = npt.NDArray[np.uint8]


@click.command(epilog="Example: python -m edgeseg.benchmarks.copies street --json copies.json")
@click.argument("bundle")
@click.option("--source", metavar="S", help="A video or an image folder; default a clip that is drawn, 640x480.")
@json_option
def copies(bundle: str, source: str | None, json_path: Path | None) -> None:
    """Count what BUNDLE's frame path writes for one frame, beside the least that it could."""
    found = count_copies(bundle, source)
    table = Table("stage", "bytes", "least", "times")
    for stage in found["stages"]:
        table.add_row(*(str(stage[column]) for column in ("stage", "bytes", "least_bytes", "copies")))
    console.print(table)
    console.print(f"{found['bytes']} bytes a frame, {found['ratio']} times the least; {found['copies']} copies")
    write_document(json_path, "copies", **found)


def count_copies(given: str, source: str | None = None) -> dict[str, Any]:
    """Return `stages`, each with `bytes` written for one frame, `least_bytes` (what it hands on, once) and `copies`
    (their quotient), the sums of all three, and `ratio`, all bytes over the least.

    Raises `EdgesegError` for a source or bundle that cannot be opened, and for a source of fewer than four frames.
    """
    with tempfile.TemporaryDirectory(prefix="edgeseg-copies-") as folder, open_bundle(given) as bundle:
        opened = open_source(source or str(draw_clip(Path(folder) / "street.mp4")))
        backend = open_backend(bundle, backend="ort", threads=1)
        fitter = Fitter(bundle.contract, opened.size_hw)
        steps: dict[str, Callable[[Array], Array]] = {
            "capture": lambda nothing: _read(opened),
            "fit": fitter.fit,
            "inference": lambda fitted: backend.infer(fitted),
            "unfit": lambda mask: fitter.unfit(mask[0]),
        }
        kept: dict[str, Array] = {}
        tracemalloc.start()
        try:
            for _ in range(FRAMES):
                stages, array = [], np.empty(0, np.uint8)
                for name, step in steps.items():
                    array, written = _watch(step, array, kept.get(name))
                    kept[name] = array
                    stages.append(_describe(name, written, array.nbytes))
        finally:
            tracemalloc.stop()
            backend.close()
            opened.close()
    total, least = (sum(stage[field] for stage in stages) for field in ("bytes", "least_bytes"))
    return {
        "bundle": {"name": bundle.name, "manifest_sha256": bundle.manifest_sha256},
        "input_size": bundle.contract.size_hw,
        "source_size": fitter.source_hw,
        "stages": stages,
        "copies": round(sum(stage["copies"] for stage in stages), 3),
        "bytes": total,
        "least_bytes": least,
        "ratio": round(total / least, 3),
    }


def _read(source: Source) -> Image:
    frame = source.read()
    if frame is None:
        raise BenchmarkError("the source ended", expected=f"{FRAMES} frames at least", fix="name another --source")
    return frame.image_bgr


def _watch(step: Callable[[Array], Array], given: Array, before: Array | None) -> tuple[Array, int]:
    """Return the step's result, and the bytes that it wrote; `before` is its result for the frame before."""
    tracemalloc.reset_peak()
    held_bytes = tracemalloc.get_traced_memory()[0]
    result = step(given)
    allocated = tracemalloc.get_traced_memory()[1] - held_bytes
    written = allocated if allocated >= _LEAST_ARRAY_BYTES else 0
    if np.shares_memory(result, given):
        return result, written
    # Written into memory that the step keeps, or that the engine allocated out of sight.
    kept = before is not None and np.shares_memory(result, before)
    return result, written + (result.nbytes if kept or allocated < result.nbytes else 0)


def _describe(name: str, written: int, handed_on: int) -> dict[str, Any]:
    return {"stage": name, "bytes": written, "least_bytes": handed_on, "copies": round(written / handed_on, 3)}


if __name__ == "__main__":
    run_standalone(copies)
