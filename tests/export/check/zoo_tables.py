"""Rows of graphs that differ in one operator, at one place: before a convolution, between Q and DQ, on the weights."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from onnx import ModelProto, TensorProto, helper
from tests.export.check.sketch import Net, add_case

Place = Callable[[Net, str], str]
"""Puts operators behind a tensor and returns what comes out."""

MOVED, BETWEEN, WEIGHT = "movement-between-dq-and-consumer", "between-dq-and-consumer", "between-weight-and-consumer"


def ints(net: Net, *values: int) -> str:
    return net.constant(np.array(values, np.int64))


def stored(net: Net, *shape: int) -> str:
    return net.constant(np.ones(shape, np.int8))


def first_half(net: Net, x: str) -> str:
    net.nodes.append(helper.make_node("Split", [x], ["half_1", "half_2"], axis=1))
    return "half_1"


def resized(net: Net, x: str, **attributes: Any) -> str:
    return net.op("Resize", x, "", net.constant(np.array([1, 1, 2, 2], np.float32)), **attributes)


def before(place: Place, cin: int, opset: int) -> ModelProto:
    """A quantised convolution with `place` between its DequantizeLinear and itself."""
    net = Net(opset)
    y = place(net, net.qdq(net.input((1, 32, 16, 16))))
    net.output(net.op("Conv", y, net.weight(32, cin, 3, 3), name="conv"))
    return net.model()


def inside(place: Place) -> ModelProto:
    """A quantised convolution with `place` between QuantizeLinear and DequantizeLinear."""
    net = Net()
    y = net.dequantize(place(net, net.quantize(net.input((1, 32, 16, 16)))))
    net.output(net.op("Conv", y, net.weight(32, 32, 3, 3), name="conv"))
    return net.model()


def on_weights(weights: Callable[[Net], str]) -> ModelProto:
    """A quantised convolution with these weights."""
    net = Net()
    x = net.qdq(net.input((1, 32, 16, 16)))
    net.output(net.op("Conv", x, weights(net), name="conv"))
    return net.model()


def alone(kind: str, constants: Callable[[Net], list[str]], opset: int, dtype: int, **attributes: Any) -> ModelProto:
    """A network of one operator."""
    net = Net(opset)
    x = net.input((1, 32, 16, 16))
    net.output(net.op(kind, x, *constants(net), **attributes), dtype)
    return net.model()


BEFORE: list[tuple[str, str, str, int, Place]] = [
    ("relu", "0/1", BETWEEN, 32, lambda n, y: n.op("Relu", y)),
    ("clip", "0/1", BETWEEN, 32, lambda n, y: n.op("Clip", y, n.real(0), n.real(6))),
    ("sigmoid", "0/1", BETWEEN, 32, lambda n, y: n.op("Sigmoid", y)),
    ("leaky_relu", "0/1", BETWEEN, 32, lambda n, y: n.op("LeakyRelu", y)),
    ("mul_scalar", "1/1", MOVED, 32, lambda n, y: n.op("Mul", y, n.real(2))),
    ("mul_one_element", "1/1", MOVED, 32, lambda n, y: n.op("Mul", y, n.real([[[2]]]))),
    ("mul_vector", "0/1", BETWEEN, 32, lambda n, y: n.op("Mul", y, n.real(np.full((32, 1, 1), 2)))),
    ("mul_data", "0/1", BETWEEN, 32, lambda n, y: n.op("Mul", y, n.op("Sigmoid", "x"))),
    ("div_scalar", "1/1", MOVED, 32, lambda n, y: n.op("Div", y, n.real(3))),
    ("add_scalar", "0/1", BETWEEN, 32, lambda n, y: n.op("Add", y, n.real(3))),
    ("add_two_pairs", "0/1", BETWEEN, 32, lambda n, y: n.op("Add", y, n.qdq("x", 0.03))),
    ("neg", "1/1", MOVED, 32, lambda n, y: n.op("Neg", y)),
    ("abs", "1/1", MOVED, 32, lambda n, y: n.op("Abs", y)),
    ("pow", "0/1", BETWEEN, 32, lambda n, y: n.op("Pow", y, n.real(2))),
    ("max", "0/1", BETWEEN, 32, lambda n, y: n.op("Max", y, n.real(0))),
    ("where", "0/1", BETWEEN, 32, lambda n, y: n.op("Where", n.constant(np.array(True)), y, n.real(0))),
    (
        "batch_norm",
        "0/1",
        BETWEEN,
        32,
        lambda n, y: n.op("BatchNormalization", y, *(n.real(np.ones(32)) for _ in range(4))),
    ),
    ("average_pool", "0/1", BETWEEN, 32, lambda n, y: n.op("AveragePool", y, kernel_shape=[2, 2], strides=[2, 2])),
    ("max_pool", "1/1", "", 32, lambda n, y: n.op("MaxPool", y, kernel_shape=[3, 3], pads=[1] * 4)),
    ("max_pool_of_relu", "0/1", BETWEEN, 32, lambda n, y: n.op("MaxPool", n.op("Relu", y), kernel_shape=[3, 3])),
    ("resize_nearest", "0/1", BETWEEN, 32, lambda n, y: resized(n, y, mode="nearest")),
    ("resize_linear", "0/1", BETWEEN, 32, lambda n, y: resized(n, y, mode="linear")),
    ("pad_zero", "1/1", MOVED, 32, lambda n, y: n.op("Pad", y, ints(n, 0, 0, 2, 2, 0, 0, 2, 2))),
    ("pad_one", "0/1", BETWEEN, 32, lambda n, y: n.op("Pad", y, ints(n, 0, 0, 2, 2, 0, 0, 2, 2), n.real(1))),
    ("pad_reflect", "1/1", MOVED, 32, lambda n, y: n.op("Pad", y, ints(n, 0, 0, 2, 2, 0, 0, 2, 2), mode="reflect")),
    ("split", "1/1", MOVED, 16, first_half),
    ("slice", "1/1", MOVED, 16, lambda n, y: n.op("Slice", y, ints(n, 0), ints(n, 16), ints(n, 1))),
    ("gather", "1/1", MOVED, 16, lambda n, y: n.op("Gather", y, ints(n, *range(16)), axis=1)),
    ("transpose", "1/1", MOVED, 32, lambda n, y: n.op("Transpose", y, perm=[0, 1, 3, 2])),
    ("reshape", "1/1", MOVED, 32, lambda n, y: n.op("Reshape", y, ints(n, 1, 32, 8, 32))),
    ("unsqueeze", "1/1", MOVED, 32, lambda n, y: n.op("Unsqueeze", n.op("Squeeze", y, ints(n, 0)), ints(n, 0))),
    ("depth_to_space", "1/1", f"{MOVED} channel-alignment", 8, lambda n, y: n.op("DepthToSpace", y, blocksize=2)),
    ("space_to_depth", "1/1", MOVED, 128, lambda n, y: n.op("SpaceToDepth", y, blocksize=2)),
    ("tile", "1/1", MOVED, 32, lambda n, y: n.op("Tile", y, ints(n, 1, 1, 2, 2))),
    ("dropout", "1/1", "", 32, lambda n, y: n.op("Dropout", y)),
    ("cast_there_and_back", "0/1", BETWEEN, 32, lambda n, y: n.op("Cast", n.op("Cast", y, to=10), to=1)),
    ("cast_over_double", "1/1", "", 32, lambda n, y: n.op("Cast", n.op("Cast", y, to=11), to=1)),
    ("concat_equal", "1/1", "", 64, lambda n, y: n.op("Concat", y, n.qdq("x", 0.05), axis=1)),
    ("concat_itself", "1/1", "", 64, lambda n, y: n.op("Concat", y, y, axis=1)),
    ("concat_unequal", "0/1", "concat-scales", 64, lambda n, y: n.op("Concat", y, n.qdq("x", 0.02), axis=1)),
    ("concat_constant", "0/1", BETWEEN, 64, lambda n, y: n.op("Concat", y, n.real(np.zeros((1, 32, 16, 16))), axis=1)),
]

INSIDE: list[tuple[str, str, str, Place]] = [
    (
        "clip",
        "1/1",
        "clip-between-q-and-dq",
        lambda n, q: n.op("Clip", q, n.constant(np.int8(-127)), n.constant(np.int8(127))),
    ),
    ("relu", "1/1", "", lambda n, q: n.op("Relu", q)),
    ("max_pool", "1/1", "", lambda n, q: n.op("MaxPool", q, kernel_shape=[2, 2])),
    ("transpose", "1/1", "", lambda n, q: n.op("Transpose", q, perm=[0, 1, 3, 2])),
    ("resize", "1/1", "", lambda n, q: resized(n, q, mode="nearest")),
    ("cast", "1/1", "", lambda n, q: n.op("Cast", n.op("Cast", q, to=6), to=3)),
    (
        "pad",
        "rejected",
        "int8-constant",
        lambda n, q: n.op("Pad", q, ints(n, 0, 0, 2, 2, 0, 0, 2, 2), n.constant(np.int8(0))),
    ),
    ("max", "rejected", "int8-constant", lambda n, q: n.op("Max", q, n.constant(np.int8(0)))),
]

WEIGHTS: list[tuple[str, str, str, Callable[[Net], str]]] = [
    ("mul_scalar", "1/1", "", lambda n: n.op("Mul", n.weight(32, 32, 3, 3), n.real(2))),
    ("mul_vector", "1/1", "", lambda n: n.op("Mul", n.weight(32, 32, 3, 3), n.real(np.ones((32, 1, 1, 1))))),
    ("sub", "0/1", WEIGHT, lambda n: n.op("Sub", n.weight(32, 32, 3, 3), n.real(0.1))),
    ("relu", "0/1", WEIGHT, lambda n: n.op("Relu", n.weight(32, 32, 3, 3))),
    ("cast_there_and_back", "0/1", WEIGHT, lambda n: n.op("Cast", n.op("Cast", n.weight(32, 32, 3, 3), to=10), to=1)),
    ("unsqueeze", "1/1", "", lambda n: n.op("Unsqueeze", n.weight(32, 32, 3), ints(n, 3))),
    ("transpose", "1/1", "", lambda n: n.op("Transpose", n.weight(3, 3, 32, 32, axis=3), perm=[3, 2, 0, 1])),
    ("reshape", "1/1", "", lambda n: n.op("Reshape", n.weight(32, 288), ints(n, 32, 32, 3, 3))),
    (
        "stored_identity",
        "rejected",
        "int8-constant",
        lambda n: n.dequantize(n.op("Identity", stored(n, 32, 32, 3, 3)), 0.01),
    ),
    (
        "stored_reshape",
        "rejected",
        "int8-constant",
        lambda n: n.dequantize(n.op("Reshape", stored(n, 32, 288), ints(n, 32, 32, 3, 3)), 0.01),
    ),
    (
        "stored_transpose",
        "rejected",
        "int8-constant",
        lambda n: n.dequantize(n.op("Transpose", stored(n, 32, 32, 3, 3), perm=[1, 0, 2, 3]), 0.01),
    ),
    (
        "stored_clip",
        "rejected",
        "int8-constant",
        lambda n: n.dequantize(n.op("Clip", stored(n, 32, 32, 3, 3), n.constant(np.int8(-127))), 0.01),
    ),
    ("cast_to_int8", "1/1", "", lambda n: n.dequantize(n.op("Cast", n.real(np.ones((32, 32, 3, 3))), to=3), 0.01)),
    (
        "float_transpose",
        "1/1",
        "",
        lambda n: n.qdq(n.op("Transpose", n.constant(n.numbers(32, 32, 3, 3)), perm=[1, 0, 2, 3]), 0.01),
    ),
    ("negative_axis", "1/1", "", lambda n: n.dequantize(stored(n, 32, 32, 3, 3), np.full(32, 0.01), axis=-4)),
    (
        "negative_axis_wrong",
        "0/1",
        "weight-axis",
        lambda n: n.dequantize(stored(n, 32, 32, 3, 3), np.full(32, 0.01), axis=-3),
    ),
    (
        "one_zero_point",
        "rejected",
        "zero-point-size",
        lambda n: n.op(
            "DequantizeLinear", stored(n, 32, 32, 3, 3), n.real(np.full(32, 0.01)), n.constant(np.int8(0)), axis=0
        ),
    ),
    (
        "scale_of_rank_4",
        "rejected",
        "block-quantisation",
        lambda n: n.dequantize(stored(n, 32, 32, 3, 3), np.full((32, 1, 1, 1), 0.01), axis=0),
    ),
    (
        "too_few_scales",
        "rejected",
        "scale-size",
        lambda n: n.dequantize(stored(n, 32, 32, 3, 3), np.full(16, 0.01), axis=0),
    ),
]

_NONE: Callable[[Net], list[str]] = lambda n: []  # noqa: E731
_TWICE: Callable[[Net], list[str]] = lambda n: ["", n.constant(np.array([1, 1, 2, 2], np.float32))]  # noqa: E731
BAD = "unsupported-attribute"

ALONE: list[tuple[str, str, str, str, int, Callable[[Net], list[str]], dict[str, Any]]] = [
    ("resize_cubic", "0/0", "", "Resize", 17, _TWICE, {"mode": "cubic"}),
    (
        "resize_align_corners",
        "0/0",
        "",
        "Resize",
        17,
        _TWICE,
        {"mode": "linear", "coordinate_transformation_mode": "align_corners"},
    ),
    (
        "resize_symmetric",
        "rejected",
        BAD,
        "Resize",
        19,
        _TWICE,
        {"mode": "linear", "coordinate_transformation_mode": "half_pixel_symmetric"},
    ),
    (
        "resize_crop",
        "rejected",
        BAD,
        "Resize",
        17,
        _TWICE,
        {"mode": "linear", "coordinate_transformation_mode": "tf_crop_and_resize"},
    ),
    ("resize_antialias", "rejected", BAD, "Resize", 18, _TWICE, {"mode": "linear", "antialias": 1}),
    (
        "resize_keep_aspect",
        "rejected",
        BAD,
        "Resize",
        18,
        lambda n: ["", "", ints(n, 1, 32, 40, 40)],
        {"mode": "linear", "keep_aspect_ratio_policy": "not_larger"},
    ),
    ("max_pool_dilated", "rejected", BAD, "MaxPool", 17, _NONE, {"kernel_shape": [2, 2], "dilations": [2, 2]}),
    ("average_pool_dilated", "rejected", BAD, "AveragePool", 19, _NONE, {"kernel_shape": [2, 2], "dilations": [2, 2]}),
    (
        "average_pool_ceil",
        "0/0",
        "",
        "AveragePool",
        17,
        _NONE,
        {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1},
    ),
    ("dropout_training", "rejected", BAD, "Dropout", 17, lambda n: [n.real(0.5), n.constant(np.array(True))], {}),
    (
        "scatter_add",
        "rejected",
        BAD,
        "ScatterElements",
        18,
        lambda n: [n.constant(np.zeros((1, 32, 16, 1), np.int64)), n.real(np.ones((1, 32, 16, 1)))],
        {"axis": 3, "reduction": "add"},
    ),
    ("upsample", "0/0", "", "Upsample", 9, lambda n: [n.constant(np.array([1, 1, 2, 2], np.float32))], {}),
    (
        "group_norm",
        "0/0",
        "opset-over-20",
        "GroupNormalization",
        21,
        lambda n: [n.real(np.ones(32)), n.real(np.ones(32))],
        {"num_groups": 4},
    ),
    ("instance_norm", "0/0", "", "InstanceNormalization", 17, lambda n: [n.real(np.ones(32)), n.real(np.ones(32))], {}),
    ("unique", "rejected", "unsupported-operator", "Unique", 17, _NONE, {}),
    (
        "roi_align",
        "rejected",
        "unsupported-operator",
        "RoiAlign",
        17,
        lambda n: [n.real(np.ones((1, 4))), ints(n, 0)],
        {"output_height": 2},
    ),
    ("gelu", "0/0", "", "Gelu", 20, _NONE, {}),
]


def two_convolutions(opset: int) -> ModelProto:
    net = Net(opset)
    y = net.op("Relu", net.conv(net.input((1, 32, 16, 16)), 32, 32, name="c1"))
    net.output(net.conv(y, 32, 32, name="c2"))
    return net.model()


for _name, _compiled, _rule, _cin, _place in BEFORE:
    # Split takes its axis as an attribute, and no sizes, up to opset 12 only.
    _opset = 11 if _place is first_half else 17
    add_case(f"before_{_name}", partial(before, _place, _cin, opset=_opset), _compiled, *_rule.split())
for _name, _compiled, _rule, _place in INSIDE:
    add_case(f"inside_{_name}", partial(inside, _place), _compiled, *_rule.split())
for _name, _compiled, _rule, _weights in WEIGHTS:
    add_case(f"weights_{_name}", partial(on_weights, _weights), _compiled, *_rule.split())
for _name, _compiled, _rule, _kind, _opset, _constants, _attributes in ALONE:
    _make = partial(alone, _kind, _constants, _opset, TensorProto.FLOAT, **_attributes)
    add_case(f"alone_{_name}", _make, _compiled, *_rule.split())
for _opset in range(10, 24):
    _rule = "opset-over-20" if _opset > 20 else ""
    add_case(f"opset_{_opset}", partial(two_convolutions, _opset), "2/2", *_rule.split())
