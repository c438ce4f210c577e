"""What the compiler says of the engine that it built: the last lines of its verbose log, read into figures.

With DETAILED profiling verbosity the log ends with `Layers:` and one line for each compiled layer; two lines before it
give the engine's memory. Nothing else of the log is relied on.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass

from edgeseg.runtime.errors import ExportError

# Layers that start no kernel: they order others.
_ORDERING = frozenset({"signal", "wait", "jmp", "cjmp"})
_CONVOLUTIONS = frozenset({"correlation", "deconv"})
_GENERATED = frozenset({"kgen", "memset", "copy"}) | _ORDERING

_LAYER = re.compile(r"^Name: (?P<name>.*?), LayerType: (?P<kind>\w+), (?P<rest>.*)$")
_PART = re.compile(
    r"(?:^|, )(Inputs|Constants|Outputs): \[(.*?)\](?=, (?:Constants|Outputs|TacticName|StreamId|Metadata)|$)"
)
_TENSOR = re.compile(r"\{ Name: (.*?), Dimensions: \[([^\]]*)\].*?, Datatype: (\w+)")
# The name of a generated kernel lists what it does, in order, four letters each.
_CORRELATES = "Corr"
_ROUNDS_FIRST = re.compile(r"^__myl_\w*Roun\w*Corr")
_ONNX = re.compile(r"\[ONNX Layer: (.*?)\](?=[\x1f\[]|$)")
_ACTIVATION = re.compile(r"Total Activation Memory: (\d+) bytes")
_WEIGHTS = re.compile(r"Total Weights Memory: (\d+) bytes")


@dataclass(frozen=True, kw_only=True, slots=True)
class Tensor:
    """A tensor between compiled layers; `datatype` in TensorRT's words, as "Int8"."""

    name: str
    dimensions: tuple[int, ...]
    datatype: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Layer:
    """One compiled layer, and the ONNX nodes that were fused into it."""

    name: str
    kind: str
    inputs: tuple[Tensor, ...]
    constants: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    onnx: tuple[str, ...]

    @property
    def is_int8(self) -> bool:
        return any(tensor.datatype == "Int8" for tensor in self.inputs) or self._quantises_first

    @property
    def _quantises_first(self) -> bool:
        """Whether a small convolution's QuantizeLinear is in its kernel: it then reads float, and computes INT8."""
        stored = any(tensor.datatype == "Int8" for tensor in self.constants)
        return stored and _ROUNDS_FIRST.search(self.name) is not None


@dataclass(frozen=True, kw_only=True, slots=True)
class Engine:
    """What was compiled for one target. Bytes are what the compiler reports."""

    layers: tuple[Layer, ...]
    activation_bytes: int
    weight_bytes: int
    int8_convolutions: tuple[str, ...]
    """ONNX names of the convolutions that were compiled with INT8 inputs, quantised in the same kernel or before."""
    float_convolutions: tuple[str, ...]

    @property
    def kernels(self) -> int:
        return sum(layer.kind not in _ORDERING for layer in self.layers)

    def document(self) -> dict[str, object]:
        """Return figures and layer list as JSON values."""
        return {
            "convolutions": len(self.int8_convolutions) + len(self.float_convolutions),
            "convolutions_int8": len(self.int8_convolutions),
            "float_convolutions": list(self.float_convolutions),
            "kernels": self.kernels,
            "activation_bytes": self.activation_bytes,
            "weight_bytes": self.weight_bytes,
            "layers": [asdict(layer) for layer in self.layers],
        }


def read_engine(log: str, convolutions: Iterable[str]) -> Engine:
    """Read the figures of an engine from the compiler's log.

    `convolutions` names the file's convolutions as the parser does. One that no compiled layer names was folded away
    and is not counted. Raises `ExportError` if the log has not the lines that are relied on.
    """
    layers = tuple(_read_layers(log))
    activation, weights = _ACTIVATION.search(log), _WEIGHTS.search(log)
    if not layers or activation is None or weights is None:
        raise ExportError(
            "the compiler's log has no list of layers",
            expected="the log of tensorrt-rtx 1.7",
            fix="install that version",
        )
    int8: list[str] = []
    floating: list[str] = []
    for name in dict.fromkeys(convolutions):
        layer = _computing_layer(name, layers)
        if layer is not None:
            (int8 if layer.is_int8 else floating).append(name)
    return Engine(
        layers=layers,
        activation_bytes=int(activation[1]),
        weight_bytes=int(weights[1]),
        int8_convolutions=tuple(int8),
        float_convolutions=tuple(floating),
    )


def _computing_layer(name: str, layers: tuple[Layer, ...]) -> Layer | None:
    """Return the layer that computes the convolution: others name it too, for its bias or its rescaling."""
    naming = [layer for layer in layers if name in layer.onnx]
    return max(
        naming,
        key=lambda layer: (layer.kind in _CONVOLUTIONS, layer.kind not in _GENERATED, _CORRELATES in layer.name),
        default=None,
    )


def _read_layers(log: str) -> Iterable[Layer]:
    _, marker, tail = log.rpartition("Layers:\n")
    for line in tail.split("\n") if marker else ():
        match = _LAYER.match(line)
        if match is None:
            if line.startswith("I/O Tensors"):
                return
            continue
        rest, _, metadata = match["rest"].rpartition("Metadata: ")
        parts = {kind: tuple(_read_tensors(text)) for kind, text in _PART.findall(rest)}
        yield Layer(
            name=match["name"],
            kind=match["kind"],
            inputs=parts.get("Inputs", ()),
            constants=parts.get("Constants", ()),
            outputs=parts.get("Outputs", ()),
            # Inside a subgraph the name is followed by those of the branches around it.
            onnx=tuple(dict.fromkeys(name.partition(" | ")[0] for name in _ONNX.findall(metadata))),
        )


def _read_tensors(text: str) -> Iterable[Tensor]:
    for name, dimensions, datatype in _TENSOR.findall(text):
        sizes = tuple(int(size) for size in re.findall(r"-?\d+", dimensions))
        yield Tensor(name=name, dimensions=sizes, datatype=datatype)
