"""The backend on a simulated GPU, and the simulator on a backend with mistakes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.runtime.device.conftest import VERSIONS
from tests.runtime.device.drill import run_drill
from tests.runtime.device.mistakes import MISTAKES, PATHS
from tests.runtime.device.simulator import ILLEGAL_ADDRESS, LAUNCH_FAILED, OUT_OF_MEMORY, Simulator

from edgeseg.runtime.backends import open_backend
from edgeseg.runtime.backends.cuda import open_gpu
from edgeseg.runtime.backends.tensorrt import PlanRunner
from edgeseg.runtime.bundle import Bundle, open_bundle
from edgeseg.runtime.engine.builder import BuildOptions, build_plan
from edgeseg.runtime.errors import BackendError
from edgeseg.runtime.pipeline import run_pipeline
from edgeseg.runtime.sinks import open_sink
from edgeseg.runtime.sources import open_source

_REPOSITORY = Path(__file__).parents[3]


@pytest.mark.parametrize("graph", [False, True], ids=["chain", "graph"])
@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.usefixtures("cuda_library")
def test_a_sound_backend_has_no_problems(sim: Simulator, tiny_bundle: Path, version: str, graph: bool) -> None:
    assert run_drill(sim, open_bundle(tiny_bundle), version, graph=graph) == []


Reports = Callable[[list[str]], dict[str, str]]


@pytest.fixture(scope="session")
def drill(simulator_library: Path, tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Reports:
    """What the drill says of mistakes, by NUMBER-PATH."""

    def run(wanted: list[str]) -> dict[str, str]:
        folder = tmp_path_factory.mktemp("reports")
        command = [sys.executable, "-W", "ignore", "-m", "tests.runtime.device.drill", str(simulator_library)]
        subprocess.run([*command, str(tiny_bundle), str(folder), *wanted], check=True, cwd=_REPOSITORY)
        return {name: (folder / name).read_text(errors="replace") for name in wanted}

    return run


def _missed(said: dict[str, str]) -> dict[str, str]:
    rules = {name: {line.partition(":")[0] for line in text.splitlines()} for name, text in said.items()}
    found = {name for name in said if rules[name] & set(MISTAKES[int(name.partition("-")[0])].caught)}
    return {f"{name} {MISTAKES[int(name.partition('-')[0])].name}": said[name] for name in said.keys() - found}


@pytest.mark.parametrize("part", range(4))
def test_planted_mistakes_are_caught_by_name(drill: Reports, part: int) -> None:
    every = [f"{number}-{one.paths[number % len(one.paths)]}" for number, one in enumerate(MISTAKES)]
    assert _missed(drill(every[part::4])) == {}


@pytest.mark.heavy
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("path", PATHS)
def test_planted_mistakes_are_caught_on_every_path(drill: Reports, path: str) -> None:
    assert _missed(drill([f"{number}-{path}" for number, one in enumerate(MISTAKES) if path in one.paths])) == {}


def test_each_path_has_its_mistakes() -> None:
    assert all(sum(path in one.paths for one in MISTAKES) >= 20 for path in PATHS)


def _live(trt: Any, bundle: Bundle, graph: bool | None = False) -> None:
    gpu = open_gpu()
    with gpu.current():
        plan = build_plan(trt, bundle.model_path("fp32"), "fp32", BuildOptions()).data
    runner = PlanRunner(trt, gpu, plan, bundle.contract, "fp32", graph=graph)
    try:
        for _, frame, mask in bundle.golden_frames():
            for _ in range(2):
                assert np.array_equal(runner.infer(frame[None])[0], mask)
    finally:
        runner.close()
        runner.close()


@pytest.mark.parametrize("graph", [False, True], ids=["chain", "graph"])
@pytest.mark.parametrize("code", [OUT_OF_MEMORY, LAUNCH_FAILED, ILLEGAL_ADDRESS])
@pytest.mark.usefixtures("cuda_library")
def test_a_failure_at_any_call_is_one_clear_line_and_leaves_nothing(
    sim: Simulator, trt: Any, tiny_bundle: Path, code: int, graph: bool
) -> None:
    bundle = open_bundle(tiny_bundle)
    open_gpu()
    before = sim.calls
    _live(trt, bundle, graph)
    total = sim.calls - before
    assert total > 20
    for number in range(1, total + 1):
        sim.reset()
        sim.fail(code, count=number)
        try:
            _live(trt, bundle, graph)
        except BackendError as error:
            assert "\n" not in str(error) and "fix: " in str(error), number
        # Without its context nothing can be given back; and what is kept then must outlive the reset.
        excused = sim.is_lost or sim.trace()[number - 1 : number] == ["cuCtxPushCurrent"]
        kept = [one for one in sim.problems() if not (excused and one.startswith("leak"))]
        assert kept == [], (number, code)


def test_memory_that_runs_out_is_named_with_its_purpose(sim: Simulator, trt: Any, tiny_bundle: Path) -> None:
    sim.configure(memory=1000)
    with pytest.raises(
        BackendError, match=r"out of memory: cannot allocate 18432 bytes for the frame .*fix: end other"
    ):
        _live(trt, open_bundle(tiny_bundle))


def test_a_machine_without_a_gpu_is_named(sim: Simulator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgeseg.runtime.backends.cuda._opened", {})
    sim.configure(devices=0)
    with pytest.raises(BackendError, match=r"GPU 0 cannot be used .*nvidia-smi"):
        open_gpu()


def test_zero_copy_is_refused_where_the_gpu_has_memory_of_its_own(
    trt: Any, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu = open_gpu()
    monkeypatch.setattr(gpu, "integrated", False)
    with pytest.raises(BackendError, match="expected an integrated GPU"):
        PlanRunner(trt, gpu, b"", open_bundle(tiny_bundle).contract, "fp32", zero_copy=True)


def _runner(trt: Any, bundle: Bundle, graph: bool | None = None, kind: type[PlanRunner] = PlanRunner) -> PlanRunner:
    gpu = open_gpu()
    with gpu.current():
        plan = build_plan(trt, bundle.model_path("fp32"), "fp32", BuildOptions()).data
    return kind(trt, gpu, plan, bundle.contract, "fp32", graph=graph)


@pytest.mark.parametrize("graph_is", ["faster", "slower"])
@pytest.mark.usefixtures("cuda_library")
def test_warm_up_keeps_the_faster_way_to_launch(
    trt: Any, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch, graph_is: str
) -> None:
    runner, clock = _runner(trt, open_bundle(tiny_bundle)), [0.0]

    def tell() -> float:
        clock[0] += 1.0 if runner.by_graph == (graph_is == "faster") else 2.0
        return clock[0]

    monkeypatch.setattr("edgeseg.runtime.backends.tensorrt.time.perf_counter", tell)
    assert not runner.by_graph
    runner.warm_up()
    assert runner.by_graph == (graph_is == "faster") and set(runner.launch_ms) == {"plain", "graph"}
    for _, frame, mask in open_bundle(tiny_bundle).golden_frames():
        assert np.array_equal(runner.infer(frame[None])[0], mask)
    runner.close()


class _WrongInGraph(PlanRunner):
    def infer(self, frame: Any) -> Any:
        mask = super().infer(frame)
        return mask ^ 1 if self.by_graph else mask


def test_a_graph_that_gives_another_mask_is_not_used(
    trt: Any, tiny_bundle: Path, caplog: pytest.LogCaptureFixture
) -> None:
    runner = _runner(trt, open_bundle(tiny_bundle), kind=_WrongInGraph)
    runner.warm_up()
    assert not runner.by_graph and not runner.launch_ms and "gives another mask" in caplog.text
    runner.close()


def test_an_engine_that_cannot_be_in_a_graph_runs_without(
    trt: Any, tiny_bundle: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trt.fake_refuses_capture = True
    runner = _runner(trt, open_bundle(tiny_bundle))
    with caplog.at_level("INFO"):
        runner.warm_up()
    assert not runner.by_graph and "no CUDA graph: TensorRT did not run the engine: enqueueV3" in caplog.text
    runner.close()


def test_a_graph_without_cuda_python_is_named_and_not_needed(
    trt: Any, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("_recorder", None), ("can_record", False)):
        monkeypatch.setattr(open_gpu(), name, value)
    with pytest.raises(BackendError, match="a CUDA graph needs cuda-python; fix: pip install cuda-python"):
        _runner(trt, open_bundle(tiny_bundle), graph=True)
    runner = _runner(trt, open_bundle(tiny_bundle))
    runner.warm_up()
    assert not runner.by_graph and not runner.launch_ms
    runner.close()


@pytest.mark.usefixtures("trt", "cache")
def test_the_whole_pipeline_runs_on_it(device_bundle: Bundle, tmp_path: Path) -> None:
    backend = open_backend(device_bundle, backend="tensorrt")
    assert backend.name == "tensorrt" and backend.precision in ("fp16", "int8")
    source = open_source("synthetic://street?size=96x64&fps=30&seed=1&pace=none")
    sink = open_sink(f"masks:{tmp_path / 'masks'}", contract=device_bundle.contract, fps=30)
    summary = run_pipeline(source, backend, device_bundle.contract, [sink], max_frames=5)
    backend.close()
    assert summary.frames == 5 and len(list((tmp_path / "masks").iterdir())) == 5


@pytest.mark.usefixtures("trt", "cache")
def test_a_gpu_lost_while_running_ends_the_pipeline_with_one_line(sim: Simulator, device_bundle: Bundle) -> None:
    backend = open_backend(device_bundle, backend="tensorrt", precision="int8")
    backend.warm_up()
    sim.fail(LAUNCH_FAILED, call="cuEventSynchronize", count=6)
    source = open_source("synthetic://street?size=96x64&fps=30&seed=1&pace=none")
    sink = open_sink("null", contract=device_bundle.contract, fps=30)
    with pytest.raises(BackendError, match="the GPU failed: cannot wait for the GPU"):
        run_pipeline(source, backend, device_bundle.contract, [sink])
    backend.close()


@pytest.mark.usefixtures("trt", "cache")
def test_auto_is_tensorrt_where_that_is_installed(device_bundle: Bundle) -> None:
    for threads, name in ((None, "tensorrt"), (1, "ort")):
        backend = open_backend(device_bundle, threads=threads)
        assert backend.name == name
        backend.close()


@pytest.mark.usefixtures("trt", "cache")
def test_threads_are_refused(device_bundle: Bundle) -> None:
    with pytest.raises(BackendError, match="--threads with backend tensorrt"):
        open_backend(device_bundle, backend="tensorrt", precision="int8", threads=2)
