"""A live minute: the camera that every machine has, through the whole pipeline, with what it costs."""

from __future__ import annotations

import math
from functools import partial

from edgeseg.runtime.accept.line import Verdict, judge, not_run
from edgeseg.runtime.accept.trial import Trial
from edgeseg.runtime.objective import Objective
from edgeseg.runtime.pipeline import run_pipeline
from edgeseg.runtime.sinks import open_sink
from edgeseg.runtime.sources import open_source
from edgeseg.runtime.sources.supervised import supervise
from edgeseg.runtime.summary import RunSummary
from edgeseg.runtime.telemetry import Reading, Sampler

_FPS = {"device": 30, "simulated": 10, "cpu": 10}
"""Drawing a frame shares the cores with a network that runs on them."""
_IDLE_S = 3.0
_NO_FRAMES = "the live camera gave no figures"


class LiveMinute:
    """Runs the camera once; the lines about it follow from what it left."""

    def __init__(self, trial: Trial) -> None:
        self._trial = trial
        self._summary: RunSummary | None = None
        self._before: Reading | None = None
        self._sampler = Sampler()

    def run(self) -> Verdict:
        """Run for as long as was asked for. Passes if masks came; how soon is for objectives to judge."""
        fps = _FPS[self._trial.subject.kind]
        url = f"synthetic://street?fps={fps}&frames={max(2, math.ceil(self._trial.duration_s * fps))}"
        self._before = _look()
        bundle = self._trial.bundle
        with self._trial.opened() as engine:
            precision = engine.precision
            camera = supervise(open_source(url), partial(open_source, url), name="the street camera")
            sink = open_sink("null", contract=bundle.contract, fps=camera.fps, live=camera.live)
            with self._sampler:
                summary = run_pipeline(camera, engine, bundle.contract, [sink], on_frame=self._trial.on_frame)
        self._summary = summary
        figures = {**summary.document(), "precision": precision, **self._sampler.document(frames=summary.frames)}
        return judge(summary.frames > 0, _tell(summary, precision), fix="see the lines above", **figures)

    def judge_objective(self, objective: Objective) -> Verdict:
        """Compare one figure with its limit."""
        if self._summary is None:
            return not_run(_NO_FRAMES)
        breach = objective.breach(self._summary)
        fix = "edgeseg bench says where the time goes; use a smaller network, or another power mode"
        found = "met" if breach is None else breach.removeprefix(f"{objective.text}: ")
        return judge(breach is None, found, fix=fix)

    def judge_power(self) -> Verdict:
        """Tell power and heat before, during and after. Fails where clocks were held down."""
        if self._summary is None:
            return not_run(_NO_FRAMES)
        document = self._sampler.document(frames=self._summary.frames).get("telemetry")
        if document is None:
            return not_run(self._sampler.problem or "no reading came in this time; take a longer --duration")
        throttled = document.get("throttled", [])
        before, after = (_figures(one) for one in (self._before, self._sampler.latest))
        told = [f"{when} {_words(one)}" for when, one in (("before", before), ("after", after)) if one]
        if not (told or throttled):
            return not_run("this device tells neither power nor temperatures")
        if "joules_per_frame" in document:
            told.append(f"{document['joules_per_frame']:.3g} J a frame")
        if throttled:
            after_s = document.get("time_to_throttle_s", 0)
            told.append(f"clocks were held down after {after_s:.0f} s: {', '.join(throttled)}")
        return judge(
            not throttled,
            "; ".join(told),
            fix="cool it better, feed it enough power, or choose a lower power mode: sudo nvpmodel -q",
            before=before or None,
            after=after or None,
            telemetry=document,
        )


def _look() -> Reading | None:
    """Return what the device reads at rest, if it does so soon."""
    with Sampler() as sampler:
        return sampler.wait(_IDLE_S)


def _figures(reading: Reading | None) -> dict[str, object]:
    if reading is None:
        return {}
    power = {} if reading.power_w is None else {"power_w": round(reading.power_w, 2), "rail": reading.power_rail}
    return {**power, **({"temperature_c": dict(reading.temperatures_c)} if reading.temperatures_c else {})}


def _words(figures: dict[str, object]) -> str:
    parts = [f"{figures['power_w']} W ({figures['rail']})"] if "power_w" in figures else []
    temperatures = figures.get("temperature_c")
    if isinstance(temperatures, dict):
        hottest = max(temperatures, key=temperatures.__getitem__)
        parts.append(f"{hottest} {temperatures[hottest]:.0f} °C")
    return ", ".join(parts)


def _tell(summary: RunSummary, precision: str) -> str:
    parts = [f"{precision}: {summary.frames} frames"]
    if summary.fps is not None:
        parts[0] += f" at {summary.fps:.1f} fps"
    parts.append(f"{summary.dropped} dropped")
    for name, figures in (("inference", summary.inference_ms), ("frame age", summary.frame_age_ms)):
        if figures:
            parts.append(f"{name} p50 {figures['p50']:.1f}, p95 {figures['p95']:.1f}, p99 {figures['p99']:.1f} ms")
    if summary.faults:
        parts.append(f"{len(summary.faults)} fault{'s' * (len(summary.faults) != 1)} of the camera")
    if summary.confusion is not None and summary.confusion.miou is not None:
        parts.append(f"mIoU {summary.confusion.miou:.1f} % on frames of this camera")
    return ", ".join(parts)
