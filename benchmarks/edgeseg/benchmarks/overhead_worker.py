"""One side of `edgeseg.benchmarks.overhead`, in a process of its own."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from statistics import fmean, median
from typing import Any

from edgeseg.benchmarks.answers import serve
from edgeseg.benchmarks.peers_worker import Stopwatch, WarmBackend
from edgeseg.benchmarks.segment import read_frames
from edgeseg.runtime.backends import open_backend
from edgeseg.runtime.bundle import open_bundle
from edgeseg.runtime.contract import Fitter
from edgeseg.runtime.frame import Frame, Image
from edgeseg.runtime.pipeline import run_pipeline
from edgeseg.runtime.sources import open_source

_SETTLE_FRAMES = 3
"""Of a live turn that are not counted: the pipeline's threads have just been started."""


class PacedFrames:
    """A live source over frames in memory: one every `period_s`, captured when it is due."""

    live = True
    clock = "synthetic"

    def __init__(self, frames: Sequence[Image], period_s: float) -> None:
        self._frames, self._period_s = frames, period_s
        self._next, self._began_s = 0, time.monotonic()
        self.size_hw = frames[0].shape[:2]
        self.fps: float | None = 1 / period_s
        self._closed = False

    def read(self) -> Frame | None:
        """Wait until the next frame is due."""
        due_s = self._began_s + self._next * self._period_s
        time.sleep(max(0.0, due_s - time.monotonic()))
        if self._closed:
            return None
        index, self._next = self._next, self._next + 1
        image_bgr = self._frames[index % len(self._frames)]
        return Frame(image_bgr=image_bgr, id=index, captured_ns=time.monotonic_ns(), name=f"frame-{index:06d}")

    def close(self) -> None:
        self._closed = True


class _Side:
    def __init__(self, order: dict[str, Any]) -> None:
        self._clip = order["clip"]
        with open_bundle(order["bundle"]) as bundle:
            self._contract = bundle.contract
            backend = open_backend(bundle, backend="ort", precision=order["precision"], threads=order["threads"])
            self._backend = WarmBackend(backend)
        self._frames = read_frames(self._clip)
        fitter = Fitter(self._contract, (self._frames[0].shape[0], self._frames[0].shape[1]))
        self._fitted = [fitter.fit(frame).copy() for frame in self._frames]
        runs: dict[str, Callable[[int], list[float]]] = {
            "bare": self._infer, "paced": self._paced, "live": self._live, "file": self._file,
            "bare loop": lambda count: [fmean(self._infer(count))],
        }  # fmt: skip
        self._run = runs[order["side"]]
        self._period_s = median(self._infer(16)) / 1e3 / order["load"]
        self._facts = {"precision": backend.precision, "threads": order["threads"], "period_ms": self._period_s * 1e3}

    def first(self) -> dict[str, Any]:
        return self._facts

    def run(self, count: int) -> dict[str, Any]:
        return {"ms": self._run(count)}

    def _infer(self, count: int) -> list[float]:
        """Return the milliseconds of `count` inferences; one before them finds the caches full of another's data."""
        times_ms = []
        for index in range(count + 1):
            began_ns = time.perf_counter_ns()
            self._backend.infer(self._fitted[index % len(self._fitted)])
            times_ms.append((time.perf_counter_ns() - began_ns) / 1e6)
        return times_ms[1:]

    def _paced(self, count: int) -> list[float]:
        """As `_infer`, a frame every period."""
        times_ms, began_s = [], time.monotonic()
        for index in range(_SETTLE_FRAMES + count):
            time.sleep(max(0.0, began_s + index * self._period_s - time.monotonic()))
            began_ns = time.perf_counter_ns()
            self._backend.infer(self._fitted[index % len(self._fitted)])
            times_ms.append((time.perf_counter_ns() - began_ns) / 1e6)
        return times_ms[_SETTLE_FRAMES:]

    def _live(self, count: int) -> list[float]:
        # A sink that falls behind drops frames of its own, so it is the sink that says when it has enough.
        wanted = _SETTLE_FRAMES + count
        watch = Stopwatch(self._contract, stop_at=wanted)
        run_pipeline(PacedFrames(self._frames, self._period_s), self._backend, self._contract, [watch], stop=watch.stop)
        return watch.ages_ms[_SETTLE_FRAMES:wanted]

    def _file(self, count: int) -> list[float]:
        watch = Stopwatch(self._contract)
        run_pipeline(open_source(self._clip), self._backend, self._contract, [watch], max_frames=count + 1)
        return [(watch.done_ns[-1] - watch.done_ns[0]) / 1e6 / (len(watch.done_ns) - 1)]


if __name__ == "__main__":
    serve(lambda: _Side(json.loads(sys.argv[1])))
