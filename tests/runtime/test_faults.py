"""What a camera's frames tell of its faults, compared with what was done to them."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
import time
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeseg.runtime.errors import SourceError
from edgeseg.runtime.frame import Frame, Image
from edgeseg.runtime.sources import Source
from edgeseg.runtime.sources.connection import Connection
from edgeseg.runtime.sources.faults import FROZEN_FRAMES, KEPT, Fault, FaultMonitor, same_picture
from edgeseg.runtime.sources.inject import FaultInjector, FaultOrder, parse_faults
from edgeseg.runtime.sources.supervised import Patience, SupervisedSource, supervise

WAIT_S = 20
PERIOD_NS = 40_000_000


@pytest.fixture(autouse=True)
def no_thread_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    for thread in set(threading.enumerate()) - before:
        thread.join(WAIT_S)
        assert not thread.is_alive()


class Clock:
    """Time that passes only when someone says so."""

    def __init__(self) -> None:
        self.ns = 1_000_000_000

    def now_ns(self) -> int:
        return self.ns

    def advance(self, seconds: float) -> None:
        self.ns += round(seconds * 1e9)


class RealClock(Clock):
    """Time that passes by itself."""

    def __init__(self) -> None:
        self.ns = time.monotonic_ns()

    def advance(self, seconds: float) -> None:
        threading.Event().wait(seconds)
        self.ns = time.monotonic_ns()


class NoisyCamera:
    """A live camera of a still scene, `fps` frames a second by `clock`, that ends when `budget` frames were read."""

    live, clock, size_hw = True, "driver", (16, 16)

    def __init__(self, clock: Clock, budget: list[int], fps: float) -> None:
        self.time, self.budget, self.fps = clock, budget, fps
        self.next_id = 0
        self.noise = np.random.default_rng(0)
        self.closed = False

    def read(self) -> Frame | None:
        if self.closed or not self.budget[0]:
            return None
        self.budget[0] -= 1
        self.time.advance(1 / self.fps)
        image = np.full((*self.size_hw, 3), 100, np.uint8) + self.noise.integers(0, 3, (*self.size_hw, 3), np.uint8)
        index, self.next_id = self.next_id, self.next_id + 1
        return Frame(image_bgr=image, id=index, captured_ns=self.time.ns, name=f"frame-{index:06d}")

    def close(self) -> None:
        self.closed = True


class Scene:
    """A noisy camera with orders, supervised, in time of its own: only the stall watchdog's time is real."""

    STALL_S = 7.0
    """Seconds that tell a stall's wait from others."""

    def __init__(self, orders: tuple[FaultOrder, ...], *, frames: int, stall_s: float, fps: float = 25) -> None:
        self.clock, self.opening = Clock(), threading.Event()
        budget = [frames]
        self.injector = FaultInjector(
            lambda: NoisyCamera(self.clock, budget, fps), orders, now_ns=self.clock.now_ns, wait=self.wait
        )
        patience = Patience(stall_s=stall_s, backoff_s=0.001, backoff_cap_s=0.004, stuck_reads=100)
        self.source = supervise(self.injector.open(), self.open, patience=patience)
        assert isinstance(self.source, SupervisedSource)
        self.supervised = self.source

    def open(self) -> Source:
        self.opening.set()
        self.clock.advance(0.5)
        return self.injector.open()

    def wait(self, seconds: float) -> None:
        self.opening.clear()
        self.clock.advance(seconds)
        if seconds == self.STALL_S:
            assert self.opening.wait(WAIT_S), "the stalled read was never given up"

    def play(self) -> list[Frame]:
        frames = []
        while (frame := self.source.read()) is not None:
            frames.append(frame)
        self.source.close()
        return frames


def test_reported_faults_are_those_that_were_injected() -> None:
    orders = parse_faults(
        "stall:7@10,freeze:2@50,resize@130,corrupt@140,disconnect:2@150,slow:3@160,stall:7@250,resize@260"
    )
    scene = Scene(orders, frames=400, stall_s=1.0)
    frames = scene.play()
    reported = sorted(scene.supervised.faults, key=lambda fault: fault.frame)
    truth = scene.injector.truth
    assert [(fault.kind, fault.frame) for fault in reported] == [(fault.kind, fault.frame) for fault in truth]
    for fault, order in zip(reported, orders, strict=True):
        assert fault.recovery_ms is not None
        # From the last good frame to the next one: the fault itself, some periods, and 0.5 s per try to open.
        assert order.seconds * 1e3 <= fault.recovery_ms <= order.seconds * 1e3 + 1_200
    assert scene.supervised.fault_counts == dict.fromkeys(("freeze", "corrupt", "disconnect", "slow"), 1) | {
        "stall": 2,
        "resize": 2,
    }
    ids = [frame.id for frame in frames]
    assert ids == sorted(set(ids)), "numbers go on over reconnections"
    assert frames[-1].id == 399 and frames[-1].name == "frame-000399"


