"""What the activations of the fp32 graph look like over the calibration images: seen once, estimated from often."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from onnx import ModelProto, TensorProto, helper

from edgeseg.export.quantise.wiring import Wiring
from edgeseg.runtime.backends.ort import open_session
from edgeseg.runtime.frame import Image

BINS = 2048
_MAX_SAMPLES = 1 << 16
_COMPUTING = frozenset({"Conv", "Relu", "Clip", "Add", "Concat", "Resize", "MaxPool", "AveragePool"})


class Histogram:
    """Counts of |x|, and the exact least and greatest x.

    The width of a bin doubles whenever a value does not fit, so that one pass is enough. Zeros are not counted: every
    scale holds them exactly, and behind a ReLU they would hide all else.
    """

    def __init__(self) -> None:
        self.counts = np.zeros(BINS, np.int64)
        self.reach = 0.0
        """Magnitude at the end of the last bin, a power of two; 0 before anything was seen."""
        self.low = self.high = 0.0

    def add(self, values: npt.NDArray[np.float32]) -> None:
        """Count `values`, of any shape; of many, an even sample. The extremes are of all of them."""
        flat = values.reshape(-1)
        low, high = float(flat.min()), float(flat.max())
        self.low, self.high = min(self.low, low), max(self.high, high)
        peak = max(-self.low, self.high)
        if peak == 0.0:
            return
        self._widen(2.0 ** math.ceil(math.log2(peak)))
        # An odd step: an even one would see the same columns of every row.
        magnitude = np.abs(flat[:: flat.size // _MAX_SAMPLES | 1])
        magnitude = magnitude[magnitude > 0]
        places = np.minimum((magnitude * (BINS / self.reach)).astype(np.int64), BINS - 1)
        self.counts += np.bincount(places, minlength=BINS)

    def _widen(self, reach: float) -> None:
        if reach <= self.reach:
            return
        if self.reach:
            factor = min(round(reach / self.reach), BINS)
            merged = self.counts.reshape(-1, factor).sum(axis=1)
            self.counts = np.concatenate([merged, np.zeros(BINS - merged.size, np.int64)])
        self.reach = reach

    @property
    def peak(self) -> float:
        """The greatest |x|."""
        return max(-self.low, self.high)


@dataclass(frozen=True, kw_only=True, slots=True)
class Range:
    """The values that a tensor's integers must cover; zero is always among them."""

    low: float
    high: float

    def __or__(self, other: Range) -> Range:
        return Range(low=min(self.low, other.low), high=max(self.high, other.high))


Ranges = Mapping[str, Range]


def observe(model: ModelProto, frames: Iterable[Image]) -> dict[str, Histogram]:
    """Run the fp32 `model` over `frames`, each (1, H, W, 3) uint8, and count what either placement may quantise."""
    names = _quantisable(model)
    probed = ModelProto.FromString(model.SerializeToString())
    probed.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names)
    session = open_session(probed.SerializeToString())
    histograms = {name: Histogram() for name in names}
    for frame in frames:
        for name, values in zip(names, session.run(names, {"frame": frame}), strict=True):
            histograms[name].add(values)
    return histograms


def _quantisable(model: ModelProto) -> list[str]:
    """Return the learned values of `model`'s graph that a quantiser may stand behind, in the graph's order."""
    wiring = Wiring(model)
    decision = next((at for at, node in enumerate(wiring.nodes) if node.op_type == "ArgMax"), len(wiring.nodes))
    decided = set(wiring.nodes[decision].input) if decision < len(wiring.nodes) else set()
    values = (wiring.activated(node) for node in wiring.nodes[:decision] if node.op_type in _COMPUTING)
    return [value for value in dict.fromkeys(values) if value not in decided and not wiring.is_frame(value)]
