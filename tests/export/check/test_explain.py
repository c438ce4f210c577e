"""Faults planted in one step of one precision: the command names just that tensor."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result
from onnx import ModelProto, numpy_helper
from tests.export.small_network import SIZE_HW, build_network, frames

from edgeseg.export.check.explain import explain, first_unexpected
from edgeseg.export.check.measure import EXACT_DB, Noise, best_grid_db
from edgeseg.export.check.stages import Wires, pair_steps
from edgeseg.export.check_command import check
from edgeseg.export.graph import seal_graph
from edgeseg.export.quantise.cpu import place_for_cpu
from edgeseg.export.quantise.device import place_for_tensorrt
from edgeseg.export.quantise.estimate import estimate_ranges
from edgeseg.export.quantise.half import make_half
from edgeseg.export.quantise.observe import observe
from edgeseg.runtime.backends.ort import open_session
from edgeseg.runtime.bundle import open_bundle, write_bundle
from edgeseg.runtime.contract import Contract
from edgeseg.runtime.errors import ExportError
from edgeseg.runtime.manifest import Golden, Provenance, golden_paths, model_name

Edit = Callable[[ModelProto], None]
PRECISIONS = ("fp16", "int8", "int8-cpu")


@pytest.fixture(scope="module")
def graphs() -> dict[str, bytes]:
    """A small network in all precisions."""
    network = build_network()
    ranges = estimate_ranges(observe(network, frames()), "min-max")
    placed = {
        "fp32": build_network(),
        "fp16": make_half(build_network()),
        "int8": place_for_tensorrt(network, ranges),
        "int8-cpu": place_for_cpu(network, ranges, weights="8-bit"),
    }
    return {name: seal_graph(model) for name, model in placed.items()}


@pytest.fixture
def contract() -> Contract:
    names = ("road", "sky", "tree", "car", "sign")
    height, width = SIZE_HW
    palette = tuple((40 * index, index, 9) for index in range(5))
    return Contract(height=height, width=width, fit="stretch", classes=names, palette=palette, ignore_index=255)


@pytest.fixture
def make_bundle(graphs: dict[str, bytes], contract: Contract, tmp_path: Path) -> Callable[..., Path]:
    """Write the bundle, with one precision's graph edited."""

    def make(precision: str = "", edit: Edit | None = None, *, only: tuple[str, ...] = PRECISIONS) -> Path:
        folder = tmp_path / "bundle"
        shutil.rmtree(folder, ignore_errors=True)
        (folder / "golden").mkdir(parents=True)
        for name in ("fp32", *only):
            model = onnx.load_from_string(graphs[name])
            if name == precision and edit is not None:
                edit(model)
            (folder / model_name(name)).write_bytes(model.SerializeToString())
        frame = next(iter(frames(1)))
        mask = open_session(graphs["fp32"]).run(["mask"], {"frame": frame})[0]
        for path, picture in zip(golden_paths("one"), (frame[0], mask[0]), strict=True):
            assert cv2.imwrite(str(folder / path), picture)
        write_bundle(
            folder,
            name="small",
            contract=contract,
            stages={},
            golden=Golden(frames=("one",)),
            provenance=Provenance(dataset="none", splits={}, created="2026-01-01T00:00:00Z"),
        )
        return folder

    return make


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(check, [str(argument) for argument in arguments])


def change(model: ModelProto, name: str, to: Callable[[np.ndarray], np.ndarray]) -> None:
    tensor = next(item for item in model.graph.initializer if item.name == name)
    values = numpy_helper.to_array(tensor)
    tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(to(values).astype(values.dtype)), name))


def read_by(model: ModelProto, op: str, name: str, index: int) -> str:
    """Return the constant behind an input of an operator, through its DequantizeLinear."""
    makers = {out: node for node in model.graph.node for out in node.output}
    node = next(item for item in model.graph.node if item.op_type == op and item.name == name)
    tensor = node.input[index]
    while tensor in makers:
        tensor = makers[tensor].input[0]
    return str(tensor)


def conv_names(model: ModelProto) -> list[str]:
    return [node.name for node in model.graph.node if node.op_type == "Conv"]


def swap_channels(values: np.ndarray) -> np.ndarray:
    swapped = values.copy()
    swapped[[0, 1]] = values[[1, 0]]
    return swapped


