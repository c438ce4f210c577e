"""The scenarios: each returns its lines and what else it found."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from edgeseg.benchmarks.document import LoadGen, Scenario, WarmUp
from edgeseg.benchmarks.errors import BenchmarkError
from edgeseg.benchmarks.loadgen_rules import Arrivals, describe_rules
from edgeseg.benchmarks.process import Subject, start_process
from edgeseg.benchmarks.segment import WARM_UP_RULE
from edgeseg.benchmarks.statistics import Samples
from edgeseg.runtime.backends import open_backend
from edgeseg.runtime.bundle import open_bundle
from edgeseg.runtime.frame import Result
from edgeseg.runtime.pipeline import Stop, run_pipeline
from edgeseg.runtime.sources import open_source, redact

LIVE_WARM_UP_S = 1.0
LIVE_WARM_UP_RULE = f"the engine's own, then {LIVE_WARM_UP_S:g} s of frames that are not counted"
COLD_WARM_UP_RULE = "none: a fresh process each time; files are cached by the system"
LEAST_COLD_STARTS = 6
"""Fewer do not bound a median."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a scenario measured."""

    lines: dict[str, Samples]
    frames: int
    source_size: tuple[int, int]
    fps: float | None = None
    dropped: int | None = None
    warm_up: WarmUp | None = None
    loadgen: LoadGen | None = None


def describe_policy(scenario: Scenario, arrivals: Arrivals) -> dict[str, str]:
    """Return `warm_up` and `generator` of a scenario's timing policy."""
    if scenario == "live":
        return {"warm_up": LIVE_WARM_UP_RULE, "generator": "the source's own pace; the newest frame wins"}
    if scenario == "cold":
        return {"warm_up": COLD_WARM_UP_RULE, "generator": "one process after another"}
    return {"warm_up": WARM_UP_RULE, "generator": describe_rules(scenario, arrivals)}


def run_scenario(scenario: Scenario, subject: Subject, *, duration_s: float, arrivals: Arrivals) -> Outcome:
    """Measure `subject` for about `duration_s`, warm-up not counted. Raises `EdgesegError` for what goes wrong."""
    if scenario == "live":
        return run_live(subject, duration_s=duration_s)
    if scenario == "cold":
        return run_cold(subject, duration_s=duration_s)
    with start_process(subject) as process:
        warmth = process.do("warm_up")
        found = process.do(
            "loadgen",
            scenario=scenario,
            expected_ms=warmth["ms"],
            duration_s=duration_s,
            rate=arrivals.rate,
            bound_ms=arrivals.bound_ms,
        )
        lines = {name: np.array(samples, np.float32) for name, samples in found["lines"].items()}
        frames = lines["whole_path_ms"].size
        return Outcome(
            lines=lines,
            frames=frames,
            source_size=_size(process.first),
            fps=frames / found["seconds"],
            warm_up=WarmUp(frames=warmth["frames"], seconds=warmth["seconds"], steady=warmth["steady"]),
            loadgen=LoadGen(**found["loadgen"]),
        )


def run_cold(subject: Subject, *, duration_s: float, now_s: Callable[[], float] = time.monotonic) -> Outcome:
    """Start processes one after another, `LEAST_COLD_STARTS` at least, and none any more after `duration_s`."""
    ends_s = now_s() + duration_s
    starts: list[dict[str, Any]] = []
    while len(starts) < LEAST_COLD_STARTS or now_s() < ends_s:
        with start_process(subject) as process:
            starts.append(process.first)
    lines = {
        name: np.array([start[name] for start in starts], np.float32)
        for name in ("load_ms", "first_inference_ms", "first_mask_ms")
    }
    return Outcome(lines=lines, frames=len(starts), source_size=_size(starts[0]))


@dataclass
class _Collector:
    """A sink that keeps each result's times, and stops the run when it has seen enough."""

    stop: Stop
    duration_s: float
    spec: str = "bench"
    times: list[tuple[int, float, float]] = field(default_factory=list)
    """Id, inference and frame age of each frame that counts."""
    source_size: tuple[int, int] = (0, 0)
    began_ns: int | None = None

    def write(self, result: Result) -> None:
        if self.began_ns is None:
            self.began_ns = result.masked_ns
        elapsed_s = (result.masked_ns - self.began_ns) / 1e9 - LIVE_WARM_UP_S
        if elapsed_s > self.duration_s:
            self.stop.set()
        elif elapsed_s >= 0:
            self.times.append((result.frame.id, result.inference_ms, result.frame_age_ms))
            height, width = result.frame.image_bgr.shape[:2]
            self.source_size = (height, width)

    def close(self) -> None:
        pass


def run_live(subject: Subject, *, duration_s: float) -> Outcome:
    """Run the pipeline on a live source. Raises `BenchmarkError` if the source is not live or gave too little."""
    stop = Stop()
    collector = _Collector(stop, duration_s)
    with open_bundle(subject.bundle) as bundle:
        source = open_source(subject.source)
        if not source.live:
            source.close()
            raise BenchmarkError(
                f"source {redact(subject.source)} is not live",
                expected="a camera, a stream or synthetic://street",
                fix="name another --source, or another --scenario",
            )
        backend = open_backend(bundle, backend=subject.backend, precision=subject.precision, threads=subject.threads)
        try:
            run_pipeline(source, backend, bundle.contract, [collector], stop=stop)
        finally:
            backend.close()
    if not collector.times:
        raise BenchmarkError(f"source {redact(subject.source)} gave no frame that counts", fix="raise --duration")
    ids, inference_ms, frame_age_ms = (np.array(column) for column in zip(*collector.times, strict=True))
    return Outcome(
        lines={
            "inference_ms": inference_ms.astype(np.float32),
            "frame_age_ms": frame_age_ms.astype(np.float32),
            "overhead_ms": (frame_age_ms - inference_ms).astype(np.float32),
        },
        frames=len(ids),
        dropped=int(ids[-1] - ids[0] + 1 - len(ids)),
        source_size=collector.source_size,
        fps=len(ids) / duration_s,
    )


def _size(first: dict[str, Any]) -> tuple[int, int]:
    height, width = first["source_size"]
    return height, width
