"""`edgeseg predict`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from rich.table import Table

from edgeseg.benchmarks.predict.devices import DEVICES, PRECISIONS, Precision, find_device
from edgeseg.benchmarks.predict.graph import read_work
from edgeseg.benchmarks.predict.roofline import Bound, bound_latency
from edgeseg.runtime.bundle import open_bundle
from edgeseg.runtime.commands.common import console, json_option, write_document

_SHOWN = 8
PUBLISHED_RATIOS = (2.0, 3.9)
"""The least and the most by which latencies that NVIDIA published exceed this bound: docs/predict.md."""


@click.command(epilog="Example: edgeseg predict street --device orin-nano-8gb")
@click.argument("model", metavar="BUNDLE|MODEL.onnx")
@click.option("--device", "device_name", required=True, metavar="D", help=f"One of: {', '.join(DEVICES)}.")
@click.option("--precision", type=click.Choice(PRECISIONS), default="int8", show_default=True)
@json_option
def predict(model: str, device_name: str, precision: Precision, json_path: Path | None) -> None:
    """Tell how fast a network could at best be on a device that is not at hand.

    A lower bound from public figures, never a measurement: real latencies are some times longer.
    """
    device = find_device(device_name)
    path, graph = Path(model), str(precision)
    origin: dict[str, Any]
    if path.suffix == ".onnx" and not path.is_dir():
        work, origin = read_work(path), {"model": path.name}
    else:
        with open_bundle(model) as bundle:
            graph = precision if precision in bundle.precisions else "fp32"
            work = read_work(bundle.model_path(graph))
            origin = {"bundle": {"name": bundle.name, "manifest_sha256": bundle.manifest_sha256}}
    bound = bound_latency(work, device, precision)
    write_document(json_path, "predict", **bound.document(), **origin)
    _print(bound, "" if graph == precision else f" (the {graph} graph, as if all of it ran in {precision.upper()})")


def _print(bound: Bound, remark: str) -> None:
    slowest = sorted(bound.layers, key=lambda layer: layer.bound_ms, reverse=True)[:_SHOWN]
    table = Table("layer", "operator", "at least ms", "limit", "MMACs", "kB touched", title="The slowest layers")
    table.columns[0].overflow = "fold"
    for column in (table.columns[2], *table.columns[4:]):
        column.justify = "right"
    for layer in slowest:
        table.add_row(
            layer.kernel.name,
            layer.kernel.operator,
            f"{layer.bound_ms:.4f}",
            layer.limit,
            f"{layer.kernel.macs / 1e6:.1f}",
            f"{layer.bytes_touched / 1e3:.0f}",
        )
    console.print(table)
    shares = ", ".join(f"{name} {share:.2f}" for name, share in bound.shares_ms.items())
    console.print(
        f"{bound.work.macs / 1e9:.2f} GMACs, {bound.work.parameters / 1e6:.2f} M parameters, "
        f"{len(bound.layers)} kernels that touch {bound.bytes_touched / 1e6:.1f} MB, of which "
        f"{bound.bytes_moved / 1e6:.1f} MB must come from memory{remark}",
        soft_wrap=True,
    )
    console.print(
        f"no faster than {bound.bound_ms:.2f} ms on {bound.device.title} in {bound.precision.upper()} "
        f"(ms: {shares}; mostly {bound.limit})",
        soft_wrap=True,
    )
    console.print(
        f"{bound.uncached_ms:.2f} ms if nothing stayed in the caches between kernels; both are computed from public "
        "figures, neither is a measurement",
        soft_wrap=True,
    )
    console.print(
        "latencies that NVIDIA measured for two networks of dense convolutions are "
        f"{PUBLISHED_RATIOS[0]:.1f} to {PUBLISHED_RATIOS[1]:.1f} times such a bound",
        soft_wrap=True,
    )
