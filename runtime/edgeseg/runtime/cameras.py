"""One camera's part of a run: what it is, what it hands over, and where its masks go. One camera is a run of one."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from edgeseg.runtime.contract import Contract, Fitter
from edgeseg.runtime.frame import Frame, Image
from edgeseg.runtime.health.monitor import Reference
from edgeseg.runtime.outlet import Outlet
from edgeseg.runtime.sinks import Sink
from edgeseg.runtime.slot import Policy, Slot
from edgeseg.runtime.sources import Source
from edgeseg.runtime.summary import CameraRecorder, Told


@dataclass(frozen=True, kw_only=True)
class Camera:
    """A source, with the sinks that get its results and no other camera's."""

    source: Source
    sinks: Sequence[Sink] = ()
    name: str = "camera-1"
    """For files and messages; different from the other cameras'."""
    title: str = ""
    """What the source is, for people: without credentials."""


@dataclass(frozen=True, kw_only=True)
class Pulse:
    """How long, in seconds, each stage has been at what it does now; 0 where it waits for another stage."""

    capture_s: tuple[float, ...]
    """Of each camera, since it was asked for a frame, four of its nominal periods allowed."""
    reopening: tuple[bool, ...]
    """Whether each camera is away, and connected again: it may take as long as it likes."""
    inference_s: float
    sinks_s: tuple[float, ...]
    frames_read: int
    """Frames that all sources have given so far."""


_FITTERS = 3
"""Of a file: one being filled, one waiting and one in the engine."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Captured:
    """A frame on its way to the engine."""

    camera: int
    """Which of the run's cameras it comes from."""
    frame: Frame
    fitted: tuple[Fitter, Image] | None = None
    """What its fitter made of it, where the camera's own thread has done that."""


class Lane:
    """A camera within a run: its capture's loop, its outlets, its figures, and the way of its frames to the graph."""

    def __init__(
        self,
        index: int,
        camera: Camera,
        contract: Contract,
        on_sink_end: Callable[[Outlet], None],
        reference: Reference | None = None,
    ) -> None:
        self.index, self.camera, self.source = index, camera, camera.source
        self.policy = Policy.NEWEST if camera.source.live else Policy.EVERY
        self.outlets = [Outlet(sink, {index: self.policy}, on_sink_end) for sink in camera.sinks]
        self.recorder = CameraRecorder(contract, self._tell, name=camera.name, source=camera.title, reference=reference)
        self.error: BaseException | None = None
        """Why the camera was taken out of the run, while others went on."""
        self._contract = contract
        # What overwrites a frame that waits need not be fitted, so behind a live camera inference does that itself.
        self._fitters: list[Fitter] = []
        self._fits_ahead = self.policy is Policy.EVERY
        self._slot: Slot[Captured] | None = None
        self._reading_since_s: float | None = None

    def capture(self, slot: Slot[Captured], mark: Callable[[str, int], None]) -> None:
        """Hand frames over to `slot` until the source ends or the slot is closed. Raises what the source raises."""
        self._slot = slot
        while not slot.closed and (frame := self._read()) is not None:
            mark("capture", frame.id)
            self.recorder.captured(frame)
            fitted = None
            if self._fits_ahead and not slot.closed:
                fitted = self.fit(frame)
                mark("fit", frame.id)
            if not slot.put(Captured(camera=self.index, frame=frame, fitted=fitted), self.index):
                return
            mark("hand over", frame.id)

    def _read(self) -> Frame | None:
        self._reading_since_s = time.monotonic()
        try:
            return self.source.read()
        finally:
            self._reading_since_s = None

    def fit(self, frame: Frame) -> tuple[Fitter, Image]:
        """Return `frame` at the contract's size, for the engine, with the fitter that takes its mask back.

        Of a file the picture stays until two more were fitted, else until one was. For one thread. Raises `FrameError`.
        """
        height, width = frame.image_bgr.shape[:2]
        if not self._fitters or self._fitters[0].source_hw != (height, width):
            count = _FITTERS if self._fits_ahead else 1
            self._fitters = [Fitter(self._contract, (height, width)) for _ in range(count)]
        fitter = self._fitters.pop(0)
        self._fitters.append(fitter)
        return fitter, fitter.fit(frame.image_bgr)

    def reading_s(self, now_s: float) -> float:
        """Seconds that the source's next frame is late, at four periods each; 0 where it is not asked for any."""
        since_s, fps = self._reading_since_s, self.source.fps
        return 0.0 if since_s is None else max(0.0, now_s - since_s - (4 / fps if fps else 0.0))

    @property
    def reopening(self) -> bool:
        """Whether the camera is away and a supervisor connects it again."""
        return bool(getattr(self.source, "reopening", False))

    def _tell(self) -> Told:
        error = self.error
        return Told(
            clock=self.source.clock,
            drops={
                "inference": self._slot.dropped_in(self.index) if self._slot is not None else 0,
                **getattr(self.source, "drops", {}),
            },
            faults=getattr(self.source, "faults", ()),
            fault_counts=getattr(self.source, "fault_counts", None),
            sinks=tuple(outlet.report() for outlet in self.outlets),
            error="" if error is None else " ".join(f"{type(error).__name__}: {error}".split()),
        )


def take_pulse(lanes: Sequence[Lane], outlets: Sequence[Outlet], inferring_since_s: float | None) -> Pulse:
    """Look at every stage of a run."""
    now_s = time.monotonic()
    writing = [since_s for outlet in outlets if (since_s := outlet.writing_since_s) is not None]
    return Pulse(
        capture_s=tuple(lane.reading_s(now_s) for lane in lanes),
        reopening=tuple(lane.reopening for lane in lanes),
        inference_s=0.0 if inferring_since_s is None else now_s - inferring_since_s,
        sinks_s=tuple(now_s - since_s for since_s in writing),
        frames_read=sum(lane.recorder.read for lane in lanes),
    )
