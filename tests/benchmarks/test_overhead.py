"""What the pipeline adds, and what the frame path writes."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import cv2
import jsonschema
import numpy as np
import numpy.typing as npt
import pytest
from click.testing import CliRunner

from edgeseg.benchmarks.contest import LEAST_ROUNDS, Contest, Side
from edgeseg.benchmarks.copies import FRAMES, copies, count_copies
from edgeseg.benchmarks.document import Line, published_schema
from edgeseg.benchmarks.errors import BenchmarkError
from edgeseg.benchmarks.overhead import find_figures, overhead
from edgeseg.benchmarks.overhead_worker import PacedFrames
from edgeseg.runtime.backends import open_backend
from edgeseg.runtime.bundle import open_bundle
from edgeseg.runtime.frame import Frame, Image, Mask, Result
from edgeseg.runtime.pipeline import run_pipeline


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A folder of pictures, 128x96."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for index in range(FRAMES):
        assert cv2.imwrite(str(folder / f"{index}.png"), np.full((96, 128, 3), 40 * index, np.uint8))
    return folder


def make_contest(period_ms: float = 20.0, **sides_ms: npt.NDArray[np.float32]) -> Contest:
    """A contest whose sides took these times, (rounds, K) each."""
    facts = {"period_ms": period_ms}
    return Contest(
        schema="edgeseg/contest/1",
        about="overhead",
        started="2026-01-01T00:00:00+00:00",
        sides={
            name.replace("_", " "): Side(
                what="w", facts=facts, frame_ms=Line.of("whole_path_ms", times_ms.astype(np.float32).ravel())
            )
            for name, times_ms in sides_ms.items()
        },
        ratios=(),
        rounds=LEAST_ROUNDS,
        timing_policy={"duration_s": 4, "source": "s", "warm_up": "w", "clock": "c", "generator": "g"},
        environment={},
        surroundings={"before": {}, "after": {}},
    )


def times(median_ms: float, count: int = 20) -> npt.NDArray[np.float32]:
    spread = np.linspace(0.9, 1.1, 2 * count + 1)[1::2]
    return (median_ms * np.tile(spread, (LEAST_ROUNDS, 1))).astype(np.float32)


def test_figures_follow_from_the_sides() -> None:
    means = {"bare_loop": times(10, 1), "file": times(12.5, 1)}
    sides = {"bare": times(10), "paced": times(11), "live": times(12), **means}
    found = find_figures(make_contest(20.0, **sides))
    assert found["overhead_ms"].value == pytest.approx(2, abs=0.2)
    assert found["own_ms"].value == pytest.approx(1, abs=0.2)
    assert found["load"].value == pytest.approx(0.5, abs=0.01)
    assert found["age_p99_over_bare_p50"].value == pytest.approx(1.32, abs=0.02)
    assert found["throughput"].value == pytest.approx(0.8, abs=1e-3)
    assert all(figure.low <= figure.value <= figure.high for figure in found.values())


def test_a_machine_that_is_slow_for_a_while_changes_no_difference() -> None:
    means = {"bare_loop": times(10, 1), "file": times(12.5, 1)}
    sides = {"bare": times(10), "paced": times(11), "live": times(12), **means}
    slow = np.ones((LEAST_ROUNDS, 1), np.float32)
    slow[4:13] = 1.5
    sides = {name: side * slow for name, side in sides.items()}
    sides["live"][4] /= 1.5  # a spell that began between two sides' turns
    found = find_figures(make_contest(20.0, **sides))
    assert 1.9 < found["overhead_ms"].value <= 3 and found["overhead_ms"].high < 3.5
    assert found["throughput"].value == pytest.approx(0.8, abs=1e-3)


def test_age_means_nothing_where_frames_must_wait() -> None:
    sides = {"bare": times(10), "paced": times(10), "live": times(30), "bare_loop": times(10, 1), "file": times(10, 1)}
    assert "age_p99_over_bare_p50" in find_figures(make_contest(period_ms=12.6, **sides))
    assert "age_p99_over_bare_p50" not in find_figures(make_contest(period_ms=12.0, **sides))


def test_overhead_measures_five_sides_of_a_real_bundle(tiny_bundle: Path, tmp_path: Path) -> None:
    path = tmp_path / "overhead.json"
    words = [str(tiny_bundle), "--threads", "1", "--duration", "0.1", "--json", str(path)]
    result = CliRunner().invoke(overhead, words)
    assert result.exit_code == 0, result.output
    document = json.loads(path.read_text())
    jsonschema.validate(document, published_schema("contest"))
    assert set(document["sides"]) == {"bare", "paced", "live", "bare loop", "file"}
    pairs = {("live", "bare"), ("live", "paced"), ("file", "bare loop")}
    assert {(ratio["of"], ratio["over"]) for ratio in document["ratios"]} == pairs
    assert document["figures"]["overhead_ms"]["value"] > 0
    assert document["sides"]["bare"]["frame_ms"]["count"] == 6 * document["rounds"]


def test_paced_frames_are_never_early_and_end_when_closed() -> None:
    source = PacedFrames([np.zeros((4, 4, 3), np.uint8)], 0.01)
    began_s = time.monotonic()
    frames = [source.read() for _ in range(4)]
    assert time.monotonic() - began_s >= 0.03 - 1e-3
    assert [frame.id for frame in frames if frame] == [0, 1, 2, 3]
    source.close()
    assert source.read() is None


def stage(found: dict[str, Any], name: str) -> dict[str, Any]:
    chosen: dict[str, Any] = next(stage for stage in found["stages"] if stage["stage"] == name)
    return chosen


def test_each_stage_writes_what_it_hands_on_at_least(tiny_bundle: Path, pictures: Path) -> None:
    found = count_copies(str(tiny_bundle), str(pictures))
    assert [stage["stage"] for stage in found["stages"]] == ["capture", "fit", "inference", "unfit"]
    assert stage(found, "capture")["least_bytes"] == stage(found, "unfit")["least_bytes"] * 3 == 96 * 128 * 3
    assert stage(found, "fit")["least_bytes"] == stage(found, "inference")["least_bytes"] * 3 == 64 * 96 * 3
    assert all(stage["bytes"] >= stage["least_bytes"] for stage in found["stages"])
    assert found["bytes"] == sum(stage["bytes"] for stage in found["stages"])
    assert found["ratio"] == pytest.approx(found["bytes"] / found["least_bytes"], abs=1e-3)


def test_a_copy_more_is_counted(tiny_bundle: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = stage(count_copies(str(tiny_bundle), str(pictures)), "unfit")["bytes"]
    from edgeseg.runtime.contract import Fitter

    unfit = Fitter.unfit

    def wasteful(self: Fitter, mask: Mask) -> Mask:
        whole = unfit(self, mask)
        return whole.copy()

    monkeypatch.setattr(Fitter, "unfit", wasteful)
    after = stage(count_copies(str(tiny_bundle), str(pictures)), "unfit")["bytes"]
    assert after - before == pytest.approx(96 * 128, abs=1024)


def test_copies_refuses_a_source_that_ends(tiny_bundle: Path, pictures: Path) -> None:
    (pictures / "0.png").unlink()
    with pytest.raises(BenchmarkError, match="the source ended"):
        count_copies(str(tiny_bundle), str(pictures))


def test_copies_prints_and_writes_its_figures(tiny_bundle: Path, pictures: Path, tmp_path: Path) -> None:
    words = [str(tiny_bundle), "--source", str(pictures), "--json", str(tmp_path / "copies.json")]
    result = CliRunner().invoke(copies, words)
    assert result.exit_code == 0, result.output
    document = json.loads((tmp_path / "copies.json").read_text())
    assert document["schema"] == "edgeseg/copies/1"
    assert f"{document['bytes']} bytes a frame" in result.output


class Pictures(PacedFrames):
    """Paced frames that remember what they gave."""

    def __init__(self, frames: list[Image]) -> None:
        super().__init__(frames, 0.01)
        self.given: dict[int, Frame] = {}

    def read(self) -> Frame | None:
        frame = super().read()
        if frame is not None:
            self.given[frame.id] = frame
        return frame


class Kept:
    """A sink that keeps every result."""

    spec = "kept"

    def __init__(self) -> None:
        self.results: list[Result] = []

    def write(self, result: Result) -> None:
        self.results.append(result)

    def close(self) -> None:
        pass


def test_the_pipeline_hands_pictures_over_as_they_are(tiny_bundle: Path) -> None:
    source, sinks = Pictures([np.zeros((96, 128, 3), np.uint8)]), [Kept(), Kept()]
    with open_bundle(str(tiny_bundle)) as bundle:
        backend = open_backend(bundle, backend="ort", threads=1)
        run_pipeline(source, backend, bundle.contract, sinks, max_frames=3)
    for sink in sinks:
        assert sink.results
        for result in sink.results:
            assert np.shares_memory(result.frame.image_bgr, source.given[result.frame.id].image_bgr)
    by_id = [{result.frame.id: result.mask for result in sink.results} for sink in sinks]
    for shared in set(by_id[0]) & set(by_id[1]):
        assert by_id[0][shared] is by_id[1][shared]
