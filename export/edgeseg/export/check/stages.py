"""The graphs of a bundle laid side by side: which step of a precision's graph answers to which of fp32's."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Literal

import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper

from edgeseg.runtime.errors import ExportError

Kind = Literal["compute", "carry"]
_SKIPPED = frozenset({"QuantizeLinear", "DequantizeLinear"})


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Stage:
    """One step: from tensors of a graph to one of its tensors, and the tensors of fp32 that they answer to.

    "compute" is an operator on its own, fed where its pairs of QuantizeLinear and DequantizeLinear end, so that its
    weights and settings alone are judged. "carry" is what lies between two operators: pairs, and casts.
    """

    kind: Kind
    op: str
    tensor: str
    reference: str
    feeds: tuple[tuple[str, str], ...]
    """Each tensor that is fed, and the tensor of fp32 that it answers to."""
    constants: tuple[tuple[str, str], ...]
    """Each constant of fp32's operator, and what this graph reads in its place."""
    nodes: tuple[NodeProto, ...]
    joined: bool = False
    """Whether a Concat reads the tensor: its grid may then be that of another one, which is wider."""


class Wires:
    """Who makes each tensor of a graph, which are constant, and of which type each is."""

    def __init__(self, model: ModelProto) -> None:
        self.model = model
        self.graph: GraphProto = model.graph
        self.makers = {name: node for node in self.graph.node for name in node.output if name}
        self.constants = {tensor.name: tensor for tensor in self.graph.initializer}
        infos = (*self.graph.input, *self.graph.value_info, *self.graph.output)
        self.types = {info.name: info.type.tensor_type.elem_type for info in infos}
        self.inputs = [item.name for item in self.graph.input if item.name not in self.constants]
        self.live = self._reached_from(self.inputs)
        decided = (name for node in self.graph.node if node.op_type == "ArgMax" for name in node.output)
        self.decided = self._reached_from(decided)
        """Class indices, whatever their type: decibels say nothing of them."""

    def _reached_from(self, names: Iterable[str]) -> set[str]:
        live = set(names)
        for node in self.graph.node:
            if any(name in live for name in node.input):
                live.update(node.output)
        return live

    @property
    def steps(self) -> list[NodeProto]:
        """The operators that a frame passes, without pairs."""
        return [node for node in self.graph.node if node.op_type not in _SKIPPED and node.output[0] in self.live]

    def source(self, tensor: str) -> str:
        """Return the tensor that a pair of QuantizeLinear and DequantizeLinear stands for."""
        while (node := self.makers.get(tensor)) is not None and node.op_type in _SKIPPED:
            tensor = node.input[0]
        return tensor

    def weight_shape(self, node: NodeProto) -> tuple[int, ...]:
        """Return the shape of a convolution's stored weights."""
        stored = self.constants.get(self.source(node.input[1]))
        return tuple(stored.dims) if stored is not None else ()

    def between(self, tensor: str, stops: set[str]) -> tuple[list[NodeProto], list[str]]:
        """Return the nodes from `stops`, and from constants, to `tensor`, in the graph's order, and the stops met."""
        wanted, met, waiting, seen = set[int](), list[str](), [tensor], {tensor}
        while waiting:
            node = self.makers.get(waiting.pop())
            if node is None:
                continue
            wanted.add(id(node))
            for name in node.input:
                if name in stops or name in self.inputs:
                    met += [] if name in met else [name]
                elif name and name not in seen:
                    seen.add(name)
                    waiting.append(name)
        return [node for node in self.graph.node if id(node) in wanted], met

    def cut(self, nodes: Sequence[NodeProto], feeds: Sequence[str], outputs: Sequence[str]) -> bytes:
        """Return a model of these nodes alone."""
        read = {name for node in nodes for name in node.input}
        described = [helper.make_tensor_value_info(name, self.types[name], None) for name in feeds]
        wanted = [helper.make_tensor_value_info(name, self.types[name], None) for name in outputs]
        stored = [tensor for name, tensor in self.constants.items() if name in read and name not in feeds]
        graph = helper.make_graph(nodes, "stage", described, wanted, stored)
        model = helper.make_model(graph, opset_imports=self.model.opset_import, ir_version=self.model.ir_version)
        return bytes(model.SerializeToString())


