"""Ranges, weights and both placements, on small graphs."""

from __future__ import annotations

import collections
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import ModelProto, TensorProto, helper, numpy_helper
from tests.export.small_network import build_network, frames

from edgeseg.export.check.graph import Graph
from edgeseg.export.check.read import read_graph
from edgeseg.export.check.rules import check_graph
from edgeseg.export.graph import seal_graph
from edgeseg.export.quantise.cpu import place_for_cpu
from edgeseg.export.quantise.device import place_for_tensorrt
from edgeseg.export.quantise.estimate import ESTIMATORS, estimate_ranges
from edgeseg.export.quantise.half import make_half
from edgeseg.export.quantise.observe import BINS, Histogram, Range, observe
from edgeseg.export.quantise.weights import SMALLEST_HALF, quantise_weights
from edgeseg.runtime.backends.ort import open_session


@pytest.fixture(scope="module")
def network() -> ModelProto:
    return build_network()


@pytest.fixture(scope="module")
def histograms(network: ModelProto) -> dict[str, Histogram]:
    return observe(network, frames())


@pytest.fixture(scope="module")
def ranges(histograms: dict[str, Histogram]) -> dict[str, Range]:
    return estimate_ranges(histograms, "min-max")


@pytest.fixture(scope="module")
def device(network: ModelProto, ranges: dict[str, Range]) -> ModelProto:
    return onnx.load_from_string(seal_graph(place_for_tensorrt(network, ranges)))


@pytest.fixture(scope="module")
def cpu(network: ModelProto, ranges: dict[str, Range]) -> ModelProto:
    return onnx.load_from_string(seal_graph(place_for_cpu(network, ranges, weights="paired")))


def agreement(one: ModelProto, other: ModelProto, *, as_written: bool = True) -> float:
    """Share of pixels of fresh frames that both give the same class; the first runs as written, or optimised."""
    first = open_session(one.SerializeToString(), as_written=as_written)
    second = open_session(other.SerializeToString(), as_written=True)
    pairs = [(first.run(None, {"frame": f})[0], second.run(None, {"frame": f})[0]) for f in frames(12)]
    return float(np.mean([np.mean(ours == theirs) for ours, theirs in pairs]))


def checked(model: ModelProto, folder: Path) -> Graph:
    onnx.save(model, folder / "model.onnx")
    return read_graph(folder / "model.onnx")


def constants(model: ModelProto) -> dict[str, np.ndarray]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def makers(model: ModelProto) -> dict[str, onnx.NodeProto]:
    return {name: node for node in model.graph.node for name in node.output}


# TensorRT's placement.


def test_tensorrt_runs_every_convolution_in_int8_and_fused(device: ModelProto, tmp_path: Path) -> None:
    report = check_graph(checked(device, tmp_path))
    assert len(report.convolutions) == 9 and all(verdict.fused for verdict in report.convolutions)
    assert not [item for item in report.findings if item.severity != "advice" or "skip" in item.rule]


def test_only_inputs_of_convolutions_skips_and_joined_values_are_quantised(device: ModelProto) -> None:
    made, read = makers(device), collections.Counter[str]()
    for node in device.graph.node:
        for name in node.input:
            if name in made and made[name].op_type == "DequantizeLinear":
                read[node.op_type] += 1
    assert read == {"Conv": 18, "Add": 2, "Concat": 2}


def test_the_skip_input_of_a_sum_is_quantised_and_the_convolutions_is_not(device: ModelProto) -> None:
    made = makers(device)
    for node in device.graph.node:
        if node.op_type == "Add":
            assert sorted(made[name].op_type for name in node.input) == ["Conv", "DequantizeLinear"]


def test_joined_values_share_one_scale(device: ModelProto) -> None:
    made, values = makers(device), constants(device)
    concat = next(node for node in device.graph.node if node.op_type == "Concat")
    reader = next(node for node in device.graph.node if concat.output[0] in node.input)
    scales = [values[made[name].input[1]] for name in concat.input] + [values[reader.input[1]]]
    assert reader.op_type == "QuantizeLinear" and len(set(map(float, scales))) == 1


def test_scales_are_symmetric_scalars_and_the_frames_is_pinned(device: ModelProto) -> None:
    values = constants(device)
    pairs = [node for node in device.graph.node if node.op_type == "QuantizeLinear"]
    assert all(values[node.input[1]].shape == () and values[node.input[2]] == 0 for node in pairs)
    assert float(values[pairs[0].input[1]]) == 1 / 128 and makers(device)[pairs[0].input[0]].op_type == "Div"


