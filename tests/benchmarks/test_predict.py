from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from edgeseg.benchmarks.predict.command import PUBLISHED_RATIOS, predict
from edgeseg.benchmarks.predict.devices import DEVICES, PRECISIONS, Device, Precision, find_device
from edgeseg.benchmarks.predict.graph import count_work, read_work
from edgeseg.benchmarks.predict.roofline import bound_latency
from edgeseg.runtime.errors import EdgesegError


class Net:
    """An ONNX graph that is put together call by call; weights are shapes without values."""

    def __init__(self, shape: Sequence[int]) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.shape = list(shape)

    def add(self, operator: str, *inputs: str, **attributes: Any) -> str:
        name = f"{operator}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, inputs, [name], name=name, **attributes))
        return name

    def weight(self, *shape: int) -> str:
        name = f"weight_{len(self.weights)}"
        self.weights.append(TensorProto(name=name, dims=shape, data_type=TensorProto.FLOAT))
        return name

    def conv(self, data: str, into: int, out: int, kernel: int = 1, *, stride: int = 1, groups: int = 1) -> str:
        inputs = (data, self.weight(out, into // groups, kernel, kernel), self.weight(out))
        return self.add("Conv", *inputs, strides=[stride] * 2, pads=[kernel // 2] * 4, group=groups)

    def model(self, output: str) -> onnx.ModelProto:
        graph = helper.make_graph(
            self.nodes,
            "net",
            [helper.make_tensor_value_info("frame", TensorProto.FLOAT, self.shape)],
            [helper.make_tensor_value_info(output, TensorProto.FLOAT, None)],
            self.weights,
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)


def resnet(depth: int, batch: int = 1) -> onnx.ModelProto:
    """ResNet-18 or ResNet-50 v1.5 at 224x224 (He et al. 2015; v1.5 strides in the 3x3 convolution)."""
    net = Net((batch, 3, 224, 224))
    data = net.add("Relu", net.conv("frame", 3, 64, 7, stride=2))
    data = net.add("MaxPool", data, kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
    blocks, expansion = {18: ((2, 2, 2, 2), 1), 50: ((3, 4, 6, 3), 4)}[depth]
    into = 64
    for stage, count in enumerate(blocks):
        width = 64 << stage
        for block in range(count):
            stride = 2 if stage and not block else 1
            out = width * expansion
            skip = data if into == out and stride == 1 else net.conv(data, into, out, stride=stride)
            if expansion == 1:
                inner = net.add("Relu", net.conv(data, into, width, 3, stride=stride))
                inner = net.conv(inner, width, out, 3)
            else:
                inner = net.add("Relu", net.conv(data, into, width))
                inner = net.add("Relu", net.conv(inner, width, width, 3, stride=stride))
                inner = net.conv(inner, width, out)
            data, into = net.add("Relu", net.add("Add", inner, skip)), out
    data = net.add("Flatten", net.add("GlobalAveragePool", data))
    return net.model(net.add("Gemm", data, net.weight(1000, into), net.weight(1000), transB=1))


# NVIDIA's own figures. ResNet-50, INT8: median of its MLPerf Inference v3.1 submissions, edge, single stream, GPU only
# (mlcommons/inference_results_v3.1, closed/NVIDIA/results/Orin_TRT and Orin_NX_TRT, resnet50/SingleStream). ResNet-18,
# FP16, batches of 8: NVIDIA-AI-IOT/jetson-intro-to-distillation, README: 1420.2 frames/s.
PUBLISHED: tuple[tuple[int, int, str, Precision, float], ...] = (
    (50, 1, "agx-orin-64gb", "int8", 0.636),
    (50, 1, "orin-nx-16gb", "int8", 1.078),
    (18, 8, "orin-nano-8gb", "fp16", 8 / 1420.2 * 1e3),
)


@pytest.mark.parametrize(("depth", "batch", "device", "precision", "published_ms"), PUBLISHED)
def test_bound_is_below_what_nvidia_measured_and_not_absurdly_so(
    depth: int, batch: int, device: str, precision: Precision, published_ms: float
) -> None:
    bound = bound_latency(count_work(resnet(depth, batch)), find_device(device), precision)
    assert bound.bound_ms < published_ms < 5 * bound.bound_ms
    page = (Path(__file__).parents[2] / "docs/predict.md").read_text()
    row = f"{bound.bound_ms:.2f} | {bound.uncached_ms:.2f} | {published_ms:.2f} | {published_ms / bound.bound_ms:.1f} |"
    assert row in page, f"docs/predict.md should say: {row}"


def test_ratios_that_the_command_tells_are_those_of_the_published_latencies() -> None:
    bounds_ms = [
        bound_latency(count_work(resnet(depth, batch)), find_device(device), precision).bound_ms
        for depth, batch, device, precision, _ in PUBLISHED
    ]
    ratios = [published_ms / bound_ms for (*_, published_ms), bound_ms in zip(PUBLISHED, bounds_ms, strict=True)]
    assert (round(min(ratios), 1), round(max(ratios), 1)) == PUBLISHED_RATIOS


@pytest.mark.parametrize("device", DEVICES.values(), ids=DEVICES)
def test_every_device_is_a_row_of_the_page_with_the_figures_that_are_used(device: Device) -> None:
    page = (Path(__file__).parents[2] / "docs/predict.md").read_text()
    clock = f"{device.multiprocessors} × {device.gpu_mhz:g}"
    figures = f"{device.int8_tops:g}|{device.fp16_tflops:g}|{device.memory_gb_s:g}|{clock}|"
    assert f"|`{device.name}`|{figures}" in page
    assert device.source in page


@pytest.mark.parametrize(("depth", "gmacs", "parameters"), [(18, 1.81, 11.69e6), (50, 4.09, 25.56e6)])
def test_known_networks_have_their_known_size(depth: int, gmacs: float, parameters: float) -> None:
    work = count_work(resnet(depth))
    assert work.macs / 1e9 == pytest.approx(gmacs, rel=0.01)
    assert work.parameters == pytest.approx(parameters, rel=0.01)


def test_each_kind_of_layer_is_counted_by_hand() -> None:
    net = Net((1, 4, 6, 8))
    grouped = net.conv("frame", 4, 8, 3, groups=2)
    up = net.add("ConvTranspose", grouped, net.weight(8, 5, 2, 2), net.weight(5), strides=[2, 2])
    pooled = net.add("Flatten", net.add("GlobalAveragePool", up))
    last = net.add("Gemm", pooled, net.weight(5, 7))
    kernels = {kernel.operator: kernel for kernel in count_work(net.model(last)).kernels}
    assert kernels["Conv"].macs == 8 * 6 * 8 * (4 // 2) * 9
    assert kernels["Conv"].parameters == 8 * 2 * 9 + 8
    assert kernels["ConvTranspose"].macs == 8 * 6 * 8 * 5 * 4
    assert (kernels["ConvTranspose"].reads, kernels["ConvTranspose"].writes) == ((8 * 6 * 8,), 5 * 12 * 16)
    assert (kernels["Gemm"].macs, kernels["Gemm"].parameters) == (35, 35)
    assert kernels["GlobalAveragePool"].macs == 0
    assert "Flatten" not in kernels


def test_graph_with_qdq_says_itself_what_is_int8() -> None:
    net = Net((1, 16, 32, 32))
    net.weights.append(onnx.numpy_helper.from_array(np.array(0.1, np.float32), "scale"))
    net.weights.append(onnx.numpy_helper.from_array(np.array(0, np.int8), "zero"))
    quantised = net.add("QuantizeLinear", "frame", "scale", "zero")
    data = net.add("DequantizeLinear", quantised, "scale", "zero")
    stored = net.weight(16, 16, 3, 3)
    weight = net.add("DequantizeLinear", net.add("QuantizeLinear", stored, "scale", "zero"), "scale", "zero")
    data = net.add("Conv", data, weight, pads=[1] * 4)
    work = count_work(net.model(net.conv(data, 16, 4)))
    bound = bound_latency(work, find_device("orin-nano-8gb"), "int8")
    assert [layer.precision for layer in bound.layers] == ["int8", "fp16"]
    assert work.parameters == 16 * 16 * 9 + 16 * 4 + 4
    assert {layer.precision for layer in bound_latency(work, find_device("agx-thor"), "fp16").layers} == {"fp16"}


def test_wide_layers_are_bound_by_compute_and_large_weights_by_memory() -> None:
    device = find_device("orin-nano-8gb")
    wide = Net((1, 256, 64, 64))
    assert bound_latency(count_work(wide.model(wide.conv("frame", 256, 256, 3))), device, "int8").limit == "compute"
    dense = Net((1, 8000))
    heavy = dense.model(dense.add("Gemm", "frame", dense.weight(8000, 8000)))
    bound = bound_latency(count_work(heavy), device, "int8")
    assert bound.limit == "memory"
    assert bound.bytes_moved == pytest.approx(64e6 - device.on_chip_bytes, rel=0.001)
    tiny = Net((1, 1, 2, 2))
    assert bound_latency(count_work(tiny.model(tiny.conv("frame", 1, 1))), device, "int8").limit == "launch"


SIZES = st.integers(1, 64)


@given(SIZES, SIZES, st.integers(1, 200), st.sampled_from(sorted(DEVICES)))
def test_bound_obeys_its_laws(into: int, out: int, size: int, name: str) -> None:
    net, device = Net((1, into, size, size)), DEVICES[name]
    work = count_work(net.model(net.conv(net.conv("frame", into, out, 3), out, into)))
    int8, fp16 = (bound_latency(work, device, precision) for precision in PRECISIONS)
    assert int8.bound_ms <= fp16.bound_ms
    for bound in (int8, fp16):
        assert bound.bound_ms <= bound.uncached_ms
        assert sum(bound.shares_ms.values()) == pytest.approx(bound.bound_ms)
        assert all(0 <= layer.bytes_moved <= layer.bytes_touched for layer in bound.layers)
        assert bound.bound_ms >= 2e3 * work.macs / device.operations_per_s(bound.precision)


@pytest.mark.parametrize("device", DEVICES.values(), ids=DEVICES)
def test_published_rates_agree_with_clock_and_multiprocessors(device: Device) -> None:
    clocked = device.multiprocessors * device.gpu_mhz * device.int8_operations / 1e6
    assert clocked == pytest.approx(device.int8_tops, rel=0.05)
    assert device.fp16_tflops == pytest.approx(device.int8_tops / 2, rel=0.01)
    assert device.source.startswith("https://")


def test_slower_device_of_a_family_has_the_higher_bound() -> None:
    work = count_work(resnet(50))
    names = ("orin-nano-4gb", "orin-nano-8gb", "orin-nano-8gb-super", "agx-orin-32gb", "agx-orin-64gb", "agx-thor")
    bounds = [bound_latency(work, find_device(name), "int8").bound_ms for name in names]
    assert bounds == sorted(bounds, reverse=True)


def test_unknown_device_names_the_known_ones() -> None:
    with pytest.raises(EdgesegError, match="orin-nano-8gb"):
        find_device("nano")


def test_graph_without_static_shape_is_refused_by_name(tmp_path: Path) -> None:
    net = Net((1, 3, 8, 8))
    model = net.model(net.conv("frame", 3, 4))
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_param = "height"
    onnx.save(model, tmp_path / "free.onnx")
    with pytest.raises(EdgesegError, match=r"Conv_0.*static shape"):
        read_work(tmp_path / "free.onnx")


@pytest.mark.parametrize("data", [b"", b"not onnx at all", b"\x08\x09"])
def test_file_that_is_no_model_is_refused_in_one_line(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "bad.onnx").write_bytes(data)
    with pytest.raises(EdgesegError, match=r"bad\.onnx"):
        read_work(tmp_path / "bad.onnx")


def test_command_predicts_a_bundle_and_says_that_it_is_a_bound(tiny_bundle: Path, tmp_path: Path) -> None:
    arguments = [str(tiny_bundle), "--device", "orin-nano-8gb", "--json", str(tmp_path / "out.json")]
    result = CliRunner().invoke(predict, arguments)
    assert result.exit_code == 0, result.output
    assert "no faster than" in result.output
    assert "neither is a measurement" in result.output
    assert "2.0 to 3.9 times such a bound" in result.output
    assert "as if all of it ran in INT8" in result.output
    document = json.loads((tmp_path / "out.json").read_text())
    assert document["schema"] == "edgeseg/predict/1"
    assert (document["device"], document["precision"], document["measured"]) == ("orin-nano-8gb", "int8", False)
    assert document["bundle"]["name"] == "tiny"
    assert document["macs"] == 64 * 96 * 3 * 11
    assert document["parameters"] == 3 * 11 + 11
    assert document["bound_ms"] == pytest.approx(sum(layer["bound_ms"] for layer in document["layers"]), abs=1e-4)
    assert {"bound_ms", "limit", "layers"} <= document.keys()


def test_command_predicts_a_file_too(tmp_path: Path) -> None:
    onnx.save(resnet(18), tmp_path / "net.onnx")
    arguments = [str(tmp_path / "net.onnx"), "--device", "agx-thor", "--precision", "fp16"]
    result = CliRunner().invoke(predict, arguments)
    assert result.exit_code == 0, result.output
    assert "in FP16" in result.output
