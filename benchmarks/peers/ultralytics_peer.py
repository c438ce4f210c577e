"""Ultralytics' yolo26n-sem, as its own pages use it. Runs in an environment of its own: Ultralytics is AGPL-3.0.

peer.py export HEIGHT WIDTH CLASSES OUT.onnx
peer.py run MODEL.onnx HEIGHT WIDTH THREADS CLIP
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

from answers import serve


def export(height: int, width: int, classes: int, out: Path) -> None:
    """Write the network with random weights as ONNX."""
    from ultralytics import YOLO
    from ultralytics.utils import YAML
    from ultralytics.utils.checks import check_yaml

    layers = YAML.load(check_yaml("yolo26-sem.yaml"))
    YAML.save("yolo26n-sem.yaml", {**layers, "nc": classes})  # the scale is read from the name
    exported = YOLO("yolo26n-sem.yaml", task="semantic").export(format="onnx", imgsz=(height, width), opset=20)
    shutil.copyfile(exported, out)


def start(
    model: str, height: int, width: int, threads: int, clip: str
) -> tuple[dict[str, Any], Callable[[int], list[float]]]:
    """Load the network. Returns facts, and the whole video path: class maps of the clip's own size."""
    from ultralytics import YOLO

    _limit_threads(threads)
    network = YOLO(model, task="semantic")

    def run(count: int) -> list[float]:
        """Return the mean milliseconds of `count` frames, from the first one's result to the last one's."""
        done_ns: list[int] = []
        for result in network.predict(clip, stream=True, imgsz=(height, width), device="cpu", verbose=False):
            assert result.semantic_mask.shape == result.orig_shape
            done_ns.append(time.monotonic_ns())
            if len(done_ns) > count:
                break
        return [(done_ns[count] - done_ns[0]) / 1e6 / count]

    packages = {name: metadata.version(name) for name in ("ultralytics", "onnxruntime", "torch")}
    return {"input_size": [height, width], "packages": packages}, run


def _limit_threads(threads: int) -> None:
    """Give ONNX Runtime as many threads as the other sides have; Ultralytics has no setting for it."""
    import onnxruntime
    import torch

    torch.set_num_threads(threads)
    make_session = onnxruntime.InferenceSession

    def make_limited(model: str, sess_options: Any = None, **others: Any) -> Any:
        options = sess_options or onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        return make_session(model, options, **others)

    onnxruntime.InferenceSession = make_limited


if __name__ == "__main__":
    action, *words = sys.argv[1:]
    with tempfile.TemporaryDirectory(prefix="ultralytics-") as folder:
        # Read at its import: no settings in the home folder, no downloads, no installs.
        os.environ.update(YOLO_CONFIG_DIR=folder, YOLO_OFFLINE="true", YOLO_AUTOINSTALL="false")
        if action == "export":
            height, width, classes, out = words
            whole = Path(out).absolute()
            os.chdir(folder)
            export(int(height), int(width), int(classes), whole)
        else:
            model, height, width, threads, clip = words
            serve(lambda: start(model, int(height), int(width), int(threads), clip))
