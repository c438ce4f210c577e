"""Leaks that were planted are found, and those that are not there are not."""

from __future__ import annotations

import itertools
import json
import os
import re
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import click
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeseg.runtime.commands.soak import parse_duration
from edgeseg.runtime.errors import EdgesegError
from edgeseg.runtime.soak.gauges import Holdings, read_holdings, settle
from edgeseg.runtime.soak.orders import random_faults
from edgeseg.runtime.soak.picture import draw_soak
from edgeseg.runtime.soak.report import LeakError, SoakReport
from edgeseg.runtime.soak.trend import Series, block_medians, fit_trend
from edgeseg.runtime.sources.faults import FROZEN_FRAMES, FROZEN_S, KINDS, SLOW_FRAMES
from edgeseg.runtime.sources.inject import SLOWED, parse_faults
from edgeseg.runtime.sources.supervised import Patience

HOURS = np.linspace(0, 1, 480)
HELD = Holdings(memory_mib=100.0, handles=8, threads=9)


def remembering(chance: np.random.Generator, share: float) -> Series:
    """Noise of which each value keeps `share` of the one before."""
    values = chance.normal(size=len(HOURS))
    for index in range(1, len(values)):
        values[index] += share * values[index - 1]
    return values


# --- the trend


def test_a_line_is_found_exactly() -> None:
    trend = fit_trend(*block_medians(HOURS, 7 + 3 * HOURS))
    assert [trend.slope, trend.low, trend.high, trend.at(0.5)] == pytest.approx([3, 3, 3, 8.5])


def test_what_never_changes_has_no_trend() -> None:
    trend = fit_trend(*block_medians(HOURS, np.full(480, 8.0)))
    assert (trend.slope, trend.low, trend.high) == (0, 0, 0)


@pytest.mark.parametrize(
    ("name", "share", "alarms"),
    [("white noise", 0.0, 0.05), ("ten samples' memory", 0.9, 0.06), ("a hundred", 0.99, 0.1), ("a walk", 1.0, 0.2)],
)
def test_noise_is_seldom_taken_for_growth(name: str, share: float, alarms: float) -> None:
    chance = np.random.default_rng(1)
    trends = [fit_trend(*block_medians(HOURS, remembering(chance, share))) for _ in range(200)]
    assert np.mean([trend.low > 0 for trend in trends]) <= alarms, name


@pytest.mark.parametrize("share", [0.0, 0.9])
def test_the_interval_holds_the_slope_as_often_as_it_says(share: float) -> None:
    chance = np.random.default_rng(2)
    trends = [fit_trend(*block_medians(HOURS, remembering(chance, share) + 5 * HOURS)) for _ in range(200)]
    assert np.mean([trend.low <= 5 <= trend.high for trend in trends]) >= 0.92


def test_a_fifth_of_wild_values_moves_the_line_little() -> None:
    chance = np.random.default_rng(3)
    spikes = (chance.random(480) < 0.2) * 500.0
    trend = fit_trend(*block_medians(HOURS, 5 * HOURS + chance.normal(0, 0.1, 480) + spikes))
    assert trend.slope == pytest.approx(5, abs=0.2) and trend.low > 4


@given(st.lists(st.floats(-1e6, 1e6), min_size=30, max_size=90))
def test_the_slope_lies_within_its_interval(values: list[float]) -> None:
    trend = fit_trend(*block_medians(np.arange(len(values), dtype=np.float64), np.array(values)))
    assert trend.low <= trend.slope <= trend.high


# --- the verdict


def report(
    *, per_hour: float = 0.0, name: str = "memory_mib", after: Holdings = HELD, hours: float = 1.0, samples: int = 600
) -> SoakReport:
    """A soak whose figure `name` grows by `per_hour` from its first sample on, under noise; a fifth has no age."""
    chance, seconds = np.random.default_rng(4), np.linspace(0, hours * 3600, samples)
    series = {
        "seconds": seconds,
        "memory_mib": 100 + remembering(chance, 0.5)[np.arange(samples) % 480] * 0.05,
        "handles": 8 + (chance.random(samples) < 0.1) * 1.0,
        "threads": 9 - (chance.random(samples) < 0.1) * 1.0,
        "frame_age_ms": np.where(chance.random(samples) < 0.2, np.nan, 40 + chance.normal(size=samples)),
    }
    series[name] = series[name] + np.floor(per_hour * seconds / 3600 * 4) / 4
    return SoakReport(series=series, before=HELD, after=after, injected=(), told={"stall": 2})


def test_a_soak_in_which_nothing_grows_is_clean() -> None:
    report().require_clean()
    document = report().document()
    assert document["verdict"] == "clean" and document["left_behind"] == {"handles": 0, "threads": 0}
    assert len(document["trends"]["memory_mib"]["blocks"]) == 30
    json.dumps(document, allow_nan=False)