def test_weights_are_int8_per_channel_and_biases_float(device: ModelProto) -> None:
    values, made = constants(device), makers(device)
    for node in device.graph.node:
        if node.op_type == "Conv":
            pair = made[node.input[1]]
            stored, scale, zero = (values[name] for name in pair.input)
            assert stored.dtype == np.int8 and scale.shape == (len(stored),) and not zero.any()
            assert helper.get_attribute_value(pair.attribute[0]) == 0
            assert values[node.input[2]].dtype == np.float16


def test_the_float_remainder_is_fp16_and_its_scales_lose_nothing(device: ModelProto) -> None:
    kinds = {value.type.tensor_type.elem_type for value in device.graph.value_info}
    assert kinds == {TensorProto.FLOAT16, TensorProto.INT8, TensorProto.INT64, TensorProto.FLOAT}
    single = [v.name for v in device.graph.value_info if v.type.tensor_type.elem_type == TensorProto.FLOAT]
    assert [makers(device)[name].op_type for name in single] == ["Cast"]  # the class index on its way to uint8
    for name, values in constants(device).items():
        if name.endswith(".scale"):
            assert values.dtype == np.float16 and np.all(values >= SMALLEST_HALF)


def test_a_raised_convolution_is_fp16_and_its_sum_with_it(
    network: ModelProto, ranges: dict[str, Range], tmp_path: Path
) -> None:
    total = next(node for node in network.graph.node if node.op_type == "Add")
    raised = total.input[1]
    model = place_for_tensorrt(network, ranges, raised=[raised])
    made, values = makers(model), constants(model)
    assert values[made[raised].input[1]].dtype == np.float16
    assert "DequantizeLinear" not in [made[name].op_type for name in made[total.output[0]].input]
    verdicts = {verdict.node: verdict.int8 for verdict in check_graph(checked(model, tmp_path)).convolutions}
    assert [node for node, int8 in verdicts.items() if not int8] == [raised]


# ONNX Runtime's placement.


def test_onnxruntime_fuses_every_convolution_but_the_classifier(cpu: ModelProto, tmp_path: Path) -> None:
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "fused.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(cpu.SerializeToString(), options, providers=["CPUExecutionProvider"])
    count = collections.Counter(node.op_type for node in onnx.load(tmp_path / "fused.onnx").graph.node)
    assert count["QLinearConv"] == 8 and count["QLinearAdd"] == 2 and count["Clip"] == count["Relu"] == 0
    assert sum(count[name] for name in ("Conv", "FusedConv")) == 1


def test_the_frames_own_bytes_are_the_first_integers(cpu: ModelProto) -> None:
    first = [node.op_type for node in cpu.graph.node[:2]]
    assert first == ["Transpose", "DequantizeLinear"] and cpu.graph.node[0].input[0] == "frame"
    scale, zero = (constants(cpu)[name] for name in cpu.graph.node[1].input[1:])
    levels = np.arange(256, dtype=np.float32)
    assert np.array_equal((levels - float(zero)) * float(scale), (levels - 127) / 128)


def test_paired_weights_do_not_saturate_on_this_machine(cpu: ModelProto) -> None:
    assert agreement(cpu, cpu, as_written=False) >= 0.995


def test_a_raised_convolution_stays_float_on_the_cpu(network: ModelProto, ranges: dict[str, Range]) -> None:
    conv = next(node.name for node in network.graph.node if node.op_type == "Conv")
    model = place_for_cpu(network, ranges, raised=[conv])
    weight = next(node for node in model.graph.node if node.name == conv).input[1]
    assert constants(model)[weight].dtype == np.float32


# Both.


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_both_placements_say_nearly_what_fp32_says(
    network: ModelProto, histograms: dict[str, Histogram], estimator: str
) -> None:
    ranges = estimate_ranges(histograms, estimator)
    least = 0.8 if estimator == "entropy" else 0.9  # of random weights on a few frames
    assert agreement(place_for_tensorrt(network, ranges), network) >= least
    assert agreement(place_for_cpu(network, ranges), network) >= least


def test_the_same_ranges_give_the_same_bytes(network: ModelProto, ranges: dict[str, Range]) -> None:
    for place in (place_for_tensorrt, place_for_cpu):
        assert seal_graph(place(network, ranges)) == seal_graph(place(network, ranges))


