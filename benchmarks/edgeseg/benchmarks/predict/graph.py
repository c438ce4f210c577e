"""What a network asks of a device: for each kernel its arithmetic and the bytes that it touches.

Counted so that the bound stays one: only operators that TensorRT gives a kernel of their own are kernels here, and all
others (activations, additions, casts, Q/DQ, concatenation) are taken as fused into them at no cost.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from edgeseg.runtime.errors import EdgesegError

_MATRIX = frozenset({"Conv", "ConvTranspose", "Gemm"})
_KERNELS = _MATRIX | {"MatMul", "MaxPool", "AveragePool", "GlobalAveragePool", "Resize", "ArgMax"}
# What may stand between a weight and the initializer that holds it.
_WEIGHT_PATH = frozenset({"DequantizeLinear", "QuantizeLinear", "Identity", "Cast", "Transpose", "Reshape"})

Shape = tuple[int, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Kernel:
    """One operator that runs by itself. Sizes are in elements."""

    name: str
    operator: str
    macs: int
    """Multiplications with addition; 0 for what is not Conv, ConvTranspose or Gemm."""
    parameters: int
    """Weights and biases."""
    reads: tuple[int, ...]
    """Sizes of the tensors that it reads, weights not among them."""
    writes: int
    quantised: bool
    """Whether its input comes straight from a DequantizeLinear."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Work:
    """A network's kernels in order."""

    kernels: tuple[Kernel, ...]
    quantised: bool
    """Whether the graph has Q/DQ at all."""

    @property
    def macs(self) -> int:
        return sum(kernel.macs for kernel in self.kernels)

    @property
    def parameters(self) -> int:
        return sum(kernel.parameters for kernel in self.kernels)


def read_work(path: Path) -> Work:
    """Read the ONNX file at `path`. Raises `EdgesegError` if it is none, or if a shape is not known."""
    try:
        model = onnx.load(path, load_external_data=False)  # shapes are all that is wanted
        if not model.graph.node:
            raise EdgesegError(f"{path.name} is not an ONNX model", fix="export or copy the file again")
        return count_work(model)
    except OSError as error:
        raise EdgesegError(f"cannot read {path}: {error.strerror}", fix="name an ONNX file or a bundle") from error
    except (DecodeError, onnx.shape_inference.InferenceError, IndexError) as error:
        raise EdgesegError(f"{path.name} is not an ONNX model", fix="export or copy the file again") from error


def count_work(model: onnx.ModelProto) -> Work:
    """Count the work of a model with one static shape. Raises `EdgesegError` naming a tensor whose shape is unknown."""
    graph = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    constants = set(shapes)
    for info in (*graph.input, *graph.value_info, *graph.output):
        dims = info.type.tensor_type.shape.dim
        if info.type.tensor_type.HasField("shape") and all(dim.HasField("dim_value") for dim in dims):
            shapes.setdefault(info.name, tuple(dim.dim_value for dim in dims))
    makers: dict[str, onnx.NodeProto] = {}
    kernels = []
    for node in graph.node:
        makers.update(dict.fromkeys(node.output, node))
        if node.op_type == "Constant" or (
            node.op_type in _WEIGHT_PATH and all(name in constants for name in node.input if name)
        ):
            constants.update(node.output)
        elif node.op_type in _KERNELS:
            kernels.append(_count(node, shapes, constants, makers))
    quantised = any(node.op_type == "DequantizeLinear" for node in graph.node)
    return Work(kernels=tuple(kernels), quantised=quantised)


def _count(
    node: onnx.NodeProto, shapes: dict[str, Shape], constants: set[str], makers: dict[str, onnx.NodeProto]
) -> Kernel:
    def shape(name: str) -> Shape:
        if name not in shapes:
            raise EdgesegError(
                f"the shape of {name!r}, which {node.op_type} {node.name!r} uses, is not known",
                expected="a graph with one static shape",
                fix="export it with a fixed input size",
            )
        return shapes[name]

    used = [name for name in node.input if name]
    # A resize's scales and the like are given by constants too, but are no weights.
    weights = [shape(name) for name in used if name in constants] if node.op_type in _MATRIX else []
    maker = makers.get(used[0])
    return Kernel(
        name=node.name or node.output[0],
        operator=node.op_type,
        macs=_macs(node, shape) if node.op_type in _MATRIX else 0,
        parameters=sum(math.prod(dims) for dims in weights),
        reads=tuple(math.prod(shape(name)) for name in used if name not in constants),
        writes=math.prod(shape(node.output[0])),
        quantised=maker is not None and maker.op_type == "DequantizeLinear",
    )


def _macs(node: onnx.NodeProto, shape: Callable[[str], Shape]) -> int:
    """Count multiplications with addition; a convolution's padding counts, as in everyone's figures."""
    out, weight = shape(node.output[0]), shape(node.input[1])
    if node.op_type == "Conv":  # weight (out, in / groups, kernel...)
        return math.prod(out) * math.prod(weight[1:])
    if node.op_type == "ConvTranspose":  # weight (in, out / groups, kernel...)
        return math.prod(shape(node.input[0])) * math.prod(weight[1:])
    transposed = any(attribute.name == "transB" and attribute.i for attribute in node.attribute)
    return math.prod(out) * weight[1 if transposed else 0]
