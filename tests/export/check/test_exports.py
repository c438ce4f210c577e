"""What ONNX Runtime's quantiser writes, in the settings that people use. Its outcome was compiled for sm86."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import pytest
from tests.export.check.sketch import Net

from edgeseg.export.check.findings import Report
from edgeseg.export.check.rules import check_file

pytest.importorskip("onnxruntime.quantization")
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quantize_static,
)

_SYMMETRIC = {"ActivationSymmetric": True, "WeightSymmetric": True}
_SIGNED: dict[str, Any] = {"activation_type": QuantType.QInt8, "weight_type": QuantType.QInt8, "per_channel": True}
_FLOAT_BIAS = {**_SYMMETRIC, "QuantizeBias": False}
_CONVOLUTIONS = ["Conv", "ConvTranspose"]


class Setting(NamedTuple):
    """Arguments of the quantiser, rules that must and must not be found at warning or above, convolutions in INT8."""

    arguments: dict[str, Any]
    rules: set[str]
    in_int8: int | None
    """None where the compiler rejects the file."""


SETTINGS = {
    "defaults": Setting({}, {"zero-point", "int32-bias"}, None),
    "operators": Setting({"quant_format": QuantFormat.QOperator}, {"zero-point", "operator-format"}, None),
    "signed": Setting({**_SIGNED, "extra_options": _SYMMETRIC}, {"int32-bias"}, None),
    "float bias": Setting({**_SIGNED, "extra_options": _FLOAT_BIAS}, set(), 6),
    "float bias, per tensor": Setting({**_SIGNED, "per_channel": False, "extra_options": _FLOAT_BIAS}, set(), 6),
    "asymmetric activations": Setting({**_SIGNED, "extra_options": {"QuantizeBias": False}}, {"zero-point"}, None),
    "16 bits": Setting(
        {**_SIGNED, "activation_type": QuantType.QUInt16, "extra_options": {"QuantizeBias": False}},
        {"quantised-type"},
        None,
    ),
    "placed for TensorRT": Setting(
        {
            **_SIGNED,
            "op_types_to_quantize": _CONVOLUTIONS,
            "extra_options": {
                **_FLOAT_BIAS,
                "AddQDQPairToWeight": True,
                "OpTypesToExcludeOutputQuantization": _CONVOLUTIONS,
            },
        },
        set(),
        6,
    ),
}


class _Noise(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self) -> None:
        self._left = 2

    def get_next(self) -> dict[str, Any] | None:
        self._left -= 1
        return (
            {"x": np.random.default_rng(self._left).standard_normal((1, 16, 32, 32), np.float32)}
            if self._left >= 0
            else None
        )


def network() -> onnx.ModelProto:
    """Float: residual, depthwise, ReLU6, ConvTranspose, Resize, Concat."""
    net = Net()
    x = net.input([1, 16, 32, 32])
    conv: dict[str, Any] = {"quantized": False}
    y = net.op("Relu", net.conv(x, 16, 32, name="stem", strides=[2, 2], **conv))
    z = net.op("Clip", net.conv(y, 32, 32, group=32, name="depthwise", **conv), net.real(0), net.real(6))
    y = net.op("Add", net.conv(z, 32, 32, 1, name="project", **conv), y)
    weight = net.constant(net.numbers(32, 32, 2, 2))
    up = net.op(
        "ConvTranspose", net.conv(y, 32, 32, name="down", strides=[2, 2], **conv), weight, strides=[2, 2], name="up"
    )
    side = net.op("Relu", net.conv(y, 32, 32, name="side", **conv))
    y = net.op("Concat", side, up, axis=1)
    y = net.op("Resize", y, "", net.constant(np.array([1, 1, 2, 2], np.float32)), mode="linear")
    net.output(net.conv(y, 64, 16, 1, name="head", **conv))
    return net.model()


def quantise(folder: Path, setting: Setting) -> Report:
    source, target = folder / "float.onnx", folder / "model.onnx"
    onnx.save(network(), source)
    logging.disable(logging.WARNING)
    try:
        quantize_static(source, target, _Noise(), **setting.arguments)
    finally:
        logging.disable(logging.NOTSET)
    return check_file(target)


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("name", SETTINGS)
def test_quantisers_outcome_is_judged_as_the_compiler_does(name: str, tmp_path: Path) -> None:
    setting = SETTINGS[name]
    report = quantise(tmp_path, setting)
    serious = {item.rule for item in report.findings if item.severity != "advice"} - {"deconvolution-in-float"}
    assert setting.rules <= serious
    assert report.failed == (setting.in_int8 is None)
    if setting.in_int8 is not None:
        assert serious == set()
        assert sum(verdict.int8 for verdict in report.convolutions) == setting.in_int8
        assert [verdict.node for verdict in report.convolutions if not verdict.int8] == ["up"]
