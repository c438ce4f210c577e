"""Subgraphs laid flat: the names inside get their branch as a prefix, so that sibling branches may share them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import AttributeProto, GraphProto, NodeProto, TensorProto

from edgeseg.export.check.constants import MAX_VALUES, Constant, read_constant
from edgeseg.export.check.graph import Graph, Node
from edgeseg.export.check.skeleton import BIG, subgraphs
from edgeseg.runtime.errors import EdgesegError

MAX_NODES = 100_000


class Flattener:
    """Lays graphs and their subgraphs into one `Graph`."""

    def __init__(self, graph: Graph, folder: Path) -> None:
        self.graph, self.folder = graph, folder

    def lay(self, proto: GraphProto, prefix: str, outer: dict[str, str]) -> None:
        names = dict(outer)
        here = [item.name for item in proto.input] + [item.name for item in proto.initializer]
        here += [name for node in proto.node for name in node.output if name]
        names.update({name: prefix + name for name in here})
        for tensor in proto.initializer:
            self.graph.constants[names[tensor.name]] = self._constant(tensor)
        for info in (*proto.input, *proto.value_info, *proto.output):
            self._describe(names.get(info.name, info.name), info)
        for item in proto.node:
            self._add(item, names, prefix)

    def _constant(self, tensor: TensorProto) -> Constant:
        if tensor.doc_string == BIG:
            return Constant(tensor.data_type, tuple(tensor.dims), None)
        return read_constant(tensor, self.folder)

    def _describe(self, name: str, info: onnx.ValueInfoProto) -> None:
        kind = info.type.tensor_type
        if kind.elem_type:
            self.graph.types[name] = kind.elem_type
        if kind.HasField("shape"):
            dims = kind.shape.dim
            self.graph.shapes[name] = tuple(
                d.dim_value if d.HasField("dim_value") else d.dim_param or "?" for d in dims
            )

    def _add(self, proto: NodeProto, names: dict[str, str], prefix: str) -> None:
        graph = self.graph
        if len(graph.nodes) >= MAX_NODES:
            raise EdgesegError(f"more than {MAX_NODES} nodes", expected="a network for an edge device")
        node = Node(
            op=proto.op_type,
            domain=proto.domain,
            name=proto.name or f"node_of_{next((name for name in proto.output if name), '')}",
            inputs=tuple(names.get(name, name) for name in proto.input),
            outputs=tuple(names.get(name, name) for name in proto.output) or ("",),
            attributes={attribute.name: self._value(attribute) for attribute in proto.attribute},
        )
        constant = node.attributes.get("value")
        if node.op == "Constant":
            if isinstance(constant, Constant):
                graph.constants[node.outputs[0]] = constant
                return
            if (folded := _plain_constant(node)) is not None:
                graph.constants[node.outputs[0]] = folded
                return
        graph.nodes.append(node)
        for name in filter(None, node.outputs):
            if name in graph.makers or name in graph.constants:
                raise EdgesegError(f"tensor {name!r} is made twice", fix="export the model again")
            graph.makers[name] = node
        for name in node.inputs:
            if name:
                graph.readers[name].append(node)
        for count, (branch, inner) in enumerate(subgraphs(proto)):
            self.lay(inner, f"{prefix}{node.name}/{branch}{count}.{len(graph.nodes)}/", names)

    def _value(self, attribute: AttributeProto) -> Any:
        if attribute.type == AttributeProto.TENSOR:
            return self._constant(attribute.t)
        if attribute.type in (AttributeProto.FLOAT, AttributeProto.INT, AttributeProto.FLOATS, AttributeProto.INTS):
            value = onnx.helper.get_attribute_value(attribute)
            return list(value) if attribute.type in (AttributeProto.FLOATS, AttributeProto.INTS) else value
        if attribute.type == AttributeProto.STRING:
            return attribute.s.decode(errors="replace")
        return None


def _plain_constant(node: Node) -> Constant | None:
    """Return the constant of `value_float`, `value_int` and their lists."""
    for key, dtype in (
        ("value_float", np.float32),
        ("value_floats", np.float32),
        ("value_int", np.int64),
        ("value_ints", np.int64),
    ):
        if key in node.attributes and np.size(node.attributes[key]) <= MAX_VALUES:
            values = np.asarray(node.attributes[key], dtype)
            return Constant(onnx.helper.np_dtype_to_tensor_dtype(values.dtype), values.shape, values)
    return None
