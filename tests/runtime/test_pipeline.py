"""The threads between source and sinks: what overlaps, what is dropped, and how every run ends."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import ClassVar

import numpy as np
import pytest

from edgeseg.runtime.contract import Contract
from edgeseg.runtime.errors import BackendError, EdgesegError, SinkError, SourceError
from edgeseg.runtime.frame import Frame, Image, Mask, Result
from edgeseg.runtime.pipeline import Limits, Stop, run_pipeline
from edgeseg.runtime.summary import RunRecorder, RunSummary

WAIT_S = 10
END_S = 1.0
"""How soon a run must have ended after a stage failed."""


class FakeSource:
    """Gives frames of the sizes or images in a list, then ends; hooks run before each read."""

    fps = 25.0
    clock = "arrival"
    size_hw = (48, 64)

    def __init__(
        self, count: int, *, live: bool = False, before_read: Callable[[int], None] = lambda index: None
    ) -> None:
        self.count, self.live, self.before_read = count, live, before_read
        self.next_id = 0
        self.closed = threading.Event()

    def image(self, index: int) -> Image:
        return np.full((*self.size_hw, 3), index % 256, np.uint8)

    def read(self) -> Frame | None:
        self.before_read(self.next_id)
        if self.next_id == self.count or self.closed.is_set():
            return None
        index, self.next_id = self.next_id, self.next_id + 1
        return Frame(image_bgr=self.image(index), id=index, captured_ns=time.monotonic_ns(), name=f"frame-{index:06d}")

    def close(self) -> None:
        self.closed.set()


class FakeBackend:
    """Gives a pixel's blue level as its class; a hook runs before each inference."""

    name, precision = "fake", "fp32"

    def __init__(self, *, before_infer: Callable[[int], None] = lambda index: None) -> None:
        self.before_infer, self.calls, self.warmed = before_infer, 0, 0

    def infer(self, frame: Image) -> Mask:
        self.before_infer(self.calls)
        self.calls += 1
        return frame[..., 0]

    def warm_up(self) -> None:
        self.warmed += 1

    def close(self) -> None:
        pass


class FakeSink:
    """Keeps results; a hook runs before each."""

    spec = "fake"

    def __init__(self, *, before_write: Callable[[int], None] = lambda index: None) -> None:
        self.before_write = before_write
        self.results: list[Result] = []
        self.closes = 0

    def write(self, result: Result) -> None:
        self.before_write(len(self.results))
        self.results.append(result)

    def close(self) -> None:
        self.closes += 1

    @property
    def ids(self) -> list[int]:
        return [result.frame.id for result in self.results]


def raise_at(index: int, error: BaseException) -> Callable[[int], None]:
    def hook(at: int) -> None:
        if at == index:
            raise error

    return hook


@pytest.fixture(autouse=True)
def no_thread_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) <= before


def test_every_frame_of_a_file_reaches_every_sink_in_order(tiny_contract: Contract) -> None:
    sinks = [FakeSink(), FakeSink()]
    source = FakeSource(20)
    summary = run_pipeline(source, FakeBackend(), tiny_contract, sinks)
    assert [sink.ids for sink in sinks] == [list(range(20))] * 2
    assert (summary.frames, summary.dropped) == (20, 0)
    assert [sink.closes for sink in sinks] == [1, 1] and source.closed.is_set()


def test_masks_belong_to_their_frames_and_have_their_size(tiny_contract: Contract) -> None:
    sink = FakeSink()
    run_pipeline(FakeSource(9), FakeBackend(), tiny_contract, [sink])
    for result in sink.results:
        assert result.mask.shape == (48, 64)
        assert np.all(result.mask == result.frame.id)
        assert 0 < result.inference_ms <= result.frame_age_ms


