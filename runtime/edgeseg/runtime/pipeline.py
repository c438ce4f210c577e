"""sources ─▶ slot ─▶ backend ─▶ slots ─▶ sinks: a thread for each, so that the slowest stage alone sets the pace.

Every stage closes the slots on both of its sides when it ends, for whatever reason. That alone ends the others: who
waits on a slot is woken, who takes from it still gets what was accepted, so frames in flight reach the sinks and the
sinks are closed properly. The main thread only waits, and raises the first failure once.

Behind a live source a sink that is too slow drops frames of its own, and one that fails is taken out, as long as
another is left. Behind a file every sink gets every frame, so the first that fails ends the run.

Cameras take turns: the one that has waited longest is next, with its newest frame. One that is slow or away keeps none
of the others waiting, and one that fails for good is taken out, as long as another goes on.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial

from edgeseg.runtime.backends import Backend, read_confidence
from edgeseg.runtime.cameras import Camera, Captured, Lane, Pulse, take_pulse
from edgeseg.runtime.contract import Contract, Fitter
from edgeseg.runtime.control import Limits, Stop, name_stage
from edgeseg.runtime.errors import BackendError, SinkError
from edgeseg.runtime.frame import Frame, Image, Result
from edgeseg.runtime.health.monitor import Reference
from edgeseg.runtime.outlet import Outlet
from edgeseg.runtime.sinks import Sink
from edgeseg.runtime.slot import Policy, Slot
from edgeseg.runtime.sources import Source
from edgeseg.runtime.summary import RunRecorder, RunSummary

__all__ = ["Camera", "Limits", "Mark", "Observer", "Pulse", "Stop", "run_cameras", "run_pipeline"]

_log = logging.getLogger(__name__)

PULSE_S = 1.0
"""Between two looks at the stages, at most."""

Mark = Callable[[str, int], None]
"""Told, in the thread that did it, what ended just now and for which frame's id: see `edgeseg.runtime.profile`."""

PulseObserver = Callable[[Pulse, RunRecorder], None]
"""Called about once a second once the engine is warm, in the thread that called `run_pipeline`."""

Observer = Callable[[Result, RunRecorder], None]
"""Called with each result in a thread of its own; behind a live source it may miss some."""


def run_pipeline(
    source: Source,
    backend: Backend,
    contract: Contract,
    sinks: Sequence[Sink],
    *,
    max_frames: int | None = None,
    stop: Stop | None = None,
    on_frame: Observer | None = None,
    limits: Limits | None = None,
    mark: Mark | None = None,
) -> RunSummary:
    """Run one source, as `run_cameras` does several."""
    return run_cameras(
        [Camera(source=source, sinks=sinks)],
        backend,
        contract,
        max_frames=max_frames,
        stop=stop,
        on_frame=on_frame,
        limits=limits,
        mark=mark,
    )


def run_cameras(
    cameras: Sequence[Camera],
    backend: Backend,
    contract: Contract,
    sinks: Sequence[Sink] = (),
    *,
    reference: Reference | None = None,
    max_frames: int | None = None,
    stop: Stop | None = None,
    on_frame: Observer | None = None,
    on_pulse: PulseObserver | None = None,
    limits: Limits | None = None,
    mark: Mark | None = None,
) -> RunSummary:
    """Run `cameras` through `backend` until all end, `max_frames` got their masks in all, or `stop` is set.

    Each result goes to its camera's own sinks and to `sinks`, which get those of all. Warms the backend up before the
    first frame is captured. Takes over sources and sinks, and closes them however the run ends; the backend stays the
    caller's, for another run. `stop` is also set by the run's own end. Class areas are compared with `reference`.

    Raises the first failure of a stage, with the stage's name: an `EdgesegError` of its own class, anything else as
    `SourceError`, `BackendError` or `SinkError`. A `KeyboardInterrupt` closes everything and is raised again. A sink
    or a live camera that failed while others went on is no failure of the run: the summary tells.
    """
    run = _Run(
        cameras, backend, contract, sinks, reference, max_frames, stop or Stop(), on_frame, on_pulse, limits or Limits()
    )
    run.mark = mark or _no_mark
    return run.run()


