"""source ─▶ slot ─▶ backend ─▶ slots ─▶ sinks: a thread for each, so that the slowest stage alone sets the pace.

Every stage closes the slots on both of its sides when it ends, for whatever reason. That alone ends the others: who
waits on a slot is woken, who takes from it still gets what was accepted, so frames in flight reach the sinks and the
sinks are closed properly. The main thread only waits, and raises the first failure once.

Behind a live source a sink that is too slow drops frames of its own, and one that fails is taken out, as long as
another is left. Behind a file every sink gets every frame, so the first that fails ends the run.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass

from edgeseg.runtime.backends import Backend
from edgeseg.runtime.contract import Contract, Fitter
from edgeseg.runtime.errors import BackendError, EdgesegError, SinkError, SourceError
from edgeseg.runtime.frame import Frame, Result
from edgeseg.runtime.outlet import Outlet
from edgeseg.runtime.sinks import Sink
from edgeseg.runtime.slot import Policy, Slot
from edgeseg.runtime.sources import Source
from edgeseg.runtime.summary import RunRecorder, RunSummary

_log = logging.getLogger(__name__)

Observer = Callable[[Result, RunRecorder], None]
"""Called with each result in a thread of its own; behind a live source it may miss some."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How long a run waits, in seconds, for what does not answer. What is given up on dies with the process."""

    inference_s: float = 10.0
    """For one inference, before the run fails. Warming up is not limited: engines may be built then."""
    failed_s: float = 0.8
    """For capture and inference, once the run has failed."""
    failed_sinks_s: float = 10.0
    """For the sinks then, which may have much to bring to disk, and whose output is lost otherwise."""
    sinks_s: float = 60.0
    """For the sinks after a run without failure."""


_ERRORS: dict[str, type[EdgesegError]] = {"capture": SourceError, "inference": BackendError, "sinks": SinkError}