def named(folder: Path, precision: str) -> str | None:
    """Return the tensor that is named for `precision`; no other precision may be named."""
    with open_bundle(folder) as bundle:
        found = explain(bundle, {name: frame for name, frame, _ in bundle.golden_frames()})
    first = {name: first_unexpected(rows) for name, rows in found.items()}
    assert [name for name, row in first.items() if row is not None and name != precision] == []
    row = first[precision]
    return None if row is None else row.tensor


def test_sound_bundle_has_nothing_unexpected(make_bundle: Callable[..., Path]) -> None:
    folder = make_bundle()
    with open_bundle(folder) as bundle:
        found = explain(bundle, {name: frame for name, frame, _ in bundle.golden_frames()})
    assert list(found) == list(PRECISIONS)
    for rows in found.values():
        assert first_unexpected(rows) is None
        assert sum(row.op == "Conv" for row in rows) == 9
        assert rows[-1].agreement is not None and rows[-1].agreement > 0.9


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("place", [0, 4, 8])
def test_swapped_channels_of_one_layer_are_named(
    precision: str, place: int, make_bundle: Callable[..., Path], graphs: dict[str, bytes]
) -> None:
    conv = conv_names(onnx.load_from_string(graphs[precision]))[place]
    folder = make_bundle(
        precision, lambda model: change(model, read_by(model, "Conv", conv, 1), swap_channels), only=(precision,)
    )
    assert named(folder, precision) == conv


@pytest.mark.parametrize("precision", ["int8", "int8-cpu"])
@pytest.mark.parametrize("factor", [0.25, 4.0])
def test_wrong_scale_of_one_activation_is_named(
    precision: str, factor: float, make_bundle: Callable[..., Path], graphs: dict[str, bytes]
) -> None:
    model = onnx.load_from_string(graphs[precision])
    makers = {out: node for node in model.graph.node for out in node.output}
    conv = next(node for node in model.graph.node if node.name == conv_names(model)[3])
    pair = makers[conv.input[0]]
    folder = make_bundle(
        precision, lambda edited: change(edited, pair.input[1], lambda v: v * factor), only=(precision,)
    )
    assert named(folder, precision) == pair.output[0]


@pytest.mark.parametrize("precision", ["int8", "int8-cpu"])
def test_wrong_scale_of_one_channels_weights_is_named_with_weight_and_channel(
    precision: str, make_bundle: Callable[..., Path], graphs: dict[str, bytes]
) -> None:
    model = onnx.load_from_string(graphs[precision])
    makers = {out: node for node in model.graph.node for out in node.output}
    conv = next(node for node in model.graph.node if node.name == conv_names(model)[5])
    weight = makers[conv.input[1]]

    def double(values: np.ndarray) -> np.ndarray:
        values = values.copy()
        values[2] *= 3
        return values

    folder = make_bundle(precision, lambda edited: change(edited, weight.input[1], double), only=(precision,))
    with open_bundle(folder) as bundle:
        rows = explain(bundle, {name: frame for name, frame, _ in bundle.golden_frames()})[precision]
    first = first_unexpected(rows)
    assert first is not None and first.tensor == conv.output[0]
    assert first.cause is not None and first.cause.startswith(weight.output[0]) and first.cause.endswith("channel 2")


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_wrong_normalisation_is_named(
    precision: str, make_bundle: Callable[..., Path], graphs: dict[str, bytes]
) -> None:
    model = onnx.load_from_string(graphs[precision])
    divide = next(node for node in model.graph.node if node.op_type == "Div")
    folder = make_bundle(
        precision, lambda edited: change(edited, divide.input[1], lambda v: v * 0 + 100), only=(precision,)
    )
    assert named(folder, precision) == divide.output[0]


def test_wrong_normalisation_of_the_cpu_placement_is_named(
    make_bundle: Callable[..., Path], graphs: dict[str, bytes]
) -> None:
    model = onnx.load_from_string(graphs["int8-cpu"])
    makers = {out: node for node in model.graph.node for out in node.output}
    conv = next(node for node in model.graph.node if node.op_type == "Conv")
    pair = makers[conv.input[0]]
    folder = make_bundle("int8-cpu", lambda edited: change(edited, pair.input[2], lambda v: v * 0), only=("int8-cpu",))
    assert named(folder, "int8-cpu") == pair.output[0]


