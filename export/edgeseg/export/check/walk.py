"""The way from a convolution's input back to the pair of QuantizeLinear and DequantizeLinear that it comes from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from onnx import TensorProto

from edgeseg.export.check.graph import Graph, Node
from edgeseg.export.check.qdq import DQ, FLOATS, constant_of

# TensorRT-RTX carries a pair over these without a finding, or by moving data ("ran": mid_* of the tests).
_SILENT = frozenset({"Identity", "Dropout", "Cast", "MaxPool", "GlobalMaxPool", "ReduceMax"})
_MOVING = frozenset(
    {
        *(
            "Reshape",
            "Transpose",
            "Flatten",
            "Squeeze",
            "Unsqueeze",
            "Pad",
            "Slice",
            "Split",
            "Gather",
            "Expand",
            "Tile",
        ),
        *("DepthToSpace", "SpaceToDepth", "Neg", "Abs", "Mul", "Div"),
    }
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Way:
    """From a consumer's input back to a pair: the DQ, or the node that stopped the walk, and what was passed."""

    dq: Node | None
    stop: Node | None = None
    moved: Node | None = None
    """The first operator on the way that only moves data or scales it."""
    unshared: Node | None = None
    """A Concat on the way whose inputs have different scales."""
    quantised_before: bool = False
    """Whether a pair lies beyond `stop`."""


_MAX_DEPTH = 64


class Walker:
    """Walks back over one graph. What was found is kept: Concats of Concats would be walked again and again."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._known: dict[tuple[str, bool], Way] = {}

    def back(self, name: str, *, weights: bool = False, depth: int = 0) -> Way:
        """Go from a tensor back to the DequantizeLinear that it comes from, over what TensorRT carries a pair across.

        `weights` are folded when the engine is built, so they may also be multiplied by a factor for each channel.
        """
        key = (name, weights)
        if key not in self._known:
            self._known[key] = self._walk(name, weights, depth)
        return self._known[key]

    def _walk(self, name: str, weights: bool, depth: int) -> Way:
        graph, moved = self._graph, None
        casts: list[int] = []
        while True:
            node = graph.maker(name)
            if node is None:
                return Way(dq=None, moved=moved)
            if node.op == DQ:
                return Way(dq=node, moved=moved)
            if node.op == "Concat" and depth < _MAX_DEPTH:
                return self._walk_concat(node, moved, depth + 1)
            if not _passes(node, graph, weights=weights) or (node.op == "Cast" and not _one_cast(node, casts)):
                return Way(dq=None, stop=node, moved=moved, quantised_before=_pair_above(node, graph))
            if node.op in _MOVING and moved is None:
                moved = node
            name = _carried(node, graph)

    def _walk_concat(self, node: Node, moved: Node | None, depth: int) -> Way:
        ways = [self.back(name, depth=depth) for name in node.inputs]
        found = [way.dq for way in ways if way.dq is not None]
        if not found or len(found) < len(ways):
            return Way(dq=None, stop=node, moved=moved, quantised_before=bool(found))
        if not same_scales(found, self._graph):
            return Way(dq=None, stop=node, moved=moved, unshared=node, quantised_before=True)
        return Way(dq=found[0], moved=moved or next((way.moved for way in ways if way.moved), None))


def _one_cast(node: Node, casts: list[int]) -> bool:
    """A single change of the float type is carried; there and back again is not. DOUBLE counts as FLOAT."""
    to = int(node.attributes.get("to", 1))
    casts.append(TensorProto.FLOAT if to == TensorProto.DOUBLE else to)
    return to in FLOATS and len(set(casts)) == 1


def _carried(node: Node, graph: Graph) -> str:
    """Return the input that carries the data: a Mul or Div may have its constant on either side."""
    if node.op in ("Mul", "Div") and constant_of(graph, node.input(0)) is not None:
        return node.input(1)
    return node.input(0)


def _passes(node: Node, graph: Graph, *, weights: bool) -> bool:
    if node.op in ("Mul", "Div"):
        sides = [constant_of(graph, name) for name in node.inputs]
        return any(side is not None and (weights or int(np.prod(side.shape)) == 1) for side in sides)
    if node.op == "Pad" and node.attributes.get("mode", "constant") == "constant":
        filler = constant_of(graph, node.input(2))
        return not node.input(2) or (filler is not None and filler.values is not None and not filler.values.any())
    return node.op in _SILENT or node.op in _MOVING


def same_scales(nodes: list[Node], graph: Graph) -> bool:
    """Whether all pairs have the same scale, or one whose value is not known."""
    scales = [constant_of(graph, node.input(1)) for node in nodes]
    values = [item.values.ravel() for item in scales if item is not None and item.values is not None]
    return all(item.shape == values[0].shape and bool(np.all(item == values[0])) for item in values)


def _pair_above(node: Node, graph: Graph, limit: int = 64) -> bool:
    """Whether a DequantizeLinear lies shortly above `node`, before the next convolution."""
    waiting, seen = [node], {id(node)}
    while waiting and len(seen) < limit:
        for name in waiting.pop().inputs:
            above = graph.maker(name)
            if above is None or id(above) in seen or above.op in ("Conv", "ConvTranspose", "Gemm", "MatMul"):
                continue
            if above.op == DQ:
                return True
            seen.add(id(above))
            waiting.append(above)
    return False
