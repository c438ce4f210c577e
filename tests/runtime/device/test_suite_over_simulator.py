"""The runtime's own tests of pipeline, faults, commands and shutdown, over TensorRT on the simulated GPU.

Each runs in the shapes of API 10.3 and 11, and fails too if the backend breaks a rule of CUDA's or TensorRT's or
leaves a buffer, stream, event, context or thread behind.
"""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper
from tests.runtime import test_faults, test_pipeline, test_run_command
from tests.runtime.device.simulator import LAUNCH_FAILED, OUT_OF_MEMORY, Simulator
from tests.runtime.test_faults import no_thread_left
from tests.runtime.test_pipeline import WAIT_S, FakeSink, FakeSource
from tests.runtime.test_run_command import clip

from edgeseg.runtime.backends.cuda import open_gpu
from edgeseg.runtime.backends.tensorrt import PlanRunner
from edgeseg.runtime.contract import Contract
from edgeseg.runtime.engine.builder import BuildOptions, build_plan
from edgeseg.runtime.errors import BackendError
from edgeseg.runtime.frame import Frame, Image, Mask
from edgeseg.runtime.pipeline import Limits, run_pipeline

__all__ = ["clip", "no_thread_left"]

_COMMAND_TESTS = (
    "test_a_signal_finishes_the_sinks_and_ends_with_a_summary_and_status_0",
    "test_a_sink_that_fails_in_a_live_run_is_told_at_once_and_at_the_end",
    "test_synthetic_street_is_scored_against_its_truth",
)
"""Those that neither name another backend nor count lines: building an engine is a line of its own."""


_END_S = 3.0
"""How soon a failed run must have ended: the GPU that is simulated computes on the same cores."""


def _plays(test: Any) -> bool:
    """Whether a test of faults takes a camera through `Scene.play`, which is the pipeline here."""
    return "play" in getattr(getattr(test, "__code__", None), "co_names", ())


_FOUND = {
    **{name: test for name, test in vars(test_pipeline).items() if name.startswith("test_")},
    **{name: test for name, test in vars(test_faults).items() if name.startswith("test_") and _plays(test)},
    **{name: getattr(test_run_command, name) for name in _COMMAND_TESTS},
}
globals().update(_FOUND)


def test_what_is_collected_here_is_what_the_runtime_has() -> None:
    origins = Counter(test.__module__.rpartition(".")[2] for test in _FOUND.values())
    assert origins["test_pipeline"] >= 30 and origins["test_faults"] >= 2
    assert origins["test_run_command"] == len(_COMMAND_TESTS)


