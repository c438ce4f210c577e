"""Which engine of a bundle is the fastest here and still right: built, timed and compared on this device."""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any, Protocol

import numpy as np

from edgeseg.runtime.bundle import Bundle
from edgeseg.runtime.engine.builder import BuildOptions, PhaseLines, Progress, build_plan, choose_workspace
from edgeseg.runtime.engine.cache import AbsentError, SealedFolder, UnusableError
from edgeseg.runtime.errors import BackendError
from edgeseg.runtime.first_use import least_agreement
from edgeseg.runtime.frame import Image, Mask

_log = logging.getLogger(__name__)

_TIMED_RUNS = 50
_DEVICE_PRECISIONS = ("int8", "fp16")


class _Gpu(Protocol):
    name: str
    capability: str
    integrated: bool

    def free_memory(self) -> tuple[int, int]: ...
    def current(self) -> Any: ...


class _Runner(Protocol):
    name: str
    precision: str

    def infer(self, frame: Image) -> Mask: ...
    def warm_up(self) -> None: ...
    def close(self) -> None: ...


RunPlan = Callable[[bytes, str], _Runner]
"""Loads a plan of a precision into the GPU."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """An engine on this device: median inference and the least share (0 to 1) of a golden frame that came out right."""

    precision: str
    median_ms: float
    agreement: float
    required: float
    bytes: int

    @property
    def right(self) -> bool:
        """Whether it gives the golden frames."""
        return self.agreement >= self.required


class Engines:
    """The engines of one GPU and one TensorRT. Phases of building go to `progress`, a line each to standard error."""

    def __init__(
        self, trt: Any, gpu: _Gpu, folder: SealedFolder | None = None, *, progress: Progress | None = None
    ) -> None:
        self._trt, self._gpu, self._progress = trt, gpu, progress or PhaseLines()
        self._folder = folder or SealedFolder()

    def plan(self, bundle: Bundle, precision: str, *, rebuild: bool = False) -> bytes:
        """Return the plan of a bundle's precision, from the cache if it is whole, ours and of this TensorRT and GPU.

        Else builds it and logs why. Raises `BackendError` if it cannot be built.
        """
        name, facts = self._file(bundle, precision, "plan"), self._facts(bundle, precision)
        with self._folder.locked(name):
            try:
                if rebuild:
                    raise UnusableError("a new build was asked for")
                return self._folder.load(name, facts)
            except UnusableError as reason:
                level = logging.INFO if isinstance(reason, AbsentError) else logging.WARNING
                _log.log(level, "building the %s engine of %s: %s", precision, bundle.name, reason)
            return self._build(bundle.model_path(precision), name, facts)

    def measure(self, bundle: Bundle, run: RunPlan, *, rebuild: bool = False) -> list[Measured]:
        """Return the bundle's engines, those that give the golden frames first, the fastest first.

        FP16 and INT8 where the bundle has them; FP32 if it has neither or neither is right. Measured once: the figures
        are kept beside the plans. Raises `BackendError` if none is right.
        """
        name, facts = self._file(bundle, "all", "choice"), self._facts(bundle, "all")
        try:
            if rebuild:
                raise UnusableError("a new build was asked for")
            return [Measured(**fields) for fields in json.loads(self._folder.load(name, facts))]
        except UnusableError as reason:
            _log.info("measuring the engines of %s: %s", bundle.name, reason)
        candidates = [precision for precision in _DEVICE_PRECISIONS if precision in bundle.precisions]
        found = [self._measure_one(bundle, precision, run, rebuild) for precision in candidates]
        if not any(one.right for one in found) and "fp32" in bundle.precisions:
            found.append(self._measure_one(bundle, "fp32", run, rebuild))
        if not any(one.right for one in found):
            said = ", ".join(f"{one.precision} {one.agreement:.2%}" for one in found) or "there is no graph for a GPU"
            raise BackendError(
                f"no engine of {bundle.name} gives its golden frames here ({said})",
                fix="update TensorRT, or name a --precision to run it all the same",
            )
        found.sort(key=lambda one: (not one.right, one.median_ms))
        self._folder.save(name, facts, json.dumps([asdict(one) for one in found]).encode())
        return found

    def _measure_one(self, bundle: Bundle, precision: str, run: RunPlan, rebuild: bool) -> Measured:
        plan = self.plan(bundle, precision, rebuild=rebuild)
        runner = run(plan, precision)
        try:
            agreement = least_agreement(bundle, runner)
            runner.warm_up()
            grey = np.full((*bundle.contract.size_hw, 3), 127, np.uint8)
            frame = next((golden[1] for golden in bundle.golden_frames()), grey)
            times_ms = [_time_ms(runner, frame) for _ in range(_TIMED_RUNS)]
        finally:
            runner.close()
        required = bundle.manifest.golden.agreement.get(precision, 0.0)  # type: ignore[call-overload]
        return Measured(
            precision=precision, median_ms=median(times_ms), agreement=agreement, required=required, bytes=len(plan)
        )

    def _build(self, model: Path, name: str, facts: dict[str, str]) -> bytes:
        size = model.stat().st_size
        self._folder.require_space(4 * size + (16 << 20))
        with self._gpu.current():
            free, _ = self._gpu.free_memory()
            options = BuildOptions(workspace_bytes=choose_workspace(free, size))
            timing = self._timing_cache()
            built = build_plan(
                self._trt, model, facts["precision"], options, timing_cache=timing, progress=self._progress
            )
        self._folder.save(*self._timing_file(), built.timing_cache)
        self._folder.save(name, facts, built.data)
        return built.data

    def _timing_cache(self) -> bytes:
        try:
            return self._folder.load(*self._timing_file())
        except UnusableError as reason:
            _log.info("an empty timing cache: %s", reason)
            return b""

    def _timing_file(self) -> tuple[str, dict[str, str]]:
        return f"{self._gpu_id()}.timing", self._machine()

    def _file(self, bundle: Bundle, precision: str, kind: str) -> str:
        return f"{bundle.name}-{bundle.manifest_sha256[:16]}-{precision}-{self._gpu_id()}.{kind}"

    def _facts(self, bundle: Bundle, precision: str) -> dict[str, str]:
        return {"bundle": bundle.manifest_sha256, "precision": precision, **self._machine()}

    def _machine(self) -> dict[str, str]:
        version = f"{self._trt.__name__} {self._trt.__version__}"
        return {"TensorRT": version, "GPU": f"{self._gpu.name} ({self._gpu.capability})"}

    def _gpu_id(self) -> str:
        return hashlib.sha256(self._machine()["GPU"].encode()).hexdigest()[:8]


def _time_ms(runner: _Runner, frame: Image) -> float:
    started_s = time.perf_counter()
    runner.infer(frame[None])
    return (time.perf_counter() - started_s) * 1e3
