"""Q/DQ as TensorRT fuses it: the inputs of convolutions and the skip inputs of residual sums, symmetric int8.

Rules and their sources: NVIDIA's guide, "Q/DQ Layer-Placement Recommendations". Nothing stands between a convolution,
its activation and its sum; weights are stored as INT8; biases, Resize and ArgMax stay float, and what is float is FP16.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

import numpy as np
from onnx import ModelProto, NodeProto

from edgeseg.export.quantise.half import make_half
from edgeseg.export.quantise.observe import Ranges
from edgeseg.export.quantise.weights import half_scale, quantise_weights
from edgeseg.export.quantise.wiring import Wiring

INPUT_SCALE = 1 / 128
"""The frame is normalised by (x - 127) / 128: this scale holds all its levels but 255, which becomes 254."""


def place_for_tensorrt(model: ModelProto, ranges: Ranges, *, raised: Collection[str] = ()) -> ModelProto:
    """Return a copy of the fp32 `model` in INT8, its float remainder in FP16; convolutions named in `raised` stay FP16.

    `ranges` holds every input of a convolution and of a sum.
    """
    placed = ModelProto.FromString(model.SerializeToString())
    wiring = Wiring(placed)
    reads = quantised_reads(wiring, raised)
    reaches = shared_reaches(wiring, ranges)
    for conv in wiring.convolutions:
        if conv.name not in raised:
            _quantise_weights(wiring, conv)
    for value, readers in reads.items():
        scale = INPUT_SCALE if wiring.is_frame(value) else half_scale(reaches[value] / 127)
        wiring.reread(value, _add_pair(wiring, value, scale), readers)
    return make_half(wiring.finish())


def quantised_reads(wiring: Wiring, raised: Collection[str] = ()) -> dict[str, list[NodeProto]]:
    """Return the values that are quantised, and of each the nodes that read it so; others read it in float."""
    reads: dict[str, list[NodeProto]] = {}
    for conv in wiring.convolutions:
        if conv.name not in raised:
            reads.setdefault(conv.input[0], []).append(conv)
    for value, reader in [*_skips(wiring, raised), *_concatenated(wiring, raised)]:
        reads.setdefault(value, []).append(reader)
    return reads


def shared_scales(wiring: Wiring) -> dict[str, str]:
    """Return, of each value that meets others in a Concat, the one among them whose scale they all take."""
    heads: dict[str, str] = {}
    for node in wiring.nodes:
        if node.op_type == "Concat":
            names = (*node.input, node.output[0])
            met = {heads.get(name, name) for name in names}
            joined = {name for name, head in heads.items() if head in met}
            heads.update(dict.fromkeys((*joined, *names), names[0]))
    return heads


def shared_reaches(wiring: Wiring, ranges: Ranges) -> dict[str, float]:
    """Return the greatest magnitude of each value's integers: one for all that meet in a Concat.

    So that joining them costs no requantisation.
    """
    heads = shared_scales(wiring)
    widest: dict[str, float] = {}
    for value, span in ranges.items():
        head = heads.get(value, value)
        widest[head] = max(widest.get(head, 0.0), -span.low, span.high)
    return {value: widest[heads.get(value, value)] for value in ranges}


def _add_pair(wiring: Wiring, value: str, scale: float) -> str:
    step = wiring.add_constant(f"{value}.scale", np.array(scale, np.float32))
    zero = wiring.add_constant("zero_int8", np.array(0, np.int8))
    quantised = wiring.add_node("QuantizeLinear", f"{value}.q", [value, step, zero])
    return wiring.add_node("DequantizeLinear", f"{value}.dq", [quantised, step, zero])


def _quantise_weights(wiring: Wiring, conv: NodeProto) -> None:
    name = conv.input[1]
    integers, scales = quantise_weights(wiring.constants[name], half_scales=True)
    stored = [
        wiring.add_constant(f"{name}.int8", integers),
        wiring.add_constant(f"{name}.scale", scales),
        wiring.add_constant(f"{name}.zero", np.zeros(len(scales), np.int8)),
    ]
    wiring.reread(name, wiring.add_node("DequantizeLinear", f"{name}.dq", stored, axis=0), [conv])


def _skips(wiring: Wiring, raised: Collection[str]) -> Iterator[tuple[str, NodeProto]]:
    """Yield each sum with its skip input: the sum joins the convolution that makes the other input, and only that."""
    for node in wiring.nodes:
        if node.op_type != "Add" or any(name in wiring.constants for name in node.input):
            continue
        for joined, skip in ((node.input[1], node.input[0]), (node.input[0], node.input[1])):
            maker = wiring.maker.get(joined)
            if maker is not None and maker.op_type == "Conv" and len(wiring.readers[joined]) == 1:
                if maker.name not in raised:
                    yield skip, node
                break


def _concatenated(wiring: Wiring, raised: Collection[str]) -> Iterator[tuple[str, NodeProto]]:
    """Yield each Concat that a quantised convolution reads, with each of its inputs."""
    for node in wiring.nodes:
        readers = wiring.readers[node.output[0]]
        if node.op_type == "Concat" and any(r.op_type == "Conv" and r.name not in raised for r in readers):
            for name in dict.fromkeys(node.input):
                yield name, node