def test_a_thousand_faults_leave_nothing_behind() -> None:
    kinds = np.repeat(["stall:7", "freeze:0.02", "resize", "corrupt", "disconnect:2", "slow:0.02"], 167)
    kinds = np.random.default_rng(5).permutation(kinds)
    orders = parse_faults(",".join(f"{kind}@{10 + 8 * index}" for index, kind in enumerate(kinds)))
    # At this rate a stall is given up after four periods, 16 ms of real time.
    scene = Scene(orders, frames=9 * len(orders) + 100, stall_s=0.01, fps=250)
    handles = Path("/proc/self/fd")
    threads_before, handles_before = threading.active_count(), len(list(handles.iterdir()))
    count = sum(1 for _ in iter(scene.source.read, None))
    scene.source.close()
    for thread in threading.enumerate():
        if thread.name == "edgeseg-camera":
            thread.join(WAIT_S)
    assert count and len(scene.injector.truth) == len(orders) >= 1000
    assert threading.active_count() == threads_before
    assert len(list(handles.iterdir())) == handles_before
    gc.collect()
    kept = Counter(map(type, gc.get_objects()))  # isinstance would wake other libraries' deprecated objects
    assert kept[Connection] <= 2
    assert kept[NoisyCamera] <= 2
    assert kept[Frame] <= 8
    assert len(scene.supervised.faults) <= KEPT


def test_frames_of_a_frozen_camera_are_given_out_no_longer_once_that_is_known() -> None:
    scene = Scene(parse_faults("freeze:4@30"), frames=200, stall_s=5)
    sizes: dict[bytes, int] = {}
    monitor_saw = [frame.image_bgr.tobytes() for frame in scene.play()]
    for picture in monitor_saw:
        sizes[picture] = sizes.get(picture, 0) + 1
    assert max(sizes.values()) <= 26, "a second of 25 frames, and the picture itself"


# --- the monitor by itself


def watch(images: list[Image], *, period_ns: int = PERIOD_NS, nominal_s: float | None = 0.04) -> tuple[Fault, ...]:
    monitor = FaultMonitor()
    monitor.expect(nominal_s)
    for index, image in enumerate(images):
        monitor.saw(Frame(image_bgr=image, id=index, captured_ns=index * period_ns, name=""))
    return monitor.faults


def noisy(count: int) -> list[Image]:
    rng = np.random.default_rng(1)
    return [rng.integers(100, 103, (16, 16, 3), np.uint8) for _ in range(count)]


def test_faults_that_meet_are_all_told() -> None:
    monitor = FaultMonitor()
    first, second = noisy(2)
    monitor.saw(Frame(image_bgr=first, id=0, captured_ns=0, name=""))
    monitor.corrupt(1)
    assert monitor.lost("disconnect") and not monitor.lost("disconnect")
    monitor.saw(Frame(image_bgr=second[:8], id=2, captured_ns=3 * PERIOD_NS, name=""))
    assert monitor.faults == (
        Fault(kind="corrupt", frame=1, recovery_ms=120),
        Fault(kind="disconnect", frame=2, recovery_ms=120),
        Fault(kind="resize", frame=2, recovery_ms=120),
    )


def test_a_still_scene_of_a_noisy_camera_is_not_frozen() -> None:
    assert watch(noisy(200)) == ()


def test_one_pixel_that_changes_is_enough_not_to_be_frozen() -> None:
    images = [np.zeros((64, 64, 3), np.uint8) for _ in range(100)]
    for index, image in enumerate(images):
        image[33, 7, 1] = index
    assert watch(images) == ()


def test_repeats_of_less_than_a_second_are_not_frozen() -> None:
    still = np.zeros((16, 16, 3), np.uint8)
    assert watch([*noisy(5), *[still] * 25, *noisy(5)]) == ()


