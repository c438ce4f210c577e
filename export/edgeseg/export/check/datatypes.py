"""Element types, sizes and operator sets that TensorRT limits."""

from __future__ import annotations

from collections.abc import Iterator

from onnx import TensorProto

from edgeseg.export.check.constants import element_type
from edgeseg.export.check.findings import Finding, finding
from edgeseg.export.check.graph import Graph, Node
from edgeseg.export.check.qdq import DQ, Q

MAX_OPSET = 20
_INTEGERS = frozenset({TensorProto.INT32, TensorProto.INT64, TensorProto.BOOL, TensorProto.INT8})
# What an exporter computes shapes with: INT64 is at home there.
_SHAPE_SOURCES = frozenset({"Shape", "Size", "ConstantOfShape", "Range"})
_INDEX_READERS = frozenset({"Gather", "GatherElements", "GatherND", "ScatterND", "ScatterElements", "OneHot"})


def check_datatypes(graph: Graph) -> Iterator[Finding]:
    """Yield findings on the operator set, dynamic sizes, UINT8 and INT64."""
    if graph.opset > MAX_OPSET:
        yield finding("opset-over-20", "model", f"opset {graph.opset}")
    for name in graph.inputs:
        shape = graph.shapes.get(name, ())
        if any(not isinstance(size, int) for size in shape):
            yield finding("dynamic-shape", name, f"input of shape ({', '.join(map(str, shape))})")
    yield from _check_uint8(graph)
    yield from _check_int64(graph)


def _check_uint8(graph: Graph) -> Iterator[Finding]:
    for name in graph.inputs:
        if graph.types.get(name) == TensorProto.UINT8:
            for user in graph.readers.get(name, ()):
                if user.op not in ("Cast", DQ) and not graph.is_output(user.outputs[0]):
                    yield finding("uint8-input-not-cast", user.name, f"{user.op} reads the UINT8 input {name}")
    for node in graph.nodes:
        if node.op == "Cast" and node.attributes.get("to") == TensorProto.UINT8:
            yield from _check_cast(node, graph)


def _check_cast(node: Node, graph: Graph) -> Iterator[Finding]:
    if not graph.is_output(node.outputs[0]):
        # A zero-point that was cast is folded.
        if any(graph.source(node.input(0)) in graph.makers or node.input(0) in graph.inputs for _ in (0,)) and not all(
            user.op in (Q, DQ) and graph.source(user.input(0)) != node.outputs[0]
            for user in graph.users(node.outputs[0])
        ):
            yield finding("uint8-inside", node.name, "Cast to UINT8 inside the network")
        return
    kind = graph.types.get(graph.source(node.input(0)))
    if kind in _INTEGERS:
        yield finding("uint8-output-from-integer", node.name, f"Cast from {element_type(kind)} to the UINT8 output")


def _check_int64(graph: Graph) -> Iterator[Finding]:
    for name in graph.inputs:
        if graph.types.get(name) == TensorProto.INT64:
            yield finding("int64-data", name, "input in INT64")
    for node in graph.nodes:
        for name in node.outputs:
            if graph.types.get(name) != TensorProto.INT64 or not _is_data(name, graph):
                continue
            if graph.is_output(name):
                yield finding("int64-data", node.name, f"output {name} in INT64")
            elif any(user.op not in ("Cast", *_INDEX_READERS) for user in graph.users(name)):
                yield finding("int64-data", node.name, f"{node.op} hands on INT64")


def _is_data(name: str, graph: Graph) -> bool:
    """Whether an INT64 tensor holds data that arose in the network: neither a constant nor computed from shapes."""
    waiting, seen = [name], {name}
    while waiting:
        node = graph.makers.get(waiting.pop())
        if node is None or node.op in _SHAPE_SOURCES:
            continue
        for above in node.inputs:
            kind = graph.types.get(above)
            if above in graph.inputs or (above in graph.makers and kind is not None and kind != TensorProto.INT64):
                return True
            if above and above not in seen:
                seen.add(above)
                waiting.append(above)
    return False
