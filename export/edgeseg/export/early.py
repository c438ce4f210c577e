"""The argmax before the sub-pixels are laid out: the same classes, and a class index is moved in place of all scores.

ONNX Runtime's DepthToSpace moves single numbers; over eleven classes it took a twentieth of the smaller shipped
network's time on the CPU.
"""

from __future__ import annotations

import numpy as np
from onnx import NodeProto, helper

from edgeseg.export.quantise.wiring import Wiring


def decide_early(wiring: Wiring) -> None:
    """Turn DepthToSpace, ArgMax, Cast into ArgMax, Cast, DepthToSpace wherever nothing else reads in between."""
    for shuffle in [node for node in wiring.nodes if node.op_type == "DepthToSpace"]:
        settings = {item.name: helper.get_attribute_value(item) for item in shuffle.attribute}
        decision = _only_reader(wiring, shuffle, "ArgMax")
        cast = decision and _only_reader(wiring, decision, "Cast")
        channels = _channels(wiring, shuffle.input[0])
        if decision is None or cast is None or settings.get("mode") != b"CRD" or not channels:
            continue
        parts = settings["blocksize"] ** 2
        # CRD: channel c * parts + p is class c of sub-pixel p, so sub-pixels may stand below each other as rows.
        classes = channels // parts
        rows = wiring.add_constant(f"{decision.name}.rows", np.array([0, classes, -1, 0], np.int64))
        cells = wiring.add_constant(f"{decision.name}.cells", np.array([0, parts, -1, 0], np.int64))
        scores = wiring.add_node("Reshape", f"{decision.name}.scores", [shuffle.input[0], rows])
        index = wiring.add_node("ArgMax", f"{decision.name}.early", [scores], axis=1, keepdims=1)
        plain = wiring.add_node("Cast", f"{cast.name}.early", [index], to=helper.get_attribute_value(cast.attribute[0]))
        split = wiring.add_node("Reshape", f"{cast.name}.split", [plain, cells])
        gone = (shuffle, decision, cast)
        wiring.nodes = [node for node in wiring.nodes if not any(node is one for one in gone)]
        laid = helper.make_node("DepthToSpace", [split], [cast.output[0]], name=f"{cast.name}.laid", **settings)
        wiring.nodes.append(laid)
        wiring.index()


def _only_reader(wiring: Wiring, node: NodeProto, op: str) -> NodeProto | None:
    """Return what alone reads the output of `node`, if it is an `op`; an ArgMax only if it is over channels."""
    readers = wiring.readers[node.output[0]]
    if [reader.op_type for reader in readers] != [op]:
        return None
    settings = {item.name: helper.get_attribute_value(item) for item in readers[0].attribute}
    over_channels = settings.get("axis", 0) == 1 and settings.get("keepdims", 1) == 1
    return readers[0] if op != "ArgMax" or over_channels else None


def _channels(wiring: Wiring, scores: str) -> int:
    """Return the channels of `scores`, which a convolution makes; 0 where another operator does."""
    maker = wiring.maker.get(scores)
    if maker is None or maker.op_type != "Conv":
        return 0
    weights = wiring.constants.get(maker.input[1])
    return 0 if weights is None else int(weights.shape[0])