def test_few_repeats_of_a_slow_camera_are_not_frozen() -> None:
    still = np.zeros((16, 16, 3), np.uint8)
    assert watch([*noisy(3), *[still] * FROZEN_FRAMES, *noisy(3)], period_ns=10**9, nominal_s=1) == ()


def test_a_fault_under_way_is_told_without_a_recovery() -> None:
    still = np.zeros((16, 16, 3), np.uint8)
    (fault,) = watch([*noisy(5), *[still] * 40])
    assert fault == Fault(kind="freeze", frame=6) and fault.document() == {"kind": "freeze", "frame": 6}


def test_a_camera_without_a_nominal_rate_is_never_slow() -> None:
    assert watch(noisy(20), period_ns=10**9, nominal_s=None) == ()
    assert [fault.kind for fault in watch(noisy(20), period_ns=10**9)] == ["slow"]


def test_only_the_newest_faults_are_kept_and_all_are_counted() -> None:
    monitor = FaultMonitor()
    for index in range(3 * KEPT):
        monitor.corrupt(2 * index)
        monitor.saw(Frame(image_bgr=noisy(1)[0], id=2 * index + 1, captured_ns=index, name=""))
    assert len(monitor.faults) == KEPT and monitor.counts == {"corrupt": 3 * KEPT}
    assert monitor.faults[-1].frame == 2 * (3 * KEPT - 1)


@given(st.integers(0, 47), st.integers(0, 63), st.integers(0, 2))
def test_pictures_that_differ_anywhere_are_not_the_same(row: int, column: int, channel: int) -> None:
    first = np.zeros((48, 64, 3), np.uint8)
    second = first.copy()
    assert same_picture(first, second) and same_picture(first, first)
    second[row, column, channel] = 1
    assert not same_picture(first, second) and not same_picture(first, second[:, :63])


# --- orders


def test_orders_are_read_and_sorted() -> None:
    assert parse_faults("resize@30, stall:0.5@10") == (
        FaultOrder(kind="stall", frame=10, seconds=0.5),
        FaultOrder(kind="resize", frame=30),
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "fault '' cannot be read; expected kind[:seconds]@frame"),
        ("stall@10", "fault 'stall@10' has no duration; expected stall:SECONDS@10"),
        ("resize:3@10", "resize takes no duration; expected resize@10"),
        ("melt:3@10", "'melt:3@10' is of no known kind; expected one of stall, freeze"),
        ("stall:1.2.3@10", "has duration '1.2.3'"),
        ("stall:0@10", "expected a frame from 1"),
        ("resize@0", "expected a frame from 1"),
        ("resize@3,corrupt@3", "two faults at frame 3"),
        ("stall:5", "cannot be read"),
    ],
)
def test_wrong_orders_are_one_line(text: str, said: str) -> None:
    with pytest.raises(SourceError) as raised:
        parse_faults(text)
    assert said in str(raised.value) and "\n" not in str(raised.value)


# --- the supervisor


class Script:
    """Opens cameras one after another, each a function that reads frame `i` or raises."""

    def __init__(self, *cameras: Callable[[int], Frame | None] | Exception) -> None:
        self.cameras, self.opened = list(cameras), 0

    def open(self) -> Source:
        camera = self.cameras[self.opened]
        self.opened += 1
        if isinstance(camera, Exception):
            raise camera
        return Scripted(camera)

    def supervise(self, **patience: float) -> Source:
        settings = Patience(**{"backoff_s": 0.001, "backoff_cap_s": 0.002, "stall_s": 30, **patience})  # type: ignore[arg-type]
        return supervise(self.open(), self.open, name="yard", patience=settings)


class Scripted:
    live, clock, fps, size_hw = True, "arrival", None, (16, 16)

    def __init__(self, frame: Callable[[int], Frame | None]) -> None:
        self.frame, self.next_id = frame, 0

    def read(self) -> Frame | None:
        self.next_id += 1
        return self.frame(self.next_id - 1)

    def close(self) -> None:
        pass


def picture(index: int) -> Frame:
    return Frame(image_bgr=np.full((16, 16, 3), index % 250, np.uint8), id=index, captured_ns=index, name="")


def breaks_at(count: int, error: Exception) -> Callable[[int], Frame | None]:
    def read(index: int) -> Frame | None:
        if index == count:
            raise error
        return picture(index)

    return read


