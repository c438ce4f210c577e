"""One engine of `edgeseg.benchmarks.baseline`, in a process of its own: each imports only what it needs."""

from __future__ import annotations

import json
import sys
import time
import warnings
from collections.abc import Callable
from importlib import metadata
from types import ModuleType
from typing import Any

import numpy as np

from edgeseg.benchmarks.answers import serve
from edgeseg.benchmarks.baseline import pack_masks
from edgeseg.runtime.backends import open_backend
from edgeseg.runtime.bundle import Bundle, open_bundle
from edgeseg.runtime.frame import Image, Mask

Infer = Callable[[Image], Mask]
"""Takes a fitted frame (1, H, W, 3) uint8 and returns its mask (1, H, W) uint8."""


def open_ort(bundle: Bundle, precision: str, threads: int) -> Infer:
    """As `edgeseg run` computes it."""
    return open_backend(bundle, backend="ort", precision=precision, threads=threads).infer


def open_torch(bundle: Bundle, precision: str, threads: int) -> Infer:
    """The graph as PyTorch modules, called one after the other."""
    import onnx
    import torch

    _stand_in_for_torchvision()
    from onnx2pytorch import ConvertModel

    torch.set_num_threads(threads)
    with warnings.catch_warnings():
        # It warns of each attribute of Resize that PyTorch has no word for; the masks tell whether that mattered.
        warnings.simplefilter("ignore")
        network = ConvertModel(onnx.load(bundle.model_path(precision))).eval()

    def infer(frame: Image) -> Mask:
        with torch.inference_mode():
            mask: Mask = network(torch.from_numpy(frame)).numpy()
        return mask

    return infer


def open_openvino(bundle: Bundle, precision: str, threads: int) -> Infer:
    """OpenVINO's CPU plugin, for latency, with as many threads as the others and fp32 where the graph is."""
    import openvino

    settings = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    core = openvino.Core()
    request = core.compile_model(core.read_model(bundle.model_path(precision)), "CPU", settings).create_infer_request()

    def infer(frame: Image) -> Mask:
        mask: Mask = request.infer([frame])[0]
        return mask

    return infer


_OPENERS = {"ort": open_ort, "torch": open_torch, "openvino": open_openvino}
_PACKAGES = {"ort": "onnxruntime", "torch": "torch", "openvino": "openvino"}


class _Engine:
    def __init__(self, order: dict[str, Any]) -> None:
        self._package = _PACKAGES[order["engine"]]
        with open_bundle(order["bundle"]) as bundle:
            self._infer = _OPENERS[order["engine"]](bundle, order["precision"], order["threads"])
            self._facts = {
                "bundle": {"name": bundle.name, "manifest_sha256": bundle.manifest_sha256},
                "precision": order["precision"],
                "threads": order["threads"],
                "input_size": list(bundle.contract.size_hw),
            }
        self._fitted = np.load(order["fitted"])
        self._next = 0

    def first(self) -> dict[str, Any]:
        return {**self._facts, "package": f"{self._package} {metadata.version(self._package)}"}

    def masks(self) -> dict[str, Any]:
        """Return the masks of all frames."""
        return pack_masks(np.concatenate([self._infer(frame).copy() for frame in self._fitted]))

    def run(self, count: int) -> dict[str, Any]:
        """Return the milliseconds of `count` frames, going on from those before."""
        times_ms = []
        for _ in range(count):
            frame = self._fitted[self._next % len(self._fitted)]
            self._next += 1
            began_ns = time.perf_counter_ns()
            self._infer(frame)
            times_ms.append((time.perf_counter_ns() - began_ns) / 1e6)
        return {"ms": times_ms}


def _stand_in_for_torchvision() -> None:
    """Let onnx2pytorch be imported where torchvision cannot: it is for operators that no bundle has.

    torchvision's wheels on PyPI are built for CUDA, and do not import beside torch's build for the CPU.
    """
    try:
        import torchvision  # noqa: F401
    except (ImportError, RuntimeError):
        for name in ("torchvision", "torchvision.io", "torchvision.ops"):
            stand_in = ModuleType(name)
            vars(stand_in)["__getattr__"] = lambda attribute: None
            sys.modules[name] = stand_in


if __name__ == "__main__":
    serve(lambda: _Engine(json.loads(sys.argv[1])))