def read_wires(model: ModelProto) -> Wires:
    """Look up the wires of `model`, whose types are inferred where the file does not tell them."""
    return Wires(onnx.shape_inference.infer_shapes(model, data_prop=True))


def pair_steps(reference: Wires, other: Wires) -> list[tuple[NodeProto, NodeProto]]:
    """Return the operators of both graphs that answer to each other, in the reference's order.

    By name where every convolution has its namesake, else by what they read, their settings and the shapes of their
    constants. Raises `ExportError` if a convolution has no counterpart.
    """
    theirs = {(node.op_type, node.name): node for node in other.steps if node.name}
    ours = reference.steps
    if all((node.op_type, node.name) in theirs for node in ours if node.op_type == "Conv"):
        return [(node, theirs[node.op_type, node.name]) for node in ours if (node.op_type, node.name) in theirs]
    pairs = _pair_by_wiring(reference, other)
    found, wanted = (sum(node.op_type == "Conv" for node in nodes) for nodes in ([two for _, two in pairs], ours))
    if found != wanted:
        raise ExportError(f"{found} convolutions answer to those of fp32", expected=f"{wanted}, as fp32 has")
    return pairs


def _pair_by_wiring(reference: Wires, other: Wires) -> list[tuple[NodeProto, NodeProto]]:
    answers = dict(zip(reference.inputs, other.inputs, strict=False))
    left, pairs = other.steps, list[tuple[NodeProto, NodeProto]]()
    for node in reference.steps:
        read = [answers.get(name) for name in node.input if name in reference.live]
        found = [
            item
            for item in left
            if item.op_type == node.op_type
            and sorted(other.source(name) for name in item.input if name in other.live) == sorted(map(str, read))
            and _settings(item, other) == _settings(node, reference)
        ]
        if found:
            left.remove(found[0])
            pairs.append((node, found[0]))
            answers[node.output[0]] = found[0].output[0]
        elif len(read) == 1 and read[0] is not None:
            answers[node.output[0]] = read[0]  # folded into a scale, as the frame's normalisation is
    return pairs


def _settings(node: NodeProto, wires: Wires) -> tuple[object, ...]:
    """Return what tells operators of one kind apart: attributes, but for types, and the shape of the weights."""
    attributes = sorted(item.SerializeToString() for item in node.attribute if node.op_type != "Cast")
    return (*attributes, wires.weight_shape(node) if node.op_type == "Conv" else None)


def find_stages(reference: Wires, other: Wires) -> Iterator[Stage]:
    """Yield the steps of `other` in the order in which a frame passes them.

    What an operator reads answers to what its fp32 counterpart reads at the same place, whatever it is called and
    whatever lies between. Raises `ExportError` as `pair_steps` does.
    """
    pairs = pair_steps(reference, other)
    answers = {name: name for name in other.inputs}
    answers.update({theirs.output[0]: ours.output[0] for ours, theirs in pairs})
    made = set(answers)
    joined = {name for node in reference.steps if node.op_type == "Concat" for name in node.input}
    for ours, theirs in pairs:
        feeds, constants = list[tuple[str, str]](), list[tuple[str, str]]()
        for left, right in zip_longest(ours.input, theirs.input, fillvalue=""):
            if left in reference.live and right in other.live:
                feeds.append((right, left))
                if right not in answers:
                    answers[right] = left
                    nodes, met = other.between(right, made)
                    yield Stage(
                        kind="carry",
                        op=_tell(nodes),
                        tensor=right,
                        reference=left,
                        feeds=tuple((name, answers[name]) for name in met),
                        constants=(),
                        nodes=tuple(nodes),
                        joined=left in joined,
                    )
            elif left and right:
                constants.append((left, right))
        own, _ = other.between(theirs.output[0], {name for name, _ in feeds})
        yield Stage(
            kind="compute",
            op=theirs.op_type,
            tensor=theirs.output[0],
            reference=ours.output[0],
            feeds=tuple(dict.fromkeys(feeds)),
            constants=tuple(constants),
            nodes=tuple(own),
        )


def _tell(nodes: Sequence[NodeProto]) -> str:
    return " ".join(dict.fromkeys(node.op_type for node in nodes)) or "Identity"


def is_float(kind: int) -> bool:
    return kind in (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE)
