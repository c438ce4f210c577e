"""An exported graph as a PyTorch module whose weights can be trained, quantised just where TensorRT's placement is.

The graph that is trained is the graph that is shipped, so no layer can be quantised in one and not in the other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from onnx import ModelProto, NodeProto, helper, numpy_helper
from torch import Tensor, nn

from edgeseg.export.quantise.device import INPUT_SCALE, quantised_reads, shared_reaches, shared_scales
from edgeseg.export.quantise.observe import Ranges
from edgeseg.export.quantise.weights import SMALLEST_HALF
from edgeseg.export.quantise.wiring import Wiring
from edgeseg.runtime.errors import ExportError


class GraphNetwork(nn.Module):
    """The fp32 `model` in PyTorch: (N, H, W, 3) uint8 BGR → logits (N, classes, …) as its ArgMax reads them, N and
    the size at will.

    With `ranges` (every input of a convolution, a sum or a Concat), activations and weights are rounded as
    `place_for_tensorrt` would, gradients pass straight through, and how far each activation's integers reach is learned
    too. Raises `ExportError` if the graph has an operator that is not among those that can be trained.
    """

    def __init__(self, model: ModelProto, ranges: Ranges | None = None) -> None:
        super().__init__()
        self._wiring = Wiring(ModelProto.FromString(model.SerializeToString()))
        (self._decision,) = (node for node in self._wiring.nodes if node.op_type == "ArgMax")
        self._nodes = self._wiring.nodes[: self._wiring.nodes.index(self._decision)]
        for node in self._nodes:
            if node.op_type not in _OPERATORS:
                raise ExportError(
                    f"{node.op_type} {node.name} cannot be trained in INT8",
                    expected=f"one of {', '.join(_OPERATORS)}",
                    fix="leave --qat out",
                )
        self._learned = list(dict.fromkeys(name for conv in self._wiring.convolutions for name in conv.input[1:]))
        self.weights = nn.ParameterList(self._constant(name) for name in self._learned)
        """Weights and biases of the convolutions."""
        self._fixed = {name: self._constant(name) for name in self._wiring.constants if name not in self._learned}
        self._reads = {} if ranges is None else _reads_by_node(self._wiring)
        values = dict.fromkeys(value for names in self._reads.values() for value in names)
        heads = shared_scales(self._wiring)
        self._heads = {value: heads.get(value, value) for value in values if not self._wiring.is_frame(value)}
        self._reached = list(dict.fromkeys(self._heads.values()))
        self.log_reaches = nn.Parameter(self.find_log_reaches(ranges or {}))
        """Natural logarithms of the learned reaches: a step of an optimiser then is a share of the reach."""

    def forward(self, frame: Tensor) -> Tensor:
        values: dict[str, Tensor] = {**self._fixed, **dict(zip(self._learned, self.weights, strict=True))}
        values["frame"] = frame
        scales = dict(zip(self._reached, _to_half(self.log_reaches.exp() / 127).unbind(), strict=True))
        quantised: dict[str, Tensor] = {}
        for node in self._nodes:
            inputs = [values[name] if name else None for name in node.input]
            reads = self._reads.get(node.name, ())
            for place, name in enumerate(node.input):
                if name in reads:
                    if name not in quantised:
                        scale = scales[self._heads[name]] if name in self._heads else torch.tensor(INPUT_SCALE)
                        quantised[name] = _round_levels(values[name], scale)
                    inputs[place] = quantised[name]
            if reads and node.op_type == "Conv":
                inputs[1] = _round_weights(values[node.input[1]])
            values[node.output[0]] = _OPERATORS[node.op_type](inputs, _attributes(node))
        return values[self._decision.input[0]]

    def find_log_reaches(self, ranges: Ranges) -> Tensor:
        """Return what `log_reaches` is for `ranges`."""
        reaches = shared_reaches(self._wiring, ranges)
        # What was always zero has no reach, and any will do.
        return torch.tensor([reaches[head] or 1.0 for head in self._reached]).log()

    def reaches(self) -> dict[str, float]:
        """Return the learned reach of every quantised activation but the frame."""
        learned = dict(zip(self._reached, self.log_reaches.exp().tolist(), strict=True))
        return {value: learned[head] for value, head in self._heads.items()}

    def to_model(self) -> ModelProto:
        """Return the fp32 graph with the weights as they are now."""
        model: ModelProto = ModelProto.FromString(self._wiring.model.SerializeToString())
        learned = dict(zip(self._learned, self.weights, strict=True))
        for tensor in model.graph.initializer:
            if tensor.name in learned:
                tensor.CopyFrom(numpy_helper.from_array(learned[tensor.name].detach().numpy(), tensor.name))
        return model

    def _constant(self, name: str) -> Tensor:
        return torch.from_numpy(self._wiring.constants[name].copy())


def _reads_by_node(wiring: Wiring) -> dict[str, set[str]]:
    """Node -> the values that it reads quantised."""
    reads: dict[str, set[str]] = {}
    for value, readers in quantised_reads(wiring).items():
        for reader in readers:
            reads.setdefault(reader.name, set()).add(value)
    return reads


class _RoundLevels(torch.autograd.Function):
    """Round to int8 levels of size `step`, ties to even, and back.

    Straight through what is rounded (Bengio et al. 2013), nothing through what is clipped; the step's own gradient is
    that of trained thresholds (Jain et al., MLSys 2020).
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, step: Tensor) -> Tensor:
        rounded = (x / step).round_().clamp_(-128, 127).mul_(step)
        ctx.save_for_backward(x, step, rounded)
        return rounded

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        x, step, rounded = ctx.saved_tensors
        through = gradient * ((x >= -128.5 * step) & (x <= 127.5 * step))
        return through, ((gradient * rounded).sum() - (through * x).sum()) / step