@pytest.mark.parametrize(("name", "per_hour"), [("memory_mib", 4.0), ("handles", 6.0), ("threads", 6.0)])
def test_what_grows_is_a_leak_and_named_with_its_interval(name: str, per_hour: float) -> None:
    unit = {"memory_mib": "MiB"}.get(name, name)
    with pytest.raises(LeakError, match=rf"^leak: \S+ {unit} an hour \(95 %: \S+ to \S+\)$"):
        report(name=name, per_hour=per_hour).require_clean()
    assert report(name=name, per_hour=per_hour).document()["verdict"] == "leak"


def test_a_longer_soak_finds_a_slower_leak() -> None:
    report(per_hour=0.5).require_clean()
    with pytest.raises(LeakError):
        report(per_hour=0.5, hours=10).require_clean()


def test_memory_that_settles_is_no_leak_of_a_short_soak() -> None:
    """6 MiB in a minute: a process that warms up, or one that leaks, and only a longer soak can tell."""
    report(per_hour=360, hours=1 / 60).require_clean()
    for too_much in (report(per_hour=900, hours=1 / 60), report(per_hour=360, hours=1 / 12)):
        with pytest.raises(LeakError, match="MiB an hour"):
            too_much.require_clean()


def test_growing_age_is_told_and_is_no_leak() -> None:
    aging = report(name="frame_age_ms", per_hour=500)
    aging.require_clean()
    assert aging.trends()["frame_age_ms"].slope == pytest.approx(500, rel=0.05)


def test_a_camera_of_few_frames_has_no_trend_of_age_and_is_judged_all_the_same() -> None:
    seldom = report(per_hour=4.0)
    seldom.series["frame_age_ms"][::2] = np.nan
    seldom.series["frame_age_ms"][20:] = np.nan
    assert set(seldom.document()["trends"]) == {"memory_mib", "handles", "threads"}
    assert seldom.leaks() and len(ElementTree.fromstring(draw_soak(seldom, title="", fault_s=[]))) > 3


def test_what_is_not_given_back_is_a_leak() -> None:
    with pytest.raises(LeakError, match="2 handles left behind, 1 threads left behind"):
        report(after=Holdings(memory_mib=100, handles=10, threads=10)).require_clean()


def test_a_soak_that_was_cut_short_says_so() -> None:
    with pytest.raises(EdgesegError, match="20 samples are too few to tell a leak; fix: let the soak run for longer"):
        report(samples=20).document()


def test_the_picture_is_whole_and_names_what_it_shows() -> None:
    svg = ElementTree.fromstring(draw_soak(report(per_hour=3), title="1 h of <street>", fault_s=[10.0, 1e9]))
    words = [element.text or "" for element in svg.iter("{http://www.w3.org/2000/svg}text")]
    assert words[0] == "1 h of <street>" and any(re.match(r"memory, MiB: \+[23]", word) for word in words)
    paths = [element.get("d", "") + element.get("points", "") for element in svg.iter()]
    assert not any("nan" in path for path in paths)
    assert len([1 for element in svg.iter() if element.get("class") == "fault"]) == 4, "one in each panel"


# --- faults, gauges, durations


@given(st.integers(0, 1000), st.floats(1, 60), st.floats(0.1, 60))
def test_faults_are_the_same_for_a_seed_and_long_enough_to_be_told(seed: int, fps: float, every_s: float) -> None:
    orders = random_faults(seed, fps=fps, seconds=600, every_s=every_s)
    assert orders == random_faults(seed, fps=fps, seconds=600, every_s=every_s)
    assert len({order.frame for order in orders}) == len(orders)
    for order, following in itertools.pairwise(orders):
        assert following.frame - order.frame > order.seconds * fps, "the one before is over"
    for order in orders:
        periods = order.seconds * fps
        assert 1 <= order.frame <= 600 * fps and order.kind in KINDS
        assert order.kind != "stall" or order.seconds > max(Patience().stall_s, 4 / fps)
        assert order.kind != "freeze" or (order.seconds > FROZEN_S and periods > FROZEN_FRAMES)
        assert order.kind != "slow" or periods > SLOW_FRAMES * SLOWED


def test_every_kind_of_fault_is_ordered_and_can_be_written_as_an_order() -> None:
    orders = random_faults(0, fps=5, seconds=3600, every_s=10)
    assert {order.kind for order in orders} == set(KINDS) and len(orders) > 100
    texts = (f"{o.kind}:{o.seconds:.3f}@{o.frame}" if o.seconds else f"{o.kind}@{o.frame}" for o in orders)
    assert len(parse_faults(",".join(texts))) == len(orders)


