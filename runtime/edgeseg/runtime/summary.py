"""What a run amounts to: counts, rates, percentiles, health and, where the source knows the truth, scores.

Everything is gathered camera by camera and added up when somebody asks. Memory is the same after a minute and after a
month.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any

from edgeseg.runtime.confusion import ConfusionMatrix
from edgeseg.runtime.contract import Contract
from edgeseg.runtime.frame import Frame, Result
from edgeseg.runtime.health.monitor import Health, HealthMonitor, Reference
from edgeseg.runtime.histogram import LogHistogram
from edgeseg.runtime.outlet import SinkReport
from edgeseg.runtime.sources.faults import Fault
from edgeseg.runtime.street import STREET_CLASSES, STREET_IGNORE


@dataclass(frozen=True, kw_only=True)
class RunSummary:
    """The figures of a run so far, or of one of its cameras. A figure that is not there is None."""

    frames: int
    """Frames whose masks were handed to the sinks."""
    drops: Mapping[str, int]
    """Frames that got no mask: by the stage that was not ready for them, or by the kind of fault that spoilt them."""
    fps: float | None
    """`frames` over the time from the first capture to the last mask."""
    inference_ms: Mapping[str, float] | None
    frame_age_ms: Mapping[str, float] | None
    overhead_ms: Mapping[str, float] | None
    clock: str
    """Where capture times come from: `driver`, `arrival` or `synthetic`; all of them where cameras differ."""
    faults: tuple[Fault, ...] = ()
    """What the source survived, the newest thousand of each camera."""
    fault_counts: Mapping[str, int] | None = None
    """How many faults of each kind there were; None if the source does not tell."""
    sinks: tuple[SinkReport, ...] = ()
    """What each sink took and dropped of `frames`."""
    health: Health | None = None
    """Of one camera's masks; None of several cameras together, and before the first mask."""
    confusion: ConfusionMatrix | None = None
    """Over the frames that carried truth; None if none did, or if the network has other classes."""
    camera: str = ""
    """Name of the one camera that this is of; empty for the whole run."""
    source: str = ""
    """What that camera is, without credentials."""
    error: str = ""
    """Why that camera was taken out of the run while others went on; empty if it was not."""
    cameras: tuple[RunSummary, ...] = ()
    """The same of each camera; empty in one camera's own."""

    @property
    def dropped(self) -> int:
        """All drops together."""
        return sum(self.drops.values())

    def document(self) -> dict[str, Any]:
        """Return the figures as JSON's types; those that are not there are left out."""
        fields: dict[str, Any] = {
            "camera": self.camera or None,
            "source": self.source or None,
            "error": self.error or None,
            "frames": self.frames,
            "dropped": self.dropped,
            "drops": dict(self.drops),
            "fps": None if self.fps is None else round(self.fps, 3),
            "inference_ms": self.inference_ms,
            "frame_age_ms": self.frame_age_ms,
            "overhead_ms": self.overhead_ms,
            "clock": self.clock,
            "faults": [fault.document() for fault in self.faults],
            "fault_counts": self.fault_counts,
            "sinks": [sink.document() for sink in self.sinks],
            "health": None if self.health is None else self.health.document(),
            "cameras": [camera.document() for camera in self.cameras] or None,
        }
        if self.confusion is not None:
            fields.update(self.confusion.document())
        return {name: value for name, value in fields.items() if value is not None}


@dataclass(frozen=True, kw_only=True)
class Told:
    """What the parts around a camera say of themselves when they are asked."""

    clock: str = "arrival"
    drops: Mapping[str, int] | None = None
    """By cause: `inference`, and the faults that spoilt frames; what else is missing was dropped at capture."""
    faults: tuple[Fault, ...] = ()
    fault_counts: Mapping[str, int] | None = None
    sinks: tuple[SinkReport, ...] = ()
    error: str = ""