def ends_at(count: int) -> Callable[[int], Frame | None]:
    return lambda index: None if index == count else picture(index)


def test_only_a_decoded_frame_counts_as_an_open_camera(caplog: pytest.LogCaptureFixture) -> None:
    gone = SourceError("gone")
    script = Script(breaks_at(3, gone), gone, breaks_at(0, gone), ends_at(0), ends_at(2))
    source = script.supervise()
    frames = list(iter(source.read, None))
    assert frames[-1].id == 4 and script.opened == 5
    assert isinstance(source, SupervisedSource)
    (fault,) = source.faults
    assert (fault.kind, fault.frame) == ("disconnect", 3)
    assert [record.message for record in caplog.records] == [
        "yard: disconnect at frame 3, connecting again",
        "yard: still away: gone",
        "yard: still away: it gave no frame",
        caplog.records[-1].message,
    ]
    assert caplog.records[-1].message.startswith("yard: frames again after ")
    source.close()


def test_a_mistake_in_the_program_is_raised_not_retried() -> None:
    source = Script(breaks_at(2, ZeroDivisionError("bug"))).supervise()
    with pytest.raises(ZeroDivisionError, match="bug"):
        list(iter(source.read, None))
    source.close()


def test_the_stream_may_end() -> None:
    source = Script(ends_at(4)).supervise()
    frames = list(iter(source.read, None))
    assert frames[-1].id == 3
    source.close()


def test_close_ends_a_read_that_waits_for_a_stalled_driver() -> None:
    reading, release = threading.Event(), threading.Event()

    def stuck(_index: int) -> Frame | None:
        reading.set()
        release.wait(WAIT_S)
        return None

    source = Script(stuck).supervise()
    ended: list[Frame | None] = []
    thread = threading.Thread(target=lambda: ended.append(source.read()))
    thread.start()
    assert reading.wait(WAIT_S)
    source.close()
    thread.join(WAIT_S)
    assert ended == [None]
    release.set()


def test_close_ends_a_read_that_waits_to_connect_again() -> None:
    tried = threading.Event()

    class Gone(Script):
        def open(self) -> Source:
            if self.opened:
                tried.set()
                raise SourceError("gone")
            return super().open()

    source = Gone(breaks_at(0, SourceError("gone"))).supervise(backoff_cap_s=60, backoff_s=0.01)
    ended: list[Frame | None] = []
    thread = threading.Thread(target=lambda: ended.append(source.read()))
    thread.start()
    assert tried.wait(WAIT_S)
    source.close()
    thread.join(WAIT_S)
    assert ended == [None]


def test_too_many_reads_that_never_return_end_the_run() -> None:
    release = threading.Event()

    def stuck(_index: int) -> Frame | None:
        release.wait(WAIT_S)
        return None

    source = Script(*[stuck] * 9).supervise(stall_s=0.01, open_s=0.01, stuck_reads=3)
    with pytest.raises(SourceError, match="yard: 4 reads of its driver never returned; fix: restart"):
        source.read()
    release.set()
    source.close()


def test_a_camera_that_gives_only_corrupt_frames_is_connected_again() -> None:
    def grey(index: int) -> Frame | None:
        return Frame(image_bgr=np.zeros((16, 16), np.uint8), id=index, captured_ns=index, name="")

    def rotten(index: int) -> Frame | None:
        return picture(index) if index == 0 else grey(index)

    source = Script(rotten, ends_at(3)).supervise(stall_s=0.05)
    list(iter(source.read, None))
    assert isinstance(source, SupervisedSource)
    assert [fault.kind for fault in source.faults] == ["corrupt", "stall"]
    source.close()


def stands_still(until: Callable[[], bool]) -> Callable[[int], Frame | None]:
    """A camera, ten frames a second by its own count, whose picture is always the same; it ends at `until`."""

    def read(index: int) -> Frame | None:
        threading.Event().wait(0.005)
        still = Frame(image_bgr=np.full((16, 16, 3), 7, np.uint8), id=index, captured_ns=index * 10**8, name="")
        return None if until() else still

    return read


