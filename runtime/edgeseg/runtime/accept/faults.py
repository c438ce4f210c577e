"""A camera that fails on order: every fault must be told and survived."""

from __future__ import annotations

from functools import partial

from edgeseg.runtime.accept.line import Verdict, judge
from edgeseg.runtime.accept.trial import Trial
from edgeseg.runtime.frame import Result
from edgeseg.runtime.pipeline import run_pipeline
from edgeseg.runtime.sources import open_source
from edgeseg.runtime.sources.inject import FaultInjector, parse_faults
from edgeseg.runtime.sources.supervised import supervise

_FPS = 25
_SHORT = ("corrupt@10,disconnect:0.3@20,resize@40", 70)
_LONG = ("corrupt@10,disconnect:0.3@20,resize@40,freeze:2@60,stall:3@130", 260)
_LONG_FROM_S = 30
"""Acceptances that are shorter leave out what takes long."""


class _Last:
    """A sink that keeps the newest frame's number."""

    spec = "last"

    def __init__(self) -> None:
        self.id = -1

    def write(self, result: Result) -> None:
        self.id = result.frame.id

    def close(self) -> None:
        pass


def survive_faults(trial: Trial) -> Verdict:
    """Inject faults and compare what the run reports with what was done, and see that masks came after the last."""
    orders, frames = _LONG if trial.duration_s >= _LONG_FROM_S else _SHORT
    url = f"synthetic://street?size=320x240&fps={_FPS}&frames={frames}"
    injector = FaultInjector(partial(open_source, url), parse_faults(orders))
    last = _Last()
    with trial.opened() as engine:
        camera = supervise(injector.open(), injector.open, name="the failing camera")
        summary = run_pipeline(camera, engine, trial.bundle.contract, [last])
    done = [(one.kind, one.frame) for one in injector.truth]
    told = {(one.kind, one.frame): one.recovery_ms for one in summary.faults}
    unseen = [f"{kind} at frame {frame}" for kind, frame in done if (kind, frame) not in told]
    flaws = [f"not told: {', '.join(unseen)}"] if unseen else []
    if not done or last.id <= done[-1][1]:
        flaws.append("no mask came after the last fault")
    worst_ms = max((told.get(one) or 0.0 for one in done), default=0.0)
    kinds = ", ".join(kind for kind, _ in done)
    said = f"{kinds}: all told and survived, the longest for {worst_ms / 1e3:.1f} s"
    figures = {"injected": [{"kind": kind, "frame": frame} for kind, frame in done], "frames": summary.frames}
    reported = [fault.document() for fault in summary.faults]
    return judge(not flaws, "; ".join(flaws) or said, fix="report it with this page", faults=reported, **figures)
