"""Graphs that join or follow convolutions: pairs before activations, at Adds and Concats, deconvolutions, matrices."""

from __future__ import annotations

import numpy as np
from onnx import ModelProto
from tests.export.check.sketch import Net, body, case, done, start


@case("0/1", "deconvolution-in-float", "weight-axis")
def convtranspose_axis0() -> ModelProto:
    net, x = start()
    y = net.op("ConvTranspose", net.qdq(x), net.weight(32, 32, 2, 2, axis=0), strides=[2, 2], name="up")
    return done(net, y)


@case("0/1", "deconvolution-in-float")
def convtranspose_group() -> ModelProto:
    net, x = start()
    y = net.op("ConvTranspose", net.qdq(x), net.weight(32, 1, 2, 2, axis=0), strides=[2, 2], name="up", group=32)
    return done(net, y)


@case("0/1", "no-quantisation")
def convtranspose_float() -> ModelProto:
    net, x = start()
    y = net.op("ConvTranspose", x, net.constant(net.numbers(32, 16, 2, 2)), strides=[2, 2], name="up")
    return done(net, y)


@case("1/2", "between-dq-and-consumer")
def resize_after_q() -> ModelProto:
    net, _ = start()
    y = net.qdq(body(net))
    y = net.op("Resize", y, "", net.constant(np.array([1, 1, 2, 2], np.float32)), mode="nearest")
    return done(net, net.op("Conv", y, net.weight(32, 32, 3, 3)))


@case("1/2", "between-dq-and-consumer")
def avgpool_between() -> ModelProto:
    net, _ = start()
    y = net.op("AveragePool", net.qdq(body(net)), kernel_shape=[2, 2], strides=[2, 2])
    return done(net, net.op("Conv", y, net.weight(32, 32, 3, 3), name="c"))


@case("1/2", "weight-axis")
def gemm_axis_wrong() -> ModelProto:
    net, _ = start()
    y = net.op("Flatten", net.op("GlobalAveragePool", body(net)))
    return done(
        net,
        net.op(
            "Gemm", net.qdq(y), net.weight(16, 32, axis=1), net.constant(np.zeros(16, np.float32)), transB=1, name="fc"
        ),
    )


@case("1/1")
def matmul_quant() -> ModelProto:
    net = Net()
    net.input([1, 16, 32])
    return done(net, net.op("MatMul", net.qdq("x"), net.weight(32, 64, axis=1), name="mm"))


@case("0/1", "weight-axis")
def matmul_axis_wrong() -> ModelProto:
    net = Net()
    net.input([1, 16, 32])
    return done(net, net.op("MatMul", net.qdq("x"), net.weight(32, 64, axis=0), name="mm"))


@case("1/1")
def gemm_float() -> ModelProto:
    net, _ = start()
    y = net.op("Flatten", net.op("GlobalAveragePool", body(net)))
    return done(net, net.op("Gemm", y, net.constant(net.numbers(16, 32)), transB=1, name="fc"))


@case("2/2", "between-conv-and-activation")
def between_conv_relu() -> ModelProto:
    net, x = start()
    y = net.op("Relu", net.qdq(net.conv(x, 32, 32, name="c1")))
    return done(net, net.conv(y, 32, 32, name="c2"))


@case("1/2", "between-conv-and-activation", "between-dq-and-consumer")
def between_conv_relu_reusing() -> ModelProto:
    net, x = start()
    y = net.op("Relu", net.qdq(net.conv(x, 32, 32, name="c1")))
    return done(net, net.op("Conv", y, net.weight(32, 32, 3, 3), name="c2"))


@case("2/2", "between-conv-and-batchnorm")
def between_conv_bn() -> ModelProto:
    net, x = start()
    y = net.qdq(net.conv(x, 32, 32, name="c1"))
    one = np.ones(32, np.float32)
    y = net.op("BatchNormalization", y, *[net.constant(one) for _ in range(4)])
    return done(net, net.conv(net.op("Relu", y), 32, 32, name="c2"))


@case("2/2", "between-conv-and-activation")
def between_conv_clip() -> ModelProto:
    net, x = start()
    y = net.op("Clip", net.qdq(net.conv(x, 32, 32, name="c1")), net.real(0), net.real(6))
    return done(net, net.conv(y, 32, 32, name="c2"))


@case("2/2", "between-conv-and-activation")
def between_conv_silu() -> ModelProto:
    net, x = start()
    y = net.qdq(net.conv(x, 32, 32, name="c1"))
    y = net.op("Mul", y, net.op("Sigmoid", y))
    return done(net, net.conv(y, 32, 32, name="c2"))


@case("3/3", "skip-not-quantised")
def skip_float() -> ModelProto:
    net, _ = start()
    y = body(net)
    z = net.conv(y, 32, 32, name="c2")
    return done(net, net.conv(net.op("Relu", net.op("Add", z, y)), 32, 32))


@case("3/3")
def both_add_inputs_q() -> ModelProto:
    net, _ = start()
    y = body(net)
    z = net.qdq(net.conv(y, 32, 32, name="c2"))
    return done(net, net.conv(net.op("Relu", net.op("Add", z, net.qdq(y))), 32, 32))


