"""Compile an ONNX file into a plan, with TensorRT on the device or with TensorRT-RTX where there is no GPU."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from edgeseg.runtime.engine.api import creation_flags, shared_logger
from edgeseg.runtime.errors import BackendError

_log = logging.getLogger(__name__)

Progress = Callable[[str, float], None]
"""Called by the building thread with the phase's name and its share done, 0 to 1."""


class RefusedError(BackendError):
    """A graph that this TensorRT does not take; it may take another precision's."""


class PhaseLines:
    """A `Progress` that writes a line to standard error for each phase that starts: minutes must not be silent."""

    def __init__(self) -> None:
        self._phases: set[str] = set()

    def __call__(self, phase: str, share: float) -> None:
        if phase not in self._phases:
            self._phases.add(phase)
            click.echo(f"building: {phase}", err=True)


_MIB = 1 << 20
_RESERVE = 256 * _MIB
"""What TensorRT and its kernels take besides weights and workspace."""
_WEIGHT_COPIES = 4
"""File, parsed network, plan and the engine that is timed."""
_MAX_WORKSPACE = 4096 * _MIB


@dataclass(frozen=True, kw_only=True)
class BuildOptions:
    """How to compile. `target` ("sm86") is for TensorRT-RTX; TensorRT builds for the GPU that is there."""

    workspace_bytes: int | None = None
    target: str | None = None


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What came of it. `timing_cache` makes the next build faster; RTX has none."""

    data: bytes
    timing_cache: bytes
    strongly_typed: bool
    """False after the fallback."""


def choose_workspace(free_bytes: int, model_bytes: int) -> int:
    """Return the bytes that tactics may use: half of what weights and reserve leave.

    Raises `BackendError` if these alone do not fit.
    """
    needed = _RESERVE + _WEIGHT_COPIES * model_bytes
    if free_bytes < needed:
        raise BackendError(
            f"{free_bytes // _MIB} MiB of memory are free",
            expected=f"{-(-needed // _MIB)} MiB to build this engine",
            fix="stop the live service or other programs while building, or add swap",
        )
    return min((free_bytes - needed) // 2 + _RESERVE // 4, _MAX_WORKSPACE)


def build_plan(
    trt: Any,
    model: Path,
    precision: str,
    options: BuildOptions,
    *,
    timing_cache: bytes = b"",
    progress: Progress | None = None,
) -> Plan:
    """Compile `model`, whose types say where it is FP16 or INT8.

    TensorRT 10's early versions refuse some strongly typed graphs: then once more with types that TensorRT chooses
    within `precision`. Raises `RefusedError` with TensorRT's first complaint, `BackendError` for want of memory or of
    a GPU, and whatever `progress` raised.
    """
    try:
        return _build(trt, model, None, options, timing_cache, progress)
    except BackendError as error:
        if not _can_choose_types(trt) or error.found.startswith(_MEMORY):
            raise
        _log.warning("%s: not as a strongly typed network (%s); TensorRT chooses the types", model.name, error.found)
        return _build(trt, model, precision, options, timing_cache, progress)


_MEMORY = "TensorRT ran out of memory"


def _can_choose_types(trt: Any) -> bool:
    return hasattr(trt.BuilderFlag, "FP16")  # gone in 11


def _build(
    trt: Any,
    model: Path,
    chosen_within: str | None,
    options: BuildOptions,
    timing_cache: bytes,
    progress: Progress | None,
) -> Plan:
    logger, errors = shared_logger(trt)
    errors.take()
    builder = trt.Builder(logger)
    if builder is None:
        raise BackendError("TensorRT makes no builder: " + (errors.take() or "no reason given"), fix=_GPU_FIX)
    network = builder.create_network(creation_flags(trt, strongly_typed=chosen_within is None))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(model)):
        complaints = [parser.get_error(index).desc() for index in range(parser.num_errors)]
        reason = " ".join((complaints or [errors.take()])[0].split()) or "no reason given"
        raise RefusedError(f"TensorRT {trt.__version__} rejects {model.name}: {reason}", fix=_CHECK_FIX)
    config = builder.create_builder_config()
    _configure(trt, config, chosen_within, options)
    keeps_timings = trt.__name__ != "tensorrt_rtx"  # there it is a deprecated call that does nothing
    if keeps_timings:
        config.set_timing_cache(config.create_timing_cache(timing_cache), False)
    monitor = _monitor(trt, progress) if progress is not None else None
    if monitor is not None:
        config.progress_monitor = monitor
    serialized = builder.build_serialized_network(network, config)
    if monitor is not None and monitor.failure is not None:
        raise monitor.failure
    if serialized is None:
        raise _refusal(trt, model, errors.take())
    return Plan(
        data=bytes(serialized),
        timing_cache=bytes(config.get_timing_cache().serialize()) if keeps_timings else b"",
        strongly_typed=chosen_within is None,
    )


_CHECK_FIX = "edgeseg check says what TensorRT minds and how to mend it"
_GPU_FIX = "see that nvidia-smi (on a Jetson: tegrastats) shows a GPU"


def _configure(trt: Any, config: Any, chosen_within: str | None, options: BuildOptions) -> None:
    if options.workspace_bytes is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_bytes)
    if options.target is not None:
        config.num_compute_capabilities = 1
        config.set_compute_capability(getattr(trt.ComputeCapability, options.target.upper()), 0)
    for flag in {"fp16": ("FP16",), "int8": ("FP16", "INT8")}.get(chosen_within or "", ()):
        config.set_flag(getattr(trt.BuilderFlag, flag))


def _refusal(trt: Any, model: Path, reason: str) -> BackendError:
    if "memory" in reason.lower():
        return BackendError(f"{_MEMORY} on {model.name}: {reason}", fix="stop the live service while building")
    return RefusedError(
        f"TensorRT {trt.__version__} cannot build {model.name}: {reason or 'no reason'}", fix=_CHECK_FIX
    )


def _monitor(trt: Any, progress: Progress) -> Any:
    """Return an IProgressMonitor. What `progress` raises ends the build: through C++ it cannot be thrown."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.failure: BaseException | None = None
            self.steps: dict[str, int] = {}

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            self.steps[phase_name] = num_steps
            self._tell(phase_name, 0.0)

        def step_complete(self, phase_name: str, step: int) -> bool:
            self._tell(phase_name, min(1.0, (step + 1) / max(1, self.steps.get(phase_name, 1))))
            return self.failure is None

        def phase_finish(self, phase_name: str) -> None:
            self._tell(phase_name, 1.0)
            self.steps.pop(phase_name, None)

        def _tell(self, phase: str, share: float) -> None:
            try:
                progress(phase, share)
            except BaseException as error:
                self.failure = self.failure or error

    return Monitor()