class Stop:
    """Asks one run to end after the frames in flight.

    `set` may be called from any thread and from a signal handler. The latter rules out `threading.Event`: a signal
    that arrives while the main thread holds the event's lock would wait for itself.
    """

    def __init__(self) -> None:
        self._requests: queue.SimpleQueue[None] = queue.SimpleQueue()

    def set(self) -> None:
        """Ask for the end."""
        self._requests.put(None)

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until someone asks, and return whether one did within `timeout_s`. Signals are handled meanwhile."""
        with suppress(queue.Empty):
            self._requests.get(timeout=timeout_s)
            return True
        return False


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
) -> RunSummary:
    """Run `source` through `backend` into `sinks` until it ends, `max_frames` got their masks, or `stop` is set.

    Warms the backend up before the first frame is captured. Takes over the source and the sinks, and closes them
    however the run ends; the backend stays the caller's, for another run. `stop` is also set by the run's own end.

    Raises the first failure of a stage, with the stage's name: an `EdgesegError` of its own class, anything else as
    `SourceError`, `BackendError` or `SinkError`. A `KeyboardInterrupt` closes everything and is raised again. A sink
    that failed while others went on is no failure of the run: the summary tells.
    """
    return _Run(source, backend, contract, sinks, max_frames, stop or Stop(), on_frame, limits or Limits()).run()


class _Watcher:
    """The observer and the scoring as one more sink: neither may slow the loop."""

    spec = "observer"

    def __init__(self, recorder: RunRecorder, on_frame: Observer | None) -> None:
        self.recorder, self.on_frame = recorder, on_frame

    def write(self, result: Result) -> None:
        self.recorder.scored(result)
        if self.on_frame is not None:
            self.on_frame(result, self.recorder)

    def close(self) -> None:
        pass


class _Run:
    def __init__(
        self,
        source: Source,
        backend: Backend,
        contract: Contract,
        sinks: Sequence[Sink],
        max_frames: int | None,
        stop: Stop,
        on_frame: Observer | None,
        limits: Limits,
    ) -> None:
        self.source, self.backend, self.contract = source, backend, contract
        self.max_frames, self.stop, self.limits = max_frames, stop, limits
        self.policy = Policy.NEWEST if source.live else Policy.EVERY
        self.frames: Slot[Frame] = Slot(self.policy)
        self.outlets = [Outlet(sink, self.policy, self._sink_ended) for sink in sinks]
        self.recorder = RunRecorder(
            contract,
            clock=lambda: source.clock,
            drops=lambda: {"capture": self.recorder.skipped, "inference": self.frames.dropped},
            sinks=lambda: tuple(outlet.report() for outlet in self.outlets),
            faults=lambda: getattr(source, "faults", ()),
        )
        self.watcher = Outlet(_Watcher(self.recorder, on_frame), self.policy, self._sink_ended)
        self.warm, self.inferred = threading.Event(), threading.Event()
        self.inferring: tuple[int, float] | None = None
        """Id of the frame in the backend, and since when (monotonic seconds)."""
        self.failures: list[tuple[str, BaseException]] = []

    def run(self) -> RunSummary:
        outlets = [self.watcher, *self.outlets]
        # What a stage releases at its end, the most urgent first.
        finishes = [outlet.finish for outlet in outlets]
        capture = self._stage("capture", self._capture, self.frames.close, self.source.close)
        infer = self._stage("inference", self._infer, self.frames.close, *finishes, self.warm.set, self.inferred.set)
        finished = False
        try:
            for thread in (*(outlet.thread for outlet in outlets), infer, capture):
                thread.start()
            while not (self.inferred.is_set() or self.failures):
                if self.stop.wait(self.limits.inference_s / 4):
                    self._wind_down()
                self._watch_inference()
            finished = not self.failures
        finally:
            self._wind_down()
            deadline = time.monotonic() + self.limits.failed_s
            for thread in (capture, infer):
                _join(thread, deadline)
            for outlet in outlets:
                outlet.finish()
            deadline = time.monotonic() + (self.limits.sinks_s if finished else self.limits.failed_sinks_s)
            for outlet in outlets:
                _join(outlet.thread, deadline)
        self._blame_unfinished_sinks()
        if self.failures:
            name, error = self.failures[0]
            raise _name_stage(name, error) from error
        return self.recorder.summary()

    def _wind_down(self) -> None:
        """Let no more frames in. What the slots hold already goes through to the sinks."""
        self.frames.close()
        with self._failing("capture"):
            self.source.close()

    def _watch_inference(self) -> None:
        inferring, limit_s = self.inferring, self.limits.inference_s
        if inferring is not None and time.monotonic() - inferring[1] > limit_s:
            error = BackendError(
                f"frame {inferring[0]} has been in the backend for more than {limit_s:g} s",
                fix="restart the program; if it happens again, try another --backend or look for a fault of the device",
            )
            self.failures.append(("inference", error))

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
        if self.policy is Policy.EVERY or outlet is self.watcher or not others:
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
            self.stop.set()

        # Daemons, so that a driver that never returns cannot keep the process alive.
        return threading.Thread(target=body, name=f"edgeseg-{name}", daemon=True)

    @contextmanager
    def _failing(self, name: str) -> Iterator[None]:
        try:
            yield
        except BaseException as error:
            self.failures.append((name, error))

    def _capture(self) -> None:
        self.warm.wait()
        while not self.frames.closed and (frame := self.source.read()) is not None:
            self.recorder.captured(frame)
            self.frames.put(frame)

    def _infer(self) -> None:
        self.backend.warm_up()
        self.warm.set()
        fitter: Fitter | None = None
        while (frame := self.frames.get()) is not None:
            size_hw = frame.image_bgr.shape[:2]
            if fitter is None or fitter.source_hw != size_hw:
                fitter = Fitter(self.contract, (size_hw[0], size_hw[1]))
            fitted = fitter.fit(frame.image_bgr)
            self.inferring = frame.id, time.monotonic()
            started_ns = time.perf_counter_ns()
            mask = self.backend.infer(fitted)
            inference_ms = (time.perf_counter_ns() - started_ns) / 1e6
            self.inferring = None
            self._hand_out(Result(frame=frame, mask=fitter.unfit(mask[0]), inference_ms=inference_ms))
            if self.recorder.frames == self.max_frames or self.failures:
                return

    def _hand_out(self, result: Result) -> None:
        self.recorder.masked(result)
        for outlet in (*self.outlets, self.watcher):
            outlet.offer(result)


def _join(thread: threading.Thread, deadline_s: float) -> None:
    if thread.ident is not None:
        thread.join(max(0.0, deadline_s - time.monotonic()))


def _name_stage(name: str, error: BaseException) -> EdgesegError:
    if isinstance(error, EdgesegError):
        return type(error)(f"{name} stage: {error.found}", expected=error.expected, fix=error.fix)
    return _ERRORS[name](f"{name} stage: {type(error).__name__}: {error}")
