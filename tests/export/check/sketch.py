"""Small ONNX graphs in a few words: what the tables of graphs are written with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper, numpy_helper

Array = NDArray[Any]
Make = Callable[[], ModelProto]


class Net:
    """A graph under construction. Methods return the name of the tensor that they make; weights are random, seeded."""

    def __init__(self, opset: int = 17, *, float_type: Any = np.float32) -> None:
        self.opset, self.float_type = opset, float_type
        self.nodes: list[onnx.NodeProto] = []
        self.inputs: list[onnx.ValueInfoProto] = []
        self.outputs: list[onnx.ValueInfoProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self._random = np.random.default_rng(0)
        self._count = 0

    def fresh(self, stem: str) -> str:
        self._count += 1
        return f"{stem}_{self._count}"

    def input(self, shape: Sequence[int | str], dtype: int = TensorProto.FLOAT, name: str = "x") -> str:
        self.inputs.append(helper.make_tensor_value_info(name, dtype, shape))
        return name

    def output(self, name: str, dtype: int = TensorProto.FLOAT) -> None:
        self.outputs.append(helper.make_tensor_value_info(name, dtype, None))

    def constant(self, value: Any, name: str | None = None) -> str:
        name = name or self.fresh("constant")
        self.initializers.append(numpy_helper.from_array(np.asarray(value, order="C"), name))
        return name

    def real(self, value: Any) -> str:
        return self.constant(np.asarray(value, self.float_type))

    def op(self, kind: str, *inputs: str, name: str | None = None, domain: str = "", **attributes: Any) -> str:
        name = self.fresh(kind.lower()) if name is None else name
        out = f"{name or self.fresh('t')}_out"
        self.nodes.append(helper.make_node(kind, inputs, [out], name=name, domain=domain, **attributes))
        return out

    def quantize(self, x: str, scale: Any = 0.05, zero: Any = 0, dtype: Any = np.int8, **attributes: Any) -> str:
        points = np.full(np.shape(scale), zero, dtype)
        return self.op("QuantizeLinear", x, self.real(scale), self.constant(points), **attributes)

    def dequantize(self, q: str, scale: Any = 0.05, zero: Any = 0, dtype: Any = np.int8, **attributes: Any) -> str:
        points = np.full(np.shape(scale), zero, dtype)
        return self.op("DequantizeLinear", q, self.real(scale), self.constant(points), **attributes)

    def qdq(self, x: str, scale: Any = 0.05, zero: Any = 0, dtype: Any = np.int8) -> str:
        """A pair that shares its scale and zero-point tensors."""
        scale_name, zero_name = self.real(scale), self.constant(np.full(np.shape(scale), zero, dtype))
        q = self.op("QuantizeLinear", x, scale_name, zero_name)
        return self.op("DequantizeLinear", q, scale_name, zero_name)

    def numbers(self, *shape: int) -> Array:
        values = self._random.standard_normal(shape) / np.sqrt(max(1, int(np.prod(shape[1:]))))
        return np.asarray(values, self.float_type)

    def weight(self, *shape: int, axis: int = 0, zero: int = 0) -> str:
        """INT8 weights behind a DequantizeLinear, per channel along `axis`."""
        real = self.numbers(*shape).astype(np.float32)
        others = tuple(i for i in range(len(shape)) if i != axis)
        scale = np.abs(real).max(others) / 127
        column = scale.reshape([-1 if i == axis else 1 for i in range(len(shape))])
        stored = self.constant(np.clip(np.round(real / column), -127, 127).astype(np.int8))
        return self.dequantize(stored, scale, zero, axis=axis)

    def conv(
        self, x: str, cin: int, cout: int, kernel: int = 3, *, weight: str | None = None, name: str | None = None,
        bias: str | None = None, group: int = 1, quantized: bool = True, **attributes: Any,
    ) -> str:  # fmt: skip
        """A convolution; `quantized` puts a pair before it and INT8 weights beside it."""
        if weight is None:
            shape = (cout, cin // group, kernel, kernel)
            weight = self.weight(*shape) if quantized else self.constant(self.numbers(*shape))
        source = self.qdq(x) if quantized else x
        bias = self.constant(self.numbers(cout)) if bias is None else bias
        inputs = [source, weight, *([bias] if bias else [])]
        attributes.setdefault("pads", [kernel // 2] * 4)
        return self.op("Conv", *inputs, name=name, group=group, **attributes)

    def model(self) -> onnx.ModelProto:
        graph = helper.make_graph(self.nodes, "sketch", self.inputs, self.outputs, self.initializers)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=9)


class Case(NamedTuple):
    """A graph, what the rules must say of it, and what NVIDIA's compiler makes of it."""

    name: str
    make: Make
    rules: frozenset[str]
    """Every rule that must be found broken, and no other."""
    compiled: str
    """"rejected", or convolutions compiled with INT8 inputs of all: "1/2"."""


CASES: list[Case] = []


def case(compiled: str, *rules: str) -> Callable[[Make], Make]:
    """Enter a function that makes a graph into the table, under its own name."""

    def enter(make: Make) -> Make:
        add_case(make.__name__, make, compiled, *rules)
        return make

    return enter


def add_case(name: str, make: Make, compiled: str, *rules: str) -> None:
    """Enter a graph into the table."""
    CASES.append(Case(name, make, frozenset(rules), compiled))


def start(opset: int = 17, cin: int = 32, float_type: Any = np.float32) -> tuple[Net, str]:
    """A net with an input of `cin` channels."""
    net = Net(opset, float_type=float_type)
    return net, net.input([1, cin, 16, 16], TensorProto.FLOAT16 if float_type is np.float16 else TensorProto.FLOAT)


def body(net: Net, x: str = "x", cin: int = 32) -> str:
    """A quantised convolution and its activation."""
    return net.op("Relu", net.conv(x, cin, 32, name="first"))


def done(net: Net, *outputs: str, dtype: int = TensorProto.FLOAT) -> ModelProto:
    """The model with these outputs."""
    for output in outputs:
        net.output(output, dtype)
    return net.model()