def test_a_camera_that_stays_frozen_is_connected_again_and_counted_once(caplog: pytest.LogCaptureFixture) -> None:
    script = Script(stands_still(lambda: False), ends_at(4))
    source = script.supervise(frozen_s=0.2)
    frames = list(iter(source.read, None))
    assert script.opened == 2 and frames[-1].id > 20
    assert isinstance(source, SupervisedSource) and source.fault_counts == {"freeze": 1}
    (fault,) = source.faults
    assert fault.kind == "freeze" and fault.recovery_ms is not None
    assert "yard: freeze at frame" in caplog.text and "frames again" in caplog.text
    source.close()


def test_a_scene_that_is_still_indeed_is_connected_again_ever_more_seldom() -> None:
    began_s = time.monotonic()
    script = Script(*[stands_still(lambda: time.monotonic() > began_s + 2)] * 9)
    source = script.supervise(frozen_s=0.1)
    list(iter(source.read, None))
    # After 0.1, 0.2, 0.4, 0.8 s and so on: a fixed 0.1 s would come to more than the nine that there are.
    assert 3 <= script.opened <= 6
    source.close()


def test_a_camera_that_is_gone_is_not_kept_in_memory() -> None:
    def read(index: int) -> Frame | None:
        if index == 1:
            raise SourceError("gone")
        return picture(index)

    first = Scripted(read)
    kept = weakref.ref(first)
    source = supervise(first, Script(ends_at(2)).open, patience=Patience(backoff_s=0.001))
    del first
    gc.collect()
    gc.disable()  # it comes seldom in a process whose memory is mostly pictures
    try:
        ids = [frame.id for frame in iter(source.read, None)]
        assert ids[-1] == 2 and kept() is None
    finally:
        gc.enable()
        source.close()


def test_recovery_comes_within_backoff_and_a_second_of_the_faults_end() -> None:
    injector = FaultInjector(lambda: NoisyCamera(RealClock(), [1000], 25), parse_faults("disconnect:0.6@4,stall:1.2@9"))
    patience = Patience(stall_s=0.4, backoff_cap_s=0.5)
    source = supervise(injector.open(), injector.open, patience=patience)
    back_ns: list[int] = []
    last_id = 0
    while len(injector.truth) < 2 or last_id < injector.truth[1].frame:
        frame = source.read()
        assert frame is not None
        last_id = frame.id
        if len(back_ns) < len(injector.truth) and frame.id >= injector.truth[len(back_ns)].frame:
            back_ns.append(time.monotonic_ns())
    source.close()
    for fault, back in zip(injector.truth, back_ns, strict=True):
        assert 0 <= back - fault.ended_ns <= (patience.backoff_cap_s + 1) * 1e9


def test_a_source_that_is_not_live_is_left_alone() -> None:
    source = Scripted(ends_at(1))
    source.live = False
    assert supervise(source, lambda: source) is source


@given(st.integers(0, 10_000), st.floats(0, 1))
def test_backoff_grows_to_its_cap_with_jitter(attempt: int, chance: float) -> None:
    patience = Patience()
    longest_s = min(patience.backoff_s * 2 ** min(attempt, 20), patience.backoff_cap_s)
    assert longest_s / 2 <= patience.backoff(attempt, chance) <= longest_s <= patience.backoff_cap_s


_COMES_AND_GOES = """
from edgeseg.runtime.soak.gauges import read_holdings
from edgeseg.runtime.sources import open_source
from edgeseg.runtime.sources.inject import FaultInjector, parse_faults
from edgeseg.runtime.sources.supervised import Patience, supervise

orders = parse_faults(",".join(f"disconnect:0.05@{5 + 5 * index}" for index in range(24)))
injector = FaultInjector(lambda: open_source("synthetic://street?size=320x240&fps=20"), orders)
source, held = supervise(injector.open(), injector.open, patience=Patience(backoff_s=0.06)), {}
while len(injector.truth) < 24:
    source.read()
    held.setdefault(len(injector.truth), read_holdings().memory_mib)
source.close()
print(*(round(held[count]) for count in range(3, 25, 3) if count in held))
"""


@pytest.mark.heavy
def test_memory_of_a_camera_that_comes_and_goes_stays() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _COMES_AND_GOES], capture_output=True, text=True, check=True, timeout=250
    )
    held_mib = [int(word) for word in done.stdout.split()]
    print(done.stdout)  # noqa: T201 - docs/soak.md shows it
    # Each camera takes some 50 MiB while it is there: one may be going while the next one comes.
    assert len(held_mib) >= 6 and max(held_mib) - min(held_mib) < 120
    assert held_mib[-1] - held_mib[0] < 60
