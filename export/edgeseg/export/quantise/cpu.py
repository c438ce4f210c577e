"""Q/DQ as ONNX Runtime's CPU kernels fuse it: u8 activations, s8 weights, and a pair behind every convolution and sum.

An operator becomes an integer kernel where all its inputs come from DequantizeLinear and its output goes to
QuantizeLinear only; biases are int32 at the product of the two scales.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
from onnx import ModelProto, NodeProto, helper

from edgeseg.export.quantise.observe import Range, Ranges
from edgeseg.export.quantise.weights import WeightRule, quantise_weights
from edgeseg.export.quantise.wiring import Wiring

INPUT_SCALE, INPUT_ZERO = 1 / 128, 127
"""(x - 127) / 128 in these is the frame itself, byte for byte."""


def place_for_cpu(
    model: ModelProto, ranges: Ranges, *, weights: WeightRule = "8-bit", raised: Collection[str] = ()
) -> ModelProto:
    """Return a copy of the fp32 `model` with integer convolutions; those named in `raised` stay float.

    A convolution whose outcome nothing quantised reads (the classifier) stays float too: it could not be fused.
    Only dense convolutions are subject to `weights`: depthwise kernels add in 32 bits.
    """
    placed = ModelProto.FromString(model.SerializeToString())
    wiring = Wiring(placed)
    chosen = [conv for conv in wiring.convolutions if conv.name not in raised and _is_fused(wiring, conv)]
    pairs = {value: _grid(wiring, value, ranges) for value in _values(wiring, chosen)}
    sources = {conv.name: conv.input[0] for conv in chosen}
    for value, (scale, zero) in pairs.items():
        wiring.reread(value, _add_pair(wiring, value, scale, zero), wiring.readers[value])
    for conv in chosen:
        dense = _attribute(conv, "group", 1) == 1
        _quantise_weights(wiring, conv, pairs[sources[conv.name]][0], weights if dense else "8-bit")
    return wiring.finish()


def _is_fused(wiring: Wiring, conv: NodeProto) -> bool:
    value = wiring.activated(conv)
    while _decisive_readers(wiring, value) in ({"Resize"}, {"DepthToSpace"}, {"Reshape"}):
        value = wiring.readers[value][0].output[0]
    return _decisive_readers(wiring, value) != {"ArgMax"}


def _decisive_readers(wiring: Wiring, value: str) -> set[str]:
    """Return the operators that read `value`; beside others a Slice is a sample, for the confidence."""
    found = {reader.op_type for reader in wiring.readers[value]}
    return found - {"Slice"} or found


def _values(wiring: Wiring, chosen: list[NodeProto]) -> list[str]:
    """Return the values that get a pair: inputs and outcomes of chosen convolutions, and sums of such values."""
    values = dict.fromkeys(name for conv in chosen for name in (conv.input[0], wiring.activated(conv)))
    for node in wiring.nodes:
        if node.op_type == "Add" and any(name in values for name in node.input):
            learned = [name for name in (*node.input, node.output[0]) if name not in wiring.constants]
            values.update(dict.fromkeys(learned))
    return list(values)


def _grid(wiring: Wiring, value: str, ranges: Ranges) -> tuple[np.float32, int]:
    if wiring.is_frame(value):
        return np.float32(INPUT_SCALE), INPUT_ZERO
    span: Range = ranges[value]
    # Rounded down: ONNX Runtime drops a Clip only if the integers end at its bound, not one bit beyond.
    scale = np.nextafter(np.float32((span.high - span.low) / 255), np.float32(0)) or np.float32(1)
    return scale, int(np.clip(np.rint(-span.low / scale), 0, 255))


def _add_pair(wiring: Wiring, value: str, scale: np.float32, zero: int) -> str:
    step = wiring.add_constant(f"{value}.scale", np.array(scale, np.float32))
    origin = wiring.add_constant(f"{value}.zero", np.array(zero, np.uint8))
    levels = _frame_levels(wiring, value) if wiring.is_frame(value) else None
    if levels is None:
        levels = wiring.add_node("QuantizeLinear", f"{value}.q", [value, step, origin])
    return wiring.add_node("DequantizeLinear", f"{value}.dq", [levels, step, origin])


def _frame_levels(wiring: Wiring, value: str) -> str | None:
    """Return the transposed frame itself if `value` is no more than (frame - 127) / 128, channels first.

    Its bytes are the integers that quantising would give, so nothing need be computed.
    """
    operands, transpose = {"Div": 1 / INPUT_SCALE, "Sub": float(INPUT_ZERO)}, None
    node = wiring.maker.get(value)
    for op, operand in operands.items():
        if node is None or node.op_type != op or wiring.constants.get(node.input[1]) != operand:
            return None
        node = wiring.maker.get(node.input[0])
    if node is not None and node.op_type == "Transpose":
        transpose, node = node, wiring.maker.get(node.input[0])
    if transpose is None or node is None or node.op_type != "Cast" or node.input[0] in wiring.maker:
        return None
    order = _attribute(transpose, "perm", None)
    return wiring.add_node("Transpose", f"{transpose.name}.levels", [node.input[0]], perm=order)


def _quantise_weights(wiring: Wiring, conv: NodeProto, input_scale: np.float32, rule: WeightRule) -> None:
    name = conv.input[1]
    integers, scales = quantise_weights(wiring.constants[name], rule=rule)
    zeros = wiring.add_constant(f"{name}.zero", np.zeros(len(scales), np.int8))
    bias_scales = (scales * input_scale).astype(np.float32)
    if len(conv.input) > 2:
        # A dead channel's tiny scale would ask for more than 32 bits.
        bias = wiring.constants[conv.input[2]].astype(np.float64)
        least = np.abs(bias) / 2.0**30
        if np.any(short := bias_scales < least):
            scales = np.where(short, (least / input_scale).astype(np.float32), scales)
            integers = np.clip(np.rint(wiring.constants[name] / scales.reshape(-1, 1, 1, 1)), -127, 127).astype(np.int8)
            bias_scales = (scales * input_scale).astype(np.float32)
        _quantise_bias(wiring, conv, bias, bias_scales)
    stored = [wiring.add_constant(f"{name}.int8", integers), wiring.add_constant(f"{name}.scale", scales), zeros]
    wiring.reread(name, wiring.add_node("DequantizeLinear", f"{name}.dq", stored, axis=0), [conv])


def _quantise_bias(wiring: Wiring, conv: NodeProto, bias: np.ndarray, scales: np.ndarray) -> None:
    name = conv.input[2]
    stored = [
        wiring.add_constant(f"{name}.int32", np.rint(bias / scales).astype(np.int32)),
        wiring.add_constant(f"{name}.scale", scales),
        wiring.add_constant(f"{name}.zero", np.zeros(len(scales), np.int32)),
    ]
    wiring.reread(name, wiring.add_node("DequantizeLinear", f"{name}.dq", stored, axis=0), [conv])


def _attribute(node: NodeProto, name: str, default: object) -> object:
    return next((helper.get_attribute_value(item) for item in node.attribute if item.name == name), default)
