"""The fp32 graph beside the PyTorch network that it was exported from."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from edgeseg.export.check.explain import REFERENCE, GraphRun, Row
from edgeseg.export.check.measure import TOLERANCES, Noise
from edgeseg.export.check.stages import read_wires
from edgeseg.runtime.bundle import Bundle
from edgeseg.runtime.errors import ExportError
from edgeseg.runtime.frame import Image
from edgeseg.train.run import LoadedRun
from edgeseg.train.samples import to_network


def explain_torch(bundle: Bundle, run: LoadedRun, frames: Mapping[str, Image]) -> list[Row]:
    """Compare every convolution of the fp32 graph of `bundle` with the one of `run` whose weights it carries.

    `frames` as for `explain`. Raises `ExportError` if the run has none of the graph's convolutions.
    """
    wires = read_wires(onnx.load(str(bundle.model_path(REFERENCE))))
    modules = {name: module for name, module in run.network.named_modules() if isinstance(module, nn.Conv2d)}
    places = {node.output[0]: node.input[1].removesuffix(".weight") for node in wires.steps if node.op_type == "Conv"}
    places = {tensor: name for tensor, name in places.items() if name in modules}
    if not places:
        raise ExportError("the run has none of the bundle's convolutions", expected="the run that was exported")
    seen: dict[str, Tensor] = {}
    hooks = [modules[name].register_forward_hook(_keep(name, seen)) for name in places.values()]
    noises = {tensor: Noise() for tensor in places}
    graph = GraphRun(wires, list(places))
    try:
        for frame in frames.values():
            with torch.inference_mode():
                run.network(to_network(frame)[None])
            found = graph(frame)
            for tensor, name in places.items():
                expected = seen[name].numpy().astype(np.float32)
                if expected.shape != found[tensor].shape:
                    raise ExportError(
                        f"{tensor} has shape {found[tensor].shape}", expected=f"{expected.shape}, as the run's {name}"
                    )
                noises[tensor].add(expected, found[tensor])
    finally:
        for hook in hooks:
            hook.remove()
    return [_row(name, tensor, noises[tensor]) for tensor, name in places.items()]


def _keep(name: str, seen: dict[str, Tensor]) -> Callable[[nn.Module, object, Tensor], None]:
    def hook(module: nn.Module, inputs: object, output: Tensor) -> None:
        seen[name] = output

    return hook


def _row(name: str, tensor: str, noise: Noise) -> Row:
    floor = TOLERANCES[REFERENCE].tensor_db
    return Row(
        precision=REFERENCE,
        stage=name,
        tensor=tensor,
        op="Conv",
        sqnr_db=noise.sqnr_db,
        step_db=None,
        tolerance_db=floor,
        max_error=noise.max_error,
        agreement=None,
        unexpected=noise.sqnr_db < floor,
    )
