"""Score a candidate graph on a few labelled pictures that stay in memory, beside the masks of the fp32 graph."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Literal

import numpy as np

from edgeseg.runtime.backends.ort import open_session
from edgeseg.runtime.confusion import ConfusionMatrix
from edgeseg.runtime.contract import Contract, Fitter
from edgeseg.runtime.dataset import Dataset, Pair
from edgeseg.runtime.frame import Image, Mask

Arithmetic = Literal["as written", "kernels", "exact kernels"]
"""In float, operator by operator, as the graph says; by the kernels that run on this processor; by those that never
saturate (ONNX Runtime's session option `session.x64quantprecision`)."""

_TIMED_ROUNDS = 16


@dataclass(frozen=True, kw_only=True, slots=True)
class Score:
    """What a graph scored, and the share of pixels (0 to 1) on which it gives fp32's class."""

    matrix: ConfusionMatrix
    agreement: float


class Scorer:
    """Labelled pictures at the contract's size, and what fp32 says of them.

    Holds about 4 bytes a pixel of them all.
    """

    def __init__(self, dataset: Dataset, pairs: Sequence[Pair], contract: Contract, fp32: bytes) -> None:
        self._classes, self._ignore_index = dataset.classes, dataset.ignore_index
        self._frames: list[Image] = []
        self._truths: list[Mask] = []
        self._fitters: list[Fitter] = []
        fitters: dict[tuple[int, int], Fitter] = {}
        for pair in pairs:
            image = dataset.read_image(pair)
            size_hw = (image.shape[0], image.shape[1])
            fitter = fitters.get(size_hw) or fitters.setdefault(size_hw, Fitter(contract, size_hw))
            self._frames.append(fitter.fit(image).copy())
            self._truths.append(dataset.read_mask(pair))
            self._fitters.append(fitter)
        self._masks: list[Mask] = []
        self._reference = fp32
        self.fp32 = self._run(fp32, "kernels", len(pairs), self._masks.append)

    def __len__(self) -> int:
        return len(self._frames)

    def score(self, model: bytes, arithmetic: Arithmetic, *, images: int | None = None) -> Score:
        """Run the graph `model` over all pictures, or the first `images` of them."""
        agreeing: list[float] = []

        def compare(mask: Mask) -> None:
            agreeing.append(float(np.mean(mask == self._masks[len(agreeing)])))

        matrix = self._run(model, arithmetic, images or len(self), compare)
        return Score(matrix=matrix, agreement=sum(agreeing) / len(agreeing))

    def measure_time(self, model: bytes, arithmetic: Arithmetic) -> float:
        """Return the time of a frame on one thread as a share of fp32's: the median of rounds in which both run."""
        timed = (
            open_session(model, exact=arithmetic == "exact kernels", threads=1),
            open_session(self._reference, threads=1),
        )
        shares = []
        for turn in range(_TIMED_ROUNDS):
            frame, seconds = {"frame": self._frames[turn % len(self)]}, []
            for session in timed:
                started = time.perf_counter()
                session.run(None, frame)
                seconds.append(time.perf_counter() - started)
            shares.append(seconds[0] / seconds[1])
        return median(shares[_TIMED_ROUNDS // 4 :])  # the first rounds warm up

    def _run(self, model: bytes, arithmetic: Arithmetic, images: int, take: Callable[[Mask], None]) -> ConfusionMatrix:
        session = open_session(model, as_written=arithmetic == "as written", exact=arithmetic == "exact kernels")
        matrix = ConfusionMatrix(self._classes, self._ignore_index)
        for frame, truth, fitter in zip(self._frames[:images], self._truths, self._fitters):  # noqa: B905 (the first)
            mask = session.run(["mask"], {"frame": frame})[0][0]
            matrix.add(truth, fitter.unfit(mask))
            take(mask)
        return matrix
