"""Graphs whose scales, zero-points, types and axes decide whether TensorRT takes them in INT8."""

from __future__ import annotations

import numpy as np
from onnx import ModelProto, TensorProto, helper, numpy_helper
from tests.export.check.sketch import Net, case, done, start


@case("1/1")
def float_weight_q_dq_perchannel() -> ModelProto:
    net, x = start()
    s = net.real(np.full(32, 0.01))
    z = net.constant(np.zeros(32, np.int8))
    q = net.op("QuantizeLinear", net.constant(net.numbers(32, 32, 3, 3)), s, z, axis=0)
    return done(net, net.op("Conv", net.qdq(x), net.op("DequantizeLinear", q, s, z, axis=0), name="c"))


@case("1/1")
def constant_value_float_scale() -> ModelProto:
    net, x = start()
    s = net.op("Constant", value_float=0.05)
    z = net.constant(np.int8(0))
    y = net.op("DequantizeLinear", net.op("QuantizeLinear", x, s, z), s, z)
    return done(net, net.op("Conv", y, net.weight(32, 32, 3, 3), name="c"))


@case("1/1")
def pertensor_weight_shape1() -> ModelProto:
    net, x = start()
    return done(
        net,
        net.op(
            "Conv",
            net.qdq(x),
            net.dequantize(net.constant(np.ones((32, 32, 3, 3), np.int8)), np.array([0.05])),
            name="c",
        ),
    )


@case("0/1", "activation-scale-vector")
def activation_scale_shape1() -> ModelProto:
    net, x = start()
    return done(net, net.op("Conv", net.qdq(x, np.array([0.05])), net.weight(32, 32, 3, 3), name="c"))


@case("1/1")
def weight_dq_no_zp() -> ModelProto:
    net, x = start()
    w = net.op("DequantizeLinear", net.constant(np.ones((32, 32, 3, 3), np.int8)), net.real(np.full(32, 0.01)), axis=0)
    return done(net, net.op("Conv", net.qdq(x), w, name="c"))


@case("1/1")
def bias_constant_node() -> ModelProto:
    net, x = start()
    b = net.op("Constant", value=numpy_helper.from_array(np.zeros(32, np.float32)))
    return done(net, net.conv(x, 32, 32, bias=b, name="c"))


@case("0/1", "activation-not-quantised")
def activation_float() -> ModelProto:
    net, x = start()
    return done(net, net.op("Conv", x, net.weight(32, 32, 3, 3), name="c"))


@case("0/1", "weight-not-quantised")
def weight_float() -> ModelProto:
    net, x = start()
    return done(net, net.op("Conv", net.qdq(x), net.constant(net.numbers(32, 32, 3, 3)), name="c"))


@case("0/1", "no-quantisation")
def all_float() -> ModelProto:
    net, x = start()
    return done(net, net.conv(x, 32, 32, quantized=False, name="c"))


@case("rejected", "zero-point")
def activation_zero_point() -> ModelProto:
    net, x = start()
    return done(net, net.op("Conv", net.qdq(x, zero=3), net.weight(32, 32, 3, 3), name="c"))


@case("rejected", "zero-point")
def weight_zero_point() -> ModelProto:
    net, x = start()
    return done(net, net.op("Conv", net.qdq(x), net.weight(32, 32, 3, 3, zero=2), name="c"))


@case("rejected", "zero-point")
def uint8_activation_128() -> ModelProto:
    net, x = start()
    return done(net, net.op("Conv", net.qdq(x, zero=128, dtype=np.uint8), net.weight(32, 32, 3, 3), name="c"))


@case("1/1", "uint8-activation")
def uint8_activation_0() -> ModelProto:
    net, x = start()
    return done(net, net.op("Conv", net.qdq(x, zero=0, dtype=np.uint8), net.weight(32, 32, 3, 3), name="c"))


@case("rejected", "uint8-weight", "zero-point")
def uint8_weight() -> ModelProto:
    net, x = start()
    w = net.dequantize(net.constant(np.full((32, 32, 3, 3), 128, np.uint8)), 0.01, 128, np.uint8)
    return done(net, net.op("Conv", net.qdq(x), w, name="c"))


@case("0/1", "weight-axis")
def weight_axis1() -> ModelProto:
    net, x = start()
    return done(net, net.op("Conv", net.qdq(x), net.weight(32, 32, 3, 3, axis=1), name="c"))