@case("3/3", "concat-scales")
def concat_unshared() -> ModelProto:
    net, x = start()
    a, b = net.op("Relu", net.conv(x, 32, 32)), net.op("Relu", net.conv(x, 32, 32))
    y = net.op("Concat", net.qdq(a, 0.05), net.qdq(b, 0.03), axis=1)
    return done(net, net.conv(y, 64, 32, name="c"))


@case("2/3", "concat-scales")
def concat_unshared_direct() -> ModelProto:
    net, x = start()
    a, b = net.op("Relu", net.conv(x, 32, 32)), net.op("Relu", net.conv(x, 32, 32))
    y = net.op("Concat", net.qdq(a, 0.05), net.qdq(b, 0.03), axis=1)
    return done(net, net.op("Conv", y, net.weight(32, 64, 3, 3), name="c"))


@case("3/3")
def concat_shared_direct() -> ModelProto:
    net, x = start()
    a, b = net.op("Relu", net.conv(x, 32, 32)), net.op("Relu", net.conv(x, 32, 32))
    y = net.op("Concat", net.qdq(a, 0.05), net.qdq(b, 0.05), axis=1)
    return done(net, net.op("Conv", y, net.weight(32, 64, 3, 3), name="c"))


@case("2/3", "between-dq-and-consumer")
def concat_half_float() -> ModelProto:
    net, x = start()
    a, b = net.op("Relu", net.conv(x, 32, 32)), net.op("Relu", net.conv(x, 32, 32))
    y = net.op("Concat", net.qdq(a, 0.05), b, axis=1)
    return done(net, net.op("Conv", y, net.weight(32, 64, 3, 3), name="c"))


@case("3/3")
def concat_float_then_q() -> ModelProto:
    net, x = start()
    a, b = net.op("Relu", net.conv(x, 32, 32)), net.op("Relu", net.conv(x, 32, 32))
    return done(net, net.conv(net.op("Concat", a, b, axis=1), 64, 32, name="c"))


@case("1/1")
def dq_output_is_graph_output() -> ModelProto:
    net, x = start()
    return done(net, net.qdq(net.conv(x, 32, 32, name="c")))


@case("1/1")
def double_qdq() -> ModelProto:
    net, x = start()
    return done(net, net.op("Conv", net.qdq(net.qdq(x)), net.weight(32, 32, 3, 3), name="c"))


@case("1/1", "channel-alignment")
def argmax_q() -> ModelProto:
    net, x = start()
    y = net.op("ArgMax", net.qdq(net.conv(x, 32, 8, name="c")), axis=1, keepdims=0)
    return done(net, net.op("Cast", y, to=1))


@case("0/1", "deconvolution-in-float")
def ct_4x4() -> ModelProto:
    net = Net()
    net.input([1, 64, 16, 16])
    net.output(
        net.op(
            "ConvTranspose",
            net.qdq("x"),
            net.dequantize(net.constant(np.ones((64, 64, 4, 4), np.int8)), 0.01),
            name="up",
            strides=[2, 2],
            pads=[1] * 4,
        )
    )
    return net.model()


@case("1/2", "deconvolution-in-float")
def ct_followed() -> ModelProto:
    net = Net()
    net.input([1, 64, 16, 16])
    y = net.op("ConvTranspose", net.qdq("x"), net.weight(64, 64, 2, 2, axis=1), name="up", strides=[2, 2])
    net.output(net.conv(y, 64, 32))
    return net.model()


@case("3/3")
def add_both_dq_then_q() -> ModelProto:
    net = Net()
    net.input([1, 32, 16, 16])
    y = net.op("Relu", net.conv("x", 32, 32))
    z = net.conv(y, 32, 32)
    y = net.op("Add", net.qdq(z), net.qdq(y))
    net.output(net.conv(net.op("Relu", y), 32, 32))
    return net.model()


@case("1/1")
def matmul_tokens() -> ModelProto:
    net = Net()
    net.input([1, 256, 64])
    y = net.op("Add", net.op("MatMul", net.qdq("x"), net.weight(64, 128, axis=1), name="mm"), net.real(np.zeros(128)))
    net.output(net.op("Relu", y))
    return net.model()


@case("1/1")
def matmul_weight_transposed() -> ModelProto:
    net = Net()
    net.input([1, 256, 64])
    net.output(net.op("MatMul", net.qdq("x"), net.op("Transpose", net.weight(128, 64), perm=[1, 0]), name="mm"))
    return net.model()


@case("0/1", "activation-not-quantised")
def matmul_only_weight() -> ModelProto:
    net = Net()
    net.input([1, 256, 64])
    net.output(net.op("MatMul", "x", net.dequantize(net.constant(np.ones((64, 128), np.int8)), 0.01), name="mm"))
    return net.model()


@case("1/1")
def gemm_alpha() -> ModelProto:
    net = Net()
    net.input([16, 64])
    net.output(
        net.op(
            "Gemm", net.qdq("x"), net.weight(128, 64), net.real(np.zeros(128)), transB=1, alpha=0.5, beta=2.0, name="fc"
        )
    )
    return net.model()


@case("1/1", "concat-scales")
def concat_ints_diff() -> ModelProto:
    net = Net()
    net.input([1, 32, 16, 16])
    q = [net.quantize("x", 0.05), net.quantize("x", 0.03)]
    y = net.dequantize(net.op("Concat", *q, axis=1), 0.05)
    net.output(net.op("Conv", y, net.weight(32, 64, 3, 3), name="c"))
    return net.model()