def _no_mark(_step: str, _frame_id: int) -> None:
    pass


class _Watcher:
    """The observer and what looks at the masks as one more sink: neither may slow the loop."""

    spec = "observer"

    def __init__(self, recorder: RunRecorder, on_frame: Observer | None) -> None:
        self.recorder, self.on_frame = recorder, on_frame

    def write(self, result: Result) -> None:
        self.recorder.cameras[result.camera].watched(result)
        if self.on_frame is not None:
            self.on_frame(result, self.recorder)

    def close(self) -> None:
        pass


class _Run:
    def __init__(
        self,
        cameras: Sequence[Camera],
        backend: Backend,
        contract: Contract,
        sinks: Sequence[Sink],
        reference: Reference | None,
        max_frames: int | None,
        stop: Stop,
        on_frame: Observer | None,
        on_pulse: PulseObserver | None,
        limits: Limits,
    ) -> None:
        self.backend, self.max_frames, self.stop, self.limits = backend, max_frames, stop, limits
        self.mark: Mark = _no_mark
        self.on_pulse = on_pulse
        ended = self._sink_ended
        self.lanes = [Lane(index, camera, contract, ended, reference) for index, camera in enumerate(cameras)]
        policies = {lane.index: lane.policy for lane in self.lanes}
        self.frames: Slot[Captured] = Slot(*policies.values())
        shared = [Outlet(sink, policies, ended) for sink in sinks]
        self.recorder = RunRecorder(
            [lane.recorder for lane in self.lanes], lambda: tuple(outlet.report() for outlet in shared)
        )
        self.watcher = Outlet(_Watcher(self.recorder, on_frame), policies, ended)
        self.outlets = [*(outlet for lane in self.lanes for outlet in lane.outlets), *shared]
        self.takers = [(*lane.outlets, *shared, self.watcher) for lane in self.lanes]
        """For each camera, who gets its results."""
        self.warm, self.inferred = threading.Event(), threading.Event()
        self.inferring: tuple[str, float] | None = None
        """The frame in the backend, and since when (monotonic seconds)."""
        self.failures: list[tuple[str, BaseException]] = []

    def run(self) -> RunSummary:
        outlets = [self.watcher, *self.outlets]
        captures = [
            self._stage(
                "capture", partial(self._capture, lane), partial(self.frames.close, lane.index), lane.source.close
            )
            for lane in self.lanes
        ]
        # What a stage releases at its end, the most urgent first.
        finishes = [outlet.finish for outlet in outlets]
        infer = self._stage("inference", self._infer, self.frames.close, *finishes, self.warm.set, self.inferred.set)
        finished = False
        try:
            for thread in (*(outlet.thread for outlet in outlets), infer, *captures):
                thread.start()
            while not (self.inferred.is_set() or self.failures):
                if self.stop.wait(min(self.limits.inference_s / 4, PULSE_S)):
                    self._wind_down()
                self._watch_stages()
            finished = not self.failures
        finally:
            self._wind_down()
            deadline = time.monotonic() + self.limits.failed_s
            for thread in (*captures, infer):
                _join(thread, deadline)
            for outlet in outlets:
                outlet.finish()
            deadline = time.monotonic() + (self.limits.sinks_s if finished else self.limits.failed_sinks_s)
            for outlet in outlets:
                _join(outlet.thread, deadline)
        self._blame_unfinished_sinks()
        if self.failures:
            name, error = self.failures[0]
            raise name_stage(name, error) from error
        return self.recorder.summary()

    def _wind_down(self) -> None:
        """Let no more frames in. What the slots hold already goes through to the sinks."""
        self.frames.close()
        for lane in self.lanes:
            with self._failing("capture"):
                lane.source.close()

    def _watch_stages(self) -> None:
        inferring, limit_s = self.inferring, self.limits.inference_s
        if inferring is not None and time.monotonic() - inferring[1] > limit_s:
            error = BackendError(
                f"{inferring[0]} has been in the backend for more than {limit_s:g} s",
                fix="restart the program; if it happens again, try another --backend or look for a fault of the device",
            )
            self.failures.append(("inference", error))
        if self.on_pulse is not None and self.warm.is_set():
            self.on_pulse(take_pulse(self.lanes, self.outlets, inferring and inferring[1]), self.recorder)

    def _blame_unfinished_sinks(self) -> None:
        stuck = [outlet.sink.spec for outlet in self.outlets if outlet.thread.is_alive()]
        if stuck:
            error = SinkError(
                f"{', '.join(stuck)} did not finish in time", fix="check the disk or whatever it writes to"
            )
            self.failures.append(("sinks", error))

    def _sink_ended(self, outlet: Outlet) -> None:
        """Decide, in the sink's thread, what its failure means for the run."""
        if outlet.error is None:
            return
        others = [other for other in self.outlets if other is not outlet and other.error is None]
        if outlet.keeps_all or outlet is self.watcher or not others:
            self.failures.append(("sinks", outlet.error))
            self.stop.set()
        else:
            _log.warning("sink %s failed, and gets no more frames: %s", outlet.sink.spec, outlet.error)

    def _stage(self, name: str, work: Callable[[], None], *releases: Callable[[], None]) -> threading.Thread:
        def body() -> None:
            with self._failing(name), ExitStack() as stack:
                for release in reversed(releases):
                    stack.callback(release)
                with self._failing(name):
                    work()
            if self.failures or self.inferred.is_set():
                self.stop.set()

        # Daemons, so that a driver that never returns cannot keep the process alive.
        return threading.Thread(target=body, name=f"edgeseg-{name}", daemon=True)

    @contextmanager
    def _failing(self, name: str) -> Iterator[None]:
        try:
            yield
        except BaseException as error:
            self.failures.append((name, error))

    def _capture(self, lane: Lane) -> None:
        self.warm.wait()
        self.mark("warm-up", -1)
        try:
            lane.capture(self.frames, self.mark)
        except Exception as error:
            others = [other for other in self.lanes if other is not lane and other.error is None]
            if lane.policy is Policy.EVERY or not others:
                raise
            lane.error = error
            _log.warning("%s failed, and the others go on: %s", lane.camera.name, error)

    def _infer(self) -> None:
        self.backend.warm_up()
        self.mark("warm-up", -1)
        self.warm.set()
        while (item := self.frames.get()) is not None:
            self._segment(self.lanes[item.camera], item.frame, item.fitted)
            if self.failures or (self.max_frames is not None and self.recorder.frames >= self.max_frames):
                return

    def _segment(self, lane: Lane, frame: Frame, ready: tuple[Fitter, Image] | None) -> None:
        self.mark("wait", frame.id)
        fitter, fitted = ready or lane.fit(frame)
        if ready is None:
            self.mark("fit", frame.id)
        self.inferring = self._describe(lane, frame), time.monotonic()
        started_ns = time.perf_counter_ns()
        mask = self.backend.infer(fitted)
        inference_ms = (time.perf_counter_ns() - started_ns) / 1e6
        self.inferring = None
        self.mark("inference", frame.id)
        cells = read_confidence(self.backend)
        result = Result(
            frame=frame,
            mask=fitter.unfit(mask[0]),
            inference_ms=inference_ms,
            camera=lane.index,
            confidence=None if cells is None else fitter.unfit_confidence(cells[0]),
        )
        self.mark("unfit", frame.id)
        lane.recorder.masked(result)
        for outlet in self.takers[lane.index]:
            outlet.offer(result)
        self.mark("hand over", frame.id)

    def _describe(self, lane: Lane, frame: Frame) -> str:
        return f"frame {frame.id}" if len(self.lanes) == 1 else f"frame {frame.id} of {lane.camera.name}"


def _join(thread: threading.Thread, deadline_s: float) -> None:
    if thread.ident is not None:
        thread.join(max(0.0, deadline_s - time.monotonic()))
