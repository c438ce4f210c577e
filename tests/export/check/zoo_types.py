"""Graphs with element types, operators and sizes that TensorRT limits."""

from __future__ import annotations

import numpy as np
from onnx import ModelProto, TensorProto, helper
from tests.export.check.sketch import Net, case, done, start


@case("rejected", "channel-alignment", "uint8-input-not-cast")
def uint8_input_transposed_first() -> ModelProto:
    net = Net()
    net.input([1, 16, 16, 3], TensorProto.UINT8, "frame")
    y = net.op("Cast", net.op("Transpose", "frame", perm=[0, 3, 1, 2]), to=1)
    return done(net, net.conv(y, 3, 32, name="stem"))


@case("rejected", "channel-alignment", "uint8-weight")
def uint8_input_dequantized() -> ModelProto:
    net = Net()
    net.input([1, 3, 16, 16], TensorProto.UINT8, "frame")
    y = net.dequantize("frame", 1 / 255.0, 0, np.uint8)
    return done(net, net.op("Conv", y, net.weight(32, 3, 3, 3), name="stem"))


@case("1/1", "channel-alignment", "uint8-output-from-integer")
def uint8_output_from_int64() -> ModelProto:
    net, x = start()
    y = net.op("ArgMax", net.conv(x, 32, 8), axis=1, keepdims=0)
    return done(net, net.op("Cast", y, to=2), dtype=TensorProto.UINT8)


@case("1/1", "channel-alignment", "uint8-output-from-integer")
def uint8_output_from_int32() -> ModelProto:
    net, x = start()
    y = net.op("ArgMax", net.conv(x, 32, 8), axis=1, keepdims=0)
    return done(net, net.op("Cast", net.op("Cast", y, to=6), to=2), dtype=TensorProto.UINT8)


@case("1/1", "channel-alignment", "int64-data")
def int64_output() -> ModelProto:
    net, x = start()
    y = net.op("ArgMax", net.conv(x, 32, 8), axis=1, keepdims=0)
    return done(net, y, dtype=TensorProto.INT64)


@case("1/1", "channel-alignment", "int64-data")
def int64_arithmetic() -> ModelProto:
    net, x = start()
    y = net.op("ArgMax", net.conv(x, 32, 8), axis=1, keepdims=0)
    y = net.op("Mul", y, net.constant(np.int64(3)))
    return done(net, net.op("Cast", y, to=1))


@case("rejected", "uint8-inside")
def uint8_interior() -> ModelProto:
    net, x = start()
    y = net.op("Cast", net.op("Cast", net.conv(x, 32, 32), to=2), to=1)
    return done(net, net.conv(y, 32, 32))


@case("1/1", "dynamic-shape")
def dynamic_batch() -> ModelProto:
    net = Net()
    net.input(["n", 32, 16, 16])
    return done(net, net.conv("x", 32, 32, name="c"))


@case("rejected", "int8-constant", "operator-format")
def qlinearconv() -> ModelProto:
    net, x = start()
    q = net.quantize(x)
    s = net.real(0.05)
    z = net.constant(np.int8(0))
    ws = net.real(0.01)
    y = net.op("QLinearConv", q, s, z, net.constant(np.ones((32, 32, 3, 3), np.int8)), ws, z, s, z, name="c")
    return done(net, net.dequantize(y))


@case("rejected", "int8-constant", "operator-format")
def convinteger() -> ModelProto:
    net, x = start()
    y = net.op("ConvInteger", net.quantize(x), net.constant(np.ones((32, 32, 3, 3), np.int8)), name="c")
    return done(net, net.op("Cast", y, to=1))


