"""The loop that a user would write first: blobFromImage, session.run, argmax, addWeighted.

    peer.py run MODEL.onnx HEIGHT WIDTH THREADS CLIP

MODEL takes float (1, 3, HEIGHT, WIDTH), normalised as (x - 127) / 128, and gives scores (1, classes, HEIGHT, WIDTH).
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import onnxruntime
from answers import serve

PALETTE = np.random.default_rng(0).integers(0, 256, (256, 3), np.uint8)


def start(
    model: str, height: int, width: int, threads: int, clip: str
) -> tuple[dict[str, Any], Callable[[int], list[float]]]:
    """Load the network. Returns facts, and the loop: a capture, a network and an overlay, one after the other."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name

    def run(count: int) -> list[float]:
        """Return the mean milliseconds of `count` frames, from the first one's overlay to the last one's."""
        done_ns: list[int] = []
        capture = cv2.VideoCapture(clip)
        while len(done_ns) <= count:
            ok, frame = capture.read()
            if not ok:
                sys.exit(f"the clip has {len(done_ns)} frames, and {count + 1} are wanted")
            blob = cv2.dnn.blobFromImage(frame, 1 / 128, (width, height), (127, 127, 127))
            scores = session.run(None, {name: blob})[0]
            mask = scores[0].argmax(0).astype(np.uint8)
            mask = cv2.resize(mask, frame.shape[1::-1], interpolation=cv2.INTER_NEAREST)
            cv2.addWeighted(frame, 0.6, PALETTE[mask], 0.4, 0)
            done_ns.append(time.monotonic_ns())
        capture.release()
        return [(done_ns[count] - done_ns[0]) / 1e6 / count]

    packages = {"opencv": cv2.__version__, "onnxruntime": onnxruntime.__version__}
    return {"input_size": [height, width], "packages": packages}, run


if __name__ == "__main__":
    _, model, height, width, threads, clip = sys.argv[1:]
    serve(lambda: start(model, int(height), int(width), int(threads), clip))
