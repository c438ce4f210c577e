"""ONNX Runtime on the CPU: the embedded default, there on every machine."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from edgeseg.runtime.backends import run_until_steady
from edgeseg.runtime.backends.options import DEFAULTS, BackendOptions
from edgeseg.runtime.bundle import Bundle
from edgeseg.runtime.contract import CONFIDENCE
from edgeseg.runtime.errors import BackendError
from edgeseg.runtime.frame import Confidence, Image, Mask

try:
    import onnxruntime as ort
except ImportError as error:
    raise BackendError(
        f"backend ort cannot be loaded ({error})", expected="onnxruntime", fix="pip install 'edgeseg[desktop]'"
    ) from error

_AUTO_PRECISIONS = ("int8-cpu", "fp32")
"""Fastest first. The device graphs are not among them: the CPU computes fp16 through fp32, and int8 as written."""

_SEVERITY_ERROR = 3


class OrtBackend:
    """An `InferenceSession` on `CPUExecutionProvider`.

    Precision `int8`, the device's graph, is computed as written, with graph optimisations off: the optimised kernels
    saturate 8-bit products on CPUs without VNNI, silently, while TensorRT accumulates exactly.
    """

    name = "ort"
    confidence: Confidence | None = None

    def __init__(
        self,
        bundle: Bundle,
        precision: str = "auto",
        threads: int | None = None,
        options: BackendOptions = DEFAULTS,
        *,
        profile_prefix: str | None = None,
    ) -> None:
        """Load the graph. `threads` None is one per core that this process may use. Raises `BackendError`.

        With `profile_prefix` ONNX Runtime profiles every inference until `end_profile`, into a file of that name.
        """
        options.refuse_for(self.name)
        self.precision = self.candidates(bundle)[0] if precision == "auto" else precision
        path = bundle.model_path(self.precision)
        try:
            self._session = self._load(bundle, path, threads, options, profile_prefix)
        except BackendError:
            raise
        except Exception as error:  # its exception classes have no public base
            raise BackendError(
                f"onnxruntime {ort.__version__} refuses {path.name}: {error}", fix="update onnxruntime or export again"
            ) from error
        self._shape = (1, *bundle.contract.size_hw, 3)
        _check_tensors(path.name, "input", self._session.get_inputs(), "frame", self._shape)
        _check_tensors(path.name, "output", self._session.get_outputs(), "mask", self._shape[:3])
        self._outputs = ["mask"] if bundle.contract.confidence_hw is None else ["mask", CONFIDENCE]

    def _load(
        self, bundle: Bundle, path: Path, threads: int | None, options: BackendOptions, profile_prefix: str | None
    ) -> ort.InferenceSession:
        as_written = self.precision == "int8"
        return open_session(str(path), as_written=as_written, threads=threads, profile_prefix=profile_prefix)

    @staticmethod
    def candidates(bundle: Bundle, options: BackendOptions = DEFAULTS) -> list[str]:
        """Return what of `bundle` this engine computes well, fastest first. Raises `BackendError` if nothing."""
        found: list[str] = [precision for precision in _AUTO_PRECISIONS if precision in bundle.precisions]
        if not found:
            raise BackendError(
                f"bundle {bundle.name} has only {', '.join(bundle.precisions)}",
                expected=f"{' or '.join(_AUTO_PRECISIONS)} for backend ort",
                fix="name a --precision",
            )
        return found

    def infer(self, frame: Image) -> Mask:
        """Segment `frame` (1, H, W, 3 uint8). Returns a new (1, H, W) uint8. Raises `BackendError`."""
        if frame.shape != self._shape or frame.dtype != np.uint8:
            raise BackendError(f"frame of shape {frame.shape}, {frame.dtype}", expected=f"{self._shape}, uint8")
        mask: Mask
        mask, *others = self._session.run(self._outputs, {"frame": frame})
        self.confidence = others[0] if others else None
        return mask

    def warm_up(self) -> None:
        """Infer grey frames until the time is steady."""
        frame = np.full(self._shape, 127, np.uint8)
        run_until_steady(lambda: self.infer(frame))

    def end_profile(self) -> str:
        """Profile no further inference, and return the path of the profile."""
        return str(self._session.end_profiling())

    def close(self) -> None:
        """Give the session's memory and threads back."""
        self.__dict__.pop("_session", None)


def open_session(
    model: str | bytes,
    *,
    as_written: bool = False,
    exact: bool = False,
    threads: int | None = None,
    profile_prefix: str | None = None,
) -> ort.InferenceSession:
    """Load an ONNX file, or its bytes, on the CPU; `as_written` with graph optimisations off.

    `exact` asks for kernels that never saturate 8-bit products, slower on x86 without VNNI.
    `threads` None is one per core that this process may use. Raises what ONNX Runtime raises.
    """
    options = ort.SessionOptions()
    # Given a number, ONNX Runtime pins no thread to a core; its own choice counts cores that a container lacks.
    options.intra_op_num_threads = threads or len(os.sched_getaffinity(0))
    options.inter_op_num_threads = 1
    options.log_severity_level = _SEVERITY_ERROR
    if profile_prefix is not None:
        options.enable_profiling, options.profile_file_prefix = True, profile_prefix
    if exact:
        options.add_session_config_entry("session.x64quantprecision", "1")
    levels = ort.GraphOptimizationLevel
    options.graph_optimization_level = levels.ORT_DISABLE_ALL if as_written else levels.ORT_ENABLE_ALL
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def _check_tensors(file: str, kind: str, tensors: list[ort.NodeArg], name: str, shape: tuple[int, ...]) -> None:
    for tensor in tensors:
        if tensor.name == name and tensor.type == "tensor(uint8)" and tuple(tensor.shape) == shape:
            return
    found = ", ".join(f"{tensor.name} {tensor.type} {tensor.shape}" for tensor in tensors)
    raise BackendError(
        f"{file}: {kind} {found}", expected=f"{name} tensor(uint8) {list(shape)}", fix="export the network again"
    )
