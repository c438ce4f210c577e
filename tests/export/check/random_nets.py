"""Random small networks, quantised as tools do it: for comparing rules and compiler. The same seed, the same net.

Not valid INT8 by intent: pairs are dropped, doubled, unshared and put where they do harm.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import ModelProto, TensorProto, helper
from tests.export.check.sketch import Net

_ACTIVATIONS = (
    *("Relu", "Relu", "Clip", "none", "LeakyRelu", "PRelu", "HardSwish", "silu", "Sigmoid", "HardSigmoid", "Tanh"),
    *("hswish", "Gelu", "Mish", "Elu", "Softplus"),
)  # fmt: skip
_SINCE = {"HardSwish": 14, "Gelu": 20, "Mish": 18}
_MAX_SIZE = 32


def build_random(seed: int) -> ModelProto:
    """Return network number `seed`. Every one is valid ONNX."""
    maker = _Maker(np.random.default_rng(seed))
    model = maker.finish()
    onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True)
    return model


class _Maker:
    """Puts blocks behind one another; `x` is the last tensor, `channels` and `size` its shape."""

    def __init__(self, random: np.random.Generator) -> None:
        self._random = random
        half = self.chance(0.2)
        self.opset = 19 + int(random.integers(3)) if half else int(random.choice([13, 15, 17, 18, 20, 21]))
        self.rank = int(random.choice([2, 2, 2, 2, 2, 1, 3]))
        self.both, self.bias, self.shared = self.chance(0.4), self.chance(0.5), self.chance(0.5)
        self.dropped = 0.15 if self.chance(0.3) else 0.0
        self.vector = self.chance(0.05)
        self.weights = self.pick("int8", "int8", "pair", "transpose", "per tensor")
        self.net = Net(self.opset, float_type=np.float16 if half else np.float32)
        self._kind = TensorProto.FLOAT16 if half else TensorProto.FLOAT
        self.channels, self.size = self.pick(3, 8, 16, 32), [8 if self.rank == 3 else 16] * self.rank
        batch: int | str = "N" if self.chance(0.12) else 1
        self._pairs: dict[str, str] = {}
        if self.rank == 2 and self.chance(0.15):
            x = self.net.input([batch, *self.size, self.channels], self._kind)
            self.x = self.net.op("Transpose", x, perm=[0, 3, 1, 2])
        else:
            self.x = self.net.input([batch, self.channels, *self.size], self._kind)

    def finish(self) -> ModelProto:
        blocks = (
            *(self.layer, self.layer, self.depthwise, self.grouped, self.residual, self.projected, self.pool),
            *(self.resize, self.concat, self.move, self.squeeze, self.deconvolve, self.scale, self.shuffle),
            *(self.split, self.cast, self.arithmetic, self.attend),
        )
        self.layer()
        for _ in range(int(self._random.integers(1, 6))):
            self.pick(*blocks)()
        self.net.output(self.x, self._kind)
        return self.net.model()

    def chance(self, share: float) -> bool:
        return bool(self._random.random() < share)

    def pick(self, *choices: Any) -> Any:
        return choices[int(self._random.integers(len(choices)))]

    def ints(self, *values: int) -> str:
        return self.net.constant(np.array(values, np.int64))

    def qdq(self, x: str, scale: float | None = None) -> str:
        if scale is None:
            if self.chance(self.dropped):
                return x
            if self.shared and x in self._pairs:
                return self._pairs[x]
        value: Any = self.pick(0.02, 0.05, 0.1) if scale is None else scale
        self._pairs[x] = self.net.qdq(x, [value] if self.vector else value)
        return self._pairs[x]

    def maybe(self, x: str, share: float = 0.5) -> str:
        return self.qdq(x) if self.chance(share) else x

    def after(self, x: str) -> str:
        return self.maybe(x, 0.8) if self.both else x

    def weight(self, *shape: int, axis: int = 0) -> str:
        net = self.net
        if self.chance(self.dropped):
            return net.constant(net.numbers(*shape))
        if self.weights == "transpose" and len(shape) == 4 and axis == 0:
            stored = net.weight(shape[2], shape[3], shape[1], shape[0], axis=3)
            return net.op("Transpose", stored, perm=[3, 2, 0, 1])
        if self.weights == "per tensor":
            return net.dequantize(net.constant(self._random.integers(-127, 128, shape).astype(np.int8)), 0.01)
        if self.weights == "pair":
            scales = np.full(shape[axis], 0.01)
            stored = net.quantize(net.constant(net.numbers(*shape)), scales, axis=axis)
            return net.dequantize(stored, scales, axis=axis)
        return net.weight(*shape, axis=axis)

    def conv(self, x: str, cin: int, cout: int, kernel: int | None = None, *, group: int = 1, stride: int = 1) -> str:
        kernel = kernel or self.pick(1, 3)
        dilation = 2 if kernel == 3 and self.chance(0.15) else 1
        attributes: dict[str, Any] = {"pads": [dilation * (kernel // 2)] * 2 * self.rank}
        if dilation == 1 and self.chance(0.2):
            attributes = {"auto_pad": "SAME_UPPER"}
        inputs = [self.qdq(x), self.weight(cout, cin // group, *[kernel] * self.rank)]
        inputs += [self.net.constant(self.net.numbers(cout))] if self.bias else []
        attributes |= {"dilations": [dilation] * self.rank, "strides": [stride] * self.rank, "group": group}
        return self.net.op("Conv", *inputs, kernel_shape=[kernel] * self.rank, **attributes)

    def activate(self, x: str) -> str:
        net, kind = self.net, self.pick(*_ACTIVATIONS)
        if kind == "none" or self.opset < _SINCE.get(kind, 0):
            return x
        x = self.maybe(x, 0.3) if self.both else x
        if kind == "Clip":
            return net.op("Clip", x, net.real(0), net.real(6))
        if kind == "PRelu":
            return net.op("PRelu", x, net.constant(np.full((1,) * (1 + self.rank), 0.1, net.float_type)))
        if kind == "silu":
            return net.op("Mul", x, net.op("Sigmoid", x))
        if kind == "hswish":
            return net.op("Mul", x, net.op("HardSigmoid", x, alpha=1 / 6))
        return net.op(kind, x)

    def layer(self, cout: int = 0, group: int = 1) -> None:
        cout = cout or self.pick(3, 8, 16, 20, 32, 64)
        stride = self.pick(1, 1, 2) if self.size[0] > 4 else 1
        y = self.conv(self.x, self.channels, cout, group=group, stride=stride)
        if self.chance(0.3):
            y = self.maybe(y, 0.3) if self.both else y
            parts = [self.net.constant(np.abs(self.net.numbers(cout)) + self.net.float_type(0.1)) for _ in range(4)]
            y = self.net.op("BatchNormalization", y, *parts)
        self.channels, self.size = cout, [-(-size // stride) for size in self.size]
        self.x = self.after(self.activate(y))

    def depthwise(self) -> None:
        self.layer(self.channels, self.channels)

    def grouped(self) -> None:
        self.layer(32, self.pick(2, 4) if self.channels % 4 == 0 else 1)

    def residual(self) -> None:
        y = self.activate(self.conv(self.x, self.channels, self.channels))
        y = self.after(self.conv(y, self.channels, self.channels))
        sides = [y, self.maybe(self.x, 0.6)]
        self.x = self.after(self.activate(self.net.op("Add", *(sides if self.chance(0.5) else sides[::-1]))))

    def projected(self) -> None:
        y = self.conv(self.x, self.channels, self.channels)
        skip = self.maybe(self.conv(self.x, self.channels, self.channels, 1))
        self.x = self.after(self.activate(self.net.op("Add", y, skip)))

    def pool(self) -> None:
        kind = self.pick("MaxPool", "AveragePool")
        self.x = self.after(
            self.net.op(kind, self.maybe(self.x), kernel_shape=[3] * self.rank, pads=[1] * 2 * self.rank)
        )

    def resize(self) -> None:
        if self.size[0] >= _MAX_SIZE:
            return
        mode = self.pick("nearest", "linear")
        where = "asymmetric" if mode == "nearest" else "half_pixel"
        factors = self.net.constant(np.array([1, 1] + [2] * self.rank, np.float32))
        y = self.net.op("Resize", self.maybe(self.x), "", factors, mode=mode, coordinate_transformation_mode=where)
        self.x, self.size = self.after(y), [2 * size for size in self.size]

    def concat(self) -> None:
        one = self.activate(self.conv(self.x, self.channels, 16))
        two, extra = self.x, self.channels
        if self.chance(0.7):
            two, extra = self.activate(self.conv(self.x, self.channels, 16)), 16
        if (how := self.pick("same", "unequal", "float")) != "float":
            one, two = self.qdq(one, 0.05), self.qdq(two, 0.05 if how == "same" else 0.1)
        self.x, self.channels = self.after(self.net.op("Concat", one, two, axis=1)), 16 + extra

    def move(self) -> None:
        net, x, how = (
            self.net,
            self.maybe(self.x, 0.6),
            self.pick("pad", "filled", "mirrored", "turned", "flat", "same"),
        )
        ends = self.ints(0, 0, *[1] * self.rank, 0, 0, *[1] * self.rank)
        if how in ("pad", "filled"):
            y = net.op("Pad", x, ends, net.real(how == "filled"))
        elif how == "mirrored":
            y = net.op("Pad", x, ends, mode="reflect")
        elif how == "turned":
            y = self.maybe(net.op("Transpose", x, perm=[0, *range(2, self.rank + 2), 1]))
            y = net.op("Transpose", y, perm=[0, self.rank + 1, *range(1, self.rank + 1)])
        elif how == "flat":
            y = net.op("Reshape", net.op("Reshape", x, self.ints(0, 0, -1)), self.ints(0, 0, *self.size))
        else:
            y = net.op("Identity", x)
        self.size = [size + 2 for size in self.size] if how in ("pad", "filled", "mirrored") else self.size
        self.x = self.after(y)

    def squeeze(self) -> None:
        y = self.net.op("GlobalAveragePool", self.x)
        y = self.net.op("Relu", self.conv(self.qdq(y) if self.both else y, self.channels, 8, 1))
        y = self.after(self.net.op(self.pick("Sigmoid", "HardSigmoid"), self.conv(y, 8, self.channels, 1)))
        self.x = self.after(self.net.op("Mul", self.maybe(self.x, 0.3), y))

    def deconvolve(self) -> None:
        if self.size[0] >= _MAX_SIZE:
            return
        weight = self.weight(self.channels, 16, *[2] * self.rank, axis=1)
        y = self.net.op("ConvTranspose", self.qdq(self.x), weight, strides=[2] * self.rank)
        self.channels, self.size = 16, [2 * size for size in self.size]
        self.x = self.after(self.activate(y))

    def scale(self) -> None:
        x, kind = self.maybe(self.x), self.pick("Mul", "Div", "Add", "Sub", "vector", "Neg")
        if kind == "vector":
            factors = np.full((1, self.channels, *[1] * self.rank), 0.5, self.net.float_type)
            self.x = self.after(self.net.op("Mul", x, self.net.constant(factors)))
        else:
            self.x = self.after(self.net.op(kind, x, *([] if kind == "Neg" else [self.net.real(0.5)])))

    def shuffle(self) -> None:
        if self.channels % 2:
            return
        y = self.net.op("Reshape", self.maybe(self.x), self.ints(0, 2, self.channels // 2, *self.size))
        y = self.net.op("Transpose", y, perm=[0, 2, 1, *range(3, 3 + self.rank)])
        self.x = self.net.op("Reshape", y, self.ints(0, self.channels, *self.size))

    def split(self) -> None:
        if self.channels % 2:
            return
        names, half = [self.net.fresh("part"), self.net.fresh("part")], self.channels // 2
        more: dict[str, Any] = {"num_outputs": 2} if self.opset >= 18 else {}
        node = helper.make_node("Split", [self.maybe(self.x)], names, name=self.net.fresh("split"), axis=1, **more)
        self.net.nodes.append(node)
        one = self.maybe(self.conv(names[0], half, half))
        self.x = self.after(self.net.op("Concat", one, self.maybe(names[1]), axis=1))

    def cast(self) -> None:
        other = TensorProto.FLOAT if self._kind == TensorProto.FLOAT16 else TensorProto.FLOAT16
        y = self.net.op("Cast", self.maybe(self.x), to=other)
        y = self.net.op("Sigmoid", y) if self.chance(0.5) else y
        self.x = self.net.op("Cast", y, to=self._kind)

    def arithmetic(self) -> None:
        kind = self.pick("Sub", "Mul", "Max", "Min")
        y = self.conv(self.x, self.channels, self.channels, 1)
        self.x = self.after(self.net.op(kind, y, self.maybe(self.x)))

    def attend(self) -> None:
        if self.rank != 2 or self.size[0] > 16:
            return
        net = self.net
        query, key, value = (
            net.op("Reshape", self.conv(self.x, self.channels, 16, 1), self.ints(0, 16, -1)) for _ in range(3)
        )
        weights = net.op("MatMul", net.op("Transpose", self.qdq(query), perm=[0, 2, 1]), self.qdq(key))
        weights = net.op("Transpose", self.qdq(net.op("Softmax", weights, axis=-1)), perm=[0, 2, 1])
        y = net.op("Reshape", net.op("MatMul", self.qdq(value), weights), self.ints(0, 16, *self.size))
        self.x, self.channels = self.after(y), 16
