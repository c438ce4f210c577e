"""Networks of any size with random weights, as bundles: how long one takes does not depend on what it has learnt."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgeseg.runtime.bundle import write_bundle
from edgeseg.runtime.contract import Contract
from edgeseg.runtime.manifest import Golden, Provenance

CLASSES = 11
STRIDE = 4
DEPTH = 3
"""3x3 convolutions at a quarter of the resolution, where all but the first two work."""


@dataclass(frozen=True, kw_only=True)
class Network:
    """An encoder of plain convolutions with a linear classifier, interpolated back to the input's size."""

    height: int
    width: int
    channels: int

    @property
    def convolutions(self) -> list[tuple[int, int, int, int]]:
        """Input channels, output channels, kernel size and stride of each."""
        inner = 2 * self.channels
        return [
            (3, self.channels, 3, 2),
            (self.channels, inner, 3, 2),
            *[(inner, inner, 3, 1)] * DEPTH,
            (inner, CLASSES, 1, 1),
        ]

    @property
    def macs(self) -> int:
        """Multiplications with addition of one frame."""
        total, area = 0, self.height * self.width
        for before, after, kernel, stride in self.convolutions:
            area //= stride**2
            total += before * after * kernel**2 * area
        return total


def write_network(network: Network, folder: Path) -> Path:
    """Write the network to `folder` as a bundle with an fp32 graph, and return the folder. Sizes divide by `STRIDE`."""
    folder.mkdir(parents=True)
    (folder / "model.fp32.onnx").write_bytes(_make_model(network).SerializeToString())
    write_bundle(
        folder,
        name="random",
        contract=Contract(
            height=network.height,
            width=network.width,
            fit="stretch",
            classes=tuple(f"class {index}" for index in range(CLASSES)),
            palette=tuple((20 * index, 255 - 20 * index, 128) for index in range(CLASSES)),
            ignore_index=255,
        ),
        stages={},
        golden=Golden(),
        provenance=Provenance(dataset="random weights", splits={}, created="2026-01-01T00:00:00Z"),
    )
    return folder


def _make_model(network: Network) -> Any:
    random = np.random.default_rng(0)
    constants: dict[str, Any] = {
        "mean": np.float32(127),
        "scale": np.float32(1 / 128),
        "scales": np.array([1, 1, STRIDE, STRIDE], np.float32),
    }
    nodes = [
        helper.make_node("Cast", ["frame"], ["levels"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["levels"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("Sub", ["planes", "mean"], ["centred"]),
        helper.make_node("Mul", ["centred", "scale"], ["x0"]),
    ]
    last = len(network.convolutions) - 1
    for index, (before, after, kernel, stride) in enumerate(network.convolutions):
        spread = 1 / math.sqrt(before * kernel**2)
        constants[f"w{index}"] = (spread * random.standard_normal((after, before, kernel, kernel))).astype(np.float32)
        low, high = (kernel - stride) // 2, (kernel - stride + 1) // 2
        made = "logits" if index == last else f"y{index}"
        nodes.append(
            helper.make_node(
                "Conv", [f"x{index}", f"w{index}"], [made], strides=[stride] * 2, pads=[low, low, high, high]
            )
        )
        if index < last:
            nodes.append(helper.make_node("Relu", [made], [f"x{index + 1}"]))
    nodes += [
        helper.make_node("Resize", ["logits", "", "scales"], ["large"], mode="linear"),
        helper.make_node("ArgMax", ["large"], ["index"], axis=1, keepdims=0),
        helper.make_node("Cast", ["index"], ["index_float"], to=TensorProto.FLOAT),
        helper.make_node("Cast", ["index_float"], ["mask"], to=TensorProto.UINT8),
    ]
    size = [network.height, network.width]
    graph = helper.make_graph(
        nodes,
        "random",
        [helper.make_tensor_value_info("frame", TensorProto.UINT8, [1, *size, 3])],
        [helper.make_tensor_value_info("mask", TensorProto.UINT8, [1, *size])],
        [numpy_helper.from_array(np.ascontiguousarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    return onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
