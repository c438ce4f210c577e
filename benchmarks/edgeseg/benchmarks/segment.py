"""One bundle on one engine over a few frames held in memory: what every scenario but `live` times."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

from edgeseg.benchmarks.errors import BenchmarkError
from edgeseg.runtime.backends import Backend
from edgeseg.runtime.contract import Contract, Fitter
from edgeseg.runtime.frame import Image, Mask
from edgeseg.runtime.sources import open_source, redact

FRAMES = 16
WARM_UP_RULE = (
    "whole paths until the median of the last 8 is within 5 % of that of the 8 before, but at most 500 or 10 s"
)
_WINDOW, _SHARE, _MOST, _LIMIT_S = 8, 0.05, 500, 10.0


@dataclass(frozen=True, slots=True)
class Times:
    """Milliseconds of one frame."""

    inference_ms: float
    """From the fitted frame in host memory to the mask in host memory."""
    whole_path_ms: float
    """From the source's frame in memory to the mask at the source's resolution."""
    backend_ms: float | None = None
    """The network alone, by the engine's own clock; None where it has none."""


def read_frames(source: str) -> list[Image]:
    """Return the first frames (H, W, 3) uint8 BGR of `source`, at most `FRAMES`, all of one size.

    Raises `SourceError` where there is no such source and `BenchmarkError` where it gives no frame.
    """
    opened = open_source(source)
    frames: list[Image] = []
    try:
        while len(frames) < FRAMES and (frame := opened.read()) is not None:
            if frame.image_bgr.shape == (*opened.size_hw, 3):
                frames.append(frame.image_bgr.copy())
    finally:
        opened.close()
    if not frames:
        raise BenchmarkError(f"source {redact(source)} gives no frame", fix="name another --source")
    return frames


class Segmenter:
    """Takes frames of one size through fitting, inference and unfitting, and times both lines of each."""

    def __init__(self, backend: Backend, contract: Contract, frames: list[Image]) -> None:
        self.frames = frames
        self._backend = backend
        height, width = frames[0].shape[:2]
        self._fitter = Fitter(contract, (height, width))

    def segment(self, index: int) -> tuple[Mask, Times]:
        """Return frame `index`'s mask at the source's resolution, and what it took. Any index: frames repeat."""
        began_ns = time.perf_counter_ns()
        fitted = self._fitter.fit(self.frames[index % len(self.frames)])
        fitted_ns = time.perf_counter_ns()
        mask = self._backend.infer(fitted)
        inferred_ns = time.perf_counter_ns()
        whole = self._fitter.unfit(mask[0])
        ended_ns = time.perf_counter_ns()
        backend_ms: float | None = getattr(self._backend, "backend_ms", None)
        return whole, Times((inferred_ns - fitted_ns) / 1e6, (ended_ns - began_ns) / 1e6, backend_ms)


@dataclass(frozen=True, kw_only=True)
class Warmth:
    """How a warm-up went."""

    frames: int
    seconds: float
    steady: bool
    whole_path_ms: float
    """The median at its end."""


def warm_up(segment: Callable[[int], float], *, now_s: Callable[[], float] = time.monotonic) -> Warmth:
    """Call `segment(index)`, which returns milliseconds, until `WARM_UP_RULE` is met or its limit reached."""
    began_s, times_ms = now_s(), list[float]()
    while True:
        times_ms.append(segment(len(times_ms)))
        last_ms, before_ms = times_ms[-_WINDOW:], times_ms[-2 * _WINDOW : -_WINDOW]
        steady = len(before_ms) == _WINDOW and abs(median(last_ms) / median(before_ms) - 1) <= _SHARE
        seconds = now_s() - began_s
        if steady or len(times_ms) == _MOST or seconds >= _LIMIT_S:
            return Warmth(frames=len(times_ms), seconds=seconds, steady=steady, whole_path_ms=median(last_ms))
