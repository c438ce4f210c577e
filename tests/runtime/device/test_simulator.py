"""The backend on a simulated GPU, and the simulator on a backend with mistakes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.runtime.device import prepare
from tests.runtime.device.conftest import VERSIONS
from tests.runtime.device.drill import run_drill
from tests.runtime.device.mistakes import MISTAKES, Mistake
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


@pytest.mark.parametrize("version", VERSIONS)
def test_a_sound_backend_has_no_problems(sim: Simulator, tiny_bundle: Path, version: str) -> None:
    assert run_drill(sim, open_bundle(tiny_bundle), version) == []


@pytest.fixture(scope="session")
def reports(simulator_library: Path, tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """What the drill says of each mistake."""
    folder = tmp_path_factory.mktemp("reports")
    command = [sys.executable, "-W", "ignore", "-m", "tests.runtime.device.drill", str(simulator_library)]
    subprocess.run([*command, str(tiny_bundle), str(folder)], check=True, cwd=_REPOSITORY)
    return [(folder / str(number)).read_text(errors="replace") for number in range(len(MISTAKES))]


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda one: one.name)
def test_a_planted_mistake_is_caught_by_name(reports: list[str], mistake: Mistake) -> None:
    said = reports[MISTAKES.index(mistake)]
    assert mistake.caught in {line.partition(":")[0] for line in said.splitlines()}, said


_OVER_CUDA_PYTHON = """
import sys, warnings
from pathlib import Path
warnings.simplefilter("ignore")
from edgeseg.runtime.backends import cuda
from edgeseg.runtime.bundle import open_bundle
from tests.runtime.device import drill, prepare
from tests.runtime.device.simulator import Simulator
sim = Simulator(Path(sys.argv[1]))
sys.path.append(str(prepare.cuda_python_folder()))
cuda._LIBRARIES = (cuda._CudaPythonGpu,)
problems = drill.run_drill(sim, open_bundle(sys.argv[2]), "11.4.0")
print(cuda.open_gpu().library, cuda.open_gpu().name, cuda.open_gpu().capability, problems)
"""


def test_cuda_pythons_bindings_do_as_well_as_pycuda(simulator_library: Path, tiny_bundle: Path) -> None:
    if not prepare.cuda_python_folder().is_dir():
        pytest.skip("cuda-python is not there: python tests/runtime/device/prepare.py bindings")
    command = [sys.executable, "-c", _OVER_CUDA_PYTHON, str(simulator_library), str(tiny_bundle)]
    done = subprocess.run(command, cwd=_REPOSITORY, capture_output=True, text=True)
    assert done.stdout.strip() == "cuda-python Simulated Orin 8.7 []", done.stderr


def _live(trt: Any, bundle: Bundle) -> None:
    gpu = open_gpu()
    with gpu.current():
        plan = build_plan(trt, bundle.model_path("fp32"), "fp32", BuildOptions()).data
    runner = PlanRunner(trt, gpu, plan, bundle.contract, "fp32")
    try:
        for _, frame, mask in bundle.golden_frames():
            for _ in range(2):
                assert np.array_equal(runner.infer(frame[None])[0], mask)
    finally:
        runner.close()
        runner.close()


@pytest.mark.parametrize("code", [OUT_OF_MEMORY, LAUNCH_FAILED, ILLEGAL_ADDRESS])
def test_a_failure_at_any_call_is_one_clear_line_and_leaves_nothing(
    sim: Simulator, trt: Any, tiny_bundle: Path, code: int
) -> None:
    bundle = open_bundle(tiny_bundle)
    before = sim.calls
    _live(trt, bundle)
    total = sim.calls - before
    assert total > 20
    for number in range(1, total + 1):
        sim.reset()
        sim.fail(code, count=number)
        try:
            _live(trt, bundle)
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