@case("0/1", "weight-axis")
def weight_axis_default() -> ModelProto:
    net, x = start(cin=16)
    w = net.dequantize(net.constant(np.ones((16, 16, 3, 3), np.int8)), np.full(16, 0.01))
    return done(net, net.op("Conv", net.qdq(x), w, name="c"))


@case("0/1", "activation-per-channel")
def activation_per_channel() -> ModelProto:
    net, x = start()
    s = np.full(32, 0.05)
    q = net.quantize(x, s, axis=1)
    return done(net, net.op("Conv", net.dequantize(q, s, axis=1), net.weight(32, 32, 3, 3), name="c"))


@case("rejected", "int32-bias")
def int32_bias() -> ModelProto:
    net, x = start()
    b = net.op(
        "DequantizeLinear",
        net.constant(np.zeros(32, np.int32)),
        net.real(np.full(32, 0.01)),
        net.constant(np.zeros(32, np.int32)),
        axis=0,
    )
    return done(net, net.conv(x, 32, 32, bias=b, name="c"))


@case("1/1")
def int8_bias() -> ModelProto:
    net, x = start()
    b = net.op("DequantizeLinear", net.constant(np.zeros(32, np.int8)), net.real(0.01), net.constant(np.int8(0)))
    return done(net, net.conv(x, 32, 32, bias=b, name="c"))


@case("1/1")
def qdq_bias() -> ModelProto:
    net, x = start()
    return done(net, net.conv(x, 32, 32, bias=net.qdq(net.constant(net.numbers(32)), 0.01), name="c"))


@case("1/1")
def weight_is_input() -> ModelProto:
    net = Net()
    net.input([1, 32, 16, 16])
    net.inputs.append(helper.make_tensor_value_info("w", 1, [32, 32, 3, 3]))
    return done(net, net.op("Conv", net.qdq("x"), net.qdq("w"), name="c"))


@case("rejected", "scale-not-positive")
def scale_zero() -> ModelProto:
    net, x = start()
    return done(net, net.op("Conv", net.qdq(x, 0.0), net.weight(32, 32, 3, 3), name="c"))


@case("rejected", "scale-not-positive")
def scale_negative() -> ModelProto:
    net, x = start()
    return done(net, net.op("Conv", net.qdq(x, -0.05), net.weight(32, 32, 3, 3), name="c"))


@case("rejected", "scale-not-positive")
def scale_nan() -> ModelProto:
    net, x = start()
    return done(net, net.op("Conv", net.qdq(x, np.nan), net.weight(32, 32, 3, 3), name="c"))


@case("1/1", "scale-not-finite")
def scale_inf() -> ModelProto:
    net, x = start()
    return done(net, net.op("Conv", net.qdq(x, np.inf), net.weight(32, 32, 3, 3), name="c"))


@case("rejected", "scale-not-positive")
def scale_weight_nan_channel() -> ModelProto:
    net, x = start()
    s = np.full(32, 0.01)
    s[3] = np.nan
    return done(
        net,
        net.op("Conv", net.qdq(x), net.dequantize(net.constant(np.ones((32, 32, 3, 3), np.int8)), s, axis=0), name="c"),
    )


@case("1/1", "fp16-scale")
def scale_fp16_subnormal() -> ModelProto:
    net, x = start(19, float_type=np.float16)
    return done(net, net.op("Conv", net.qdq(x, 1e-6), net.weight(32, 32, 3, 3), name="c"), dtype=10)


@case("rejected", "scale-not-positive")
def scale_fp16_zero() -> ModelProto:
    net, x = start(19, float_type=np.float16)
    return done(net, net.op("Conv", net.qdq(x, 1e-9), net.weight(32, 32, 3, 3), name="c"), dtype=10)


@case("1/1")
def scale_mismatch_q_dq() -> ModelProto:
    net, x = start()
    return done(net, net.op("Conv", net.dequantize(net.quantize(x, 0.05), 0.06), net.weight(32, 32, 3, 3), name="c"))


@case("rejected", "scale-not-constant")
def scale_dynamic() -> ModelProto:
    net = Net()
    net.input([1, 32, 16, 16])
    net.inputs.append(helper.make_tensor_value_info("s", 1, []))
    z = net.constant(np.int8(0))
    y = net.op("DequantizeLinear", net.op("QuantizeLinear", "x", "s", z), "s", z)
    return done(net, net.op("Conv", y, net.weight(32, 32, 3, 3), name="c"))


