"""What is being looked at: a device, a simulation of one, or this machine's CPU."""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from edgeseg.runtime.backends.cuda import Gpu, open_gpu
from edgeseg.runtime.engine.api import is_installed, load_tensorrt

Kind = Literal["device", "simulated", "cpu"]

# A process that holds a CUDA context holds one of these open: a discrete GPU's and Thor's, Orin's, and WSL's driver.
_DRIVER_NODE = re.compile(r"/dev/(nvidia|nvhost|nvgpu|nvmap|dxg)")
_COMPILER = re.compile(r"\blibnvinfer[^/\n]*\.so")


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What the lines are about. `trt` and `gpu` are None on a CPU."""

    kind: Kind
    backend: str
    sentence: str
    """The page's first line."""
    trt: Any = None
    gpu: Gpu | None = None

    def document(self) -> dict[str, Any]:
        """Return JSON's types."""
        fields: dict[str, Any] = {"kind": self.kind, "backend": self.backend}
        if self.gpu is not None:
            fields["gpu"] = {
                "name": self.gpu.name,
                "compute_capability": self.gpu.capability,
                "integrated": self.gpu.integrated,
                "library": self.gpu.library,
            }
            fields["tensorrt"] = str(self.trt.__version__)
        return fields


def find_subject(backend: str = "auto", *, proc: Path = Path("/proc/self")) -> Subject:
    """Open what `backend` (auto, ort or tensorrt) runs on. `proc` is this process's folder of the kernel's.

    A simulation is told by what it cannot have: an NVIDIA driver's device node that this process holds open, and
    TensorRT's own library in its memory. Raises `BackendError` where TensorRT is there or asked for and cannot be used.
    """
    if backend == "ort" or (backend == "auto" and not is_installed()):
        sentence = "This was not a device: ONNX Runtime ran on the CPU of this machine."
        return Subject(kind="cpu", backend="ort", sentence=sentence)
    trt, gpu = load_tensorrt(), open_gpu()
    lacks = _missing(proc)
    where = f"{gpu.name} (compute capability {gpu.capability}), TensorRT {trt.__version__}"
    if lacks:
        sentence = f"This was not a device but a simulation of one, {where}: {' and '.join(lacks)}."
        return Subject(kind="simulated", backend="tensorrt", sentence=sentence, trt=trt, gpu=gpu)
    return Subject(kind="device", backend="tensorrt", sentence=f"Device: {where}.", trt=trt, gpu=gpu)


def _missing(proc: Path) -> list[str]:
    """Return what a real device would have and this process has not."""
    opened = []
    for link in (proc / "fd").glob("*"):
        with suppress(OSError):  # closed meanwhile
            opened.append(str(link.readlink()))
    lacks = []
    if not any(_DRIVER_NODE.match(path) for path in opened):
        lacks.append("CUDA answered with no NVIDIA driver open")
    if not _COMPILER.search((proc / "maps").read_text(errors="replace")):
        lacks.append("TensorRT's library is not loaded")
    return lacks
