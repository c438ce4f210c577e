"""A run from its order to its document."""

from __future__ import annotations

import os
from datetime import datetime, timezone
from typing import Any

from edgeseg.benchmarks.document import SCHEMA, BundleName, Document, Line, Scenario, TimingPolicy
from edgeseg.benchmarks.loadgen_rules import Arrivals
from edgeseg.benchmarks.process import Subject
from edgeseg.benchmarks.scenarios import describe_policy, run_scenario
from edgeseg.benchmarks.surroundings import watch_surroundings
from edgeseg.runtime.backends import open_backend
from edgeseg.runtime.bundle import Bundle, open_bundle
from edgeseg.runtime.environment import environment
from edgeseg.runtime.sources import redact
from edgeseg.runtime.telemetry import Sampler

CLOCK = "CLOCK_MONOTONIC of the host, in nanoseconds"


def resolve_subject(
    bundle: Bundle,
    given: str,
    *,
    backend: str = "auto",
    precision: str = "auto",
    threads: int | None = None,
    source: str,
) -> Subject:
    """Open the engine once, which settles `auto` and looks at the golden frames where that is due."""
    opened = open_backend(bundle, backend=backend, precision=precision, threads=threads)
    if opened.name == "ort":
        threads = threads or len(os.sched_getaffinity(0))
    try:
        return Subject(bundle=given, backend=opened.name, precision=opened.precision, threads=threads, source=source)
    finally:
        opened.close()


def measure(
    given: str,
    scenario: Scenario,
    *,
    duration_s: float,
    backend: str = "auto",
    precision: str = "auto",
    threads: int | None = None,
    source: str = "synthetic://street",
    arrivals: Arrivals | None = None,
) -> Document:
    """Measure the bundle `given` (a path or a shipped model's name). Raises `EdgesegError` for what goes wrong.

    `arrivals` are for the server scenario; None are its defaults.
    """
    arrivals = arrivals or Arrivals()
    policy = describe_policy(scenario, arrivals)
    with open_bundle(given) as bundle:
        subject = resolve_subject(bundle, given, backend=backend, precision=precision, threads=threads, source=source)
        started = datetime.now(timezone.utc)
        with watch_surroundings() as watch, Sampler() as sampler:
            outcome = run_scenario(scenario, subject, duration_s=duration_s, arrivals=arrivals)
        telemetry = sampler.document().get("telemetry")
        stage = bundle.manifest.stages.get(subject.precision)  # type: ignore[call-overload]
        return Document(
            schema=SCHEMA,
            scenario=scenario,
            started=started.isoformat(timespec="seconds"),
            bundle=BundleName(name=bundle.name, manifest_sha256=bundle.manifest_sha256),
            miou=stage and stage.miou,
            precision=subject.precision,
            backend=subject.backend,
            threads=subject.threads or 1,
            input_size=bundle.contract.size_hw,
            source_size=outcome.source_size,
            timing_policy=TimingPolicy(duration_s=duration_s, source=redact(source), clock=CLOCK, **policy),
            warm_up=outcome.warm_up,
            environment=environment(),
            surroundings=watch.found,
            frames=outcome.frames,
            dropped=outcome.dropped,
            fps=outcome.fps,
            telemetry=telemetry,
            frames_per_joule=_frames_per_joule(outcome.fps, telemetry),
            loadgen=outcome.loadgen,
            **{name: Line.of(name, samples) for name, samples in outcome.lines.items()},
        )


def _frames_per_joule(fps: float | None, telemetry: dict[str, Any] | None) -> float | None:
    """Return the rate over the mean power of the whole run, its warm-up included; None where either is not known."""
    power_w = (telemetry or {}).get("power_w", {}).get("mean")
    return round(fps / power_w, 4) if fps and power_w else None
