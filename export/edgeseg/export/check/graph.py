"""A flat graph of nodes, whatever made it: what the rules look at."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from onnx import TensorProto

from edgeseg.export.check.constants import Constant


@dataclass(frozen=True, slots=True, eq=False)
class Node:
    """One operator. `name` is what TensorRT calls it; an absent optional input is an empty string."""

    op: str
    domain: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: dict[str, Any]

    def input(self, index: int) -> str:
        return self.inputs[index] if index < len(self.inputs) else ""


@dataclass(slots=True)
class Graph:
    """Nodes in the file's order, and who makes and reads each tensor. Element types are `TensorProto` codes."""

    opset: int = 0
    nodes: list[Node] = field(default_factory=list)
    inputs: list[str] = field(default_factory=list)
    """What is fed at run time: initialisers that are listed as inputs too are left out."""
    outputs: list[str] = field(default_factory=list)
    makers: dict[str, Node] = field(default_factory=dict)
    readers: dict[str, list[Node]] = field(default_factory=lambda: defaultdict(list))
    constants: dict[str, Constant] = field(default_factory=dict)
    types: dict[str, int] = field(default_factory=dict)
    shapes: dict[str, tuple[int | str, ...]] = field(default_factory=dict)

    def maker(self, tensor: str) -> Node | None:
        """Return the node that makes `tensor`, looking through Identity; None for an input or a constant."""
        return self.makers.get(self.source(tensor))

    def source(self, tensor: str) -> str:
        """Return the tensor that `tensor` is another name of."""
        while (node := self.makers.get(tensor)) is not None and node.op == "Identity":
            tensor = node.input(0)
        return tensor

    def users(self, tensor: str) -> Iterator[Node]:
        """Yield the nodes that read `tensor`, looking through Identity."""
        waiting = [tensor]
        while waiting:
            for node in self.readers.get(waiting.pop(), ()):
                if node.op == "Identity":
                    waiting.append(node.outputs[0])
                else:
                    yield node

    def is_output(self, tensor: str) -> bool:
        return tensor in self.outputs


def guess_precision(graph: Graph) -> str:
    """Return "int8", "fp16" or "fp32", by what the graph computes in; "model" where it computes in something else."""
    if any(node.op in ("QuantizeLinear", "DequantizeLinear") for node in graph.nodes):
        return "int8"
    kinds = {
        graph.constants[name].dtype for node in graph.nodes for name in node.inputs[1:2] if name in graph.constants
    }
    for name, kind in (("fp16", TensorProto.FLOAT16), ("fp32", TensorProto.FLOAT)):
        if kind in kinds:
            return name
    return "model"
