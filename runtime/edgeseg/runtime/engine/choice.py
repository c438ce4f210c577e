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
from edgeseg.runtime.engine.builder import (
    BuildOptions,
    PhaseLines,
    Progress,
    RefusedError,
    build_plan,
    choose_workspace,
)
from edgeseg.runtime.engine.cache import AbsentError, SealedFolder, UnusableError
from edgeseg.runtime.engine.memory import free_bytes
from edgeseg.runtime.errors import BackendError
from edgeseg.runtime.first_use import least_agreement, say_once
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

    def load(self, bundle: Bundle, precision: str) -> bytes:
        """Return the plan of a bundle's precision if the cache has it whole, ours and of this TensorRT and GPU.

        Raises `UnusableError` saying why not.
        """
        return self._folder.load(self._file(bundle, precision, "plan"), self._facts(bundle, precision))

    def ready(self, bundle: Bundle) -> list[str]:
        """Return the precisions whose plan can be loaded as it is, the fastest first; those in its way are said once.

        For a service, which builds nothing: what another TensorRT left behind is no reason not to start. Raises
        `BackendError` if there is none.
        """
        try:
            wanted = [one.precision for one in self._recall(bundle) if one.right]
        except UnusableError:
            wanted = [precision for precision in (*_DEVICE_PRECISIONS, "fp32") if precision in bundle.precisions]
        found, reasons = [], []
        for precision in wanted:
            try:
                self.load(bundle, precision)
            except UnusableError as error:
                if precision != "fp32":  # which is built only where the others are not right
                    reasons.append(str(error))
            else:
                found.append(precision)
        fix = f"edgeseg build {bundle.name} makes what is missing, for the next start"
        if not found:
            raise BackendError(f"no engine of {bundle.name} is ready: {'; '.join(reasons)}", fix=fix)
        for reason in reasons:
            say_once(f"{bundle.name} runs its {found[0]} engine: {reason}; {fix}")
        return found

    def plan(self, bundle: Bundle, precision: str, *, rebuild: bool = False) -> bytes:
        """Return the plan of a bundle's precision, from the cache if that can be; else builds it and logs why.

        Raises `BackendError` if it cannot be built.
        """
        name, facts = self._file(bundle, precision, "plan"), self._facts(bundle, precision)
        with self._folder.locked(name):
            try:
                if rebuild:
                    raise UnusableError("a new build was asked for")
                return self.load(bundle, precision)
            except UnusableError as reason:
                level = logging.INFO if isinstance(reason, AbsentError) else logging.WARNING
                _log.log(level, "building the %s engine of %s: %s", precision, bundle.name, reason)
            return self._build(bundle.model_path(precision), name, facts)

    def measure(self, bundle: Bundle, run: RunPlan, *, rebuild: bool = False) -> list[Measured]:
        """Return the bundle's engines, those that give the golden frames first, the fastest first.

        FP16 and INT8 where the bundle has them; FP32 if it has neither or neither is right. Measured once: the figures
        are kept beside the plans. A graph that TensorRT refuses is passed over, which the log says. Raises
        `BackendError` if none is right, and at once for want of memory or disk.
        """
        try:
            if rebuild:
                raise UnusableError("a new build was asked for")
            return self._recall(bundle)
        except UnusableError as reason:
            _log.info("measuring the engines of %s: %s", bundle.name, reason)
        found: list[Measured] = []
        for precision in (*_DEVICE_PRECISIONS, "fp32"):
            if precision not in bundle.precisions or (precision == "fp32" and any(one.right for one in found)):
                continue
            try:
                found.append(self._measure_one(bundle, precision, run, rebuild))
            except RefusedError as error:
                _log.warning("%s goes without its %s engine: %s", bundle.name, precision, error)
        if not any(one.right for one in found):
            shares = ", ".join(f"{one.precision} {one.agreement:.2%}" for one in found)
            raise BackendError(
                f"no engine of {bundle.name} gives its golden frames here ({shares or 'TensorRT takes no graph'})",
                fix="update TensorRT, or name a --precision to run it all the same",
            )
        found.sort(key=lambda one: (not one.right, one.median_ms))
        self._folder.save(*self._choice_file(bundle), json.dumps([asdict(one) for one in found]).encode())
        return found

    def _recall(self, bundle: Bundle) -> list[Measured]:
        return [Measured(**fields) for fields in json.loads(self._folder.load(*self._choice_file(bundle)))]

    def _choice_file(self, bundle: Bundle) -> tuple[str, dict[str, str]]:
        return self._file(bundle, "all", "choice"), self._facts(bundle, "all")

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
            options = BuildOptions(workspace_bytes=choose_workspace(free_bytes(self._gpu), size))
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