@case("rejected", "operator-format", "scale-not-constant")
def dynamic_quantize() -> ModelProto:
    net, _ = start()
    net.nodes.append(helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"], name="dql"))
    net.nodes.append(helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"]))
    return done(net, net.op("Conv", "d", net.weight(32, 32, 3, 3), name="c"))


@case("rejected", "unsupported-operator")
def custom_domain() -> ModelProto:
    net, x = start()
    y = net.op("Strange", x, domain="com.example")
    m = done(net, net.conv(y, 32, 32, name="c"))
    m.opset_import.append(helper.make_opsetid("com.example", 1))
    return m


@case("1/1")
def ms_domain_qdq() -> ModelProto:
    net, x = start()
    s, z = net.real(0.05), net.constant(np.int8(0))
    y = net.op(
        "DequantizeLinear", net.op("QuantizeLinear", x, s, z, domain="com.microsoft"), s, z, domain="com.microsoft"
    )
    m = done(net, net.op("Conv", y, net.weight(32, 32, 3, 3), name="c"))
    m.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    return m


@case("1/1")
def int8_network_input() -> ModelProto:
    net = Net()
    net.input([1, 32, 16, 16], TensorProto.INT8)
    return done(net, net.op("Conv", net.dequantize("x"), net.weight(32, 32, 3, 3), name="c"))


@case("1/1")
def dq_without_q() -> ModelProto:
    net, x = start()
    q = net.op("Cast", x, to=3)
    return done(net, net.op("Conv", net.dequantize(q), net.weight(32, 32, 3, 3), name="c"))


@case("rejected", "unsupported-operator")
def bad_op_nonzero() -> ModelProto:
    net, x = start()
    y = net.op("Cast", net.op("NonZero", net.conv(x, 32, 32, name="c")), to=1)
    return done(net, y)


@case("rejected", "unsupported-operator")
def unsupported_op() -> ModelProto:
    net, x = start()
    y = net.op("Det", net.conv(x, 32, 32, name="c"))
    return done(net, y)


@case("rejected", "mixed-types")
def fp16_scale_conv_mixed() -> ModelProto:
    net = Net(19)
    net.input([1, 32, 16, 16], 10)
    s = net.constant(np.float16(0.05))
    z = net.constant(np.int8(0))
    y = net.op("DequantizeLinear", net.op("QuantizeLinear", "x", s, z), s, z)
    net.output(net.op("Conv", y, net.weight(32, 32, 3, 3), name="c"), 10)
    return net.model()


@case("rejected", "mixed-types")
def bias_float16_mismatch() -> ModelProto:
    net = Net(19)
    net.input([1, 32, 16, 16])
    net.output(net.op("Conv", net.qdq("x"), net.weight(32, 32, 3, 3), net.constant(np.zeros(32, np.float16)), name="c"))
    return net.model()


@case("1/1", "uint8-output-from-integer")
def uint8_output_from_bool() -> ModelProto:
    net = Net()
    net.input([1, 32, 16, 16])
    net.output(net.op("Cast", net.op("Greater", net.conv("x", 32, 32), net.real(0)), to=2), 2)
    return net.model()


@case("rejected", "uint8-inside")
def uint8_argmax_transpose_after() -> ModelProto:
    net = Net()
    net.input([1, 32, 16, 16])
    y = net.op("Cast", net.op("Cast", net.op("ArgMax", net.conv("x", 32, 32), axis=1), to=1), to=2)
    net.output(net.op("Reshape", y, net.constant(np.array([1, 16, 16], np.int64))), 2)
    return net.model()


@case("1/1", "channel-alignment")
def uint8_input_cast_to_int32() -> ModelProto:
    net = Net()
    net.input([1, 3, 16, 16], 2, "frame")
    y = net.op("Cast", net.op("Cast", "frame", to=6), to=1)
    net.output(net.conv(y, 3, 32))
    return net.model()


@case("rejected", "channel-alignment", "uint8-input-not-cast")
def uint8_input_identity() -> ModelProto:
    net = Net()
    net.input([1, 3, 16, 16], 2, "frame")
    y = net.op("Cast", net.op("Identity", "frame"), to=1)
    net.output(net.conv(y, 3, 32))
    return net.model()


@case("rejected", "channel-alignment", "element-type")
def int16_input() -> ModelProto:
    net = Net()
    net.input([1, 3, 16, 16], 5)
    net.output(net.conv(net.op("Cast", "x", to=1), 3, 32))
    return net.model()


@case("1/1", "channel-alignment")
def double_input() -> ModelProto:
    net = Net()
    net.input([1, 3, 16, 16], 11)
    net.output(net.conv(net.op("Cast", "x", to=1), 3, 32))
    return net.model()


@case("1/1", "channel-alignment", "int64-data")
def int64_input() -> ModelProto:
    net = Net()
    net.input([1, 3, 16, 16], 7)
    net.output(net.conv(net.op("Cast", "x", to=1), 3, 32))
    return net.model()


@case("rejected", "channel-alignment", "unsupported-attribute")
def cast_to_int16() -> ModelProto:
    net = Net()
    net.input([1, 3, 16, 16])
    net.output(net.conv(net.op("Cast", net.op("Cast", "x", to=5), to=1), 3, 32))
    return net.model()


@case("0/1", "no-quantisation", "opset-over-20")
def bf16_conv() -> ModelProto:
    net = Net(22)
    net.input([1, 32, 16, 16])
    a = net.op("Cast", "x", to=16)
    w = net.op("Cast", net.constant(net.numbers(32, 32, 3, 3)), to=16)
    net.output(net.op("Conv", a, w, name="c"), 16)
    return net.model()


@case("rejected", "int8-constant")
def i8const_gather() -> ModelProto:
    net = Net()
    net.input([1, 32, 16, 16])
    w = net.dequantize(
        net.op(
            "Gather",
            net.constant(np.ones((33, 32, 3, 3), np.int8)),
            net.constant(np.array([*range(32)], np.int64)),
            axis=0,
        ),
        0.01,
    )
    net.output(net.op("Conv", net.qdq("x"), w, name="c"))
    return net.model()
