"""`edgeseg bench` measures each scenario of a real bundle in real processes."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from click.testing import CliRunner, Result

from edgeseg.benchmarks.commands import bench
from edgeseg.benchmarks.document import LINES, SCENARIOS, Document, published_schema
from edgeseg.benchmarks.errors import BenchmarkError
from edgeseg.benchmarks.process import Subject, start_process
from edgeseg.benchmarks.reading import read_document
from edgeseg.benchmarks.versus import LEAST_ROUNDS, SLICE_FRAMES, Versus, verdict

SOURCE = "synthetic://street?size=128x96&fps=25"

LINES_OF = {
    "single-stream": {"inference_ms", "whole_path_ms"},
    "multi-stream": {"inference_ms", "whole_path_ms", "query_ms"},
    "offline": {"inference_ms", "whole_path_ms"},
    "server": {"inference_ms", "whole_path_ms", "response_ms"},
    "live": {"inference_ms", "frame_age_ms", "overhead_ms"},
    "cold": {"load_ms", "first_inference_ms", "first_mask_ms"},
}


def run_bench(*words: str | Path) -> Result:
    return CliRunner().invoke(bench, [str(word) for word in words])


@pytest.fixture(scope="module")
def runs(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Document]:
    """One run of every scenario."""
    folder = tmp_path_factory.mktemp("runs")
    found: dict[str, Document] = {}
    for scenario in SCENARIOS:
        path = folder / f"{scenario}.json"
        words: tuple[str | Path, ...] = (
            "--scenario",
            scenario,
            "--duration",
            "0.5",
            "--threads",
            "1",
            "--source",
            SOURCE,
            "--json",
            path,
        )
        if scenario == "server":
            words += ("--rate", "40")
        result = run_bench(tiny_bundle, *words)
        assert result.exit_code == 0, result.output
        jsonschema.validate(json.loads(path.read_text()), published_schema("bench"))
        found[scenario] = read_document(path)
    return found


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_scenario_gives_its_lines_and_no_other(runs: dict[str, Document], scenario: str) -> None:
    run = runs[scenario]
    assert set(run.lines) == LINES_OF[scenario]
    assert all(line.what == LINES[name] for name, line in run.lines.items())
    assert (run.scenario, run.precision, run.backend, run.threads) == (scenario, "fp32", "ort", 1)
    assert (run.input_size, run.source_size) == ((64, 96), (96, 128))


def test_server_waits_for_frames_that_arrive_at_random(runs: dict[str, Document]) -> None:
    run = runs["server"]
    assert run.response_ms is not None and run.whole_path_ms is not None and run.loadgen is not None
    assert run.response_ms.count == run.whole_path_ms.count == run.frames
    assert np.all(run.response_ms.samples_ms >= run.whole_path_ms.samples_ms)
    # Half a second at forty a second, drawn from Poisson's distribution.
    assert 5 <= run.frames <= 45
    assert run.loadgen.percentile == 99 and run.loadgen.samples_per_second is not None
    assert run.loadgen.latency_ms is not None
    # LoadGen counts from the moment that was drawn, so it has what its own thread was late.
    assert run.loadgen.latency_ms >= run.response_ms.p99 * 0.98
    assert "Poisson arrivals, 40 a second" in run.timing_policy.generator


def test_server_s_words_with_another_scenario_are_wrong_usage(tiny_bundle: Path) -> None:
    assert run_bench(tiny_bundle, "--rate", "5").exit_code == 2


@pytest.mark.parametrize("scenario", ["single-stream", "multi-stream", "offline"])
def test_every_frame_has_a_sample_on_both_lines(runs: dict[str, Document], scenario: str) -> None:
    run = runs[scenario]
    assert run.inference_ms is not None and run.whole_path_ms is not None
    assert run.inference_ms.count == run.whole_path_ms.count == run.frames
    assert np.all(run.inference_ms.samples_ms < run.whole_path_ms.samples_ms)
    assert run.fps == pytest.approx(1000 / run.whole_path_ms.samples_ms.mean(), rel=0.2)


def test_single_stream_agrees_with_loadgen_s_own_clock(runs: dict[str, Document]) -> None:
    run = runs["single-stream"]
    assert run.loadgen is not None and run.loadgen.latency_ms is not None and run.whole_path_ms is not None
    assert run.loadgen.percentile == 90
    # LoadGen's time runs from its issue to its completion, so it holds ours; Python's way between them is short.
    assert run.whole_path_ms.p90 * 0.98 <= run.loadgen.latency_ms <= run.whole_path_ms.p90 * 1.5 + 0.5


def test_multi_stream_asks_for_eight_frames_at_once(runs: dict[str, Document]) -> None:
    run = runs["multi-stream"]
    assert run.query_ms is not None and run.whole_path_ms is not None and run.loadgen is not None
    assert run.query_ms.count * 8 == run.frames
    queries = run.whole_path_ms.samples_ms.reshape(-1, 8).sum(axis=1)
    assert np.all(queries <= run.query_ms.samples_ms * 1.001)
    assert run.loadgen.percentile == 99


def test_offline_gives_a_rate(runs: dict[str, Document]) -> None:
    run = runs["offline"]
    assert run.loadgen is not None and run.loadgen.samples_per_second is not None and run.fps is not None
    assert run.loadgen.samples_per_second == pytest.approx(run.fps, rel=0.3)


def test_live_adds_frame_age_and_counts_drops(runs: dict[str, Document]) -> None:
    run = runs["live"]
    assert run.dropped is not None
    assert 1 <= run.frames <= 15  # half a second at 25 fps
    assert run.inference_ms is not None and run.frame_age_ms is not None and run.overhead_ms is not None
    apart = run.frame_age_ms.samples_ms - run.inference_ms.samples_ms
    assert run.overhead_ms.samples_ms == pytest.approx(apart, abs=1e-3)


def test_cold_starts_a_process_for_every_sample(runs: dict[str, Document]) -> None:
    run = runs["cold"]
    assert run.frames >= 6 and run.fps is None
    assert run.load_ms is not None and run.first_mask_ms is not None and run.first_inference_ms is not None
    assert np.all(run.first_mask_ms.samples_ms > run.load_ms.samples_ms + run.first_inference_ms.samples_ms)


def test_surroundings_are_told(runs: dict[str, Document]) -> None:
    for run in runs.values():
        assert run.surroundings.own_cores is not None and run.surroundings.own_cores > 0
        assert run.surroundings.other_cores is not None
        assert run.environment["cores"] >= 1


def test_live_refuses_a_source_that_is_not(tiny_bundle: Path) -> None:
    result = run_bench(tiny_bundle, "--scenario", "live", "--source", "synthetic://street?pace=none")
    assert isinstance(result.exception, BenchmarkError)
    assert "not live" in str(result.exception)


@pytest.mark.parametrize("words", [("--against", "street", "--scenario", "cold"), ("--against-precision", "fp32")])
def test_against_with_what_it_cannot_do_is_wrong_usage(tiny_bundle: Path, words: tuple[str, ...]) -> None:
    assert run_bench(tiny_bundle, *words).exit_code == 2


def subject(bundle: Path, source: str = SOURCE) -> Subject:
    return Subject(bundle=str(bundle), backend="ort", precision="fp32", threads=1, source=source)


def test_problem_in_the_process_is_told_by_its_parent(tiny_bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(BenchmarkError, match="no such bundle"), start_process(subject(tmp_path / "none")):
        pass
    with pytest.raises(BenchmarkError, match="no known scene"), start_process(subject(tiny_bundle, "synthetic://sea")):
        pass


def test_process_that_dies_is_told(tiny_bundle: Path) -> None:
    with (
        pytest.raises(BenchmarkError, match="status -9"),
        start_process(subject(tiny_bundle)) as process,
    ):
        os.kill(process.pid, signal.SIGKILL)
        process.do("segment", count=1)


@pytest.fixture(scope="module")
def versus(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    path = tmp_path_factory.mktemp("versus") / "versus.json"
    result = run_bench(
        tiny_bundle, "--against", "street", "--duration", "0.1", "--threads", "1", "--source", SOURCE, "--json", path
    )
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(path.read_text())
    jsonschema.validate(found, published_schema("versus"))
    found["output"] = result.output
    return found


def test_against_measures_both_in_turns_and_gives_the_ratio(versus: dict[str, Any]) -> None:
    output = versus.pop("output")
    found = Versus.model_validate_json(json.dumps(versus))
    assert found.rounds >= LEAST_ROUNDS
    for side in (found.a, found.b):
        assert side.inference_ms.count == side.whole_path_ms.count == found.rounds * SLICE_FRAMES
    # The tiny network is a hundred times smaller than the shipped one.
    assert found.whole_path_ratio.high < 0.5
    assert verdict(found.whole_path_ratio).startswith("A is faster")
    assert "A is faster" in output
