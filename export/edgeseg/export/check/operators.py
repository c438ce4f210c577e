"""What TensorRT's ONNX parser can import.

The names are those that `OnnxParser.supports_operator` of TensorRT-RTX 1.7.1 affirms, less the four that need a plugin
library which it then does not find. A test compares the list with the installed parser.
"""

from __future__ import annotations

from collections.abc import Iterator

from edgeseg.export.check.constants import Constant, element_type
from edgeseg.export.check.findings import Finding, finding
from edgeseg.export.check.graph import Graph, Node

# fmt: off
SUPPORTED = frozenset((
    "Abs", "Acos", "Acosh", "Add", "And", "ArgMax", "ArgMin", "Asin", "Asinh", "Atan", "Atanh", "Attention",
    "AveragePool", "BatchNormalization", "BlackmanWindow", "Cast", "CastLike", "CausalConvWithState", "Ceil",
    "Celu", "Clip", "Concat", "Constant", "ConstantOfShape", "Conv", "ConvTranspose", "Cos", "Cosh", "CumSum",
    "DepthToSpace", "DequantizeLinear", "Div", "Dropout", "Einsum", "Elu", "Equal", "Erf", "Exp", "Expand",
    "EyeLike", "Flatten", "Floor", "GRU", "Gather", "GatherElements", "GatherND", "Gelu", "Gemm",
    "GlobalAveragePool", "GlobalLpPool", "GlobalMaxPool", "Greater", "GreaterOrEqual", "GridSample",
    "GroupNormalization", "HammingWindow", "HannWindow", "HardSigmoid", "HardSwish", "Hardmax", "Identity", "If",
    "InstanceNormalization", "IsInf", "IsNaN", "LRN", "LSTM", "LayerNormalization", "LeakyRelu", "Less",
    "LessOrEqual", "LinearAttention", "Log", "LogSoftmax", "Loop", "LpNormalization", "LpPool", "MatMul", "Max",
    "MaxPool", "Mean", "MeanVarianceNormalization", "Min", "Mish", "Mod", "Mul", "Neg", "Not", "OneHot", "Or",
    "PRelu", "Pad", "Pow", "QuantizeLinear", "RMSNormalization", "RNN", "RandomNormal", "RandomNormalLike",
    "RandomUniform", "RandomUniformLike", "Range", "Reciprocal", "ReduceL1", "ReduceL2", "ReduceLogSum",
    "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd", "ReduceSum", "ReduceSumSquare", "Relu",
    "Reshape", "Resize", "ReverseSequence", "RotaryEmbedding", "Round", "STFT", "Scan", "Scatter",
    "ScatterElements", "ScatterND", "Selu", "Shape", "Shrink", "Sigmoid", "Sign", "Sin", "Sinh", "Size", "Slice",
    "Softmax", "Softplus", "Softsign", "SpaceToDepth", "Split", "Sqrt", "Squeeze", "Sub", "Sum", "Swish", "Tan",
    "Tanh", "TensorScatter", "ThresholdedRelu", "Tile", "TopK", "Transpose", "Trilu", "Unsqueeze", "Upsample",
    "Where", "Xor",
))
# fmt: on
NEEDS_PLUGIN = frozenset({"NonMaxSuppression", "NonZero", "RoiAlign", "DeformConv"})
_OPERATOR_FORMAT = frozenset(
    {
        *("QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger", "DynamicQuantizeLinear"),
        *("QLinearAdd", "QLinearMul", "QLinearConcat", "QLinearSigmoid", "QLinearLeakyRelu", "QLinearSoftmax", "QGemm"),
        *("QLinearGlobalAveragePool", "QLinearAveragePool", "QLinearConvTranspose"),
    }
)

_RESIZE_MODES = ("align_corners", "tf_half_pixel_for_nn", "pytorch_half_pixel", "half_pixel", "asymmetric")
_TYPES = frozenset(
    {
        *("FLOAT", "FLOAT16", "BFLOAT16", "DOUBLE", "INT8", "UINT8", "INT32", "INT64", "BOOL"),
        *("FLOAT8E4M3FN", "INT4", "FLOAT4E2M1"),
    }
)


def check_operators(graph: Graph) -> Iterator[Finding]:
    """Yield a finding for each operator, setting or element type that the parser refuses."""
    for node in graph.nodes:
        if node.op in _OPERATOR_FORMAT:
            yield finding("operator-format", node.name, f"{node.op} computes on integers")
        elif node.op in NEEDS_PLUGIN:
            yield finding("unsupported-operator", node.name, f"{node.op} needs a plugin library")
        elif node.op not in SUPPORTED:
            yield finding("unsupported-operator", node.name, f"{node.domain or 'ai.onnx'}.{node.op}")
        else:
            for setting in _refused_settings(node, graph):
                yield finding("unsupported-attribute", node.name, f"{node.op} with {setting}")
    for name in (*graph.inputs, *graph.outputs):
        kind = graph.types.get(name)
        if kind is not None and element_type(kind) not in _TYPES:
            yield finding("element-type", name, element_type(kind))


def _refused_settings(node: Node, graph: Graph) -> Iterator[str]:
    settings = node.attributes
    if node.op == "Resize":
        mode = settings.get("coordinate_transformation_mode", "half_pixel")
        if mode not in _RESIZE_MODES:
            yield f"coordinate_transformation_mode {mode}"
        if settings.get("antialias"):
            yield "antialias"
        if settings.get("keep_aspect_ratio_policy", "stretch") != "stretch":
            yield f"keep_aspect_ratio_policy {settings['keep_aspect_ratio_policy']}"
    elif node.op in ("MaxPool", "AveragePool", "LpPool"):
        if any(size != 1 for size in settings.get("dilations") or ()):
            yield "dilations"
        if len(node.outputs) > 1 and node.outputs[1]:
            yield "indices"
    elif (node.op == "Dropout" and _is_true(node.input(2), graph)) or (
        node.op == "BatchNormalization" and settings.get("training_mode")
    ):
        yield "training_mode"
    elif node.op == "ScatterElements" and settings.get("reduction", "none") != "none":
        yield f"reduction {settings['reduction']}"
    elif node.op == "Cast" and element_type(settings.get("to", 1)) not in _TYPES:
        yield f"to {element_type(settings['to'])}"


def _is_true(name: str, graph: Graph) -> bool:
    constant = graph.constants.get(name)
    return isinstance(constant, Constant) and constant.values is not None and bool(constant.values.any())
