"""`--profile` tells where a run's time goes, and what each thread did when."""

from __future__ import annotations

import json
import threading
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st

from edgeseg.runtime.backends import open_backend
from edgeseg.runtime.bundle import open_bundle
from edgeseg.runtime.commands.run import run
from edgeseg.runtime.errors import EdgesegError
from edgeseg.runtime.profile import Profile
from edgeseg.runtime.profile.engine import MAX_INFERENCES, read_operators, sum_parts
from edgeseg.runtime.profile.trace import NO_FRAME, Trace

FRAMES = 6
SOURCE = f"synthetic://street?size=128x96&frames={FRAMES}&pace=none"


def run_profiled(bundle: Path, folder: Path, *words: str | Path) -> Result:
    order = [bundle, "--source", SOURCE, "--threads", "1", "--profile", folder, *words]
    return CliRunner().invoke(run, [str(word) for word in order])


@pytest.fixture(scope="module")
def profiled(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The two documents of a run over `FRAMES` frames, and what the terminal said."""
    folder = tmp_path_factory.mktemp("profile")
    sink = f"jsonl:{folder / 'private-name.jsonl'}"
    result = run_profiled(tiny_bundle, folder / "out", "--sink", sink)
    assert result.exit_code == 0, result.output
    assert sorted(path.name for path in (folder / "out").iterdir()) == ["profile.json", "trace.json"]
    found = {name: json.loads((folder / "out" / f"{name}.json").read_text()) for name in ("trace", "profile")}
    return {**found, "output": result.output}


def complete_events(trace: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Return the trace's steps by their thread's name, in their order."""
    names = {e["tid"]: e["args"]["name"] for e in trace["traceEvents"] if e["name"] == "thread_name"}
    found: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for event in trace["traceEvents"]:
        if event["ph"] == "X":
            found[names[event["tid"]]].append(event)
    return {name: sorted(events, key=lambda event: event["ts"]) for name, events in found.items()}


def test_trace_shows_every_frame_in_every_thread(profiled: dict[str, Any]) -> None:
    threads = complete_events(profiled["trace"])
    assert set(threads) == {"capture", "inference", "sink-jsonl", "engine"}
    steps = {
        "capture": ["capture", "fit", "hand over"],
        "inference": ["wait", "inference", "unfit", "hand over"],
        "sink-jsonl": ["wait", "jsonl"],
    }
    for thread, expected in steps.items():
        for frame in range(FRAMES):
            shown = [event["name"] for event in threads[thread] if event["args"].get("frame") == frame]
            assert shown == expected, thread


def test_steps_of_a_thread_never_overlap_and_begin_with_the_trace(profiled: dict[str, Any]) -> None:
    for events in complete_events(profiled["trace"]).values():
        ends = 0.0
        for event in events:
            assert event["dur"] >= 0 and event["ts"] >= ends - 1  # a microsecond of rounding
            ends = event["ts"] + event["dur"]


def test_operators_lie_within_their_frame_s_inference(profiled: dict[str, Any]) -> None:
    threads = complete_events(profiled["trace"])
    for frame in range(FRAMES):
        (whole,) = [e for e in threads["inference"] if e["name"] == "inference" and e["args"].get("frame") == frame]
        parts = [event for event in threads["engine"] if event["args"].get("frame") == frame]
        assert parts
        for part in parts:
            # Both clocks tick in microseconds, and ONNX Runtime's begins a little after the call.
            assert part["ts"] >= whole["ts"] - 5
            assert part["ts"] + part["dur"] <= whole["ts"] + whole["dur"] + 5


def test_an_arrow_leads_each_frame_from_the_camera_to_the_sink(profiled: dict[str, Any]) -> None:
    ways: dict[int, list[str]] = defaultdict(list)
    for event in profiled["trace"]["traceEvents"]:
        if event["ph"] in "stf":
            ways[event["id"]].append(event["ph"])
    assert ways == {frame: ["s", "t", "f"] for frame in range(FRAMES)}


def test_costs_leave_the_warm_up_out_and_add_up(profiled: dict[str, Any]) -> None:
    found = profiled["profile"]
    assert found["schema"] == "edgeseg/profile/1"
    assert (found["backend"], found["precision"], found["inferences"]) == ("ort", "fp32", FRAMES)
    assert {part["operator"] for part in found["operators"]} >= {"Conv", "ArgMax"}
    assert all(part["count"] == FRAMES for part in found["operators"])
    assert sum(part["share"] for part in found["operators"]) == pytest.approx(1, abs=1e-3)
    (inference,) = [step for step in found["steps"] if step["step"] == "inference"]
    assert sum(part["total_ms"] for part in found["operators"]) <= inference["total_ms"]
    assert "ui.perfetto.dev" in profiled["output"] and "Conv" in profiled["output"]


def test_paths_are_not_in_the_trace(profiled: dict[str, Any]) -> None:
    assert "private-name" not in json.dumps([profiled["trace"], profiled["profile"]])


def test_folder_with_something_else_is_refused_before_the_run(tiny_bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    result = run_profiled(tiny_bundle, tmp_path)
    assert isinstance(result.exception, EdgesegError)
    assert "thesis.tex" in str(result.exception)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_earlier_profile_is_replaced(tiny_bundle: Path, tmp_path: Path) -> None:
    for name in ("trace.json", "profile.json"):
        (tmp_path / name).write_text("old")
    assert run_profiled(tiny_bundle, tmp_path).exit_code == 0
    assert "old" not in [path.read_text() for path in tmp_path.iterdir()]


def test_engine_without_a_profiler_leaves_the_pipeline_s_own_steps(tiny_bundle: Path, tmp_path: Path) -> None:
    result = run_profiled(tiny_bundle, tmp_path, "--backend", "null")
    assert result.exit_code == 0, result.output
    assert "tells nothing of its parts" in result.output
    found = json.loads((tmp_path / "profile.json").read_text())
    assert found["parts"] == [] and {step["step"] for step in found["steps"]} >= {"capture", "fit", "unfit"}
    assert set(complete_events(json.loads((tmp_path / "trace.json").read_text()))) == {
        "capture",
        "inference",
        "sink-null",
    }


def test_long_run_is_looked_into_at_its_beginning_only(tiny_bundle: Path) -> None:
    import numpy as np

    with open_bundle(tiny_bundle) as bundle:
        backend = Profile(bundle, open_backend(bundle, threads=1), threads=1).backend
        frame = np.zeros((1, *bundle.contract.size_hw, 3), np.uint8)
        for _ in range(MAX_INFERENCES + 5):
            backend.infer(frame)
        backend.close()
    assert len(backend.began_ns) == MAX_INFERENCES
    assert {part.inference for part in backend.parts()} == set(range(MAX_INFERENCES))


def test_trace_is_cut_at_its_limit_and_says_so() -> None:
    trace = Trace(limit=3)
    for frame_id in range(5):
        trace.mark("capture", frame_id)
    assert len(trace.steps) == 3 and trace.truncated
    assert trace.document()["otherData"] == {"truncated": True}


def test_threads_that_mark_at_once_lose_nothing() -> None:
    trace, ready = Trace(), threading.Barrier(4)

    def work() -> None:
        ready.wait()
        for frame_id in range(500):
            trace.mark("step", frame_id)

    threads = [threading.Thread(target=work, name=f"edgeseg-{index}") for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {(cost.thread, cost.count) for cost in trace.costs()} == {(str(index), 500) for index in range(4)}


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 10**9)), min_size=1, max_size=30))
def test_a_thread_s_steps_fill_its_time_whatever_they_are(steps: list[tuple[str, int]]) -> None:
    clock = iter([0, *[sum(ns for _, ns in steps[: index + 1]) for index in range(len(steps))]])
    trace = Trace(now_ns=lambda: next(clock))
    for name, _ in steps:
        trace.mark(name, NO_FRAME)
    assert sum(cost.total_ms for cost in trace.costs()) == pytest.approx(sum(ns for _, ns in steps) / 1e6)


def test_operators_of_a_run_that_was_cut_off_belong_to_none() -> None:
    node = {"cat": "Node", "name": "Conv_1_kernel_time", "ts": 20, "dur": 1500, "args": {"op_name": "Conv"}}
    whole = {"cat": "Session", "name": "model_run", "ts": 10, "dur": 2000, "args": {}}
    parts = read_operators([node, whole, {**node, "ts": 4000}])
    assert [(part.name, part.operator, part.offset_ms, part.ms) for part in parts] == [("Conv_1", "Conv", 0.01, 1.5)]
    assert sum_parts(parts, skip=1) == []


def test_frames_of_several_cameras_are_not_joined_by_their_ids(tiny_bundle: Path, tmp_path: Path) -> None:
    result = run_profiled(tiny_bundle, tmp_path / "out", "--source", SOURCE + "&seed=2")
    assert result.exit_code == 0, result.output
    trace = json.loads((tmp_path / "out" / "trace.json").read_text())
    assert not [event for event in trace["traceEvents"] if event["ph"] in "stf"]
    shown = [event for event in trace["traceEvents"] if event["ph"] == "X" and event["name"] == "inference"]
    assert len(shown) == 2 * FRAMES
