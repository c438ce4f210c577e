"""`edgeseg scaling` measures how time and memory grow, and can be resumed."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st

from edgeseg.benchmarks.errors import BenchmarkError
from edgeseg.benchmarks.predict.graph import read_work
from edgeseg.benchmarks.scaling import axes, video
from edgeseg.benchmarks.scaling.axes import AXES, Settings, count_steps, measure_cameras
from edgeseg.benchmarks.scaling.command import scaling
from edgeseg.benchmarks.scaling.document import Axis, Point, read_scaling
from edgeseg.benchmarks.scaling.fit import fit_exponent, student_quantile
from edgeseg.benchmarks.scaling.network import Network, write_network
from edgeseg.runtime.backends import open_backend
from edgeseg.runtime.bundle import open_bundle


def run_scaling(*words: str | Path) -> Result:
    return CliRunner().invoke(scaling, [str(word) for word in words])


@given(st.floats(-2, 3), st.floats(0.01, 100), st.integers(5, 12))
def test_exact_power_is_found_exactly(exponent: float, level: float, count: int) -> None:
    x = np.geomspace(1, 50, count)
    found = fit_exponent(list(x), list(level * x**exponent))
    assert found is not None
    assert found.value == pytest.approx(exponent, abs=1e-6)
    assert found.high - found.low < 1e-5


@given(st.floats(0.1, 1000), st.floats(0.1, 1000))
def test_units_do_not_change_an_exponent(of_x: float, of_y: float) -> None:
    x, y = np.array([1.0, 2, 3, 5, 8]), np.array([2.0, 5, 6, 12, 15])
    before, after = fit_exponent(list(x), list(y)), fit_exponent(list(of_x * x), list(of_y * y))
    assert before is not None and after is not None
    assert (after.value, after.low, after.high) == pytest.approx((before.value, before.low, before.high), abs=1e-6)


def test_interval_holds_the_truth_as_often_as_it_says() -> None:
    random, x = np.random.default_rng(0), np.array([1.0, 2, 4, 8, 16, 32])
    held = 0
    for _ in range(1000):
        found = fit_exponent(list(x), list(x**1.5 * np.exp(random.normal(0, 0.2, x.size))))
        assert found is not None
        held += found.low <= 1.5 <= found.high
    assert 930 <= held <= 970


@pytest.mark.parametrize("freedom, exact", [(3, 3.1824), (4, 2.7764), (6, 2.4469), (10, 2.2281), (30, 2.0423)])
def test_student_s_quantile_is_that_of_the_tables(freedom: int, exact: float) -> None:
    assert student_quantile(0.975, freedom) == pytest.approx(exact, rel=0.01)


@pytest.mark.parametrize("x, y", [([1, 2, 3, 4], [1, 2, 3, 4]), ([2] * 6, [1] * 6), ([1, 2, 3, 4, 5], [1, 2, 0, 4, 5])])
def test_what_cannot_be_fitted_has_no_exponent(x: list[float], y: list[float]) -> None:
    assert fit_exponent(x, y) is None


def test_network_is_a_bundle_of_the_work_that_it_says(tmp_path: Path) -> None:
    network = Network(height=64, width=96, channels=4)
    with open_bundle(write_network(network, tmp_path / "network")) as bundle:
        backend = open_backend(bundle, backend="ort", precision="fp32", threads=1)
        mask = backend.infer(np.random.default_rng(0).integers(0, 256, (1, 64, 96, 3)).astype(np.uint8))
        backend.close()
        assert read_work(bundle.model_path("fp32")).macs == network.macs
    assert mask.shape == (1, 64, 96) and mask.max() < 11 and len(np.unique(mask)) > 1


@pytest.fixture
def small_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Inputs that take no time, and of which memory still tells."""
    monkeypatch.setattr(axes, "SIZES", ((128, 128), (256, 256), (512, 512)))


@pytest.mark.usefixtures("small_sizes")
def test_time_and_memory_grow_with_the_input(tmp_path: Path) -> None:
    out, html = tmp_path / "scaling.json", tmp_path / "scaling.html"
    result = run_scaling("--axis", "input-size", "--rounds", "2", "--json", out, "--html", html)
    assert result.exit_code == 0, result.output
    axis = read_scaling(out).axes["input-size"]
    assert [point.x for point in axis.points] == [side**2 / 1e3 for side in (128, 256, 512)]
    assert all(len(point.times) == 2 for point in axis.points)
    # A convolution's work is proportional to the pixels; overheads and a busy machine bend the line.
    assert axis.time_exponent is not None and 0.5 < axis.time_exponent.value < 1.7
    memory = [point.memory_mib for point in axis.points]
    assert memory[-1] is not None and memory[0] is not None and memory[-1] > memory[0] + 8
    assert memory[0] > 0  # not hidden in what importing packages left behind
    page = html.read_text()
    assert not re.search(r"<(script|link|img|iframe)\b[^>]*\b(src|href)\s*=", page)
    assert "input-size" in page and page.count("data-root-id") >= 2


def test_threads_are_measured_on_the_bundle(tiny_bundle: Path, tmp_path: Path) -> None:
    if Settings(bundle="").cores < 2:
        assert isinstance(run_scaling(tiny_bundle, "--axis", "threads").exception, BenchmarkError)
        return
    result = run_scaling(tiny_bundle, "--axis", "threads", "--rounds", "1", "--json", tmp_path / "s.json")
    assert result.exit_code == 0, result.output
    axis = read_scaling(tmp_path / "s.json").axes["threads"]
    assert axis.points[0].x == 1 and axis.points[-1].x == Settings(bundle="").cores
    assert axis.settings["bundle"] == str(tiny_bundle)


