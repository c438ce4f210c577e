"""A service starts on what there is: engines are built elsewhere, and what is in the way is one line."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from tests.runtime.device.simulator import Simulator

from edgeseg.runtime import first_use
from edgeseg.runtime.backends import cuda, open_backend
from edgeseg.runtime.backends.cuda import open_gpu
from edgeseg.runtime.backends.options import BackendOptions
from edgeseg.runtime.backends.tensorrt import PlanRunner
from edgeseg.runtime.bundle import Bundle
from edgeseg.runtime.commands.build import build
from edgeseg.runtime.engine.choice import Engines
from edgeseg.runtime.errors import BackendError, EdgesegError

_NO_BUILD = BackendOptions(build=False)

pytestmark = pytest.mark.usefixtures("cache")


@pytest.fixture(autouse=True)
def _nothing_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(first_use, "_said", set())


def _build(trt: Any, bundle: Bundle) -> None:
    gpu = open_gpu()
    Engines(trt, gpu).measure(
        bundle, lambda plan, precision: PlanRunner(trt, gpu, plan, bundle.contract, precision, graph=False)
    )


def _opened(bundle: Bundle, **options: Any) -> tuple[str, str]:
    backend = open_backend(bundle, **options)
    backend.close()
    return backend.name, backend.precision


def test_a_service_goes_on_on_the_cpu_until_the_engine_is_made(
    trt: Any, device_bundle: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    assert [_opened(device_bundle, options=_NO_BUILD) for _ in range(2)] == [("ort", "fp32")] * 2
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1 and "device runs on the CPU: no engine of device is ready" in said[0]
    assert "edgeseg build device makes what is missing" in said[0] and trt.fake_built == []
    _build(trt, device_bundle)
    assert _opened(device_bundle, options=_NO_BUILD)[0] == "tensorrt"


def test_an_upgrade_of_tensorrt_stops_no_service(
    trt: Any, device_bundle: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    _build(trt, device_bundle)
    trt.__version__ += ".1"
    capsys.readouterr()
    assert _opened(device_bundle, options=_NO_BUILD) == ("ort", "fp32")
    assert "was made for TensorRT" in capsys.readouterr().err and len(trt.fake_built) == 2


def test_the_slower_engine_runs_where_only_that_is_ready(
    trt: Any, device_bundle: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    Engines(trt, open_gpu()).plan(device_bundle, "fp16")
    capsys.readouterr()
    assert [_opened(device_bundle, options=_NO_BUILD) for _ in range(2)] == [("tensorrt", "fp16")] * 2
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1 and "device runs its fp16 engine: there is no device-" in said[0] and "int8" in said[0]


def test_the_environment_forbids_building_too(trt: Any, device_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGESEG_BUILD", "0")
    assert _opened(device_bundle) == ("ort", "fp32") and trt.fake_built == []


@pytest.mark.usefixtures("trt")
@pytest.mark.parametrize("precision", ["auto", "int8"])
def test_a_backend_that_is_named_is_not_replaced(device_bundle: Bundle, precision: str) -> None:
    with pytest.raises(BackendError, match=r"fix: edgeseg build device"):
        open_backend(device_bundle, backend="tensorrt", precision=precision, options=_NO_BUILD)


@pytest.mark.usefixtures("trt")
def test_auto_goes_on_without_a_gpu_and_says_so(
    sim: Simulator, device_bundle: Bundle, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cuda, "_opened", {})
    sim.configure(devices=0)
    assert _opened(device_bundle) == ("ort", "fp32")
    (said,) = capsys.readouterr().err.splitlines()
    assert "device runs on the CPU: GPU 0 cannot be used" in said


def test_a_graph_that_tensorrt_refuses_leaves_the_others(
    trt: Any, device_bundle: Bundle, caplog: pytest.LogCaptureFixture
) -> None:
    trt.fake_rejects = {"model.int8.onnx"}
    with caplog.at_level(logging.WARNING):
        assert _opened(device_bundle, backend="tensorrt") == ("tensorrt", "fp16")
    assert "device goes without its int8 engine: TensorRT" in caplog.text


def _refusal_to_build(bundle: Bundle) -> str:
    error = CliRunner().invoke(build, [str(bundle.path)]).exception
    assert isinstance(error, EdgesegError) and "\n" not in str(error)
    return str(error)


@pytest.mark.usefixtures("trt")
def test_memory_that_a_live_service_holds_is_missed_before_building(
    device_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal:        7802732 kB\nMemFree:           80000 kB\nMemAvailable:     102400 kB\n")
    monkeypatch.setattr("edgeseg.runtime.engine.memory._MEMINFO", meminfo)
    said = _refusal_to_build(device_bundle)
    assert "100 MiB of memory are free; expected 257 MiB" in said and "fix: stop the live service" in said
    meminfo.write_text("MemFree:           80000 kB\nMemAvailable:    2048000 kB\n")
    assert CliRunner().invoke(build, [str(device_bundle.path)], catch_exceptions=False).exit_code == 0


@pytest.mark.usefixtures("trt")
def test_a_full_disk_is_missed_before_building(device_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgeseg.runtime.engine.cache.shutil.disk_usage", lambda _: type("Full", (), {"free": 5 << 20}))
    said = _refusal_to_build(device_bundle)
    assert "5 MiB are free at" in said and "fix: free some disk" in said


@pytest.mark.usefixtures("trt")
def test_a_machine_without_a_gpu_builds_nothing(
    sim: Simulator, device_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cuda, "_opened", {})
    sim.configure(devices=0)
    said = _refusal_to_build(device_bundle)
    assert "GPU 0 cannot be used" in said and "nvidia-smi" in said


@pytest.mark.usefixtures("trt")
def test_the_environments_options_reach_the_engine(device_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGESEG_ZERO_COPY", "1")
    monkeypatch.setenv("EDGESEG_CUDA_GRAPH", "1")
    backend = open_backend(device_bundle, backend="tensorrt", precision="fp16")
    assert isinstance(backend, PlanRunner) and backend.zero_copy and backend.by_graph
    backend.close()
