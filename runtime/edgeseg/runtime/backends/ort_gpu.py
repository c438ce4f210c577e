"""ONNX Runtime on an NVIDIA GPU: its CUDA, TensorRT and NvTensorRtRtx execution providers, where they are installed.

All or nothing runs there. ONNX Runtime by itself goes on with the CPU when a provider cannot be loaded, when it does
not take a node, and when a run fails: all three are errors here.

Names of providers and options are those of https://onnxruntime.ai/docs/execution-providers/, pages
`CUDA-ExecutionProvider` and `TensorRT-ExecutionProvider`, and of https://nvidia.github.io/TensorRT-RTX-EP-ABI/, page
"Provider options" (read 2026-11); that of the session's, of `onnxruntime_session_options_config_keys.h`. None of it has
run on a GPU.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar, Literal

from edgeseg.runtime.backends.options import DEFAULTS, BackendOptions
from edgeseg.runtime.backends.ort import OrtBackend
from edgeseg.runtime.bundle import Bundle
from edgeseg.runtime.engine.cache import cache_folder
from edgeseg.runtime.errors import BackendError
from edgeseg.runtime.frame import Image, Mask

ort: Any = import_module("onnxruntime")
_SEVERITY_ERROR = 3


@dataclass(frozen=True, kw_only=True)
class CudaOptions:
    """Of `CUDAExecutionProvider`."""

    device_id: int = 0
    arena_extend_strategy: Literal["kNextPowerOfTwo", "kSameAsRequested"] = "kSameAsRequested"
    """Shapes are fixed: what is asked for once is all there will be."""
    use_tf32: bool = False
    """fp32 is the reference."""


@dataclass(frozen=True, kw_only=True)
class TensorRTOptions:
    """Of `TensorrtExecutionProvider`. Engines are kept, as building one takes minutes."""

    device_id: int = 0
    trt_fp16_enable: bool
    trt_int8_enable: bool
    trt_engine_cache_enable: bool = True
    trt_engine_cache_path: str
    trt_timing_cache_enable: bool = True
    trt_timing_cache_path: str


@dataclass(frozen=True, kw_only=True)
class RtxOptions:
    """Of `NvTensorRTRTXExecutionProvider`, on the first GPU that it finds. Kernels that it compiled are kept."""

    nv_runtime_cache_path: str


_Provider = tuple[str, Mapping[str, str]]


def _provider(name: str, options: CudaOptions | TensorRTOptions | RtxOptions) -> _Provider:
    return name, {key: str(int(value) if isinstance(value, bool) else value) for key, value in asdict(options).items()}


class _OrtGpuBackend(OrtBackend):
    """An `InferenceSession` all of whose nodes run on the GPU."""

    provider: ClassVar[str]
    made_for: ClassVar[tuple[str, ...]]
    """Precisions, fastest first."""
    install: ClassVar[str] = "pip install onnxruntime-gpu in place of onnxruntime (on a Jetson: NVIDIA's wheel for it)"

    @classmethod
    def candidates(cls, bundle: Bundle, options: BackendOptions = DEFAULTS) -> list[str]:
        """Return what of `bundle` this provider computes well, fastest first. Raises `BackendError` if nothing."""
        found: list[str] = [precision for precision in cls.made_for if precision in bundle.precisions]
        if not found:
            has = ", ".join(bundle.precisions)
            raise BackendError(f"bundle {bundle.name} has only {has}", expected=f"{' or '.join(cls.made_for)}")
        return found

    def _load(
        self, bundle: Bundle, path: Path, threads: int | None, options: BackendOptions, profile_prefix: str | None
    ) -> Any:
        if threads is not None:
            raise BackendError(f"--threads with backend {self.name}", fix="leave it out: it is for backend ort")
        wanted = ort.SessionOptions()
        wanted.log_severity_level = _SEVERITY_ERROR
        wanted.add_session_config_entry("session.disable_cpu_ep_fallback", "1")  # of a node that is not taken
        if profile_prefix is not None:
            wanted.enable_profiling, wanted.profile_file_prefix = True, profile_prefix
        session = self._open(path, wanted, self._providers(bundle, options))
        if session.get_providers()[0] != self.provider:
            raise BackendError(
                f"{self.provider} cannot be loaded: onnxruntime would run on {', '.join(session.get_providers())}",
                fix="install the CUDA, cuDNN and TensorRT that this onnxruntime was built for, or use --backend ort",
            )
        session.disable_fallback()  # of a run that fails
        return session

    def _open(self, path: Path, wanted: Any, providers: list[_Provider]) -> Any:
        if self.provider not in ort.get_available_providers():
            raise BackendError(f"onnxruntime {ort.__version__} has no {self.provider}", fix=self.install)
        return ort.InferenceSession(str(path), wanted, providers=providers)

    def _providers(self, bundle: Bundle, options: BackendOptions) -> list[_Provider]:
        raise NotImplementedError

    def infer(self, frame: Image) -> Mask:
        """Segment `frame` (1, H, W, 3 uint8). Returns a new (1, H, W) uint8. Raises `BackendError`."""
        try:
            return super().infer(frame)
        except BackendError:
            raise
        except Exception as error:  # its exception classes have no public base
            raise BackendError(
                f"{self.provider} failed: {error}",
                fix="restart the program; if it happens again look into dmesg, or use --backend ort",
            ) from error

    def _cache(self, bundle: Bundle) -> Path:
        """Return a folder for what the provider compiles of this bundle's precision.

        Such files are code, and ONNX Runtime does not authenticate them: nobody else may have written there.
        """
        name = f"{bundle.name}-{bundle.manifest_sha256[:16]}-{self.precision}-{ort.__version__}"
        folder = cache_folder() / self.name / name
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            for one in (cache_folder(), folder.parent, folder):
                found = one.stat()
                if found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) & 0o022:
                    raise BackendError(f"others may write in {one}, where engines are kept", fix="remove that folder")
        except OSError as error:
            raise BackendError(
                f"engines cannot be kept at {folder}: {error.strerror}",
                fix="let this user write there, or set XDG_CACHE_HOME",
            ) from error
        return folder


class OrtCudaBackend(_OrtGpuBackend):
    """Kernel by kernel: nothing is built, and Q/DQ graphs gain nothing."""

    name, provider, made_for = "ort-cuda", "CUDAExecutionProvider", ("fp16", "fp32")

    def _providers(self, bundle: Bundle, options: BackendOptions) -> list[_Provider]:
        return [_provider(self.provider, CudaOptions())]


class OrtTensorRTBackend(_OrtGpuBackend):
    """TensorRT within ONNX Runtime; what it does not take runs on CUDA."""

    name, provider, made_for = "ort-tensorrt", "TensorrtExecutionProvider", ("int8", "fp16", "fp32")

    def _providers(self, bundle: Bundle, options: BackendOptions) -> list[_Provider]:
        folder = self._cache(bundle)
        if not options.build and not any(folder.glob("*.engine")):
            raise BackendError(
                f"{self.name} has no {self.precision} engine of {bundle.name} for onnxruntime {ort.__version__} yet",
                fix="run once without EDGESEG_BUILD=0",
            )
        chosen = TensorRTOptions(
            trt_fp16_enable=self.precision in ("fp16", "int8"),
            trt_int8_enable=self.precision == "int8",
            trt_engine_cache_path=str(folder),
            trt_timing_cache_path=str(folder),
        )
        return [_provider(self.provider, chosen), _provider(OrtCudaBackend.provider, CudaOptions())]


class OrtRtxBackend(_OrtGpuBackend):
    """TensorRT-RTX within ONNX Runtime, on GeForce RTX 30 and later: a plugin that NVIDIA publishes for it."""

    name, provider, made_for = "ort-rtx", "NvTensorRTRTXExecutionProvider", ("int8", "fp16", "fp32")
    install = "pip install onnxruntime-ep-nv-tensorrt-rtx-cu13 beside onnxruntime, not onnxruntime-gpu"

    def _providers(self, bundle: Bundle, options: BackendOptions) -> list[_Provider]:
        return [_provider(self.provider, RtxOptions(nv_runtime_cache_path=str(self._cache(bundle))))]

    def _open(self, path: Path, wanted: Any, providers: list[_Provider]) -> Any:
        """Open with the plugin, or with the provider where this onnxruntime was built with it."""
        if self.provider in ort.get_available_providers():
            return super()._open(path, wanted, providers)
        try:
            plugin = import_module("onnxruntime_ep_nv_tensorrt_rtx")
        except ImportError as error:
            raise BackendError(f"{self.provider} is not installed ({error})", fix=self.install) from error
        if not _registered:
            ort.register_execution_provider_library(self.provider, plugin.get_library_path())
            _registered.append(self.provider)  # for the process: a session that lives may use it
        devices = [device for device in ort.get_ep_devices() if device.ep_name == self.provider]
        if not devices:
            raise BackendError(f"{self.provider} finds no GPU", fix="use a GeForce RTX 30 or later, or --backend ort")
        (_, options), *_ = providers
        wanted.add_provider_for_devices(devices[:1], dict(options))
        return ort.InferenceSession(str(path), wanted)


_registered: list[str] = []
