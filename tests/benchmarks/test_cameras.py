"""Drawn cameras on one network: what is measured of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from edgeseg.benchmarks.cameras import cameras, find_age
from edgeseg.benchmarks.errors import BenchmarkError
from edgeseg.runtime.summary import RunSummary


def _summary(camera: str = "", *, age_ms: float | None = None, cameras: tuple[RunSummary, ...] = ()) -> RunSummary:
    figures = None if age_ms is None else {"p50": age_ms / 2, "p99": age_ms, "max": 2 * age_ms}
    return RunSummary(
        frames=10,
        drops={},
        fps=20.0,
        inference_ms={"p50": 8.0, "p99": 10.0},
        frame_age_ms=figures,
        overhead_ms=None,
        clock="synthetic",
        camera=camera,
        cameras=cameras,
    )


def test_the_worst_camera_is_held_against_the_turns_of_all() -> None:
    each = (_summary("a", age_ms=20.0), _summary("b", age_ms=27.0))
    found = find_age(_summary(age_ms=25.0, cameras=each), 2)
    assert found == {"age_p99_ms": 27.0, "bound_ms": 30.0, "ratio": 0.9, "fps": 20.0}
    with pytest.raises(BenchmarkError, match="no mask of b"):
        find_age(_summary(age_ms=25.0, cameras=(each[0], _summary("b"))), 2)


def test_cameras_are_run_and_told(tiny_bundle: Path, tmp_path: Path) -> None:
    path = tmp_path / "cameras.json"
    words = ["--cameras", "2", "--size", "96x64", "--threads", "1", "--duration", "3", "--json", str(path)]
    done = CliRunner().invoke(cameras, [str(tiny_bundle), *words])
    assert done.exit_code == 0, done.output
    document = json.loads(path.read_text())
    assert document["schema"] == "edgeseg/cameras/1" and len(document["run"]["cameras"]) == 2
    figures = document["figures"]
    assert figures["ratio"] == pytest.approx(figures["age_p99_ms"] / figures["bound_ms"], rel=0.01)
    assert "of 10 frames a second got a mask" in done.output.replace("\n", " ")