def test_graphs_are_compared_whatever_their_nodes_are_called(
    make_bundle: Callable[..., Path], graphs: dict[str, bytes]
) -> None:
    def rename(model: ModelProto) -> None:
        """As another tool would: other names for nodes and inner tensors."""
        kept = {item.name for item in (*model.graph.input, *model.graph.output, *model.graph.initializer)}
        for value in model.graph.value_info:
            value.name = f"t_{value.name}"
        for index, node in enumerate(model.graph.node):
            node.name = f"n{index}"
            for names in (node.input, node.output):
                names[:] = [name if name in kept or not name else f"t_{name}" for name in names]

    assert named(make_bundle("int8", rename, only=("int8",)), "int8") is None

    def rename_and_swap(model: ModelProto) -> None:
        conv = conv_names(model)[4]
        change(model, read_by(model, "Conv", conv, 1), swap_channels)
        rename(model)

    conv = conv_names(onnx.load_from_string(graphs["int8"]))[4]
    assert named(make_bundle("int8", rename_and_swap, only=("int8",)), "int8") == f"t_{conv}"


def test_command_prints_writes_and_fails_on_the_tensor(
    make_bundle: Callable[..., Path], graphs: dict[str, bytes], tmp_path: Path, without_compiler: None
) -> None:
    conv = conv_names(onnx.load_from_string(graphs["int8"]))[4]
    folder = make_bundle("int8", lambda model: change(model, read_by(model, "Conv", conv, 1), swap_channels))
    result = run(folder, "--explain", "--json", tmp_path / "out.json")
    assert isinstance(result.exception, ExportError)
    assert f"int8: {conv} (Conv) is the first to diverge" in str(result.exception)
    rows = json.loads((tmp_path / "out.json").read_text())["explain"]
    assert {row["precision"] for row in rows} == set(PRECISIONS)
    unexpected = [row for row in rows if row["unexpected"]]
    assert unexpected and unexpected[0]["tensor"] == conv
    assert unexpected[0]["step_db"] < unexpected[0]["tolerance_db"] < rows[0]["step_db"] <= EXACT_DB


def test_command_explains_a_picture_of_the_users(
    make_bundle: Callable[..., Path], tmp_path: Path, without_compiler: None
) -> None:
    frame = next(iter(frames(1)))[0]
    assert cv2.imwrite(str(tmp_path / "photo.png"), cv2.resize(frame, (100, 80)))
    result = run(make_bundle(), "--explain", "--frame", tmp_path / "photo.png")
    assert result.exit_code == 0, result.output
    assert "int8: every step within its tolerance" in result.output


def test_explain_of_a_single_graph_is_wrong_usage(make_bundle: Callable[..., Path]) -> None:
    assert run(make_bundle() / "model.fp32.onnx", "--explain").exit_code == 2
    assert run(make_bundle(), "--frame", make_bundle() / "golden/one.frame.png").exit_code == 2


def test_other_number_of_convolutions_is_one_line(make_bundle: Callable[..., Path], tiny_bundle: Path) -> None:
    folder = make_bundle()
    with open_bundle(folder) as bundle:
        model = onnx.load(str(bundle.model_path("fp32")))
    for node in model.graph.node:
        if node.op_type == "Conv":
            node.op_type, node.name = "Identity", "gone"
            del node.attribute[:], node.input[1:]
            break
    whole = Wires(onnx.load(str(folder / "model.fp32.onnx")))
    with pytest.raises(ExportError, match=r"convolutions answer to those of fp32; expected 9"):
        pair_steps(whole, Wires(model))


def test_noise_counts_what_is_not_finite_as_an_error() -> None:
    noise = Noise()
    reference = np.ones((1, 2, 3, 3), np.float32)
    found = reference.copy()
    found[0, 1] = np.nan
    noise.add(reference, found)
    assert noise.worst_channel()[0] == 1
    assert noise.sqnr_db == pytest.approx(10 * np.log10(18 / 0.001), abs=60)


def test_exact_tensors_have_the_greatest_figure() -> None:
    noise = Noise()
    noise.add(np.ones((1, 2, 3, 3), np.float32), np.ones((1, 2, 3, 3), np.float32))
    assert noise.sqnr_db == EXACT_DB


def test_best_grid_of_levels_is_exact() -> None:
    levels = np.arange(-127, 128, dtype=np.float32) / 128
    assert best_grid_db(levels, symmetric=True) == EXACT_DB
    assert best_grid_db(np.random.default_rng(0).standard_normal(4096), symmetric=True) < 50