class CameraRecorder:
    """Gathers one camera's figures. Each of `captured`, `masked` and `watched` is for one thread."""

    def __init__(
        self,
        contract: Contract,
        tell: Callable[[], Told],
        *,
        name: str = "camera-1",
        source: str = "",
        reference: Reference | None = None,
    ) -> None:
        self.name, self.source = name, source
        self.health = HealthMonitor(contract, reference)
        self._contract, self._tell = contract, tell
        self._inference_ms, self._frame_age_ms, self._overhead_ms = LogHistogram(), LogHistogram(), LogHistogram()
        self._confusion: ConfusionMatrix | None = None
        # Only the street camera knows the truth, and only its own classes can be scored with it.
        self._scored = contract.classes == tuple(STREET_CLASSES) and contract.ignore_index == STREET_IGNORE
        self._first_captured_ns: int | None = None
        self._last_masked_ns = 0
        self._next_id = 0
        self.read = 0
        """Frames that left the source."""
        self.frames = 0
        self.skipped = 0
        """Gaps in the source's own ids: frames that it had no taker for."""

    def captured(self, frame: Frame) -> None:
        """Note a frame as it leaves the source."""
        if self._first_captured_ns is None:
            self._first_captured_ns = frame.captured_ns
        self.read += 1
        self.skipped += frame.id - self._next_id
        self._next_id = frame.id + 1

    def masked(self, result: Result) -> None:
        """Note a result that is handed to the sinks."""
        self.frames += 1
        self._last_masked_ns = result.masked_ns
        self._inference_ms.add(result.inference_ms)
        self._frame_age_ms.add(result.frame_age_ms)
        self._overhead_ms.add(result.frame_age_ms - result.inference_ms)

    def watched(self, result: Result) -> None:
        """Look at a mask itself: its health, and its score where the frame carries the truth."""
        self.health.see(result)
        if self._scored and result.frame.truth is not None:
            if self._confusion is None:
                self._confusion = ConfusionMatrix(self._contract.classes, self._contract.ignore_index)
            self._confusion.add(result.frame.truth, result.mask)

    def summary(self) -> RunSummary:
        """Return the camera's figures so far."""
        return replace(_summarise([self]), camera=self.name, source=self.source)


class RunRecorder:
    """A run's figures, from those of its cameras. May be asked from any thread."""

    def __init__(
        self, cameras: Sequence[CameraRecorder], shared_sinks: Callable[[], tuple[SinkReport, ...]] = tuple
    ) -> None:
        self.cameras = tuple(cameras)
        self._shared_sinks = shared_sinks

    @property
    def frames(self) -> int:
        """Frames whose masks were handed to the sinks."""
        return sum(camera.frames for camera in self.cameras)

    def frame_age_p95_ms(self) -> float | None:
        """Return the 95th percentile of frame age so far; None before the first mask."""
        ages_ms = reduce(LogHistogram.merge, (camera._frame_age_ms for camera in self.cameras))
        return round(ages_ms.percentile(95), 3) if ages_ms.count else None

    def summary(self) -> RunSummary:
        """Return the figures so far."""
        each = tuple(camera.summary() for camera in self.cameras)
        total = replace(each[0], camera="", source="") if len(each) == 1 else _summarise(self.cameras)
        return replace(total, cameras=each, sinks=(*total.sinks, *self._shared_sinks()))


def _summarise(cameras: Sequence[CameraRecorder]) -> RunSummary:
    told = [camera._tell() for camera in cameras]
    frames = sum(camera.frames for camera in cameras)
    first_ns = min((c._first_captured_ns for c in cameras if c._first_captured_ns is not None), default=0)
    elapsed_s = (max(camera._last_masked_ns for camera in cameras) - first_ns) / 1e9 if frames else 0.0
    drops = Counter(capture=0)
    for camera, one in zip(cameras, told, strict=True):
        # What a fault spoilt is a gap in the source's ids, too.
        spoilt = sum(count for cause, count in (one.drops or {}).items() if cause != "inference")
        drops.update({"capture": max(0, camera.skipped - spoilt), **(one.drops or {})})
    counts = [Counter(one.fault_counts) for one in told if one.fault_counts is not None]
    confusions = [camera._confusion for camera in cameras if camera._confusion is not None]
    return RunSummary(
        frames=frames,
        drops=dict(drops),
        fps=frames / elapsed_s if elapsed_s > 0 else None,
        inference_ms=_merge([camera._inference_ms for camera in cameras]),
        frame_age_ms=_merge([camera._frame_age_ms for camera in cameras]),
        overhead_ms=_merge([camera._overhead_ms for camera in cameras]),
        clock=", ".join(sorted({one.clock for one in told})),
        faults=tuple(fault for one in told for fault in one.faults),
        fault_counts=dict(sum(counts, Counter[str]())) if counts else None,
        sinks=tuple(report for one in told for report in one.sinks),
        health=cameras[0].health.health() if len(cameras) == 1 else None,
        error=told[0].error if len(told) == 1 else "",
        confusion=reduce(ConfusionMatrix.merge, confusions) if confusions else None,
    )


def _merge(histograms: Sequence[LogHistogram]) -> dict[str, float] | None:
    return reduce(LogHistogram.merge, histograms).document()
