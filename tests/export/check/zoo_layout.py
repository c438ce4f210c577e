"""Graphs of whole networks: what tools and people build, and where they put the pairs."""

from __future__ import annotations

import numpy as np
from onnx import ModelProto, TensorProto, helper, numpy_helper
from tests.export.check.sketch import Net, body, case, done, start


@case("3/3")
def good_residual() -> ModelProto:
    net, _ = start()
    y = body(net)
    z = net.conv(net.op("Relu", net.conv(y, 32, 32)), 32, 32)
    return done(net, net.op("Relu", net.op("Add", z, net.qdq(y))))


@case("3/3")
def good_depthwise() -> ModelProto:
    net, _ = start()
    y = body(net)
    y = net.op("Relu", net.conv(y, 32, 32, group=32, name="dw"))
    return done(net, net.conv(y, 32, 16, 1))


@case("4/4")
def good_concat() -> ModelProto:
    net, _ = start()
    y = body(net)
    a = net.op("Relu", net.conv(y, 32, 32))
    b = net.op("Relu", net.conv(y, 32, 32))
    return done(net, net.conv(net.op("Concat", net.qdq(a), net.qdq(b), axis=1), 64, 32))


@case("0/1", "deconvolution-in-float")
def good_convtranspose() -> ModelProto:
    net, x = start()
    y = net.op("ConvTranspose", net.qdq(x), net.weight(32, 16, 2, 2, axis=1), strides=[2, 2], name="up")
    return done(net, y)


@case("2/2")
def good_resize() -> ModelProto:
    net, _ = start()
    y = body(net)
    y = net.op("Resize", y, "", net.constant(np.array([1, 1, 2, 2], np.float32)), mode="linear")
    return done(net, net.conv(y, 32, 32))


@case("2/2")
def good_relu6() -> ModelProto:
    net, x = start()
    y = net.op("Clip", net.conv(x, 32, 32), net.real(0), net.real(6))
    return done(net, net.conv(y, 32, 32))


@case("2/2")
def good_fp16() -> ModelProto:
    net, _ = start(19, float_type=np.float16)
    return done(net, net.conv(body(net), 32, 32), dtype=TensorProto.FLOAT16)


@case("2/2")
def fp16_opset17() -> ModelProto:
    net, _ = start(17, float_type=np.float16)
    return done(net, net.conv(body(net), 32, 32), dtype=TensorProto.FLOAT16)


@case("2/2")
def fp16_body_f32_convs() -> ModelProto:
    net = Net(19)
    net.input([1, 32, 16, 16], TensorProto.FLOAT16)
    y = net.op("Cast", "x", to=1)
    y = net.op("Cast", net.op("Relu", net.conv(y, 32, 32)), to=10)
    y = net.op("Cast", net.op("Sigmoid", y), to=1)
    return done(net, net.conv(y, 32, 32))


@case("1/1", "channel-alignment")
def good_uint8_input() -> ModelProto:
    net = Net()
    net.input([1, 16, 16, 3], TensorProto.UINT8, "frame")
    y = net.op("Cast", "frame", to=1)
    y = net.op("Transpose", y, perm=[0, 3, 1, 2])
    y = net.op("Mul", net.op("Sub", y, net.real(127)), net.real(1 / 128))
    y = net.conv(y, 3, 32, name="stem")
    y = net.op("ArgMax", y, axis=1, keepdims=0)
    y = net.op("Cast", net.op("Cast", y, to=1), to=2)
    return done(net, y, dtype=TensorProto.UINT8)


@case("1/1")
def good_float_weight_q_dq() -> ModelProto:
    net, x = start()
    w = net.qdq(net.constant(net.numbers(32, 32, 3, 3)), 0.01)
    return done(net, net.op("Conv", net.qdq(x), w, name="c"))


@case("1/1")
def good_constant_nodes() -> ModelProto:
    net, x = start()

    def const(v: object) -> str:
        return net.op("Constant", value=numpy_helper.from_array(np.asarray(v)))

    s, z = const(np.float32(0.05)), const(np.int8(0))
    y = net.op("DequantizeLinear", net.op("QuantizeLinear", x, s, z), s, z)
    w = net.op(
        "DequantizeLinear",
        const(np.ones((32, 32, 3, 3), np.int8)),
        const(np.full(32, 0.01, np.float32)),
        const(np.zeros(32, np.int8)),
        axis=0,
    )
    return done(net, net.op("Conv", y, w, const(np.zeros(32, np.float32)), name="c"))


