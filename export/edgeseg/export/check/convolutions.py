"""Each convolution: can TensorRT run it in INT8, and as one kernel with what follows?"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from onnx import TensorProto

from edgeseg.export.check.constants import element_type
from edgeseg.export.check.findings import FLOAT_RULES, Finding, Verdict, finding
from edgeseg.export.check.graph import Graph, Node
from edgeseg.export.check.qdq import DQ, Q, constant_of, float_type, shape_of
from edgeseg.export.check.walk import Walker, Way, same_scales

CONVOLUTIONS = ("Conv", "ConvTranspose")
_ACTIVATIONS = frozenset(
    {
        *(
            "Relu",
            "Clip",
            "LeakyRelu",
            "PRelu",
            "Elu",
            "Selu",
            "Sigmoid",
            "Tanh",
            "HardSigmoid",
            "HardSwish",
            "Softplus",
        ),
        *("Swish", "Mish", "Gelu", "Celu", "ThresholdedRelu"),
    }
)
_CHANNEL_STEP = 16


def check_convolutions(graph: Graph, broken: set[str]) -> Iterator[tuple[Verdict, list[Finding]]]:
    """Yield, for each Conv and ConvTranspose and each quantised Gemm and MatMul, the verdict and its findings.

    `broken` names the pairs that the compiler rejects: what hangs on one of them does not run in INT8.
    """
    quantised = any(node.op in (Q, DQ) for node in graph.nodes)
    walker = Walker(graph)
    for node in graph.nodes:
        if node.op not in (*CONVOLUTIONS, "Gemm", "MatMul"):
            continue
        source, weight = walker.back(node.input(0)), walker.back(node.input(1), weights=True)
        if node.op not in CONVOLUTIONS and source.dq is None and weight.dq is None:
            continue
        found = list(_check_one(node, source, weight, graph)) if quantised else []
        pairs = [way.dq for way in (source, weight) if way.dq is not None]
        whole = quantised and len(pairs) == 2 and not any(pair.name in broken for pair in pairs)
        int8 = whole and not any(item.rule in FLOAT_RULES for item in found)
        behind = list(_check_behind(node, graph)) if quantised and int8 else []
        verdict = Verdict(
            node=node.name,
            op=node.op,
            int8=int8,
            fused=int8 and not behind,
            rules=tuple(dict.fromkeys(item.rule for item in (*found, *behind))),
        )
        yield verdict, found + behind


def _check_one(node: Node, source: Way, weight: Way, graph: Graph) -> Iterator[Finding]:
    if source.dq is None and weight.dq is None and not source.quantised_before:
        yield finding("convolution-in-float", node.name, f"{node.op} with neither input nor weights quantised")
    else:
        yield from _check_source(node, source, graph)
        yield from _check_weight(node, weight, graph)
    yield from _check_types(node, graph)
    if node.op == "ConvTranspose":
        yield finding("deconvolution-in-float", node.name, "ConvTranspose")
    elif node.op == "Conv" and source.dq is not None and weight.dq is not None:
        yield from _check_channels(node, graph)


def _check_source(node: Node, way: Way, graph: Graph) -> Iterator[Finding]:
    if way.unshared is not None:
        yield finding("concat-scales", node.name, f"Concat {way.unshared.name} joins unequal scales before {node.op}")
    elif way.dq is None and way.stop is not None and way.quantised_before:
        yield finding(
            "between-dq-and-consumer", node.name, f"{way.stop.op} {way.stop.name} between the pair and {node.op}"
        )
    elif way.dq is None:
        yield finding("activation-not-quantised", node.name, f"input of {node.op} in float")
    else:
        yield from _check_scale_shape(node, way.dq, graph)
        if way.moved is not None:
            yield finding(
                "movement-between-dq-and-consumer",
                node.name,
                f"{way.moved.op} {way.moved.name} between the pair and {node.op}",
            )


def _check_scale_shape(node: Node, dq: Node, graph: Graph) -> Iterator[Finding]:
    maker = graph.maker(dq.input(0))
    pair = [dq, maker] if maker is not None and maker.op == Q else [dq]
    scales = [constant_of(graph, item.input(1)) for item in pair]
    shapes = [item.shape for item in scales if item is not None]
    if any(int(np.prod(shape)) > 1 for shape in shapes):
        yield finding("activation-per-channel", node.name, f"input of {node.op} with a scale per channel")
    elif any(shapes):
        yield finding("activation-scale-vector", node.name, f"input of {node.op} with a scale of shape (1,)")


def _check_weight(node: Node, way: Way, graph: Graph) -> Iterator[Finding]:
    if way.dq is None and way.stop is not None and way.quantised_before:
        yield finding("between-weight-and-consumer", node.name, f"{way.stop.op} {way.stop.name} on the weights")
        return
    if way.dq is None:
        yield finding("weight-not-quantised", node.name, f"weights of {node.op} in float")
        return
    scale = constant_of(graph, way.dq.input(1))
    if scale is None or len(scale.shape) != 1 or scale.shape[0] == 1:
        return
    stored, used = (
        shape_of(way.dq.outputs[0], graph) or shape_of(way.dq.input(0), graph),
        shape_of(node.input(1), graph),
    )
    if stored is None or (way.moved is not None and stored != used):
        return  # what moves the weights moves their axis with them
    axis = int(way.dq.attributes.get("axis", 1)) % len(stored)
    expected = _weight_axis(node, len(stored))
    if axis != expected and way.moved is None:
        yield finding("weight-axis", node.name, f"weights of {node.op} with scales along axis {axis}, not {expected}")


def _weight_axis(node: Node, rank: int) -> int:
    if node.op == "Conv":
        return 0
    if node.op == "ConvTranspose":
        return 1 if int(node.attributes.get("group", 1)) == 1 else 0
    return 0 if node.op == "Gemm" and node.attributes.get("transB") else rank - 1


def _check_types(node: Node, graph: Graph) -> Iterator[Finding]:
    kinds = [float_type(name, graph) for name in node.inputs[:3] if name]
    known = {TensorProto.FLOAT if kind == TensorProto.DOUBLE else kind for kind in kinds if kind is not None}
    if len(known) > 1:
        yield finding("mixed-types", node.name, f"{node.op} of {', '.join(sorted(map(element_type, known)))}")


def _check_channels(node: Node, graph: Graph) -> Iterator[Finding]:
    shape = shape_of(node.input(1), graph)
    if shape is None or len(shape) < 2 or int(node.attributes.get("group", 1)) != 1:
        return
    cout, cin = shape[:2]
    odd = [
        f"{name} {size}"
        for name, size in (("Cin", cin), ("Cout", cout))
        if isinstance(size, int) and size % _CHANNEL_STEP
    ]
    if odd:
        yield finding("channel-alignment", node.name, " and ".join(odd))


def _check_behind(node: Node, graph: Graph) -> Iterator[Finding]:
    """Look at what follows: BatchNormalization and activation at once, then the pair; in an Add, a pair on the skip."""
    tensor = node.outputs[0]
    users = list(graph.users(tensor))
    if len(users) == 1 and users[0].op == "BatchNormalization":
        tensor = users[0].outputs[0]
        users = list(graph.users(tensor))
    for user in users:
        if user.op == Q:
            for later in (
                last for dq in graph.users(user.outputs[0]) if dq.op == DQ for last in graph.users(dq.outputs[0])
            ):
                if later.op == "BatchNormalization":
                    yield finding("between-conv-and-batchnorm", node.name, f"a pair between {node.op} and {later.name}")
                    break
                if _is_activation(later, graph):
                    yield finding("between-conv-and-activation", node.name, f"a pair between {node.op} and {later.op}")
                    break
        elif user.op == "Add" and len(users) == 1:
            other = next((name for name in user.inputs if graph.source(name) != graph.source(tensor)), "")
            maker = graph.maker(other)
            if (
                maker is not None
                and maker.op != DQ
                and constant_of(graph, other) is None
                and _is_first(node, other, graph)
            ) or (maker is None and graph.source(other) in graph.inputs):
                yield finding("skip-not-quantised", node.name, f"the other input of Add {user.name} comes in float")


def _is_activation(node: Node, graph: Graph) -> bool:
    if node.op != "Mul":
        return node.op in _ACTIVATIONS
    # x * sigmoid(x)
    makers = [graph.maker(name) for name in node.inputs]
    return any(maker is not None and maker.op in ("Sigmoid", "HardSigmoid", "Tanh") for maker in makers)


def _is_first(node: Node, other: str, graph: Graph) -> bool:
    """Where two convolutions meet in an Add, one of them is the skip: the finding goes to the other, the later one."""
    maker = graph.maker(other)
    if maker is not None and maker.op == "BatchNormalization":
        maker = graph.maker(maker.input(0))
    return maker is None or maker.op not in CONVOLUTIONS or graph.nodes.index(maker) < graph.nodes.index(node)


def check_joins(graph: Graph) -> Iterator[Finding]:
    """Yield Concats whose inputs are quantised with unequal scales, and Clips between Q and DQ."""
    for node in graph.nodes:
        if node.op == "Concat":
            pairs = [maker for name in node.inputs if (maker := graph.maker(name)) is not None and maker.op in (Q, DQ)]
            if len(pairs) > 1 and not same_scales(pairs, graph):
                direct = any(user.op in CONVOLUTIONS for user in graph.users(node.outputs[0]))
                if not direct:
                    yield finding("concat-scales", node.name, "inputs with unequal scales", severity="advice")
        elif node.op == "Clip":
            maker = graph.maker(node.input(0))
            users = list(graph.users(node.outputs[0]))
            if maker is not None and maker.op == Q and any(user.op == DQ for user in users):
                yield finding("clip-between-q-and-dq", node.name, f"Clip between {maker.name} and DequantizeLinear")
