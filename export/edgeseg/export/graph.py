"""A trained network becomes the graph that the contract speaks of: uint8 frame in, uint8 mask out."""

from __future__ import annotations

import copy
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata

import onnx
import torch
from onnx import GraphProto, ModelProto
from torch import Tensor, nn

from edgeseg.export.confidence import add_confidence
from edgeseg.export.early import decide_early
from edgeseg.export.quantise.wiring import Wiring
from edgeseg.runtime.contract import Contract
from edgeseg.runtime.errors import ExportError
from edgeseg.train.network import mask_of, swap_colours

OPSET = 20
"""The newest that TensorRT 10.3's parser takes."""
IR_VERSION = 10
"""The newest that ONNX Runtime 1.19 loads."""


class DeployGraph(nn.Module):
    """The contract's pre- and postprocessing around a network of normalised RGB.

    (1, H, W, 3) uint8 BGR → (1, H, W) uint8 class indices. The network is copied, and the channels of its first
    convolution's weights are swapped, so that BGR costs no operator. Raises `ExportError` if it has none.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = copy.deepcopy(network).eval()
        if not swap_colours(self.network):
            raise ExportError("the network has no convolution over three channels", expected="an RGB network")

    def forward(self, frame: Tensor) -> Tensor:
        # TensorRT takes UINT8 only as an input followed at once by a Cast, and gives it only from floats.
        planes = frame.to(torch.float32).permute(0, 3, 1, 2)
        logits: Tensor = self.network((planes - 127.0) / 128.0)
        return mask_of(logits, (frame.shape[1], frame.shape[2])).to(torch.uint8)


def export_graph(network: nn.Module, contract: Contract) -> bytes:
    """Return `network` ((1, 3, H, W) normalised RGB → (1, classes, H, W) logits) as a serialised ONNX model.

    One static shape, weights inside, types and shapes of all values noted, and nothing of the machine it was made
    on; the same network gives the same bytes. Raises `ExportError` if a weight is not finite, or ONNX's checker or
    shape inference objects.
    """
    for name, values in network.state_dict().items():
        if not torch.isfinite(values).all():
            raise ExportError(
                f"{name} holds values that are not finite",
                expected="a network whose training went well",
                fix="train again with a lower --learning-rate",
            )
    height, width = contract.size_hw
    frame = torch.zeros(1, height, width, 3, dtype=torch.uint8)
    with _quiet_exporter():
        program = torch.onnx.export(
            DeployGraph(network).eval(),
            (frame,),
            dynamo=True,
            opset_version=OPSET,
            input_names=["frame"],
            output_names=["mask"],
            external_data=False,
            optimize=True,
            verbose=False,
        )
    assert program is not None  # it is None only when written to a file
    model = program.model_proto
    if contract.confidence_cell is not None:
        add_confidence(model, contract.confidence_cell)
    wiring = Wiring(model)
    decide_early(wiring)
    return finish_graph(wiring.finish())


def finish_graph(model: ModelProto) -> bytes:
    """Check `model`, name its parts plainly, drop what tells of its maker's machine, and serialise it. In place."""
    graph = model.graph
    model.ir_version = min(model.ir_version, IR_VERSION)
    model.producer_name, model.producer_version = "edgeseg", metadata.version("edgeseg")
    graph.name = "segmenter"
    _drop_remarks(model)
    _rename(graph)
    return seal_graph(model)


def seal_graph(model: ModelProto) -> bytes:
    """Note the shape and type of every value of `model`, check it and serialise it. In place.

    Raises `ExportError` if ONNX's checker or shape inference objects, or a shape depends on the data.
    """
    del model.graph.value_info[:]
    try:
        model = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
        onnx.checker.check_model(model, full_check=True)
    except (onnx.shape_inference.InferenceError, onnx.checker.ValidationError) as error:
        raise ExportError(f"the graph is not sound ONNX ({error})", fix="mend the network's operators") from error
    for value in model.graph.value_info:
        dims = value.type.tensor_type.shape.dim
        if not value.type.tensor_type.HasField("shape") or not all(dim.HasField("dim_value") for dim in dims):
            raise ExportError(
                f"the shape of {value.name} depends on the data", expected="one static shape", fix="mend the network"
            )
    return bytes(model.SerializeToString(deterministic=True))


def _drop_remarks(model: ModelProto) -> None:
    """Remove documentation and metadata: PyTorch writes stack traces with this machine's paths there."""
    graph = model.graph
    for part in (model, graph, *graph.node, *graph.initializer, *graph.value_info, *graph.input, *graph.output):
        part.ClearField("doc_string")
        part.ClearField("metadata_props")


def _rename(graph: GraphProto) -> None:
    """Name nodes and values by operator and position (`Conv_7`), constants by number, weights as the network does."""
    names = {value.name: value.name for value in (*graph.input, *graph.output)}
    constants = 0
    for tensor in graph.initializer:
        if tensor.name.startswith("network."):
            names[tensor.name] = tensor.name[len("network.") :]
        else:
            names[tensor.name] = f"constant_{constants}"
            constants += 1
        tensor.name = names[tensor.name]
    for index, node in enumerate(graph.node):
        node.name = f"{node.op_type}_{index}"
        for position, output in enumerate(node.output):
            names.setdefault(output, node.name if position == 0 else f"{node.name}_{position}")
        node.input[:] = [names[name] if name else "" for name in node.input]
        node.output[:] = [names[name] for name in node.output]


@contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Hold back what PyTorch says of itself on every export; everything else gets through."""
    registration = logging.getLogger("torch.onnx._internal.exporter._registration")

    def not_of_torchvision(record: logging.LogRecord) -> bool:
        return "torchvision is not installed" not in record.getMessage()

    registration.addFilter(not_of_torchvision)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", r"`isinstance\(treespec, LeafSpec\)` is deprecated", FutureWarning)
            yield
    finally:
        registration.removeFilter(not_of_torchvision)
