"""QuantizeLinear and DequantizeLinear: their scales, zero-points and types."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from onnx import TensorProto

from edgeseg.export.check.constants import Array, Constant, element_type
from edgeseg.export.check.findings import Finding, finding
from edgeseg.export.check.graph import Graph, Node

Q, DQ = "QuantizeLinear", "DequantizeLinear"
FLOATS = frozenset({TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE})
_UNSIGNED = TensorProto.UINT8

# The type of these does not follow from their first input.
_NO_TYPE = frozenset(
    {"If", "Loop", "Scan", "ConstantOfShape", "Range", "EyeLike", "OneHot", "CastLike", "LayerNormalization"}
)


def constant_of(graph: Graph, name: str, depth: int = 8) -> Constant | None:
    """Return the constant behind `name`, computing the few operators that exporters put before a scale."""
    name = graph.source(name)
    if name in graph.constants:
        return graph.constants[name]
    node = graph.makers.get(name)
    if node is None or not depth or node.op not in _FOLDED:
        return None
    inputs = [constant_of(graph, item, depth - 1) for item in node.inputs if item]
    values = [item.values for item in inputs if item is not None and item.values is not None]
    if len(values) != len(inputs) or not values or sum(item.size for item in values) > 1 << 16:
        return None
    result = _fold(node, values)
    if result is None:
        return None
    return Constant(graph.types.get(name, TensorProto.FLOAT), result.shape, result)


_FOLDED = frozenset({"Cast", "Mul", "Div", "Add", "Sub", "Max", "Reshape", "Squeeze", "Unsqueeze"})
_ARITHMETIC = {"Mul": np.multiply, "Div": np.divide, "Add": np.add, "Sub": np.subtract, "Max": np.maximum}


def _fold(node: Node, values: list[Array]) -> Array | None:
    try:
        if node.op == "Cast":
            to = node.attributes.get("to", 1)
            kinds = {1: np.float32, 3: np.int8, 2: np.uint8, 6: np.int32, 7: np.int64, 10: np.float16, 11: np.float64}
            return values[0].astype(kinds[to])
        if node.op in _ARITHMETIC and len(values) == 2:
            if np.broadcast(*values).size > 1 << 16:
                return None
            with np.errstate(all="ignore"):
                return np.asarray(_ARITHMETIC[node.op](*values))
        if node.op == "Reshape" and len(values) == 2:
            return values[0].reshape([int(size) for size in values[1].ravel()])
        return values[0].reshape(-1) if node.op == "Unsqueeze" and values[0].size == 1 else values[0].squeeze()
    except (KeyError, ValueError, TypeError):
        return None


def quantised_type(node: Node, graph: Graph) -> int:
    """Return the element type of the integers that a Q makes or a DQ takes."""
    zero = constant_of(graph, node.input(2))
    if zero is not None:
        return zero.dtype
    if node.op == Q:
        return int(node.attributes.get("output_dtype") or _UNSIGNED)
    source = graph.source(node.input(0))
    if source in graph.constants:
        return graph.constants[source].dtype
    maker = graph.makers.get(source)
    if maker is not None and maker.op == Q:
        return quantised_type(maker, graph)
    return graph.types.get(source, TensorProto.INT8)


def float_type(name: str, graph: Graph) -> int | None:
    """Return the element type that TensorRT gives a tensor, None where it cannot be told.

    ONNX before opset 19 has FP32 scales only, so for a DequantizeLinear the file's own types are not to be trusted.
    """
    for _ in range(len(graph.nodes) + 1):
        name = graph.source(name)
        if name in graph.constants:
            return graph.constants[name].dtype
        node = graph.makers.get(name)
        if node is None:
            return graph.types.get(name)
        if node.op == "Cast":
            return int(node.attributes.get("to", TensorProto.FLOAT))
        if node.op == DQ:
            output_dtype = node.attributes.get("output_dtype")
            if output_dtype:
                return int(output_dtype)
            name = node.input(1)
            continue
        if node.op in _NO_TYPE or graph.types.get(name, TensorProto.FLOAT) not in FLOATS:
            return graph.types.get(name)
        name = node.input(1) if node.op == "Where" else node.input(0)
    return None


def check_pairs(graph: Graph) -> Iterator[Finding]:
    """Yield what is wrong with the numbers and types of each QuantizeLinear and DequantizeLinear."""
    for node in graph.nodes:
        if node.op in (Q, DQ):
            yield from _check_type(node, graph)
            yield from _check_numbers(node, graph)
    for name, constant in graph.constants.items():
        if constant.dtype == TensorProto.INT8:
            for user in graph.readers.get(name, ()):
                if not _may_take_int8(user, name, graph):
                    yield finding("int8-constant", user.name, f"{user.op} takes the INT8 constant {name}")
                elif user.op == DQ and name == user.input(0) and not constant.shape:
                    yield finding("int8-scalar", user.name, f"the INT8 constant {name} has no dimensions")


def _may_take_int8(user: Node, name: str, graph: Graph) -> bool:
    if user.op == Q or user.op == "Clip":
        return name != user.input(0)  # zero-points, and bounds that are read as settings
    if user.op == "Identity":
        return all(later.op in (Q, DQ) and later.input(0) != user.outputs[0] for later in graph.users(user.outputs[0]))
    return user.op == DQ


def _check_type(node: Node, graph: Graph) -> Iterator[Finding]:
    kind = quantised_type(node, graph)
    name = element_type(kind)
    source = graph.source(node.input(0))
    if node.op == DQ and kind == TensorProto.INT32:
        yield finding("int32-bias", node.name, "DequantizeLinear of INT32")
    elif kind == _UNSIGNED:
        stored = graph.constants.get(source)
        if node.op == DQ and (stored is not None or source in graph.inputs):
            where = "network input" if stored is None else "constant"
            yield finding("uint8-weight", node.name, f"DequantizeLinear of a UINT8 {where}")
        elif node.op == Q and not _shifted(node, graph):
            yield finding("uint8-activation", node.name, "quantised to UINT8")
    elif kind in (TensorProto.INT4, TensorProto.UINT4, TensorProto.INT8):
        if (
            node.op == DQ
            and name != "INT8"
            and any(user.op in ("Conv", "ConvTranspose") for user in graph.users(node.outputs[0]))
        ):
            yield finding("quantised-type", node.name, f"{name} weights of a convolution")
    else:
        yield finding("quantised-type", node.name, f"quantised to {name}")


def _shifted(node: Node, graph: Graph) -> bool:
    zero = constant_of(graph, node.input(2))
    return zero is not None and zero.values is not None and bool(np.any(zero.values.astype(np.float32) != 0))


def _check_numbers(node: Node, graph: Graph) -> Iterator[Finding]:
    if _shifted(node, graph):
        zero = constant_of(graph, node.input(2))
        assert zero is not None and zero.values is not None
        yield finding("zero-point", node.name, f"zero-point {_first(zero.values, zero.values != 0)}")
    scale = constant_of(graph, node.input(1))
    if scale is None:
        if not _is_constant(node.input(1), graph):
            yield finding("scale-not-constant", node.name, "the scale is computed at run time")
        return
    zero = constant_of(graph, node.input(2))
    count = int(np.prod(scale.shape))
    if zero is not None and int(np.prod(zero.shape)) != count:
        yield finding("zero-point-size", node.name, f"{int(np.prod(zero.shape))} zero-points for {count} scales")
    if node.attributes.get("block_size") or len(scale.shape) > 1:
        yield finding("block-quantisation", node.name, f"scale of shape {scale.shape}")
    elif (channels := _channels(node, graph)) is not None and count not in (1, channels):
        yield finding("scale-size", node.name, f"{count} scales for {channels} channels")
    if scale.values is not None:
        yield from _check_scale(node, scale.values)


def _check_scale(node: Node, scale: Array) -> Iterator[Finding]:
    values = scale.astype(np.float64)
    if not np.all(values > 0):
        yield finding("scale-not-positive", node.name, f"scale {_first(values, ~(values > 0))}")
    elif not np.all(np.isfinite(values)):
        yield finding("scale-not-finite", node.name, "scale inf")
    elif scale.dtype == np.float16:
        tiny, huge = values < 2**-14, values * 127 > 65504
        if np.any(tiny | huge):
            what = "loses bits below 6.1e-5" if np.any(tiny) else "overflows at 127 steps"
            yield finding("fp16-scale", node.name, f"FP16 scale {_first(values, tiny | huge):.2g} {what}")


def _first(values: Array, where: Array) -> float:
    return float(values.ravel()[int(np.argmax(np.ravel(where)))])


def _is_constant(name: str, graph: Graph) -> bool:
    """Whether nothing that is fed at run time reaches `name`: the parser folds such a scale."""
    waiting, seen = [name], set()
    while waiting:
        name = waiting.pop()
        if name in graph.inputs:
            return False
        node = graph.makers.get(name)
        if node is not None and id(node) not in seen:
            seen.add(id(node))
            waiting.extend(item for item in node.inputs if item)
    return True


def _channels(node: Node, graph: Graph) -> int | None:
    shape = shape_of(node.input(0), graph)
    axis = int(node.attributes.get("axis", 1))
    if shape is None or not -len(shape) <= axis < len(shape):
        return None
    size = shape[axis]
    return size if isinstance(size, int) else None


def shape_of(name: str, graph: Graph) -> tuple[int | str, ...] | None:
    """Return the shape of a tensor, if the file tells."""
    source = graph.source(name)
    constant = graph.constants.get(source)
    return constant.shape if constant is not None else graph.shapes.get(source)
