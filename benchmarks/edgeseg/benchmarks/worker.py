"""A process that holds one bundle on one engine and measures when it is told to.

`python -m edgeseg.benchmarks.worker JSON` answers each line of JSON on standard input with one on standard output;
the first answer comes by itself, after the first mask. What is compared runs in processes of its own, so that one
engine's threads and memory are not the other's, and LoadGen can be ended with its process.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

from edgeseg.benchmarks.answers import serve
from edgeseg.benchmarks.loadgen_rules import Arrivals
from edgeseg.benchmarks.segment import Segmenter, read_frames, warm_up
from edgeseg.runtime.backends import open_backend
from edgeseg.runtime.bundle import open_bundle


class _Worker:
    def __init__(self, order: dict[str, Any]) -> None:
        began_ns = time.monotonic_ns()
        with open_bundle(order["bundle"]) as bundle:
            backend = open_backend(
                bundle, backend=order["backend"], precision=order["precision"], threads=order["threads"]
            )
            loaded_ns = time.monotonic_ns()
            self.segmenter = Segmenter(backend, bundle.contract, read_frames(order["source"]))
        self.load_ms = (loaded_ns - began_ns) / 1e6
        self.until_loaded_ms = (loaded_ns - order["started_ns"]) / 1e6
        self.next = 0

    def first(self) -> dict[str, Any]:
        """Segment the first frame. Reading the source is no part of any time."""
        times = self.segmenter.segment(0)[1]
        return {
            "load_ms": self.load_ms,
            "first_inference_ms": times.inference_ms,
            "first_mask_ms": self.until_loaded_ms + times.whole_path_ms,
            "source_size": list(self.segmenter.frames[0].shape[:2]),
        }

    def warm_up(self) -> dict[str, Any]:
        warmth = warm_up(lambda index: self.segmenter.segment(index)[1].whole_path_ms)
        return {"frames": warmth.frames, "seconds": warmth.seconds, "steady": warmth.steady, "ms": warmth.whole_path_ms}

    def segment(self, count: int) -> dict[str, Any]:
        """Segment `count` frames, going on from those before."""
        times = [self.segmenter.segment(index)[1] for index in range(self.next, self.next + count)]
        self.next += count
        return {
            "inference_ms": [found.inference_ms for found in times],
            "whole_path_ms": [found.whole_path_ms for found in times],
        }

    def loadgen(self, **order: Any) -> dict[str, Any]:
        from edgeseg.benchmarks.loadgen import run_loadgen

        arrivals = Arrivals(rate=order.pop("rate"), bound_ms=order.pop("bound_ms"))
        issued, verdict = run_loadgen(order.pop("scenario"), self.segmenter, arrivals=arrivals, **order)
        lines = {name: samples.tolist() for name, samples in issued.lines().items()}
        return {"lines": lines, "seconds": issued.seconds, "loadgen": verdict.model_dump(exclude_none=True)}


if __name__ == "__main__":
    serve(lambda: _Worker(json.loads(sys.argv[1])))
