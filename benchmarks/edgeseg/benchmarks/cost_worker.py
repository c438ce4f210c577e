"""One ONNX graph on ONNX Runtime, over a picture in memory: `cost_worker GRAPH THREADS`."""

from __future__ import annotations

import sys
import time
from typing import Any

import numpy as np

from edgeseg.benchmarks.answers import serve
from edgeseg.runtime.backends.ort import open_session


class _Graph:
    def __init__(self, path: str, threads: int) -> None:
        self._session = open_session(path, threads=threads)
        tensor = self._session.get_inputs()[0]
        picture = np.random.default_rng(0).integers(0, 256, tensor.shape, np.uint8)
        self._feed = {tensor.name: picture if tensor.type == "tensor(uint8)" else picture.astype(np.float32) / 255}
        self._facts = {"threads": threads, "input": tensor.type, "shape": tensor.shape}

    def first(self) -> dict[str, Any]:
        return self._facts

    def run(self, count: int) -> dict[str, Any]:
        """Return the milliseconds of `count` inferences."""
        times_ms = []
        for _ in range(count):
            began_ns = time.perf_counter_ns()
            self._session.run(None, self._feed)
            times_ms.append((time.perf_counter_ns() - began_ns) / 1e6)
        return {"ms": times_ms}


if __name__ == "__main__":
    serve(lambda: _Graph(sys.argv[1], int(sys.argv[2])))
