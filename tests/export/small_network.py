"""A small graph with all that the placements meet, and frames for it."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import ModelProto, TensorProto, helper, numpy_helper

from edgeseg.export.graph import finish_graph

SIZE_HW = (32, 64)


def build_network() -> ModelProto:
    """A network with all that the placements meet: residual and pyramid sums, Concat, depthwise, ReLU6, Resize."""
    random = np.random.default_rng(0)
    nodes: list[onnx.NodeProto] = []
    constants = {
        "mean": np.float32(127), "deviation": np.float32(128), "zero": np.float32(0), "six": np.float32(6),
        "twice": np.array([1, 1, 2, 2], np.float32),
    }  # fmt: skip

    def add(op: str, out: str, *inputs: str, **attributes: Any) -> str:
        nodes.append(helper.make_node(op, list(inputs), [out], **attributes))
        return out

    def conv(out: str, source: str, channels: int, source_channels: int, *, kernel: int = 1, **more: int) -> str:
        groups = more.get("group", 1)
        fan = source_channels // groups * kernel**2
        shape = (channels, source_channels // groups, kernel, kernel)
        constants[f"network.{out}.layers.weight"] = random.normal(0, 1.5 / fan**0.5, shape).astype(np.float32)
        constants[f"network.{out}.layers.bias"] = random.normal(0, 0.5, channels).astype(np.float32)
        stride = more.get("stride", 1)
        pads = [kernel // 2] * 4
        names = (source, f"network.{out}.layers.weight", f"network.{out}.layers.bias")
        return add("Conv", out, *names, kernel_shape=[kernel] * 2, pads=pads, strides=[stride] * 2, group=groups)

    def clip(source: str) -> str:
        return add("Clip", f"{source}_act", source, "zero", "six")

    x = add("Cast", "levels", "frame", to=TensorProto.FLOAT)
    x = add("Transpose", "planes", x, perm=[0, 3, 1, 2])
    x = add("Div", "normalised", add("Sub", "centred", x, "mean"), "deviation")
    x = clip(conv("stem", x, 16, 3, kernel=3, stride=2))
    x = skip = conv("project", clip(conv("depthwise", x, 16, 16, kernel=3, group=16)), 16, 16)
    x = conv("back", clip(conv("expand", x, 32, 16)), 16, 32)
    x = near = add("Add", "sum", skip, x)
    x = add("Relu", "deep_act", conv("deep", x, 16, 16, kernel=3, stride=2))
    x = add("Resize", "up", x, "", "twice", mode="linear", coordinate_transformation_mode="half_pixel")
    x = add("Add", "pyramid", conv("lateral", near, 16, 16), x)
    x = add("Concat", "joined", x, near, axis=1)
    x = add("Relu", "smooth_act", conv("smooth", x, 16, 32, kernel=3))
    x = conv("classifier", x, 5, 16)
    x = add("Resize", "logits", x, "", "twice", mode="linear", coordinate_transformation_mode="half_pixel")
    x = add("ArgMax", "index", x, axis=1, keepdims=0)
    add("Cast", "mask", add("Cast", "class", x, to=TensorProto.FLOAT), to=TensorProto.UINT8)
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info("frame", TensorProto.UINT8, [1, *SIZE_HW, 3])],
        [helper.make_tensor_value_info("mask", TensorProto.UINT8, [1, *SIZE_HW])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    return onnx.load_from_string(finish_graph(model))


def frames(count: int = 6) -> list[np.ndarray]:
    random = np.random.default_rng(1)
    coarse = random.integers(0, 256, (count, 1, SIZE_HW[0] // 8, SIZE_HW[1] // 8, 3), np.uint8)
    return list(coarse.repeat(8, axis=2).repeat(8, axis=3))