def test_fp16_is_whole_and_agrees(network: ModelProto) -> None:
    half = onnx.load_from_string(seal_graph(make_half(build_network())))
    assert agreement(half, network) >= 0.99
    kept = {name: values for name, values in constants(half).items() if values.dtype == np.float32}
    resizes = [node for node in half.graph.node if node.op_type == "Resize"]
    assert set(kept) == {node.input[2] for node in resizes}


def test_int8_files_are_about_a_quarter_of_fp32s(trained_model: ModelProto) -> None:
    frame = np.random.default_rng(0).integers(0, 256, (1, 64, 96, 3), np.uint8)
    ranges = estimate_ranges(observe(trained_model, [frame]), "min-max")
    whole = len(seal_graph(ModelProto.FromString(trained_model.SerializeToString())))
    for place in (place_for_tensorrt, place_for_cpu):
        assert len(seal_graph(place(trained_model, ranges))) <= 0.35 * whole


# Weights.

WEIGHTS = st.integers(0, 2**32 - 1).map(
    lambda seed: (np.random.default_rng(seed).standard_t(2, (3, 5, 3, 3)) * 0.1).astype(np.float32)
)


@given(weights=WEIGHTS, rule=st.sampled_from(["8-bit", "7-bit", "paired"]), half=st.booleans())
def test_weights_come_back_within_half_a_step(weights: np.ndarray, rule: str, half: bool) -> None:
    integers, scales = quantise_weights(weights, rule=rule, half_scales=half)  # type: ignore[arg-type]
    steps = scales.reshape(-1, 1, 1, 1)
    # A scale that was rounded to FP16 may end up to 2^-11 of the range short.
    slack = 127 * 2.0**-11 if half else 1e-4
    assert np.all(np.abs(weights - integers * steps) <= steps * (0.5 + slack))


@given(weights=WEIGHTS)
def test_paired_weights_fit_sixteen_bits_and_are_never_coarser_than_seven(weights: np.ndarray) -> None:
    integers, scales = quantise_weights(weights, rule="paired")
    for laid in (integers, integers.transpose(0, 2, 3, 1)):
        flat = laid.reshape(3, -1).astype(int)
        pairs = np.pad(flat, ((0, 0), (0, 1))).reshape(3, -1, 2)
        for sign in (1, -1):
            assert np.maximum(sign * pairs, 0).sum(axis=2).max() * 255 < 2**15
    assert np.all(scales <= quantise_weights(weights, rule="7-bit")[1] * 1.0001)


def test_dead_channels_stay_finite() -> None:
    weights = np.zeros((2, 4, 1, 1), np.float32)
    weights[1] = 1e-12
    for half in (False, True):
        integers, scales = quantise_weights(weights, half_scales=half)
        assert np.all(np.isfinite(scales)) and np.all(scales > 0) and not integers[0].any()


# Ranges.


@settings(max_examples=30)
@given(parts=st.lists(st.floats(1e-3, 1e6), min_size=1, max_size=6), seed=st.integers(0, 1000))
def test_a_histogram_loses_no_value_however_it_grows(parts: list[float], seed: int) -> None:
    random, histogram = np.random.default_rng(seed), Histogram()
    values = [(random.normal(0, scale, 100) + scale / 9).astype(np.float32) for scale in parts]
    for part in values:
        histogram.add(part)
    seen = np.concatenate(values)
    assert histogram.counts.sum() == np.count_nonzero(seen) and len(histogram.counts) == BINS
    assert (histogram.low, histogram.high) == (min(0.0, seen.min()), max(0.0, seen.max()))
    assert histogram.peak <= histogram.reach


def test_estimators_cut_a_lone_outlier_and_min_max_does_not() -> None:
    histogram = Histogram()
    histogram.add(np.random.default_rng(0).normal(0, 1, 60_000).astype(np.float32))
    histogram.add(np.array([40.0], np.float32))
    reaches = {name: estimate_ranges({"x": histogram}, name)["x"].high for name in ESTIMATORS}
    assert reaches["min-max"] == 40.0
    assert all(2.0 < reaches[name] < 10.0 for name in ("percentile", "entropy")) and reaches["mse"] < 40.0


def test_a_value_that_is_always_zero_has_a_range() -> None:
    histogram = Histogram()
    histogram.add(np.zeros(9, np.float32))
    for name in ESTIMATORS:
        assert estimate_ranges({"x": histogram}, name)["x"] == Range(low=0.0, high=0.0)