def test_handles_and_threads_are_counted_as_the_kernel_does(tmp_path: Path) -> None:
    before, release = read_holdings(), threading.Event()
    thread = threading.Thread(target=release.wait)
    thread.start()
    with (tmp_path / "open").open("w"):
        held = read_holdings()
        assert (held.handles, held.threads) == (before.handles + 1, before.threads + 1)
        assert settle(before, patience_s=0.1).handles == before.handles + 1, "not for ever"
        threading.Timer(0.1, release.set).start()
    assert settle(before, patience_s=20).threads == before.threads
    thread.join()
    block = np.ones(64 << 20, np.uint8)
    assert read_holdings().memory_mib > before.memory_mib + 50 and block.all()


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("5m", 300), ("1.5h", 5400), (" 1h ", 3600)])
def test_durations_are_read(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "1", "4s", "721h", "-1h", "1d", "inf s", "1e3s", "h"])
def test_what_is_no_duration_is_wrong_usage(text: str) -> None:
    with pytest.raises(click.BadParameter, match="expected 5s to 720h"):
        parse_duration(text)


# --- the command, in a process of its own

_LEAKY = """
import sys, threading
from edgeseg.runtime.cli import main
from edgeseg.runtime.sinks import SINKS, NullSink

class Leaky(NullSink):
    kept = []
    forever = threading.Event()
    def write(self, result):
        self.kept.append((bytearray(b"x" * 500_000), open("/dev/null")))
        threading.Thread(target=self.forever.wait, daemon=True).start()

SINKS["leaky"] = ("__main__:Leaky", "")
main(sys.argv[1:])
"""


@pytest.fixture
def soak(tiny_bundle: Path, tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Soaks the tiny bundle at 96x64 in `tmp_path`, with a fault every few seconds."""

    def run(*words: str, duration: str, pause: str = "1") -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", _LEAKY, "soak", str(tiny_bundle), "--duration", duration, "--pause", pause]
        source = ["--source", "synthetic://street?size=96x64&fps=10", "--threads", "1", "--json", "soak.json"]
        return subprocess.run(
            [*command, *source, *words],
            cwd=tmp_path,
            env={**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200"},
            text=True,
            capture_output=True,
            timeout=900,
        )

    return run


def check_document(folder: Path) -> None:
    """Faults were told, and neither handles nor threads grew."""
    document = json.loads((folder / "soak.json").read_text())
    assert document["schema"] == "edgeseg/soak/1"
    injected, told = Counter(document["faults_injected"]), Counter(document["faults_told"])
    del told["slow"], injected["slow"]  # a busy machine draws too slowly, and that is told as well
    assert sum(injected.values()) >= 3 and not told - injected
    assert sum((injected - told).values()) <= 1, "the last may have come too late to be told"
    assert document["left_behind"] == {"handles": 0, "threads": 0}
    assert document["trends"]["handles"]["per_hour"] == 0 and document["trends"]["threads"]["per_hour"] == 0
    assert document["frames"] > 20 and document["backend"] == "ort"
    ElementTree.parse(folder / "soak.svg")


def test_twenty_seconds_with_faults_leave_no_handle_and_no_thread(
    soak: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    done = soak("--picture", "soak.svg", "--sink", "jsonl:/dev/null", duration="20s")
    assert done.returncode == 0, done.stdout + done.stderr
    check_document(tmp_path)


@pytest.mark.heavy
@pytest.mark.timeout(900)
def test_five_minutes_with_faults_are_clean(
    soak: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    done = soak("--picture", "soak.svg", "--sink", "jsonl:/dev/null", duration="5m", pause="3")
    assert done.returncode == 0, done.stdout + done.stderr
    check_document(tmp_path)
    assert json.loads((tmp_path / "soak.json").read_text())["verdict"] == "clean"


def test_planted_leaks_are_found_and_the_document_is_there_all_the_same(
    soak: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    done = soak("--sink", "leaky", duration="6s", pause="60")
    assert done.returncode == 1, done.stdout + done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    for what in ("MiB an hour", "handles an hour", "threads an hour", "handles left behind", "threads left behind"):
        assert what in line
    assert json.loads((tmp_path / "soak.json").read_text())["verdict"] == "leak"


def test_a_source_that_is_not_live_cannot_be_soaked(
    soak: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    done = soak("--source", "synthetic://street?size=64x48&pace=none", duration="5s")
    assert done.returncode == 1 and "is not live, or has no rate; fix: soak a camera" in done.stderr
    assert "Traceback" not in done.stderr and not (tmp_path / "soak.json").exists()
