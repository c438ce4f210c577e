from __future__ import annotations

from xml.etree import ElementTree

import pytest

from edgeseg.export.check.picture import draw_engines
from edgeseg.export.check.plan import read_engine
from edgeseg.runtime.errors import ExportError


def test_figures_are_read_from_the_log(compiler_log: str) -> None:
    document = read_engine(compiler_log, ["first", "second"]).document()
    layers = document.pop("layers")
    assert document == {
        "convolutions": 2,
        "convolutions_int8": 1,
        "float_convolutions": ["second"],
        "kernels": 4,
        "activation_bytes": 8241152,
        "weight_bytes": 29568,
    }
    assert isinstance(layers, list)
    assert len(layers) == 5


def test_layer_carries_tensors_and_onnx_names(compiler_log: str) -> None:
    layer = read_engine(compiler_log, []).layers[1]
    assert (layer.kind, layer.onnx) == ("correlation", ("first", "w_DQ"))
    assert [(tensor.name, tensor.dimensions, tensor.datatype) for tensor in layer.inputs] == [
        ("q", (1, 32, 16, 16), "Int8")
    ]
    assert [tensor.datatype for tensor in layer.constants] == ["Int8", "Float"]
    assert [tensor.datatype for tensor in layer.outputs] == ["Half"]


def test_fused_layer_counts_rather_than_the_one_that_rescales(compiler_log: str) -> None:
    assert read_engine(compiler_log, ["second"]).float_convolutions == ("second",)


def test_convolution_that_was_folded_away_is_not_counted(compiler_log: str) -> None:
    engine = read_engine(compiler_log, ["first", "gone"])
    assert (engine.int8_convolutions, engine.float_convolutions) == (("first",), ())


@pytest.mark.parametrize("log", ["", "Layers:\n", "Total Activation Memory: 1 bytes\nTotal Weights Memory: 1 bytes\n"])
def test_log_of_another_form_is_refused(log: str) -> None:
    with pytest.raises(ExportError, match="no list of layers"):
        read_engine(log, [])


def test_picture_is_an_svg_with_every_layer(compiler_log: str) -> None:
    engine = read_engine(compiler_log, ["first", "second"])
    text = draw_engines({"sm86 int8": engine, "sm89 <int8>": engine})
    root = ElementTree.fromstring(text)
    assert root.tag.endswith("svg")
    assert sum(element.tag.endswith("title") for element in root.iter()) == 2 * len(engine.layers)
    assert "1 of 2 convolutions in INT8" in text
    assert "http" not in text.replace("http://www.w3.org/2000/svg", "")


def test_small_convolution_that_quantises_in_its_own_kernel_is_int8(compiler_log: str) -> None:
    # With few channels QuantizeLinear and convolution are one generated kernel: float comes in, Int8 weights are there.
    own = compiler_log.replace("Name: first_myl0_1, LayerType: correlation", "Name: {}, LayerType: kgen").replace(
        "Datatype: Int8, Format: (NHWC) Channel major format }], Constants: [ {",
        "Datatype: Float, Format: (NHWC) Channel major format }], Constants: [ {",
    )
    rounded = own.replace("{},", "__myl_MulMinMaxRounCastConcCorrMulAdd_myl0_1,")
    assert read_engine(rounded, ["first"]).int8_convolutions == ("first",)
    # The same weights read by a convolution of float are unpacked in the kernel, and nothing is rounded.
    unpacked = own.replace("{},", "__myl_CastMulCastMoveCorr_myl0_1,")
    assert read_engine(unpacked, ["first"]).float_convolutions == ("first",)
