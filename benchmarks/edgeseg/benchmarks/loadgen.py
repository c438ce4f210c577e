"""Single-stream, multi-stream, offline and server as MLPerf defines them, issued by MLPerf's own LoadGen.

LoadGen decides which sample is asked for and when, and judges the outcome by its early-stopping rule; each frame's
times are taken here, since LoadGen keeps no line of its own for a part of a query. Frames come from memory unfitted:
MLPerf leaves preprocessing out, but it is part of what a user waits for, so it is inside the query.
"""

from __future__ import annotations

import json
import os
import queue
import tempfile
import threading
import time
import traceback
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import mlperf_loadgen as lg
import numpy as np

from edgeseg.benchmarks.document import LoadGen, Scenario
from edgeseg.benchmarks.loadgen_rules import PERCENTILE, STREAMS, Arrivals
from edgeseg.benchmarks.segment import Segmenter, Times
from edgeseg.benchmarks.statistics import Samples

_SCENARIO = {"single-stream": "SingleStream", "multi-stream": "MultiStream", "offline": "Offline", "server": "Server"}
_RATE = {"offline": "result_samples_per_second", "server": "result_completed_samples_per_sec"}


@dataclass
class Issued:
    """What was timed."""

    times: list[Times] = field(default_factory=list)
    query_ms: list[float] = field(default_factory=list)
    response_ms: list[float] = field(default_factory=list)
    seconds: float = 0.0
    """From the first query's issue to the last one's completion."""

    def lines(self) -> dict[str, Samples]:
        """Return the lines by their fields; queries only where they hold several frames."""
        lines = {
            "inference_ms": np.array([t.inference_ms for t in self.times], np.float32),
            "whole_path_ms": np.array([t.whole_path_ms for t in self.times], np.float32),
        }
        backend_ms = [t.backend_ms for t in self.times if t.backend_ms is not None]
        if len(backend_ms) == len(self.times):
            lines["backend_ms"] = np.array(backend_ms, np.float32)
        for name, times_ms in (("query_ms", self.query_ms), ("response_ms", self.response_ms)):
            if times_ms:
                lines[name] = np.array(times_ms, np.float32)
        return lines


def run_loadgen(
    scenario: Scenario, segmenter: Segmenter, *, expected_ms: float, duration_s: float, arrivals: Arrivals
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
    server = _Server(segmenter, issued) if scenario == "server" else None
    sut = lg.ConstructSUT(server.issue if server is not None else issue, lambda: None)
    qsl = lg.ConstructQSL(count, count, lambda _: None, lambda _: None)
    with tempfile.TemporaryDirectory(prefix="edgeseg-loadgen-") as folder:
        lg.StartTestWithLogSettings(sut, qsl, _settings(scenario, expected_ms, duration_s, arrivals), _logs(folder))
        verdict = _read_verdict(scenario, Path(folder) / "mlperf_log_detail.txt")
    lg.DestroyQSL(qsl)
    lg.DestroySUT(sut)
    return issued, verdict


class _Server:
    """Segments in a thread of its own what arrives at random moments, first come, first served."""

    def __init__(self, segmenter: Segmenter, issued: Issued) -> None:
        self._segmenter, self._issued = segmenter, issued
        self._arrived: queue.SimpleQueue[tuple[Any, int]] = queue.SimpleQueue()
        self._began_ns: int | None = None
        # A daemon: the process ends with LoadGen's work, and nothing arrives any more then.
        threading.Thread(target=self._serve, name="edgeseg-server", daemon=True).start()

    def issue(self, queries: list[Any]) -> None:
        """Take what arrives, at once."""
        now_ns = time.perf_counter_ns()
        for query in queries:
            self._arrived.put((query, now_ns))

    def _serve(self) -> None:
        try:
            while True:
                query, arrived_ns = self._arrived.get()
                times = self._segmenter.segment(query.index)[1]
                ended_ns = time.perf_counter_ns()
                self._began_ns = self._began_ns or arrived_ns
                self._issued.times.append(times)
                self._issued.response_ms.append((ended_ns - arrived_ns) / 1e6)
                self._issued.seconds = (ended_ns - self._began_ns) / 1e9
                lg.QuerySamplesComplete([lg.QuerySampleResponse(query.id, 0, 0)])
        except BaseException:
            # LoadGen would wait for the answer for ever.
            traceback.print_exc()
            os._exit(1)


def _settings(scenario: Scenario, expected_ms: float, duration_s: float, arrivals: Arrivals) -> Any:
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
    settings.server_target_qps = arrivals.rate
    settings.server_target_latency_ns = round(arrivals.bound_ms * 1e6)
    settings.server_target_latency_percentile = PERCENTILE["server"] / 100
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
        samples_per_second=found[_RATE[scenario]] if scenario in _RATE else None,
    )