def test_cameras_share_one_process(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(axes, "CAMERAS", (1, 2))
    monkeypatch.setattr(axes, "CAMERA_FRAMES", 6)
    steps: list[int] = []

    def advance(n: int = 1) -> None:
        steps.append(n)

    axis = measure_cameras(Settings(bundle=str(tiny_bundle), rounds=1), advance)
    one, two = axis.points
    assert (one.x, two.x, sum(steps)) == (1, 2, 2)
    assert one.memory_mib is not None and two.memory_mib is not None and two.memory_mib < 2 * one.memory_mib


def test_cameras_of_a_bundle_that_is_not_there_are_one_line(tmp_path: Path) -> None:
    result = run_scaling(tmp_path / "none", "--axis", "cameras", "--rounds", "1")
    assert isinstance(result.exception, BenchmarkError)
    assert "no such bundle" in str(result.exception)


@pytest.fixture
def short_video(tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[Any]]:
    """Run some frames of a small clip, and return what was printed."""
    monkeypatch.setattr(video.write_clip, "__kwdefaults__", {"size_hw": (96, 128), "frames": 4})

    def run(frames: int, capture: pytest.CaptureFixture[str]) -> list[Any]:
        video.run_video(str(tiny_bundle), minutes=frames / 60 / video.VIDEO_FPS, shares=[0.1, 0.5, 1])
        return [json.loads(line) for line in capture.readouterr().out.splitlines()]

    return run


def test_video_goes_on_over_the_clip_s_end(
    short_video: Callable[..., list[Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    found = short_video(50, capsys)
    assert [round(point["minutes"] * 60 * video.VIDEO_FPS) for point in found] == [5, 25, 50]
    seconds = [point["seconds"] for point in found]
    assert seconds == sorted(seconds) and seconds[0] > 0
    memory = [point["memory_mib"] for point in found]
    assert memory == sorted(memory)  # the most so far


@pytest.mark.heavy
def test_an_hour_of_video_takes_no_more_memory_than_a_minute(tmp_path: Path) -> None:
    out = tmp_path / "scaling.json"
    assert run_scaling("--axis", "video-length", "--json", out).exit_code == 0
    points = read_scaling(out).axes["video-length"].points
    first, last = points[0], points[-1]
    assert (round(first.x), round(last.x)) == (1, 60)
    assert first.memory_mib is not None and last.memory_mib is not None
    assert last.memory_mib < first.memory_mib + 16


def fake_axis(calls: list[str], name: str) -> Callable[..., Axis]:
    def measure(settings: Settings, advance: Callable[..., None]) -> Axis:
        calls.append(name)
        if settings.bundle == "broken" and name == "cameras":
            raise KeyboardInterrupt
        for _ in range(count_steps(name, settings)):
            advance()
        points = [Point(x=x, times=(2 * x, 2.1 * x, 1.9 * x), memory_mib=10) for x in (1, 2, 3)]
        facts = {"what": name, "x_unit": "x", "time_what": "time", "time_unit": "ms", "memory_what": "memory"}
        return Axis.of(points, settings={"rounds": settings.rounds, "bundle": settings.bundle}, **facts)

    return measure


def test_run_that_was_cut_off_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    for name in AXES:
        monkeypatch.setitem(AXES, name, fake_axis(calls, name))
    out, order = tmp_path / "scaling.json", ("--axis", "input-size", "--axis", "cameras", "--resume")
    assert run_scaling("broken", *order, "--json", out).exit_code != 0
    assert [*read_scaling(out).axes] == ["input-size"] and calls == ["input-size", "cameras"]

    monkeypatch.setitem(AXES, "cameras", fake_axis(calls, "video-length"))
    result = run_scaling("broken", *order, "--json", out)
    assert result.exit_code == 0, result.output
    assert "input-size: kept" in result.output
    assert calls == ["input-size", "cameras", "video-length"]
    found = read_scaling(out)
    assert [*found.axes] == ["input-size", "cameras"] and found.surroundings is not None
    exponent = found.axes["cameras"].time_exponent
    assert exponent is not None and exponent.low < 1 < exponent.high
    # With three points of memory there is none.
    assert found.axes["cameras"].memory_exponent is None

    # Measured otherwise, it is measured again.
    assert run_scaling("broken", *order, "--rounds", "3", "--json", out).exit_code == 0
    assert calls[3:] == ["input-size", "video-length"]


def test_file_of_another_machine_is_not_gone_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(AXES, "cameras", fake_axis([], "cameras"))
    out = tmp_path / "scaling.json"
    assert run_scaling("street", "--axis", "cameras", "--json", out).exit_code == 0
    document = json.loads(out.read_text())
    out.write_text(json.dumps({**document, "environment": {"device": "Orin"}}))
    refused = run_scaling("street", "--axis", "cameras", "--json", out, "--resume")
    assert isinstance(refused.exception, BenchmarkError) and "another machine" in str(refused.exception)
    out.write_text("{}")
    broken = run_scaling("street", "--axis", "cameras", "--json", out, "--resume")
    assert isinstance(broken.exception, BenchmarkError) and "schema" in str(broken.exception)
    assert run_scaling("street", "--resume").exit_code == 2
