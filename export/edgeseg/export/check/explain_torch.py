"""The fp32 graph beside the PyTorch network that it was exported from."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from edgeseg.export.check.explain import REFERENCE, GraphRun, Row
from edgeseg.export.check.measure import TOLERANCES, Noise
from edgeseg.export.check.stages import Wires, read_wires
from edgeseg.export.parity import MIN_AGREEMENT
from edgeseg.runtime.bundle import Bundle
from edgeseg.runtime.errors import ExportError
from edgeseg.runtime.frame import Image
from edgeseg.train.network import mask_of
from edgeseg.train.run import LoadedRun
from edgeseg.train.samples import to_network

_MASK = "mask"


def explain_torch(bundle: Bundle, run: LoadedRun, frames: Mapping[str, Image]) -> list[Row]:
    """Compare every convolution of the fp32 graph of `bundle` with the one of `run` whose name it has, and the masks.

    `frames` as for `explain`. Raises `ExportError` if the graph has a convolution that the run has not.
    """
    wires = read_wires(onnx.load(str(bundle.model_path(REFERENCE))))
    modules = {name: module for name, module in run.network.named_modules() if isinstance(module, nn.Conv2d)}
    places = {node.output[0]: node.input[1].removesuffix(".weight") for node in wires.steps if node.op_type == "Conv"}
    if missing := [name for name in places.values() if name not in modules]:
        raise ExportError(f"the run has no convolution {missing[0]!r}", expected="the run that was exported")
    seen: dict[str, Tensor] = {}
    hooks = [modules[name].register_forward_hook(_keep(name, seen)) for name in places.values()]
    noises = {tensor: Noise() for tensor in places}
    equal = []
    graph = GraphRun(wires, [*places, _MASK])
    try:
        for frame in frames.values():
            with torch.inference_mode():
                logits = run.network(to_network(frame)[None])
                mask = mask_of(logits, bundle.contract.size_hw).to(torch.uint8).numpy()
            found = graph(frame)
            equal.append(float(np.mean(mask == found[_MASK])))
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
    return [*(_row(name, tensor, noises[tensor]) for tensor, name in places.items()), _mask_row(wires, equal)]


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


def _mask_row(wires: Wires, equal: list[float]) -> Row:
    """Compare what comes out: enlarging and argmax carry no weights, so no convolution answers for them."""
    return Row(
        precision=REFERENCE,
        stage=_MASK,
        tensor=_MASK,
        op=next(node.op_type for node in wires.steps if _MASK in node.output),
        sqnr_db=None,
        step_db=None,
        tolerance_db=None,
        max_error=None,
        agreement=float(np.mean(equal)),
        unexpected=min(equal) < MIN_AGREEMENT,
    )
