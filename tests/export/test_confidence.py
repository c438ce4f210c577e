"""The second output, and the argmax that comes before the sub-pixels: what they give, in every placement."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper
from torch import nn

from edgeseg.export.confidence import CELL
from edgeseg.export.early import decide_early
from edgeseg.export.graph import export_graph, seal_graph
from edgeseg.export.quantise.cpu import place_for_cpu
from edgeseg.export.quantise.device import place_for_tensorrt
from edgeseg.export.quantise.estimate import estimate_ranges
from edgeseg.export.quantise.observe import Ranges, observe
from edgeseg.export.quantise.wiring import Wiring
from edgeseg.runtime.contract import Contract
from edgeseg.runtime.errors import ExportError
from edgeseg.train.network import SegmentationNetwork, fold_batch_norms

FRAME = np.random.default_rng(3).integers(0, 256, (1, 8, 12, 3), np.uint8).repeat(8, axis=1).repeat(8, axis=2)


def planes() -> torch.Tensor:
    """`FRAME` as the network takes it."""
    rgb = torch.from_numpy(FRAME[..., ::-1].copy()).permute(0, 3, 1, 2).float()
    return (rgb - 127) / 128


@pytest.fixture(scope="module")
def network(tiny_contract: Contract) -> SegmentationNetwork:
    torch.manual_seed(4)
    network = SegmentationNetwork(len(tiny_contract.classes)).eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.bias, std=0.3)
    fold_batch_norms(network)
    assert network.classifier.bias is not None
    nn.init.normal_(network.classifier.weight)  # the quarters of a cell begin alike, and so would their argmax
    with torch.no_grad():  # an untrained network's scores are all alike
        scores = network(planes())
        spread = (scores - scores.mean(dim=(2, 3), keepdim=True)).std()
        network.classifier.weight.mul_(1.5 / spread)
        network.classifier.bias.sub_(network(planes()).mean(dim=(2, 3))[0].repeat_interleave(4))
    return network


@pytest.fixture(scope="module")
def sure(network: SegmentationNetwork, tiny_contract: Contract) -> ModelProto:
    return onnx.load_from_string(export_graph(network, tiny_contract.model_copy(update={"confidence_cell": CELL})))


@pytest.fixture(scope="module")
def ranges(sure: ModelProto) -> Ranges:
    return estimate_ranges(observe(sure, [FRAME]), "min-max")


def run(model: ModelProto, *, as_written: bool = False) -> tuple[np.ndarray, np.ndarray]:
    options = onnxruntime.SessionOptions()
    if as_written:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(seal_graph(model), options, providers=["CPUExecutionProvider"])
    assert [output.name for output in session.get_outputs()] == ["mask", "confidence"]
    mask, confidence = session.run(None, {"frame": FRAME})
    return mask[0], confidence[0]


def test_it_is_the_greatest_softmax_in_the_middle_of_each_cell(
    network: SegmentationNetwork, sure: ModelProto, tiny_contract: Contract
) -> None:
    with torch.no_grad():
        shares = network(planes()).softmax(dim=1).amax(dim=1)[0]
    mask, confidence = run(sure)
    assert confidence.shape == (8, 12) and confidence.dtype == np.uint8
    expected = 255 * shares[2::4, 2::4].numpy()  # stride 2: the cell's middle is its third row and column
    assert np.abs(confidence - expected).max() <= 1.01
    assert confidence.max() - confidence.min() > 25, "a test that cannot fail"
    plain = onnxruntime.InferenceSession(export_graph(network, tiny_contract))
    assert np.array_equal(plain.run(["mask"], {"frame": FRAME})[0][0], mask)


@pytest.mark.parametrize("place", [place_for_cpu, place_for_tensorrt])
def test_every_placement_keeps_it_in_floating_point(sure: ModelProto, ranges: Ranges, place: object) -> None:
    placed = place(sure, ranges)  # type: ignore[operator]
    wiring = Wiring(placed)
    waiting, types = ["confidence"], {"QuantizeLinear", "DequantizeLinear"}
    while waiting:
        node = wiring.maker.get(waiting.pop())
        if node is not None and node.op_type != "Conv":
            assert node.op_type not in types
            waiting += node.input
    (fp32_mask, fp32), (mask, found) = run(sure), run(placed, as_written=place is place_for_tensorrt)
    assert np.mean(mask == fp32_mask) > 0.8
    assert np.abs(found.astype(int) - fp32.astype(int)).mean() < 20


def test_the_classifier_stays_float_on_the_cpu(sure: ModelProto, ranges: Ranges) -> None:
    placed = place_for_cpu(sure, ranges)
    weights = {tensor.name: tensor.data_type for tensor in placed.graph.initializer}
    assert weights["classifier.weight"] == TensorProto.FLOAT


def shuffled(*others: NodeProto, outputs: Sequence[str] = ()) -> ModelProto:
    """Scores of two classes in four sub-pixels, laid out and then decided."""
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], name="c"),
        helper.make_node("DepthToSpace", ["c"], ["d"], name="d", blocksize=2, mode="CRD"),
        helper.make_node("ArgMax", ["d"], ["a"], name="a", axis=1, keepdims=1),
        helper.make_node("Cast", ["a"], ["mask"], name="m", to=TensorProto.FLOAT),
        *others,
    ]
    shapes = {"mask": [1, 1, 8, 12]} | {name: [1, 2, 8, 12] for name in outputs}
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 4, 6])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()],
        [numpy_helper.from_array(np.random.default_rng(0).normal(size=(8, 3, 1, 1)).astype(np.float32), "w")],
    )
    return helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 20)])


def test_deciding_early_gives_the_same_mask_and_moves_one_number_a_pixel() -> None:
    early = shuffled()
    wiring = Wiring(early)
    decide_early(wiring)
    early = onnx.load_from_string(seal_graph(wiring.finish()))
    x = np.random.default_rng(1).normal(size=(1, 3, 4, 6)).astype(np.float32)
    before, after = (
        onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": x})[0] for model in (shuffled(), early)
    )
    assert np.array_equal(before, after) and before.any() and not before.all()
    shapes = {value.name: value.type.tensor_type.shape.dim for value in early.graph.value_info}
    (shuffle,) = (node for node in early.graph.node if node.op_type == "DepthToSpace")
    assert [dim.dim_value for dim in shapes[shuffle.input[0]]] == [1, 4, 4, 6]


def test_exported_graphs_decide_early(sure: ModelProto) -> None:
    order = [node.op_type for node in sure.graph.node]
    assert order.index("ArgMax") < order.index("DepthToSpace")


def test_what_others_read_is_not_decided_early() -> None:
    wiring = Wiring(shuffled(helper.make_node("Relu", ["d"], ["scores"], name="s"), outputs=["scores"]))
    before = [node.op_type for node in wiring.nodes]
    decide_early(wiring)
    assert [node.op_type for node in wiring.nodes] == before


def test_cells_finer_than_the_scores_are_refused(network: SegmentationNetwork, tiny_contract: Contract) -> None:
    fine = tiny_contract.model_copy(update={"confidence_cell": 2})
    with pytest.raises(ExportError, match=r"scores of 16x24 for an input of 64x96.*each 2x2 pixels.*--no-confidence"):
        export_graph(network, fine)