def _round_levels(x: Tensor, step: Tensor) -> Tensor:
    rounded: Tensor = _RoundLevels.apply(x, step)  # type: ignore[no-untyped-call]
    return rounded


def _to_half(scale: Tensor) -> Tensor:
    """Round to FP16, as scales are stored; the gradient passes."""
    return scale + (scale.clamp(min=SMALLEST_HALF).half().float() - scale).detach()


def _round_weights(weights: Tensor) -> Tensor:
    """As `quantise_weights` with FP16 scales; they follow the weights and are not learned."""
    fixed = weights.detach()
    scales = _to_half(fixed.abs().amax(dim=(1, 2, 3), keepdim=True) / 127)
    return weights + ((fixed / scales).round().clamp(-127, 127) * scales - fixed)


_Inputs = Sequence[Any]  # tensors; None for an input that is left out
_Attributes = Mapping[str, Any]


def _attributes(node: NodeProto) -> _Attributes:
    return {item.name: helper.get_attribute_value(item) for item in node.attribute}


def _convolve(inputs: _Inputs, attributes: _Attributes) -> Tensor:
    x, weight, bias = (*inputs, None)[:3]
    top, left, bottom, right = attributes.get("pads", (0, 0, 0, 0))
    if (top, left) != (bottom, right):
        x, top, left = F.pad(x, (left, right, top, bottom)), 0, 0
    return F.conv2d(
        x,
        weight,
        bias,
        attributes.get("strides", (1, 1)),
        (top, left),
        attributes.get("dilations", (1, 1)),
        attributes.get("group", 1),
    )


def _resize(inputs: _Inputs, attributes: _Attributes) -> Tensor:
    is_bilinear = attributes.get("mode") == b"linear" and not attributes.get("antialias", 0)
    is_centred = attributes.get("coordinate_transformation_mode", b"half_pixel") == b"half_pixel"
    if not is_bilinear or not is_centred or len(inputs) != 3:
        raise ExportError(
            "a Resize that cannot be trained in INT8", expected="bilinear, half_pixel, by scales", fix="leave --qat out"
        )
    return F.interpolate(
        inputs[0],
        scale_factor=inputs[2][2:].tolist(),
        mode="bilinear",
        align_corners=False,
        recompute_scale_factor=False,
    )


def _shuffle(inputs: _Inputs, attributes: _Attributes) -> Tensor:
    if attributes.get("mode") != b"CRD":
        raise ExportError("a DepthToSpace that cannot be trained in INT8", expected="mode CRD", fix="leave --qat out")
    return F.pixel_shuffle(inputs[0], attributes["blocksize"])


def _reshape(inputs: _Inputs, attributes: _Attributes) -> Tensor:
    x, shape = inputs
    reshaped: Tensor = x.reshape([x.shape[at] if size == 0 else size for at, size in enumerate(shape.tolist())])
    return reshaped


_OPERATORS: Mapping[str, Callable[[_Inputs, _Attributes], Tensor]] = {
    "Cast": lambda inputs, attributes: inputs[0].to(torch.float32),
    "Transpose": lambda inputs, attributes: inputs[0].permute(attributes["perm"]),
    "Sub": lambda inputs, attributes: inputs[0] - inputs[1],
    "Div": lambda inputs, attributes: inputs[0] / inputs[1],
    "Conv": _convolve,
    "Clip": lambda inputs, attributes: torch.clamp(*inputs),
    "Relu": lambda inputs, attributes: F.relu(inputs[0]),
    "Add": lambda inputs, attributes: inputs[0] + inputs[1],
    "Concat": lambda inputs, attributes: torch.cat(list(inputs), attributes["axis"]),
    "Resize": _resize,
    "DepthToSpace": _shuffle,
    "Reshape": _reshape,
}
