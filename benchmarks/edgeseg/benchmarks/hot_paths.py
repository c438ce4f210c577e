"""What is done for every frame, for `edgeseg.benchmarks.guard`: each function prepares it and returns what to call.

Run by path with another state of the code behind the imports, so each imports what it needs when it is called; what
that state lacks is left out of the comparison.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

Call = Callable[[], object]


def _frames(size_hw: tuple[int, int] = (480, 640), count: int = 4) -> list[Any]:
    random = np.random.default_rng(0)
    small = random.integers(0, 256, (count, size_hw[0] // 16, size_hw[1] // 16, 3), np.uint8)
    return list(small.repeat(16, axis=1).repeat(16, axis=2))


def fit_and_unfit() -> Call:
    """A frame to the contract's size and the mask back."""
    from edgeseg.runtime.bundle import open_bundle
    from edgeseg.runtime.contract import Fitter

    contract = open_bundle("street").contract
    frame, fitter = _frames()[0], Fitter(contract, (480, 640))
    mask = np.zeros(contract.size_hw, np.uint8)
    return lambda: (fitter.fit(frame), fitter.unfit(mask))


def infer_on_the_cpu() -> Call:
    """The shipped network's CPU graph, one thread."""
    from edgeseg.runtime.backends import open_backend
    from edgeseg.runtime.bundle import open_bundle

    bundle = open_bundle("street")
    backend = open_backend(bundle, backend="ort", precision="int8-cpu", threads=1)
    frame = np.full((1, *bundle.contract.size_hw, 3), 127, np.uint8)
    return lambda: backend.infer(frame)


def run_the_pipeline() -> Call:
    """A hundred frames through every stage's thread and slot, with nothing to compute."""
    from edgeseg.runtime.backends import open_backend
    from edgeseg.runtime.bundle import open_bundle
    from edgeseg.runtime.frame import Frame
    from edgeseg.runtime.pipeline import run_pipeline
    from edgeseg.runtime.sinks import NullSink

    bundle = open_bundle("street")
    backend = open_backend(bundle, backend="null")
    pictures = _frames((96, 128))

    class Loop:
        size_hw, fps, live, clock = (96, 128), None, False, "arrival"
        next_id = 0

        def read(self) -> Any:
            if self.next_id == 100:
                return None
            self.next_id += 1
            frame_id = self.next_id - 1
            return Frame(image_bgr=pictures[frame_id % 4], id=frame_id, captured_ns=0, name="frame")

        def close(self) -> None:
            pass

    return lambda: run_pipeline(Loop(), backend, bundle.contract, [NullSink()])


def run_a_file() -> Call:
    """A video file through the shipped network's CPU graph, one thread, to a null sink."""
    import atexit
    import tempfile
    from pathlib import Path

    import cv2

    from edgeseg.runtime.backends import open_backend
    from edgeseg.runtime.bundle import open_bundle
    from edgeseg.runtime.pipeline import run_pipeline
    from edgeseg.runtime.sinks import NullSink
    from edgeseg.runtime.sources import open_source

    folder = tempfile.TemporaryDirectory(prefix="edgeseg-guard-clip-")
    atexit.register(folder.cleanup)
    clip = Path(folder.name) / "noise.mp4"
    writer = cv2.VideoWriter(str(clip), cv2.VideoWriter.fourcc(*"mp4v"), 25.0, (640, 480))
    for frame in _frames(count=16):
        writer.write(frame)
    writer.release()
    bundle = open_bundle("street")
    backend = open_backend(bundle, backend="ort", precision="int8-cpu", threads=1)
    backend.warm_up()

    return lambda: run_pipeline(open_source(str(clip)), backend, bundle.contract, [NullSink()])


def paint_the_overlay() -> Call:
    """A mask over its frame."""
    from edgeseg.runtime.bundle import open_bundle
    from edgeseg.runtime.overlay import blend_classes

    contract, frame = open_bundle("street").contract, _frames()[0]
    mask = frame[..., 0] % 11
    return lambda: blend_classes(frame, mask, contract)


def count_the_confusion() -> Call:
    """A mask against its label."""
    from edgeseg.runtime.confusion import ConfusionMatrix

    labels = np.random.default_rng(0).integers(0, 12, (480, 640)).astype(np.uint8)
    confusion = ConfusionMatrix(tuple(f"class {index}" for index in range(11)), 11)
    return lambda: confusion.add(labels, labels)


def open_the_bundle() -> Call:
    """Every file's hash, before anything runs."""
    from edgeseg.runtime.bundle import open_bundle

    return lambda: open_bundle("street")


PATHS = {
    "fit and unfit": fit_and_unfit,
    "infer on the CPU": infer_on_the_cpu,
    "run the pipeline": run_the_pipeline,
    "run a file": run_a_file,
    "paint the overlay": paint_the_overlay,
    "count the confusion": count_the_confusion,
    "open the bundle": open_the_bundle,
}