def _blue_model(contract: Contract) -> bytes:
    """An ONNX graph that gives a pixel's blue level as its class, as the pipeline's tests expect of their backend."""
    height, width = contract.size_hw
    numbers = {"first": 0, "second": 1, "channels": 3}
    graph = helper.make_graph(
        [
            helper.make_node("Slice", ["frame", "first", "second", "channels"], ["blue"]),
            helper.make_node("Squeeze", ["blue", "channels"], ["mask"]),
        ],
        "blue",
        [helper.make_tensor_value_info("frame", TensorProto.UINT8, [1, height, width, 3])],
        [helper.make_tensor_value_info("mask", TensorProto.UINT8, [1, height, width])],
        [helper.make_tensor(name, TensorProto.INT64, [1], [number]) for name, number in numbers.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


BackendMaker = Callable[..., Any]


@pytest.fixture
def make_backend(trt: Any, tiny_contract: Contract, tmp_path: Path) -> Iterator[BackendMaker]:
    """Make what the pipeline's tests call `FakeBackend`, of a real backend on the simulated GPU; closed at the end."""
    path = tmp_path / "blue.onnx"
    path.write_bytes(_blue_model(tiny_contract))
    gpu = open_gpu()
    with gpu.current():
        plan = build_plan(trt, path, "fp32", BuildOptions()).data
    made: list[PlanRunner] = []

    class Simulated:
        name, precision = "tensorrt", "fp32"

        def __init__(
            self, *, before_infer: Callable[[int], None] = lambda index: None, graph: bool | None = None
        ) -> None:
            self.before_infer, self.calls, self.warmed = before_infer, 0, 0
            self.runner = PlanRunner(trt, gpu, plan, tiny_contract, "fp32", graph=graph)
            made.append(self.runner)

        def infer(self, frame: Image) -> Mask:
            self.before_infer(self.calls)
            self.calls += 1
            return self.runner.infer(frame)

        def warm_up(self) -> None:
            self.warmed += 1
            self.runner.warm_up()

        def close(self) -> None:
            self.runner.close()

    yield Simulated
    for runner in made:
        runner.close()


@pytest.fixture(autouse=True)
def _simulated(
    make_backend: BackendMaker,
    trt: Any,
    cache: Path,
    simulator_library: Path,
    tiny_contract: Contract,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Put the simulated device where the tests have their fakes, or let `auto` choose."""
    monkeypatch.setattr(test_pipeline, "FakeBackend", make_backend)
    monkeypatch.setattr(test_pipeline, "END_S", _END_S)

    def play(scene: test_faults.Scene) -> list[Frame]:
        sink = FakeSink()
        run_pipeline(scene.source, make_backend(), tiny_contract, [sink])
        return [result.frame for result in sink.results]

    monkeypatch.setattr(test_faults.Scene, "play", play)
    popen = subprocess.Popen

    def popen_simulated(command: list[str], **options: Any) -> subprocess.Popen[str]:
        if command[:3] == [sys.executable, "-m", "edgeseg.runtime"]:
            module = ["-W", "ignore", "-m", "tests.runtime.device.simulated", str(simulator_library), trt.__version__]
            command = [sys.executable, *module, *command[3:]]
        return popen(command, **options)

    monkeypatch.setattr(subprocess, "Popen", popen_simulated)


def test_the_command_chooses_tensorrt_and_builds_once(tiny_bundle: Path, clip: Path, trt: Any, tmp_path: Path) -> None:
    for _ in range(2):
        document = tmp_path / "run.json"
        done = test_run_command._run(tiny_bundle, "--source", clip, "--json", document)
        assert done.exit_code == 0, done.output
        assert '"backend": "tensorrt"' in document.read_text()
    assert len(trt.fake_built) == 2, "the pipeline's graph and the bundle's"


def test_faults_of_the_camera_are_survived_on_tensorrt(tiny_bundle: Path, tmp_path: Path) -> None:
    source, orders = "synthetic://street?size=96x64&fps=50", "corrupt@3,disconnect:0.2@8,resize@14"
    arguments = ("--fault", orders, "--max-frames", "40", "--json", tmp_path / "run.json")
    done = test_run_command._run(tiny_bundle, "--source", source, *arguments)
    assert done.exit_code == 0, done.output
    told = [fault["kind"] for fault in json.loads((tmp_path / "run.json").read_text())["faults"]]
    assert {"corrupt", "disconnect", "resize"} <= set(told)


@pytest.mark.parametrize("live", [False, True])
@pytest.mark.parametrize(
    ("code", "call", "graph", "said"),
    [
        (OUT_OF_MEMORY, "launch", False, "TensorRT did not run the engine"),
        (LAUNCH_FAILED, "cuEventSynchronize", False, "the GPU failed: cannot wait for the GPU"),
        (LAUNCH_FAILED, "cuMemcpyHtoDAsync", False, "the GPU failed: cannot copy to the GPU"),
        (LAUNCH_FAILED, "cuGraphLaunch", True, "the GPU failed: cannot launch"),
    ],
)
def test_a_gpu_that_fails_midway_ends_the_run_in_time_with_what_it_had_done(
    sim: Simulator,
    make_backend: BackendMaker,
    tiny_contract: Contract,
    code: int,
    call: str,
    graph: bool,
    said: str,
    live: bool,
) -> None:
    fails_at = 0 if live else 3  # a live source may give no second frame in time

    def before_infer(index: int) -> None:
        if index == fails_at:
            sim.fail(code, call=call, count=1)

    sink, source = FakeSink(), FakeSource(100, live=live)
    backend = make_backend(before_infer=before_infer, graph=graph)
    with pytest.raises(BackendError, match=f"^inference stage: .*{said}"):
        run_pipeline(source, backend, tiny_contract, [sink])
    assert sink.closes == 1 and source.closed.is_set()
    assert sink.ids == list(range(fails_at))
    if code == OUT_OF_MEMORY:
        sim.fail(0, count=0)


def test_an_engine_that_never_ends_is_told_with_its_frame_and_is_left_behind(
    trt: Any, make_backend: BackendMaker, tiny_contract: Contract, caplog: pytest.LogCaptureFixture
) -> None:
    release = threading.Event()

    def before_infer(index: int) -> None:
        if index == 2:
            trt.fake_before_run = lambda: release.wait(WAIT_S) and None

    backend = make_backend(before_infer=before_infer)
    with pytest.raises(BackendError, match=r"^inference stage: frame 2 has been in the backend for more than 0\.3 s;"):
        run_pipeline(FakeSource(100), backend, tiny_contract, [FakeSink()], limits=Limits(inference_s=0.3))
    with caplog.at_level(logging.WARNING):
        backend.close()
    assert "an inference still runs" in caplog.text
    trt.fake_before_run = None
    test_pipeline._let_go(release)
