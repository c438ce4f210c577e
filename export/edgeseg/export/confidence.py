"""A second output beside the mask: how sure the network is of its class, once for each cell of a few pixels."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from edgeseg.runtime.contract import CONFIDENCE, CONFIDENCE_LEVELS
from edgeseg.runtime.errors import ExportError

CELL = 8
"""Pixels of the input, each way, that share a value: of the shipped network's scores one in sixteen is looked at."""
_END = np.iinfo(np.int32).max


def add_confidence(model: ModelProto, cell: int) -> None:
    """Give `model`, which ends in an ArgMax over scores, the output `confidence`. In place.

    (1, H / cell, W / cell) uint8: the greatest softmax probability at the middle of each cell, in 255ths. Its operators
    come last, read the scores before sub-pixels are laid out, and stay in floating point in every precision. Raises
    `ExportError` if the scores' resolution and `cell` do not fit.
    """
    graph = onnx.shape_inference.infer_shapes(model).graph
    makers = {name: node for node in graph.node for name in node.output}
    shapes = {
        value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in (*graph.input, *graph.value_info)
    }
    decision = next(node for node in graph.node if node.op_type == "ArgMax")
    scores, parts = decision.input[0], 1
    shuffle = makers.get(scores)
    if shuffle is not None and shuffle.op_type == "DepthToSpace":
        settings = {item.name: helper.get_attribute_value(item) for item in shuffle.attribute}
        if settings.get("mode") == b"CRD":  # class by class: the first sub-pixel's channels lie `parts` apart
            scores, parts = shuffle.input[0], settings["blocksize"] ** 2
    _, height, width, _ = shapes[graph.input[0].name]
    _, _, rows, columns = shapes[scores]
    stride = height // rows
    if height % cell or width % cell or cell % stride or (rows * stride, columns * stride) != (height, width):
        raise ExportError(
            f"scores of {rows}x{columns} for an input of {height}x{width}",
            expected=f"a confidence for each {cell}x{cell} pixels",
            fix="export with --no-confidence",
        )
    _append(model, scores, parts, cell // stride)
    shape = [1, height // cell, width // cell]
    model.graph.output.append(helper.make_tensor_value_info(CONFIDENCE, TensorProto.UINT8, shape))


def _append(model: ModelProto, scores: str, parts: int, step: int) -> None:
    constants: dict[str, npt.NDArray[Any]] = {
        "starts": np.array([0, step // 2, step // 2], np.int64),
        "ends": np.array([_END] * 3, np.int64),
        "axes": np.array([1, 2, 3], np.int64),
        "steps": np.array([parts, step, step], np.int64),
        "channels": np.array([1], np.int64),
        "levels": np.array([CONFIDENCE_LEVELS], np.float32),
    }
    named = {name: f"{CONFIDENCE}.{name}" for name in constants}
    model.graph.initializer.extend(numpy_helper.from_array(values, named[name]) for name, values in constants.items())

    def add(op: str, out: str, *inputs: str, **attributes: Any) -> NodeProto:
        return helper.make_node(op, list(inputs), [out], name=out, **attributes)

    sample, top, below, odds, total, scaled = (
        f"{CONFIDENCE}.{name}" for name in ("sample", "top", "below", "odds", "total", "scaled")
    )
    # The greatest of a softmax is 1 / sum(exp(x - max)); ONNX Runtime's own over channels takes three times as long.
    model.graph.node.extend(
        [
            add("Slice", sample, scores, named["starts"], named["ends"], named["axes"], named["steps"]),
            add("ReduceMax", top, sample, named["channels"], keepdims=1),
            add("Sub", below, sample, top),
            add("Exp", odds, below),
            add("ReduceSum", total, odds, named["channels"], keepdims=0),
            add("Div", scaled, named["levels"], total),
            add("Cast", CONFIDENCE, scaled, to=TensorProto.UINT8),
        ]
    )
