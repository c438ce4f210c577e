"""Strongly typed FP16: every float tensor and constant of a graph in half precision, said by the graph's own types.

TensorRT 11 knows no other FP16; the 10.x versions take it too.
"""

from __future__ import annotations

import numpy as np
from onnx import ModelProto, TensorProto

from edgeseg.export.quantise.wiring import Wiring

_SETTINGS = {"Resize": (1, 2, 3)}
"""Inputs that are settings, not data: ONNX fixes their type."""
_LARGEST = 65504.0


def make_half(model: ModelProto) -> ModelProto:
    """Turn the float part of `model` to FP16. In place.

    The frame is cast to FP16 (which holds its 256 levels, and their normalised values, exactly), and the class index
    leaves as before. Constants beyond FP16's range are clipped to it.
    """
    wiring = Wiring(model)
    data, settings = set[str](), set[str]()
    for node in wiring.nodes:
        fixed = _SETTINGS.get(node.op_type, ())
        for place, name in enumerate(node.input):
            (settings if place in fixed else data).add(name)
        if node.op_type == "Cast" and node.input[0] not in wiring.maker:
            node.attribute[0].i = TensorProto.FLOAT16
    for name in data - settings:
        values = wiring.constants.get(name)
        if values is not None and values.dtype == np.float32:
            wiring.constants[name] = np.clip(values, -_LARGEST, _LARGEST).astype(np.float16)
    return wiring.finish()