@case("1/1")
def good_identity_alias() -> ModelProto:
    net, x = start()
    s = net.real(0.05)
    s2 = net.op("Identity", s)
    z = net.op("Identity", net.constant(np.int8(0)))
    y = net.op("DequantizeLinear", net.op("QuantizeLinear", x, s, z), s2, z)
    y = net.op("Identity", y)
    return done(net, net.op("Conv", y, net.op("Identity", net.weight(32, 32, 3, 3)), name="c"))


@case("2/2")
def good_unnamed() -> ModelProto:
    net = Net()
    net.input([1, 32, 16, 16])
    y = net.op("Conv", net.qdq("x"), net.weight(32, 32, 3, 3), name="")
    y = net.op("Relu", y, name="")
    return done(net, net.op("Conv", net.qdq(y), net.weight(32, 32, 3, 3), name=""))


@case("3/3")
def good_shared_dq() -> ModelProto:
    net, _ = start()
    y = net.qdq(body(net))
    a = net.op("Conv", y, net.weight(32, 32, 1, 1), name="a")
    b = net.op("Conv", y, net.weight(32, 32, 1, 1), name="b")
    return done(net, a, b)


@case("1/1")
def good_pertensor_weight() -> ModelProto:
    net, x = start()
    return done(
        net, net.op("Conv", net.qdq(x), net.dequantize(net.constant(np.ones((32, 32, 3, 3), np.int8))), name="c")
    )


@case("2/2")
def good_maxpool() -> ModelProto:
    net, _ = start()
    y = net.op("MaxPool", net.qdq(body(net)), kernel_shape=[2, 2], strides=[2, 2])
    return done(net, net.op("Conv", y, net.weight(32, 32, 3, 3), name="c"))


@case("2/2")
def good_gap_gemm() -> ModelProto:
    net, _ = start()
    y = net.op("GlobalAveragePool", body(net))
    y = net.op("Flatten", y)
    return done(
        net, net.op("Gemm", net.qdq(y), net.weight(16, 32), net.constant(np.zeros(16, np.float32)), transB=1, name="fc")
    )


@case("1/1", "uint8-activation")
def good_no_zero_point() -> ModelProto:
    net, x = start()
    s = net.real(0.05)
    q = net.op("QuantizeLinear", x, s)  # default uint8
    y = net.op("DequantizeLinear", q, s)
    return done(net, net.op("Conv", y, net.weight(32, 32, 3, 3), name="c"))


@case("1/1")
def if_nested() -> ModelProto:
    net, _ = start()
    inner = Net()
    y = inner.conv("x", 32, 32, name="inner")
    inner.output(y)
    g1 = helper.make_graph(
        inner.nodes, "then", [], [helper.make_tensor_value_info(y, 1, [1, 32, 16, 16])], inner.initializers
    )
    inner2 = Net()
    inner2._count = 100
    y2 = inner2.op("Relu", "x")
    g2 = helper.make_graph(
        inner2.nodes, "else", [], [helper.make_tensor_value_info(y2, 1, [1, 32, 16, 16])], inner2.initializers
    )
    net.inputs.append(helper.make_tensor_value_info("which", TensorProto.BOOL, []))
    y = net.op("If", "which", then_branch=g1, else_branch=g2)
    return done(net, y)


@case("2/2")
def conv_bn_relu_ok() -> ModelProto:
    net, x = start()
    one = np.ones(32, np.float32)
    y = net.op("BatchNormalization", net.conv(x, 32, 32, name="c1"), *[net.constant(one) for _ in range(4)])
    return done(net, net.conv(net.op("Relu", y), 32, 32, name="c2"))


@case("2/2")
def hardswish_ok() -> ModelProto:
    net, x = start()
    y = net.op("HardSwish", net.conv(x, 32, 32, name="c1"))
    return done(net, net.conv(y, 32, 32, name="c2"))


@case("1/1")
def cast_between_dq_conv() -> ModelProto:
    net = Net(19)
    net.input([1, 32, 16, 16])
    y = net.op("Cast", net.qdq("x"), to=10)
    return done(net, net.op("Conv", y, net.op("Cast", net.weight(32, 32, 3, 3), to=10), name="c"), dtype=10)


