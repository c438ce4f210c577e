"""trtexec's line names what its majors differ in, and its times become a run."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from click.testing import CliRunner, Result

from edgeseg.benchmarks.commands import bench
from edgeseg.benchmarks.document import published_schema
from edgeseg.benchmarks.errors import BenchmarkError


def run_bench(*words: str | Path) -> Result:
    return CliRunner().invoke(bench, [str(word) for word in words])


def query(compute_ms: float, latency_ms: float) -> dict[str, float]:
    """One entry as trtexec writes it."""
    return {"startH2dMs": 1.0, "endH2dMs": 1.2, "computeMs": compute_ms, "latencyMs": latency_ms}


def test_line_is_printed_for_each_major_and_names_the_graph(tiny_bundle: Path) -> None:
    result = run_bench(tiny_bundle, "--print-trtexec", "--duration", "7")
    assert result.exit_code == 0, result.output
    ten, eleven = (shlex.split(line) for line in result.output.splitlines() if not line.startswith("#"))
    for words in (ten, eleven):
        assert words[0] == "trtexec"
        assert f"--onnx={tiny_bundle.resolve() / 'model.fp32.onnx'}" in words
        assert {"--duration=7", "--exposeDMA", "--exportTimes=times.json"} <= set(words)
    assert {"--includeDataTransfers", "--noCudaGraph", "--noSpinWait"} <= set(eleven)
    assert "--stronglyTyped" in ten and "--stronglyTyped" not in eleven


def test_times_become_a_run_with_the_backend_apart(tiny_bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "times.json").write_text(json.dumps([query(2 + i / 1000, 2.5 + i / 1000) for i in range(100)]))
    out = tmp_path / "run.json"
    result = run_bench(tiny_bundle, "--import-trtexec", tmp_path / "times.json", "--json", out)
    assert result.exit_code == 0, result.output
    run = json.loads(out.read_text())
    jsonschema.validate(run, published_schema("bench"))
    assert run["backend_ms"]["p50"] == pytest.approx(2.049, abs=1e-6)
    assert run["inference_ms"]["p50"] == pytest.approx(2.549, abs=1e-6)
    assert "whole_path_ms" not in run
    assert run["timing_policy"]["generator"].startswith("trtexec")


@pytest.mark.parametrize(
    "content, told",
    [
        ([], "no query"),
        ({}, "list"),
        ([{"latencyMs": 1}], "computeMs"),
        ([query(-1, 2)], "greater"),
        ([query(2, 2)], "without data transfers"),
    ],
)
def test_file_that_is_not_of_that_kind_is_refused(tiny_bundle: Path, tmp_path: Path, content: Any, told: str) -> None:
    (tmp_path / "times.json").write_text(json.dumps(content))
    result = run_bench(tiny_bundle, "--import-trtexec", tmp_path / "times.json")
    assert isinstance(result.exception, BenchmarkError)
    assert told in str(result.exception)


def test_other_scenarios_are_wrong_usage(tiny_bundle: Path) -> None:
    assert run_bench(tiny_bundle, "--print-trtexec", "--scenario", "live").exit_code == 2
