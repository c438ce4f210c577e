"""The rules that TensorRT holds a Q/DQ graph to, and what a broken one is worth.

`source` says where a rule comes from: a section of NVIDIA's TensorRT documentation, or "ran": the compiler run of
`tests/export/check` that showed it (TensorRT-RTX 1.7.1, compiled for sm86).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

Severity = Literal["error", "warning", "advice"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "advice")
"""error: NVIDIA's compiler rejects the file. warning: a convolution runs in float, or a number comes out wrong.
advice: all runs in INT8, but slower than it could, or not on every TensorRT that is in use."""

_GUIDE = "TensorRT documentation, "
_PLACEMENT = _GUIDE + "Q/DQ Layer-Placement Recommendations; ran"
_GRANULARITY = _GUIDE + "Quantization Granularities; ran"
_UINT8 = "TensorRT Python API, DataType.UINT8; ran"
_PARSER = "operators.md of onnx-tensorrt; ran"


class Rule(NamedTuple):
    """What a broken rule is worth, what mends it, and where the rule comes from."""

    severity: Severity
    mend: str
    source: str


RULES: dict[str, Rule] = {
    # What the compiler rejects.
    "zero-point": Rule(
        "error", "quantise symmetrically: zero-point 0, range -127..127", _GUIDE + "Quantization Schemes; ran"
    ),
    "zero-point-size": Rule("error", "give the zero-point as many elements as the scale", "ran"),
    "scale-not-positive": Rule("error", "calibrate again: a scale must be a positive number", "ran"),
    "scale-size": Rule("error", "one scale for each output channel, or a single one", "ran"),
    "scale-not-constant": Rule(
        "error", "store the scale in the file as a constant", _PARSER + ": the compiler crashed"
    ),
    "int32-bias": Rule(
        "error",
        "keep the bias in float (ONNX Runtime's quantiser: QuantizeBias=False)",
        _GUIDE + "Explicit Quantization; ran",
    ),
    "uint8-weight": Rule("error", "store the weights as INT8 with zero-point 0", "ran"),
    "quantised-type": Rule("error", "quantise to INT8", _GUIDE + "Working with Quantized Types; ran"),
    "block-quantisation": Rule("error", "one scale for each output channel", _GUIDE + "Explicit Quantization; ran"),
    "int8-constant": Rule(
        "error",
        "let the constant feed a DequantizeLinear directly: apply what lies between to the stored values",
        "ran",
    ),
    "int8-scalar": Rule(
        "error", "leave a single number in float, or store it with shape (1,)", "ran: an INT8 constant of no dimensions"
    ),
    "mixed-types": Rule(
        "error",
        "cast input, weights and bias to one type",
        _GUIDE + "Strongly Typed Networks; ran",
    ),
    "uint8-input-not-cast": Rule(
        "error", "cast the UINT8 input to FP32 or FP16 before anything else", _UINT8
    ),
    "uint8-inside": Rule(
        "error",
        "keep UINT8 at the network's inputs and outputs",
        _UINT8,
    ),
    "element-type": Rule("error", "use FP32, FP16, BF16, INT32, INT64, INT8 or BOOL", _PARSER),
    "unsupported-operator": Rule(
        "error", "express it with operators that TensorRT has", _PARSER
    ),
    "unsupported-attribute": Rule(
        "error", "export the operator with a setting that TensorRT has", _PARSER
    ),
    "operator-format": Rule(
        "error",
        "quantise in QDQ format: float operators between DequantizeLinear and QuantizeLinear",
        _GUIDE + "ONNX Support; ran",
    ),
    "compiler-rejects": Rule("error", "change what the compiler names", "NVIDIA's compiler, on this file"),
    # What runs, but in float or wrongly.
    "activation-not-quantised": Rule(
        "warning", "put QuantizeLinear and DequantizeLinear before the convolution's input", _PLACEMENT
    ),
    "weight-not-quantised": Rule(
        "warning", "store INT8 weights behind a DequantizeLinear", _GUIDE + "Quantized Weights; ran"
    ),
    "convolution-in-float": Rule("warning", "quantise its input and its weights, if the accuracy allows", "ran"),
    "between-dq-and-consumer": Rule(
        "warning", "quantise after this operator, not before it", _PLACEMENT
    ),
    "between-weight-and-consumer": Rule("warning", "apply this operator to the stored weights", "ran"),
    "weight-axis": Rule(
        "warning", "one scale per output channel: axis 0; ConvTranspose axis 1; MatMul the last axis", _GRANULARITY
    ),
    "activation-per-channel": Rule("warning", "one scale for the whole activation tensor", _GRANULARITY),
    "activation-scale-vector": Rule(
        "warning", "store the scale with shape (), not (1,)", "ran: a one-element vector counts as per-channel"
    ),
    "concat-scales": Rule(
        "warning", "give all inputs of the Concat one scale, or quantise after it", _PLACEMENT
    ),
    "deconvolution-in-float": Rule(
        "warning",
        "use Resize and Conv, or accept a float layer",
        "ran: TensorRT-RTX compiles every ConvTranspose in float",
    ),
    "uint8-activation": Rule(
        "warning",
        "quantise to INT8: TensorRT takes UINT8 for INT8, and whatever lies above 127 is clipped",
        "ran (the parser's warning)",
    ),
    "scale-not-finite": Rule("warning", "calibrate again: an infinite scale makes every value 0", "ran: accepted"),
    "fp16-scale": Rule(
        "warning",
        "keep the scale in FP32, or its FP16 value above 6.1e-5 and below 515",
        "IEEE 754 half precision; ran: accepted",
    ),
    "dynamic-shape": Rule(
        "warning",
        "export with fixed sizes; a dynamic one needs an optimisation profile for each use",
        _GUIDE + "Working with Dynamic Shapes; ran",
    ),
    "opset-over-20": Rule(
        "warning",
        "export at opset 20 or below: the parser of TensorRT 10.3 (JetPack 6) ends there",
        "release notes of TensorRT 10.3",
    ),
    "uint8-output-from-integer": Rule(
        "warning",
        "cast to FP32 or FP16 first: ArgMax, Cast to float, Cast to UINT8",
        _UINT8 + ": TensorRT-RTX accepts it",
    ),
    "int64-data": Rule(
        "warning",
        "cast to INT32 or float where the indices arise",
        "ran: accepted",
    ),
    "compiled-in-float": Rule(
        "warning",
        "look at the layers around it in --picture",
        "NVIDIA's compiler, on this file",
    ),
    # What runs in INT8 but could do better.
    "between-conv-and-activation": Rule(
        "advice", "quantise after the activation: Conv, BatchNormalization and ReLU become one kernel", _PLACEMENT
    ),
    "between-conv-and-batchnorm": Rule(
        "advice",
        "quantise after BatchNormalization and activation, or fold it",
        _PLACEMENT,
    ),
    "skip-not-quantised": Rule(
        "advice",
        "put QuantizeLinear and DequantizeLinear on the skip input, so that the Add joins the convolution",
        _PLACEMENT,
    ),
    "clip-between-q-and-dq": Rule(
        "advice",
        "remove the Clip: QuantizeLinear saturates by itself",
        "Model-Optimizer's placement rules; ran: TensorRT-RTX removes it",
    ),
    "movement-between-dq-and-consumer": Rule(
        "advice",
        "put the pair after this operator, next to the convolution",
        _PLACEMENT + ": TensorRT-RTX moves it",
    ),
    "channel-alignment": Rule(
        "advice",
        "INT8 tensor cores take channels in sixteens; the rest is padding",
        "NVIDIA Deep Learning Performance Guide, Convolutional Layers",
    ),
    "no-quantisation": Rule("advice", "quantise it, if INT8 is wanted", "ran"),
}  # fmt: skip


# These say that a convolution is not in INT8; the rest of what is found at it only says that it could be faster.
FLOAT_RULES = frozenset(
    {
        *("activation-not-quantised", "weight-not-quantised", "convolution-in-float", "between-dq-and-consumer"),
        *("between-weight-and-consumer", "weight-axis", "activation-per-channel", "activation-scale-vector"),
        *("deconvolution-in-float", "concat-scales", "no-quantisation"),
    }
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One broken rule at one node, and the mend."""

    rule: str
    node: str
    severity: Severity
    found: str
    mend: str
    source: str


def finding(rule: str, node: str, found: str, *, severity: Severity | None = None) -> Finding:
    """Make the finding of `rule`, worth what the table says unless `severity` is given."""
    entry = RULES[rule]
    return Finding(
        rule=rule, node=node, severity=severity or entry.severity, found=found, mend=entry.mend, source=entry.source
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """What the rules say of one convolution: whether it can run in INT8, and fused with what follows it."""

    node: str
    op: str
    int8: bool
    fused: bool
    rules: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """All findings, the worst first, and one verdict for each convolution in the file's order."""

    findings: tuple[Finding, ...]
    convolutions: tuple[Verdict, ...]

    @property
    def failed(self) -> bool:
        return any(item.severity == "error" for item in self.findings)


def sorted_findings(findings: Sequence[Finding]) -> tuple[Finding, ...]:
    """Put the worst first and drop repetitions; the order within a severity stays."""
    return tuple(sorted(dict.fromkeys(findings), key=lambda item: SEVERITIES.index(item.severity)))
