"""A model without its large weights: small enough to be copied to shape inference and back."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

import onnx
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, helper

from edgeseg.export.check.constants import read_constant

_Message = TypeVar("_Message", NodeProto, TensorProto)


def _copy(message: _Message) -> _Message:
    copy = type(message)()
    copy.CopyFrom(message)
    return copy


def subgraphs(node: NodeProto) -> Iterator[tuple[str, GraphProto]]:
    for attribute in node.attribute:
        if attribute.type == AttributeProto.GRAPH:
            yield attribute.name, attribute.g
        for graph in attribute.graphs:
            yield attribute.name, graph


BIG = "edgeseg.big"  # marks, in a tensor's doc_string, a constant whose data were taken out


def take_constants(graph: GraphProto, folder: Path) -> None:
    """Check every constant, and empty those that are too large to be a scale: inference would copy them."""
    tensors = list(graph.initializer)
    for sparse in graph.sparse_initializer:
        tensors += [sparse.values, sparse.indices]
    for node in graph.node:
        for attribute in node.attribute:
            tensors += [attribute.t] if attribute.type == AttributeProto.TENSOR else []
            tensors += list(attribute.tensors)
            single = [attribute.sparse_tensor] if attribute.type == AttributeProto.SPARSE_TENSOR else []
            for sparse in (*single, *attribute.sparse_tensors):
                tensors += [sparse.values, sparse.indices]
        for _, inner in subgraphs(node):
            take_constants(inner, folder)
    for tensor in tensors:
        constant = read_constant(tensor, folder)
        if constant.values is None and constant.dtype != TensorProto.STRING:
            name = tensor.name
            tensor.Clear()
            tensor.name, tensor.data_type, tensor.doc_string = name, constant.dtype, BIG
            tensor.dims.extend(constant.shape)


def infer_types(model: ModelProto) -> None:
    """Write inferred types and shapes into `model`; what cannot be inferred stays unknown."""
    skeleton = ModelProto()
    skeleton.CopyFrom(model)
    _describe_big(skeleton.graph)
    try:
        inferred = onnx.shape_inference.infer_shapes(skeleton)
    except Exception:  # the C++ library raises what it likes; a file that it cannot infer is still judged
        return
    _copy_types(inferred.graph, model.graph)


def _describe_big(graph: GraphProto) -> None:
    """Replace every emptied constant by the mere description of its type and shape."""
    small = [tensor for tensor in graph.initializer if tensor.doc_string != BIG]
    for tensor in graph.initializer:
        if tensor.doc_string == BIG:
            graph.value_info.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    kept = []
    for node in graph.node:
        big = [item.t for item in node.attribute if item.type == AttributeProto.TENSOR and item.t.doc_string == BIG]
        if big and node.output:
            graph.value_info.append(helper.make_tensor_value_info(node.output[0], big[0].data_type, big[0].dims))
            continue
        kept.append(node)
        for _, inner in subgraphs(node):
            _describe_big(inner)
    small, kept = [_copy(item) for item in small], [_copy(item) for item in kept]
    del graph.initializer[:], graph.node[:]
    graph.initializer.extend(small)
    graph.node.extend(kept)


def _copy_types(source: GraphProto, target: GraphProto) -> None:
    del target.value_info[:]
    target.value_info.extend(source.value_info)
    del target.output[:]
    target.output.extend(source.output)
    # Nodes that held a large constant are missing from the source, so subgraphs are matched by their order.
    inner = [graph for node in source.node for _, graph in subgraphs(node)]
    for found, graph in zip(inner, [graph for node in target.node for _, graph in subgraphs(node)], strict=False):
        _copy_types(found, graph)
