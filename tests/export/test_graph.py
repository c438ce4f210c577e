"""What `export_graph` promises of the graph's bytes."""

import getpass
import socket
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper
from torch import nn

from edgeseg.export.graph import IR_VERSION, OPSET, export_graph, finish_graph
from edgeseg.runtime.contract import Contract
from edgeseg.runtime.errors import ExportError
from edgeseg.runtime.onnx_facts import parse_facts
from edgeseg.train.network import SegmentationNetwork, fold_batch_norms, mask_of


@pytest.fixture(scope="module")
def lite(tiny_contract: Contract) -> nn.Module:
    """The network that `edgeseg train` trains, folded, with weights as far from zero as a trained one's."""
    torch.manual_seed(0)
    network = SegmentationNetwork(len(tiny_contract.classes))
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.bias, std=0.3)
            nn.init.normal_(module.running_mean, std=0.3)  # type: ignore[arg-type]
    network.eval()
    fold_batch_norms(network)
    return network


@pytest.fixture(scope="module")
def lite_graph(lite: nn.Module, tiny_contract: Contract) -> bytes:
    return export_graph(lite, tiny_contract)


def infer(graph: bytes, frame: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    (mask,) = session.run(["mask"], {"frame": frame})
    return np.asarray(mask)


def test_graph_keeps_the_contract(lite_graph: bytes) -> None:
    facts = parse_facts(lite_graph)
    assert [str(tensor) for tensor in facts.inputs] == ["frame uint8 (1, 64, 96, 3)"]
    assert [str(tensor) for tensor in facts.outputs] == ["mask uint8 (1, 64, 96)"]
    assert (facts.opset, facts.class_count) == (OPSET, 11)
    assert onnx.load_from_string(lite_graph).ir_version <= IR_VERSION


def test_graph_casts_where_tensorrt_needs_it(lite_graph: bytes) -> None:
    nodes = list(onnx.load_from_string(lite_graph).graph.node)
    assert [node.op_type for node in nodes[:2]] == ["Cast", "Transpose"]
    order = [node.op_type for node in nodes]
    assert order[order.index("ArgMax") + 1] == "Cast"  # enlarged as floats: UINT8 comes from those only
    assert order[-3:] == ["DepthToSpace", "Squeeze", "Cast"]
    casts = [node for node in nodes if node.op_type == "Cast"]
    to = [onnx.helper.get_attribute_value(node.attribute[0]) for node in casts]
    assert to == [TensorProto.FLOAT, TensorProto.FLOAT, TensorProto.UINT8]


def test_only_the_class_index_is_int64(lite_graph: bytes) -> None:
    graph = onnx.load_from_string(lite_graph).graph
    wide = [value.name for value in graph.value_info if value.type.tensor_type.elem_type == TensorProto.INT64]
    assert wide == [next(node.output[0] for node in graph.node if node.op_type == "ArgMax")]


def test_every_value_has_a_static_shape(lite_graph: bytes) -> None:
    graph = onnx.load_from_string(lite_graph).graph
    noted = {value.name for value in (*graph.value_info, *graph.output)}
    assert noted == {name for node in graph.node for name in node.output}


def test_same_network_gives_the_same_bytes(lite: nn.Module, lite_graph: bytes, tiny_contract: Contract) -> None:
    assert export_graph(lite, tiny_contract) == lite_graph


def test_graph_tells_nothing_of_the_machine(lite_graph: bytes) -> None:
    model = onnx.load_from_string(lite_graph)
    assert not model.metadata_props and not model.doc_string
    del model.graph.initializer[:]  # random bytes may spell anything
    text = model.SerializeToString()
    here = [str(Path(__file__).parents[2]), sys.prefix, str(Path.home()), socket.gethostname(), getpass.getuser() + "/"]
    for remark in (*here, ".py", "File ", "stack_trace", "site-packages"):
        assert remark.encode() not in text


def test_graph_agrees_with_the_network_on_bgr(lite: nn.Module, lite_graph: bytes) -> None:
    frame = np.random.default_rng(0).integers(0, 256, (1, 64, 96, 3), np.uint8)
    rgb = torch.from_numpy(frame[..., ::-1].copy()).permute(0, 3, 1, 2).float()
    with torch.inference_mode():
        expected = mask_of(lite((rgb - 127) / 128), (64, 96)).numpy()
    assert (infer(lite_graph, frame) == expected).mean() >= 0.999


def test_swapping_channels_leaves_the_network_as_it_was(colour_network: nn.Module, tiny_contract: Contract) -> None:
    before = {name: tensor.clone() for name, tensor in colour_network.state_dict().items()}
    graph = export_graph(colour_network, tiny_contract)
    assert all(torch.equal(tensor, before[name]) for name, tensor in colour_network.state_dict().items())
    palette_bgr = np.array(tiny_contract.palette, np.uint8)[:, ::-1]
    frame = np.zeros((1, 64, 96, 3), np.uint8)
    frame[0, 0, : len(palette_bgr)] = palette_bgr
    assert infer(graph, frame)[0, 0, : len(palette_bgr)].tolist() == list(range(len(palette_bgr)))


def test_refuses_a_network_without_rgb_convolution(tiny_contract: Contract) -> None:
    with pytest.raises(ExportError, match="no convolution over three channels"):
        export_graph(nn.Identity(), tiny_contract)


def model_of(*nodes: onnx.NodeProto) -> onnx.ModelProto:
    graph = helper.make_graph(
        list(nodes),
        "graph",
        [helper.make_tensor_value_info("frame", TensorProto.UINT8, [4])],
        [helper.make_tensor_value_info("mask", TensorProto.UINT8, None)],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)


def test_refuses_a_shape_that_depends_on_the_data() -> None:
    nonzero, cast = (
        helper.make_node("NonZero", ["frame"], ["where"]),
        helper.make_node("Cast", ["where"], ["mask"], to=2),
    )
    with pytest.raises(ExportError, match="the shape of NonZero_0 depends on the data"):
        finish_graph(model_of(nonzero, cast))


def test_refuses_an_unsound_graph() -> None:
    with pytest.raises(ExportError, match="not sound ONNX"):
        finish_graph(model_of(helper.make_node("Conv", ["frame", "frame"], ["mask"])))
