"""edgeseg's side of `edgeseg.benchmarks.peers`: a clip through the pipeline, as `edgeseg run CLIP` takes it."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

from edgeseg.benchmarks.answers import serve
from edgeseg.benchmarks.errors import BenchmarkError
from edgeseg.runtime.backends import Backend, open_backend, read_confidence
from edgeseg.runtime.bundle import open_bundle
from edgeseg.runtime.contract import Contract
from edgeseg.runtime.frame import Confidence, Result
from edgeseg.runtime.overlay import blend_classes
from edgeseg.runtime.pipeline import Stop, run_pipeline
from edgeseg.runtime.sources import open_source


class Stopwatch:
    """A sink that does what a user would with each result, and notes when it was done and how old it was."""

    spec = "stopwatch"

    def __init__(self, contract: Contract, *, overlays: bool = False, stop_at: int | None = None) -> None:
        """After `stop_at` results `stop` is set; None never sets it."""
        self.stop = Stop()
        self.done_ns: list[int] = []
        self.ages_ms: list[float] = []
        """From capture to mask."""
        self._contract, self._overlays, self._stop_at = contract, overlays, stop_at

    def write(self, result: Result) -> None:
        if self._overlays:
            blend_classes(result.frame.image_bgr, result.mask, self._contract)
        self.done_ns.append(time.monotonic_ns())
        self.ages_ms.append(result.frame_age_ms)
        if len(self.done_ns) == self._stop_at:
            self.stop.set()

    def close(self) -> None:
        pass


class WarmBackend:
    """An engine that was warmed up, and is not again for every turn."""

    def __init__(self, backend: Backend) -> None:
        self.name, self.precision, self.infer, self.close = (
            backend.name,
            backend.precision,
            backend.infer,
            backend.close,
        )
        self._backend = backend
        backend.warm_up()

    @property
    def confidence(self) -> Confidence | None:
        """Of the engine's latest inference."""
        return read_confidence(self._backend)

    def warm_up(self) -> None:
        pass


class _Edgeseg:
    def __init__(self, order: dict[str, Any]) -> None:
        self._clip, self._overlays = Path(order["clip"]), order["overlays"]
        with open_bundle(order["bundle"]) as bundle:
            self._contract = bundle.contract
            self._backend = open_backend(bundle, backend="ort", precision=order["precision"], threads=order["threads"])

    def first(self) -> dict[str, Any]:
        return {"input_size": list(self._contract.size_hw), "precision": self._backend.precision}

    def run(self, count: int) -> dict[str, Any]:
        """Return the mean milliseconds of `count` frames, from the first one's mask to the last one's."""
        watch = Stopwatch(self._contract, overlays=self._overlays)
        source = open_source(str(self._clip))
        run_pipeline(source, self._backend, self._contract, [watch], max_frames=count + 1)
        if len(watch.done_ns) <= count:
            raise BenchmarkError(f"{self._clip.name} has {len(watch.done_ns)} frames", expected=f"{count + 1} at least")
        return {"ms": [(watch.done_ns[count] - watch.done_ns[0]) / 1e6 / count]}


if __name__ == "__main__":
    serve(lambda: _Edgeseg(json.loads(sys.argv[1])))