@case("2/2", "channel-alignment")
def odd_channels() -> ModelProto:
    net, x = start(cin=30)
    return done(net, net.conv(net.op("Relu", net.conv(x, 30, 18, name="c1")), 18, 7, name="c2"))


@case("1/1")
def group_8() -> ModelProto:
    net, x = start()
    return done(net, net.conv(x, 32, 32, group=8, name="c"))


@case("1/1")
def depthwise_odd() -> ModelProto:
    net, x = start(cin=24)
    return done(net, net.conv(x, 24, 24, group=24, name="c"))


@case("1/1")
def conv1d() -> ModelProto:
    net = Net()
    net.input([1, 32, 64])
    return done(net, net.op("Conv", net.qdq("x"), net.weight(32, 32, 3), name="c"))


@case("4/4", "channel-alignment")
def se_block() -> ModelProto:
    net, _ = start()
    y = body(net)
    g = net.op("GlobalAveragePool", y)
    g = net.op("Sigmoid", net.conv(net.op("Relu", net.conv(g, 32, 8, 1)), 8, 32, 1))
    return done(net, net.conv(net.op("Mul", y, g), 32, 32))


@case("1/1")
def grid_sample() -> ModelProto:
    net = Net(16)
    net.input([1, 32, 16, 16])
    net.inputs.append(helper.make_tensor_value_info("g", 1, [1, 16, 16, 2]))
    return done(net, net.conv(net.op("GridSample", "x", "g"), 32, 32, name="c"))


@case("2/2")
def weight_shared_two_convs() -> ModelProto:
    net = Net()
    net.input([1, 32, 16, 16])
    w = net.weight(32, 32, 3, 3)
    y = net.op("Conv", net.qdq("x"), w, name="a", pads=[1] * 4)
    net.output(net.op("Conv", net.qdq(y), w, name="b"))
    return net.model()


@case("1/1")
def conv_w_dynamic_float_q() -> ModelProto:
    net = Net()
    net.input([1, 32, 16, 16])
    net.inputs.append(helper.make_tensor_value_info("w", 1, [32, 32, 3, 3]))
    s = net.real(np.full(32, 0.01))
    z = net.constant(np.zeros(32, np.int8))
    w = net.op("DequantizeLinear", net.op("QuantizeLinear", "w", s, z, axis=0), s, z, axis=0)
    net.output(net.op("Conv", net.qdq("x"), w, name="c"))
    return net.model()


@case("1/1")
def q_fp16_dq_fp32() -> ModelProto:
    net = Net(19)
    net.input([1, 32, 16, 16], 10)
    s = net.constant(np.float16(0.05))
    z = net.constant(np.int8(0))
    y = net.op("DequantizeLinear", net.op("QuantizeLinear", "x", s, z), net.real(0.05), z)
    net.output(net.op("Conv", y, net.weight(32, 32, 3, 3), name="c"))
    return net.model()


@case("1/1", "opset-over-20")
def fp16_f32_scales_opset21() -> ModelProto:
    net = Net(21)
    net.input([1, 32, 16, 16], 10)
    s = net.real(0.05)
    z = net.constant(np.int8(0))
    y = net.op("DequantizeLinear", net.op("QuantizeLinear", "x", s, z), s, z, output_dtype=10)
    w = net.op("Cast", net.weight(32, 32, 3, 3), to=10)
    net.output(net.op("Conv", y, w, name="c"), 10)
    return net.model()


@case("1/1")
def loop_() -> ModelProto:
    net = Net()
    net.input([1, 32, 16, 16])
    b = Net()
    b._count = 500
    y = b.op("Relu", "acc_in")
    cond = b.op("Identity", "c_in")
    body = helper.make_graph(
        b.nodes,
        "body",
        [
            helper.make_tensor_value_info("i", 7, []),
            helper.make_tensor_value_info("c_in", 9, []),
            helper.make_tensor_value_info("acc_in", 1, [1, 32, 16, 16]),
        ],
        [helper.make_tensor_value_info(cond, 9, []), helper.make_tensor_value_info(y, 1, [1, 32, 16, 16])],
    )
    net.output(
        net.op("Loop", net.constant(np.int64(2)), net.constant(np.array(True)), net.conv("x", 32, 32), body=body)
    )
    return net.model()
