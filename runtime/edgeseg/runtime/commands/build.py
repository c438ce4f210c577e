"""`edgeseg build`: on the device, make a bundle's TensorRT engines and keep the fastest that is right."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from edgeseg.runtime.backends.cuda import open_gpu
from edgeseg.runtime.backends.tensorrt import PlanRunner
from edgeseg.runtime.bundle import open_bundle
from edgeseg.runtime.commands.common import console, json_option, write_document
from edgeseg.runtime.engine.api import load_tensorrt
from edgeseg.runtime.engine.builder import PhaseLines
from edgeseg.runtime.engine.builder import Progress as BuildProgress
from edgeseg.runtime.engine.choice import Engines, Measured
from edgeseg.runtime.environment import environment


@click.command(epilog="Example: edgeseg build street --json engines.json")
@click.argument("bundle")
@click.option("--rebuild", is_flag=True, help="Build again what is already there.")
@json_option
def build(bundle: str, rebuild: bool, json_path: Path | None) -> None:
    """Build BUNDLE's engines for this GPU, time them, compare golden frames, and keep the fastest that is right."""
    trt, gpu = load_tensorrt(), open_gpu()
    with open_bundle(bundle) as opened, _show_progress() as progress:

        def run(plan: bytes, precision: str) -> PlanRunner:
            return PlanRunner(trt, gpu, plan, opened.contract, precision)

        found = Engines(trt, gpu, progress=progress).measure(opened, run, rebuild=rebuild)
        name, digest = opened.name, opened.manifest_sha256
    _print(found, f"{name} on {gpu.name}, TensorRT {trt.__version__}")
    write_document(
        json_path,
        "build",
        bundle={"name": name, "manifest_sha256": digest},
        backend="tensorrt",
        precision=found[0].precision,
        tensorrt=trt.__version__,
        gpu={"name": gpu.name, "compute_capability": gpu.capability},
        engines=[
            {
                "precision": one.precision,
                "inference_ms": {"p50": one.median_ms},
                "agreement": one.agreement,
                "required": one.required,
                "bytes": one.bytes,
            }
            for one in found
        ],
        environment=environment(),
    )


def _print(found: list[Measured], title: str) -> None:
    table = Table("precision", "median ms", "golden frames %", "required %", "MiB", "", title=title)
    for column in table.columns[1:5]:
        column.justify = "right"
    for index, one in enumerate(found):
        kept = "kept" if index == 0 else "slower" if one.right else "wrong"
        figures = (f"{one.median_ms:.2f}", f"{one.agreement * 100:.2f}", f"{one.required * 100:.2f}")
        table.add_row(one.precision, *figures, f"{one.bytes / (1 << 20):.1f}", kept)
    console.print(table)


@contextmanager
def _show_progress() -> Iterator[BuildProgress]:
    """Yield what shows TensorRT's phases as bars on standard error, or as lines where that is no terminal."""
    terminal = Console(stderr=True)
    if not terminal.is_terminal:
        yield PhaseLines()
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=terminal, transient=True) as bar:
        tasks: dict[str, TaskID] = {}

        def show(phase: str, share: float) -> None:
            if phase not in tasks:
                tasks[phase] = bar.add_task(phase, total=1.0)
            bar.update(tasks[phase], completed=share, visible=share < 1)

        yield show