@case("1/1")
def scale_computed_const() -> ModelProto:
    net, _ = start()
    z = net.constant(np.int8(0))
    s = net.op("Div", net.real(6), net.real(127))
    y = net.op("DequantizeLinear", net.op("QuantizeLinear", "x", s, z), s, z)
    return done(net, net.op("Conv", y, net.weight(32, 32, 3, 3), name="c"))


@case("1/1")
def zp_computed_const() -> ModelProto:
    net, _ = start()
    z = net.op("Cast", net.real(0), to=3)
    s = net.real(0.05)
    y = net.op("DequantizeLinear", net.op("QuantizeLinear", "x", s, z), s, z)
    return done(net, net.op("Conv", y, net.weight(32, 32, 3, 3), name="c"))


@case("rejected", "opset-over-20", "quantised-type")
def int16_activation() -> ModelProto:
    net = Net(21)
    net.input([1, 32, 16, 16])
    return done(net, net.op("Conv", net.qdq("x", dtype=np.int16), net.weight(32, 32, 3, 3), name="c"))


@case("rejected", "opset-over-20", "quantised-type")
def int4_weight() -> ModelProto:
    net = Net(21)
    net.input([1, 32, 16, 16])
    t = helper.make_tensor("w4", TensorProto.INT4, [32, 32, 3, 3], np.ones(32 * 32 * 9, np.int8))
    net.initializers.append(t)
    net.initializers.append(helper.make_tensor("z4", TensorProto.INT4, [], [0]))
    w = net.op("DequantizeLinear", "w4", net.real(0.01), "z4")
    return done(net, net.op("Conv", net.qdq("x"), w, name="c"))


@case("rejected", "quantised-type")
def fp8_activation() -> ModelProto:
    net = Net(19)
    net.input([1, 32, 16, 16])
    z = helper.make_tensor("z8", TensorProto.FLOAT8E4M3FN, [], [0.0])
    net.initializers.append(z)
    s = net.real(0.05)
    y = net.op("DequantizeLinear", net.op("QuantizeLinear", "x", s, "z8"), s, "z8")
    w = net.op("DequantizeLinear", net.op("QuantizeLinear", net.constant(net.numbers(32, 32, 3, 3)), s, "z8"), s, "z8")
    return done(net, net.op("Conv", y, w, name="c"))


@case("rejected", "block-quantisation", "opset-over-20")
def blocked_weight() -> ModelProto:
    net = Net(21)
    net.input([1, 32, 16, 16])
    w = net.dequantize(
        net.constant(np.ones((32, 32, 3, 3), np.int8)), np.full((32, 2, 3, 3), 0.01), axis=1, block_size=16
    )
    return done(net, net.op("Conv", net.qdq("x"), w, name="c"))


@case("1/1", "uint8-activation")
def uint8_q_int8_dq() -> ModelProto:
    net = Net()
    net.input([1, 32, 16, 16])
    net.output(
        net.op(
            "Conv",
            net.op("DequantizeLinear", net.quantize("x", zero=0, dtype=np.uint8), net.real(0.05)),
            net.weight(32, 32, 3, 3),
            name="c",
        )
    )
    return net.model()


@case("0/1", "activation-scale-vector")
def scale1_scalar_zp() -> ModelProto:
    net = Net()
    net.input([1, 32, 16, 16])
    s = net.real([0.05])
    z = net.constant(np.int8(0))
    y = net.op("DequantizeLinear", net.op("QuantizeLinear", "x", s, z), s, z)
    net.output(net.op("Conv", y, net.weight(32, 32, 3, 3), name="c"))
    return net.model()


@case("0/1", "activation-scale-vector", "channel-alignment")
def scale1_axis1_one_channel() -> ModelProto:
    net = Net()
    net.input([1, 1, 16, 16])
    net.output(net.op("Conv", net.qdq("x", np.array([0.05])), net.weight(32, 1, 3, 3), name="c"))
    return net.model()


def _scaled_by_stored(shape: tuple[int, ...]) -> ModelProto:
    """What ONNX Runtime's quantiser makes of a product with a number: the number is stored in INT8 too."""
    net, x = start()
    factor = net.dequantize(net.constant(np.full(shape, 64, np.int8)), 0.01)
    return done(net, net.conv(net.op("Mul", net.qdq(x), factor), 32, 32, name="c"))


@case("rejected", "int8-scalar")
def int8_scalar() -> ModelProto:
    return _scaled_by_stored(())


@case("1/1")
def int8_vector_of_one() -> ModelProto:
    return _scaled_by_stored((1,))
