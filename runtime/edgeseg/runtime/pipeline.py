"""source ─▶ slot ─▶ backend ─▶ slot ─▶ sinks: three threads, so that the slowest stage alone sets the pace.

Every stage closes the slots on both of its sides when it ends, for whatever reason. That alone ends the others: who
waits on a slot is woken, who takes from it still gets what was accepted, so frames in flight reach the sinks and the
sinks are closed properly. The main thread only waits, and raises the first failure once.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

from edgeseg.runtime.backends import Backend
from edgeseg.runtime.contract import Contract, Fitter
from edgeseg.runtime.errors import BackendError, EdgesegError, SinkError, SourceError
from edgeseg.runtime.frame import Frame, Result
from edgeseg.runtime.sinks import Sink
from edgeseg.runtime.slot import Policy, Slot
from edgeseg.runtime.sources import Source
from edgeseg.runtime.summary import RunRecorder, RunSummary

Observer = Callable[[Result, RunRecorder], None]
"""Called in the sinks' thread after each result was written."""

GRACE_S = 0.8
"""How long a failed run waits for a stage that does not answer, before it is left to die with the process."""
CLOSE_GRACE_S = 10.0
"""The same for sinks, which may have much to bring to disk, and whose output is lost otherwise."""

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

    def wait(self) -> None:
        """Wait until someone asks; signals are handled meanwhile."""
        self._requests.get()


def run_pipeline(
    source: Source,
    backend: Backend,
    contract: Contract,
    sinks: Sequence[Sink],
    *,
    max_frames: int | None = None,
    stop: Stop | None = None,
    on_frame: Observer | None = None,
) -> RunSummary:
    """Run `source` through `backend` into `sinks` until it ends, `max_frames` reached the sinks, or `stop` is set.

    Warms the backend up before the first frame is captured. Takes over the source and the sinks, and closes them
    however the run ends; the backend stays the caller's, for another run. `stop` is also set by the run's own end.

    Raises the first failure of a stage, with the stage's name: an `EdgesegError` of its own class, anything else as
    `SourceError`, `BackendError` or `SinkError`. A `KeyboardInterrupt` closes everything and is raised again.
    """
    return _Run(source, backend, contract, sinks, max_frames, stop or Stop(), on_frame).run()


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
    ) -> None:
        self.source, self.backend, self.contract, self.sinks = source, backend, contract, sinks
        self.max_frames, self.stop, self.on_frame = max_frames, stop, on_frame
        policy = Policy.NEWEST if source.live else Policy.EVERY
        self.frames: Slot[Frame] = Slot(policy)
        self.results: Slot[Result] = Slot(policy)
        self.warm, self.written = threading.Event(), threading.Event()
        self.failures: list[tuple[str, BaseException]] = []
        self.recorder = RunRecorder(contract, clock=lambda: source.clock, drops=self._drops)

    def _drops(self) -> dict[str, int]:
        return {"capture": self.recorder.skipped, "inference": self.frames.dropped, "sinks": self.results.dropped}

    def run(self) -> RunSummary:
        # What a stage releases at its end, the most urgent first.
        capture = self._stage("capture", self._capture, self.frames.close, self.source.close)
        infer = self._stage("inference", self._infer, self.frames.close, self.results.close, self.warm.set)
        closes = [sink.close for sink in self.sinks]
        write = self._stage("sinks", self._write, self.results.close, *closes, self.written.set)
        threads, finished = (write, infer, capture), False
        try:
            for thread in threads:
                thread.start()
            while not (self.written.is_set() or self.failures):
                self.stop.wait()
                self._wind_down()
            finished = not self.failures
        finally:
            self._wind_down()
            deadline = time.monotonic() + GRACE_S
            _join(capture, deadline)
            _join(infer, deadline + CLOSE_GRACE_S if finished else deadline)
            _join(write, deadline + CLOSE_GRACE_S)
        if self.failures:
            name, error = self.failures[0]
            raise _name_stage(name, error) from error
        return self.recorder.summary()

    def _wind_down(self) -> None:
        """Let no more frames in. What the slots hold already goes through to the sinks."""
        self.frames.close()
        with self._failing("capture"):
            self.source.close()

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
            started_ns = time.perf_counter_ns()
            mask = self.backend.infer(fitted)
            inference_ms = (time.perf_counter_ns() - started_ns) / 1e6
            if not self.results.put(Result(frame=frame, mask=fitter.unfit(mask[0]), inference_ms=inference_ms)):
                return

    def _write(self) -> None:
        while (result := self.results.get()) is not None:
            for sink in self.sinks:
                sink.write(result)
            self.recorder.written(result, time.monotonic_ns())
            if self.on_frame is not None:
                self.on_frame(result, self.recorder)
            if self.recorder.frames == self.max_frames:
                return


def _join(thread: threading.Thread, deadline_s: float) -> None:
    if thread.ident is not None:
        thread.join(max(0.0, deadline_s - time.monotonic()))


def _name_stage(name: str, error: BaseException) -> EdgesegError:
    if isinstance(error, EdgesegError):
        return type(error)(f"{name} stage: {error.found}", expected=error.expected, fix=error.fix)
    return _ERRORS[name](f"{name} stage: {type(error).__name__}: {error}")