def test_a_new_frame_size_is_absorbed(tiny_contract: Contract) -> None:
    class Resized(FakeSource):
        def image(self, index: int) -> Image:
            return np.full((48 + 10 * (index // 2), 64, 3), index, np.uint8)

    sink = FakeSink()
    run_pipeline(Resized(6), FakeBackend(), tiny_contract, [sink])
    assert [result.mask.shape for result in sink.results] == [(48 + 10 * (i // 2), 64) for i in range(6)]


def test_capture_inference_and_sinks_overlap(tiny_contract: Contract) -> None:
    # Each stage, at its own frame, waits for both others: they only meet if all three run at once.
    meeting = threading.Barrier(3, timeout=WAIT_S)

    def meet_at(index: int) -> Callable[[int], None]:
        return lambda at: void(meeting.wait() if at == index else None)

    run_pipeline(
        FakeSource(10, before_read=meet_at(4)),
        FakeBackend(before_infer=meet_at(2)),
        tiny_contract,
        [FakeSink(before_write=meet_at(1))],
    )
    assert not meeting.broken


def void(_value: object) -> None:
    return None


def test_backend_is_warm_before_the_first_capture(tiny_contract: Contract) -> None:
    backend = FakeBackend()
    warmed: list[int] = []
    run_pipeline(FakeSource(2, before_read=lambda _: warmed.append(backend.warmed)), backend, tiny_contract, [])
    assert set(warmed) == {1}


def test_live_source_drops_what_inference_is_too_slow_for(tiny_contract: Contract) -> None:
    captured_all = threading.Event()

    def before_read(index: int) -> None:
        if index == 10:
            captured_all.set()

    sink = FakeSink()
    summary = run_pipeline(
        FakeSource(10, live=True, before_read=before_read),
        FakeBackend(before_infer=lambda _: void(captured_all.wait(WAIT_S))),
        tiny_contract,
        [sink],
    )
    assert sink.ids[-1] == 9, "the newest frame wins"
    assert summary.drops["inference"] == 10 - summary.frames >= 8
    assert summary.frames + summary.dropped == 10


class Turns:
    """Lets a source give one frame per inference, so that none is dropped before it; tells when all are through."""

    def __init__(self, count: int) -> None:
        self.count, self.inferred_all = count, threading.Event()
        self._turns = threading.Semaphore(1)

    def before_read(self, _index: int) -> None:
        assert self._turns.acquire(timeout=WAIT_S)

    def before_infer(self, index: int) -> None:
        self._turns.release()
        if index == self.count - 1:
            self.inferred_all.set()


def test_a_slow_sink_of_a_live_source_slows_neither_the_loop_nor_other_sinks(tiny_contract: Contract) -> None:
    turns = Turns(10)
    # It holds its first frame until every other one has been through the backend.
    slow = FakeSink(before_write=lambda _: void(turns.inferred_all.wait(WAIT_S)))
    summary = run_pipeline(
        FakeSource(10, live=True, before_read=turns.before_read),
        FakeBackend(before_infer=turns.before_infer),
        tiny_contract,
        [slow, FakeSink()],
    )
    assert (summary.frames, summary.dropped) == (10, 0)
    assert slow.ids[-1] == 9, "the newest frame wins"
    assert summary.sinks[0].dropped >= 7
    for report in summary.sinks:
        assert report.frames + report.dropped == 10 and not report.error


def test_a_sink_that_hangs_does_not_hold_a_live_run(tiny_contract: Contract) -> None:
    release = threading.Event()
    hung, healthy = FakeSink(before_write=lambda _: void(release.wait(WAIT_S))), FakeSink()
    with pytest.raises(SinkError, match="sinks stage: fake did not finish in time"):
        run_pipeline(
            FakeSource(50, live=True), FakeBackend(), tiny_contract, [hung, healthy], limits=Limits(sinks_s=0.5)
        )
    assert healthy.ids and healthy.closes == 1 and not hung.ids
    _let_go(release)


def test_a_sink_that_fails_is_taken_out_of_a_live_run_and_reported(
    tiny_contract: Contract, caplog: pytest.LogCaptureFixture
) -> None:
    turns, failed = Turns(10), threading.Event()

    def before_infer(index: int) -> None:
        if index == 3:
            assert failed.wait(WAIT_S)
        turns.before_infer(index)

    class Failing(FakeSink):
        def close(self) -> None:
            super().close()
            failed.set()

    broken = Failing(before_write=raise_at(0, OSError("disk full")))
    summary = run_pipeline(
        FakeSource(10, live=True, before_read=turns.before_read),
        FakeBackend(before_infer=before_infer),
        tiny_contract,
        [broken, FakeSink()],
    )
    assert summary.frames == 10 and broken.closes == 1
    report, healthy = summary.sinks
    assert (report.frames, report.dropped, report.error) == (0, 10, "OSError: disk full")
    assert healthy.frames > 0 and not healthy.error
    assert "sink fake failed, and gets no more frames: disk full" in caplog.text
    assert report.document() == {"sink": "fake", "frames": 0, "dropped": 10, "error": "OSError: disk full"}


def test_the_last_sink_that_fails_ends_a_live_run(tiny_contract: Contract) -> None:
    sinks = [FakeSink(before_write=raise_at(at, OSError("disk full"))) for at in (1, 4)]
    with pytest.raises(SinkError, match="disk full"):
        run_pipeline(FakeSource(-1, live=True), FakeBackend(), tiny_contract, sinks)
    assert [sink.closes for sink in sinks] == [1, 1]


def test_every_sink_of_a_file_gets_every_frame_however_slow_one_is(tiny_contract: Contract) -> None:
    entered, go_on = threading.Event(), threading.Event()

    def before_write(index: int) -> None:
        if index == 0:
            entered.set()
            assert go_on.wait(WAIT_S)

    def before_read(index: int) -> None:
        if index == 2:
            assert entered.wait(WAIT_S)
            go_on.set()

    slow, fast = FakeSink(before_write=before_write), FakeSink()
    summary = run_pipeline(FakeSource(12, before_read=before_read), FakeBackend(), tiny_contract, [slow, fast])
    assert slow.ids == fast.ids == list(range(12))
    assert [(report.frames, report.dropped) for report in summary.sinks] == [(12, 0)] * 2


def test_gaps_in_the_sources_ids_count_as_drops(tiny_contract: Contract) -> None:
    class Skipping(FakeSource):
        def read(self) -> Frame | None:
            if self.next_id == 3:
                self.next_id = 7
            return super().read()

    summary = run_pipeline(Skipping(10), FakeBackend(), tiny_contract, [])
    assert summary.drops == {"capture": 4, "inference": 0}
    assert summary.frames == 6


def test_frames_that_a_fault_spoilt_are_no_drops_of_capture(tiny_contract: Contract) -> None:
    class Spoilt(FakeSource):
        drops: ClassVar = {"freeze": 2, "corrupt": 1}

        def read(self) -> Frame | None:
            if self.next_id == 3:
                self.next_id = 7
            return super().read()

    summary = run_pipeline(Spoilt(10), FakeBackend(), tiny_contract, [])
    assert summary.drops == {"capture": 1, "inference": 0, "freeze": 2, "corrupt": 1}
    assert summary.dropped == 4


def test_max_frames_counts_what_was_handed_to_the_sinks(tiny_contract: Contract) -> None:
    sink = FakeSink()
    summary = run_pipeline(FakeSource(-1), FakeBackend(), tiny_contract, [sink], max_frames=7)
    assert summary.frames == len(sink.results) == 7
    assert sink.closes == 1


def test_observer_sees_every_result_of_a_file_in_order(tiny_contract: Contract) -> None:
    seen: list[int] = []

    def observe(result: Result, recorder: RunRecorder) -> None:
        seen.append(result.frame.id)
        assert recorder.summary().frames > result.frame.id

    run_pipeline(FakeSource(5), FakeBackend(), tiny_contract, [FakeSink()], on_frame=observe)
    assert seen == list(range(5))


def test_an_observer_that_hangs_does_not_hold_a_live_run(tiny_contract: Contract) -> None:
    release = threading.Event()
    summary = run_pipeline(
        FakeSource(50, live=True),
        FakeBackend(),
        tiny_contract,
        [FakeSink()],
        on_frame=lambda _result, _recorder: void(release.wait(WAIT_S)),
        limits=Limits(sinks_s=0.5),
    )
    assert summary.frames > 0
    _let_go(release)


def test_an_empty_source_ends_at_once(tiny_contract: Contract) -> None:
    sink = FakeSink()
    summary = run_pipeline(FakeSource(0), FakeBackend(), tiny_contract, [sink])
    assert summary.frames == 0 and summary.fps is None and sink.closes == 1


@pytest.mark.parametrize("live", [False, True])
@pytest.mark.parametrize("at", [0, 1, 5])
@pytest.mark.parametrize(
    ("stage", "expected"), [("capture", SourceError), ("inference", BackendError), ("sinks", SinkError)]
)
def test_a_failing_stage_ends_the_run_in_time_with_its_name(
    tiny_contract: Contract, stage: str, expected: type[EdgesegError], at: int, live: bool
) -> None:
    hook, nothing = raise_at(at, RuntimeError("it broke")), raise_at(-1, RuntimeError())
    # Without its failure, this run would never end.
    source = FakeSource(-1, live=live, before_read=hook if stage == "capture" else nothing)
    backend = FakeBackend(before_infer=hook if stage == "inference" else nothing)
    sink = FakeSink(before_write=hook if stage == "sinks" else nothing)
    started_s = time.monotonic()
    with pytest.raises(expected, match=rf"^{stage} stage: RuntimeError: it broke$") as raised:
        run_pipeline(source, backend, tiny_contract, [sink])
    assert time.monotonic() - started_s < END_S
    assert isinstance(raised.value.__cause__, RuntimeError)
    assert sink.closes == 1 and source.closed.is_set()


def test_an_error_of_ours_keeps_its_class_and_its_fix(tiny_contract: Contract) -> None:
    error = SinkError("disk full", expected="space", fix="make some")
    with pytest.raises(SinkError, match=r"^sinks stage: disk full; expected space; fix: make some$"):
        run_pipeline(FakeSource(-1), FakeBackend(), tiny_contract, [FakeSink(before_write=raise_at(2, error))])


def test_results_before_a_failing_inference_still_reach_the_sinks(tiny_contract: Contract) -> None:
    sink = FakeSink()
    with pytest.raises(BackendError):
        run_pipeline(FakeSource(-1), FakeBackend(before_infer=raise_at(6, RuntimeError())), tiny_contract, [sink])
    assert sink.ids == list(range(6))


def test_a_failing_warm_up_ends_the_run_before_any_capture(tiny_contract: Contract) -> None:
    class Cold(FakeBackend):
        def warm_up(self) -> None:
            raise BackendError("no memory")

    source = FakeSource(-1)
    with pytest.raises(BackendError, match="inference stage: no memory"):
        run_pipeline(source, Cold(), tiny_contract, [])
    assert source.next_id == 0


def test_a_frame_that_is_not_8_bit_colour_ends_the_run(tiny_contract: Contract) -> None:
    class Grey(FakeSource):
        def image(self, index: int) -> Image:
            return np.zeros((48, 64), np.uint8)

    with pytest.raises(EdgesegError, match=r"capture stage: frame of shape \(48, 64\)"):
        run_pipeline(Grey(3), FakeBackend(), tiny_contract, [])


def test_a_failing_observer_ends_the_run(tiny_contract: Contract) -> None:
    def observe(_result: Result, _recorder: RunRecorder) -> None:
        raise ValueError("no terminal")

    with pytest.raises(SinkError, match="no terminal"):
        run_pipeline(FakeSource(-1), FakeBackend(), tiny_contract, [], on_frame=observe)


def test_every_sink_is_closed_though_one_fails_to_close(tiny_contract: Contract) -> None:
    class Unclosable(FakeSink):
        def close(self) -> None:
            super().close()
            raise SinkError("cannot finish the file")

    sinks = [FakeSink(), Unclosable(), FakeSink()]
    with pytest.raises(SinkError, match="sinks stage: cannot finish the file"):
        run_pipeline(FakeSource(3), FakeBackend(), tiny_contract, sinks)
    assert [sink.closes for sink in sinks] == [1, 1, 1]


def test_the_first_of_two_failures_is_raised(tiny_contract: Contract) -> None:
    class Failing(FakeSink):
        def close(self) -> None:
            raise SinkError("second")

    sink = Failing(before_write=raise_at(1, SinkError("first")))
    with pytest.raises(SinkError, match="first"):
        run_pipeline(FakeSource(-1), FakeBackend(), tiny_contract, [sink])


def test_stop_lets_the_frame_in_flight_reach_the_sinks(tiny_contract: Contract) -> None:
    stop, stopped = Stop(), threading.Event()

    class Stopping(FakeSource):
        def close(self) -> None:
            super().close()
            stopped.set()

    def before_infer(index: int) -> None:
        if index == 3:
            stop.set()
            assert stopped.wait(WAIT_S)

    sink = FakeSink()
    summary = run_pipeline(Stopping(-1), FakeBackend(before_infer=before_infer), tiny_contract, [sink], stop=stop)
    assert 3 in sink.ids and summary.frames == len(sink.ids) <= 5
    assert sink.closes == 1


def test_stop_before_the_start_ends_at_once(tiny_contract: Contract) -> None:
    stop = Stop()
    stop.set()
    assert run_pipeline(FakeSource(-1), FakeBackend(), tiny_contract, [FakeSink()], stop=stop).frames <= 3


def test_stop_ends_a_source_that_waits_for_its_next_frame(tiny_contract: Contract) -> None:
    stop = Stop()

    class Stalled(FakeSource):
        def read(self) -> Frame | None:
            if self.next_id == 2:
                stop.set()
                self.closed.wait(WAIT_S)
            return super().read()

    assert run_pipeline(Stalled(-1), FakeBackend(), tiny_contract, [], stop=stop).frames == 2


def _run_stuck(
    contract: Contract, source: FakeSource, backend: FakeBackend, sink: FakeSink, release: threading.Event
) -> tuple[RunSummary | None, float]:
    """Run with a stage that hangs until `release`; returns the seconds that the run took to give up."""
    started_s = time.monotonic()
    try:
        return run_pipeline(source, backend, contract, [sink]), time.monotonic() - started_s
    except EdgesegError:
        return None, time.monotonic() - started_s
    finally:
        _let_go(release)


def _let_go(release: threading.Event) -> None:
    release.set()
    for thread in threading.enumerate():
        if thread.name.startswith("edgeseg-"):
            thread.join(WAIT_S)


def test_a_source_stuck_in_its_driver_does_not_hold_a_failed_run(tiny_contract: Contract) -> None:
    release, stuck = threading.Event(), threading.Event()

    def before_read(index: int) -> None:
        if index == 3:
            stuck.set()
            release.wait(WAIT_S)

    def before_infer(index: int) -> None:
        if index == 1:
            stuck.wait(WAIT_S)
            raise RuntimeError

    summary, took_s = _run_stuck(
        tiny_contract,
        FakeSource(-1, before_read=before_read),
        FakeBackend(before_infer=before_infer),
        FakeSink(),
        release,
    )
    assert summary is None and took_s < END_S


def test_a_stuck_inference_does_not_hold_a_failed_run(tiny_contract: Contract) -> None:
    release, stuck = threading.Event(), threading.Event()

    def before_infer(index: int) -> None:
        if index == 2:
            stuck.set()
            release.wait(WAIT_S)

    def before_write(index: int) -> None:
        if index == 1:
            stuck.wait(WAIT_S)
            raise OSError("disk full")

    summary, took_s = _run_stuck(
        tiny_contract,
        FakeSource(-1),
        FakeBackend(before_infer=before_infer),
        FakeSink(before_write=before_write),
        release,
    )
    assert summary is None and took_s < END_S


def test_a_stuck_inference_is_reported_with_its_frame_and_ends_the_run(tiny_contract: Contract) -> None:
    release = threading.Event()
    sink = FakeSink()
    backend = FakeBackend(before_infer=lambda index: void(index == 4 and release.wait(WAIT_S)))
    with pytest.raises(BackendError, match=r"^inference stage: frame 4 has been in the backend for more than 0\.5 s;"):
        run_pipeline(FakeSource(-1), backend, tiny_contract, [sink], limits=Limits(inference_s=0.5))
    assert sink.ids == [0, 1, 2, 3] and sink.closes == 1
    _let_go(release)


def test_warming_up_may_take_longer_than_an_inference(tiny_contract: Contract) -> None:
    class Cold(FakeBackend):
        def warm_up(self) -> None:
            threading.Event().wait(0.7)

    assert run_pipeline(FakeSource(3), Cold(), tiny_contract, [], limits=Limits(inference_s=0.5)).frames == 3


def test_interrupt_closes_everything_and_is_raised_again(tiny_contract: Contract) -> None:
    class InterruptedStop(Stop):
        def wait(self, timeout_s: float | None = None) -> bool:
            super().wait()
            raise KeyboardInterrupt

    stop, sink, source = InterruptedStop(), FakeSink(), FakeSource(-1)
    backend = FakeBackend(before_infer=lambda index: stop.set() if index == 2 else None)
    with pytest.raises(KeyboardInterrupt):
        run_pipeline(source, backend, tiny_contract, [sink], stop=stop)
    assert sink.closes == 1 and source.closed.is_set()


def test_a_backend_serves_one_run_after_another(tiny_contract: Contract) -> None:
    backend = FakeBackend()
    frames: Iterable[int] = (run_pipeline(FakeSource(3), backend, tiny_contract, []).frames for _ in range(3))
    assert list(frames) == [3, 3, 3]
