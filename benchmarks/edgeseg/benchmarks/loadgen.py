"""Single-stream, multi-stream and offline as MLPerf defines them, issued by MLPerf's own LoadGen.

LoadGen decides which sample is asked for and when, and judges the outcome by its early-stopping rule; each frame's
times are taken here, since LoadGen keeps no line of its own for a part of a query. Frames come from memory unfitted:
MLPerf leaves preprocessing out, but it is part of what a user waits for, so it is inside the query.
"""

from __future__ import annotations

import json
import tempfile
import time
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import mlperf_loadgen as lg
import numpy as np

from edgeseg.benchmarks.document import LoadGen, Scenario
from edgeseg.benchmarks.segment import Segmenter, Times
from edgeseg.benchmarks.statistics import Samples

STREAMS = 8
"""Frames in a multi-stream query, by MLPerf's edge rules."""
PERCENTILE = {"single-stream": 90.0, "multi-stream": 99.0}
"""What MLPerf's edge rules judge latency by."""
_SCENARIO = {"single-stream": "SingleStream", "multi-stream": "MultiStream", "offline": "Offline"}


@dataclass
class Issued:
    """What was timed."""

    times: list[Times] = field(default_factory=list)
    query_ms: list[float] = field(default_factory=list)
    seconds: float = 0.0
    """From the first query's issue to the last one's completion."""

    def lines(self) -> dict[str, Samples]:
        """Return the lines by their fields; queries only where they hold several frames."""
        lines = {
            "inference_ms": np.array([t.inference_ms for t in self.times], np.float32),
            "whole_path_ms": np.array([t.whole_path_ms for t in self.times], np.float32),
        }
        if self.query_ms:
            lines["query_ms"] = np.array(self.query_ms, np.float32)
        return lines


def rules(scenario: Scenario) -> str:
    """Say in words how `scenario` issues queries."""
    told = {
        "single-stream": "one frame a query, the next when it is done; edge percentile 90",
        "multi-stream": f"{STREAMS} frames a query, the next when all are done; edge percentile 99",
        "offline": "all frames in one query, segmented one after another",
    }
    return f"MLPerf LoadGen: {told[scenario]}; duration by flag, no least number of queries"


def run_loadgen(
    scenario: Scenario, segmenter: Segmenter, *, expected_ms: float, duration_s: float
) -> tuple[Issued, LoadGen]:
    """Let LoadGen issue queries for `duration_s`; `expected_ms` is about what a frame takes.

    LoadGen cannot be stopped: an exception that passes through its frames, or an exit while it runs, aborts the
    process. So this runs in a process of its own, which reports a failure of `segmenter` and ends at once.
    """
    issued = Issued()

    def issue(queries: list[Any]) -> None:
        began_ns = time.perf_counter_ns()
        for query in queries:
            issued.times.append(segmenter.segment(query.index)[1])
            if scenario == "offline":
                lg.QuerySamplesComplete([lg.QuerySampleResponse(query.id, 0, 0)])
        ended_ns = time.perf_counter_ns()
        if scenario == "multi-stream":
            issued.query_ms.append((ended_ns - began_ns) / 1e6)
        issued.seconds += (ended_ns - began_ns) / 1e9
        if scenario != "offline":
            lg.QuerySamplesComplete([lg.QuerySampleResponse(query.id, 0, 0) for query in queries])

    count = len(segmenter.frames)
    sut = lg.ConstructSUT(issue, lambda: None)
    qsl = lg.ConstructQSL(count, count, lambda _: None, lambda _: None)
    with tempfile.TemporaryDirectory(prefix="edgeseg-loadgen-") as folder:
        lg.StartTestWithLogSettings(sut, qsl, _settings(scenario, expected_ms, duration_s), _logs(folder))
        verdict = _read_verdict(scenario, Path(folder) / "mlperf_log_detail.txt")
    lg.DestroyQSL(qsl)
    lg.DestroySUT(sut)
    return issued, verdict


def _settings(scenario: Scenario, expected_ms: float, duration_s: float) -> Any:
    settings = lg.TestSettings()
    settings.scenario = getattr(lg.TestScenario, _SCENARIO[scenario])
    settings.mode = lg.TestMode.PerformanceOnly
    settings.min_duration_ms = round(duration_s * 1000)
    settings.min_query_count = 1
    expected_ns = max(1, round(expected_ms * 1e6))
    settings.single_stream_expected_latency_ns = expected_ns
    settings.multi_stream_expected_latency_ns = STREAMS * expected_ns
    settings.multi_stream_samples_per_query = STREAMS
    settings.offline_expected_qps = 1e9 / expected_ns
    return settings


def _logs(folder: str) -> Any:
    logs, output = lg.LogSettings(), lg.LogOutputSettings()
    output.outdir, output.copy_summary_to_stdout = folder, False
    logs.log_output, logs.enable_trace = output, False
    return logs


def _read_verdict(scenario: Scenario, log: Path) -> LoadGen:
    found: dict[str, Any] = {}
    for line in log.read_text(errors="replace").splitlines():
        marker, _, entry = line.partition(" ")
        if marker == ":::MLLOG":
            record = json.loads(entry)
            found[record["key"]] = record["value"]
    percent = PERCENTILE.get(scenario)
    kind = "per_query_latency_ns" if scenario == "multi-stream" else "latency_ns"
    return LoadGen(
        version=metadata.version("mlcommons-loadgen"),
        result=found["result_validity"],
        percentile=percent,
        latency_ms=None if percent is None else found[f"result_{percent:.2f}_percentile_{kind}"] / 1e6,
        samples_per_second=found["result_samples_per_second"] if scenario == "offline" else None,
    )
