"""A simulated GPU under the real pycuda, with a TensorRT of its own, and a bundle with graphs for a device."""

from __future__ import annotations

import gc
import shutil
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.runtime.device.fake_tensorrt import make_tensorrt
from tests.runtime.device.simulator import Simulator, compile_simulator, why_not

from edgeseg.runtime.backends import cuda
from edgeseg.runtime.bundle import Bundle, open_bundle, write_bundle
from edgeseg.runtime.manifest import Golden

VERSIONS = ("10.3.0", "11.4.0")
_opened = {"pycuda": cuda._opened}
"""Library -> the GPUs that were opened through it, as a process opens each once."""


@pytest.fixture(scope="session")
def simulator_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The stand-in libcuda, or skip with what is missing."""
    reason = why_not()
    if reason is not None:
        pytest.skip(reason)
    return compile_simulator(tmp_path_factory.mktemp("libcuda"))


@pytest.fixture(scope="session")
def _loaded(simulator_library: Path) -> Simulator:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pycuda's own, at import
        return Simulator(simulator_library)


@pytest.fixture
def sim(_loaded: Simulator) -> Iterator[Simulator]:
    """The simulator; the test fails by name of what the backend did wrong or left behind."""
    _loaded.reset()
    yield _loaded
    gc.collect()
    problems = _loaded.problems()
    lost = _loaded.is_lost
    _loaded.reset()
    assert [one for one in problems if not (lost and one.startswith("leak"))] == []


@pytest.fixture(params=list(cuda.LIBRARIES))
def cuda_library(request: pytest.FixtureRequest, sim: Simulator, monkeypatch: pytest.MonkeyPatch) -> str:
    """Either CUDA library, through which `open_gpu` gives the GPU meanwhile."""
    name: str = request.param
    if name not in _opened:
        sim.expect_retain()
    monkeypatch.setattr(cuda, "LIBRARIES", {name: cuda.LIBRARIES[name]})
    monkeypatch.setattr(cuda, "_opened", _opened.setdefault(name, {}))
    return name


@pytest.fixture(params=VERSIONS)
def trt(request: pytest.FixtureRequest, sim: Simulator, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A fake TensorRT of either API, importable as `tensorrt`."""
    made = make_tensorrt(request.param, sim)
    monkeypatch.setitem(sys.modules, "tensorrt", made)
    return made


@pytest.fixture
def device_bundle(tiny_bundle: Path, tmp_path: Path) -> Bundle:
    """The tiny bundle with fp16 and int8 graphs as well, which compute the same."""
    source, folder = open_bundle(tiny_bundle), tmp_path / "device"
    shutil.copytree(tiny_bundle, folder)
    (folder / "manifest.json").unlink()
    for precision in ("fp16", "int8"):
        shutil.copy(folder / "model.fp32.onnx", folder / f"model.{precision}.onnx")
    manifest = source.manifest
    stage = manifest.stages["fp32"]
    write_bundle(
        folder,
        name="device",
        contract=manifest.contract,
        stages={"fp32": stage, "fp16": stage, "int8": stage},
        golden=Golden(frames=manifest.golden.frames, agreement={"fp32": 1.0, "fp16": 1.0, "int8": 1.0}),
        provenance=manifest.provenance,
    )
    return open_bundle(folder)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that engines are kept in, empty."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "edgeseg" / "engines"
