"""Engines are built on their device, timed, compared, kept, and never taken from elsewhere."""

from __future__ import annotations

import importlib.util
import json
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from tests.runtime.device.simulator import Simulator

from edgeseg.runtime.backends.cuda import open_gpu
from edgeseg.runtime.backends.tensorrt import PlanRunner, TensorRTBackend
from edgeseg.runtime.bundle import Bundle, open_bundle
from edgeseg.runtime.commands.build import build
from edgeseg.runtime.engine.api import load_tensorrt
from edgeseg.runtime.engine.builder import BuildOptions, build_plan, choose_workspace
from edgeseg.runtime.engine.choice import Engines
from edgeseg.runtime.errors import BackendError

needs_rtx = pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx") is None, reason="tensorrt-rtx is not installed: pip install 'edgeseg[aot]'"
)


def _runner(trt: Any, bundle: Bundle) -> Callable[[bytes, str], PlanRunner]:
    return lambda plan, precision: PlanRunner(trt, open_gpu(), plan, bundle.contract, precision)


@pytest.mark.usefixtures("cache")
def test_fp16_and_int8_are_built_and_timed_once(trt: Any, device_bundle: Bundle) -> None:
    phases: list[str] = []
    first = Engines(trt, open_gpu(), progress=lambda phase, _: phases.append(phase)).measure(
        device_bundle, _runner(trt, device_bundle)
    )
    assert {one.precision for one in first} == {"fp16", "int8"} and all(one.right for one in first)
    assert first[0].median_ms <= first[1].median_ms
    assert "tactics" in phases and len(trt.fake_built) == 2
    assert all(strong and not flags and workspace > 0 for strong, flags, workspace in trt.fake_built)
    assert Engines(trt, open_gpu()).measure(device_bundle, _runner(trt, device_bundle)) == first
    assert len(trt.fake_built) == 2


def test_the_timing_cache_goes_on_from_build_to_build(trt: Any, device_bundle: Bundle, cache: Path) -> None:
    engines = Engines(trt, open_gpu())
    engines.plan(device_bundle, "fp16")
    (path,) = cache.glob("*.timing")
    size = path.stat().st_size
    engines.plan(device_bundle, "int8")
    assert path.stat().st_size == size + 1  # the fake adds a byte to what it is given


@pytest.mark.usefixtures("cache")
def test_a_bundle_without_device_graphs_is_built_in_fp32(trt: Any, tiny_bundle: Path) -> None:
    bundle = open_bundle(tiny_bundle)
    found = Engines(trt, open_gpu()).measure(bundle, _runner(trt, bundle))
    assert [one.precision for one in found] == ["fp32"]


class _Off(PlanRunner):
    """Gets a pixel in four wrong where the precision is int8."""

    def infer(self, frame: Any) -> Any:
        mask = super().infer(frame)
        if self.precision == "int8":
            mask[:, ::2, ::2] ^= 1
        return mask


@pytest.mark.usefixtures("cache")
def test_an_engine_that_misses_the_golden_frames_is_not_chosen(trt: Any, device_bundle: Bundle) -> None:
    found = Engines(trt, open_gpu()).measure(
        device_bundle, lambda plan, precision: _Off(trt, open_gpu(), plan, device_bundle.contract, precision)
    )
    assert [(one.precision, one.right) for one in found] == [("fp16", True), ("int8", False)]


def _spoil_bytes(path: Path, trt: Any) -> None:
    data = bytearray(path.read_bytes())
    data[-40] ^= 1
    path.write_bytes(data)


def _truncate(path: Path, trt: Any) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def _upgrade(path: Path, trt: Any) -> None:
    trt.__version__ += ".1"


@pytest.mark.parametrize(
    ("spoil", "said"), [(_spoil_bytes, "wrong tag"), (_truncate, "truncated"), (_upgrade, "was made for TensorRT")]
)
def test_a_plan_that_is_not_this_devices_is_rebuilt_and_never_loaded(
    trt: Any,
    device_bundle: Bundle,
    cache: Path,
    caplog: pytest.LogCaptureFixture,
    spoil: Callable[[Path, Any], None],
    said: str,
) -> None:
    TensorRTBackend(device_bundle, "int8").close()
    (path,) = cache.glob("*.plan")
    version = trt.__version__
    spoil(path, trt)
    with caplog.at_level(logging.INFO):
        Engines(trt, open_gpu()).plan(device_bundle, "int8")
    assert said in caplog.text and len(trt.fake_built) == 2
    trt.__version__ = version
    Engines(trt, open_gpu()).plan(device_bundle, "int8", rebuild=True)
    TensorRTBackend(device_bundle, "int8").close()  # the simulator has seen no plan that it did not make


@pytest.mark.usefixtures("cache")
def test_another_gpu_gets_an_engine_of_its_own(
    trt: Any, device_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    Engines(trt, open_gpu()).plan(device_bundle, "int8")
    monkeypatch.setattr(open_gpu(), "name", "Thor")
    Engines(trt, open_gpu()).plan(device_bundle, "int8")
    assert len(trt.fake_built) == 2


@pytest.mark.usefixtures("cache")
def test_little_memory_is_named_before_building(
    sim: Simulator, trt: Any, device_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    sim.configure(memory=100 << 20)
    monkeypatch.setattr(open_gpu(), "integrated", False)
    with pytest.raises(BackendError, match=r"100 MiB of memory are free; expected 257 MiB .*stop the live service"):
        Engines(trt, open_gpu()).plan(device_bundle, "int8")
    assert trt.fake_built == []


def test_the_workspace_follows_free_memory() -> None:
    small, large = choose_workspace(1 << 30, 1 << 20), choose_workspace(8 << 30, 1 << 20)
    assert 0 < small < 1 << 30 and small < large <= 4 << 30


def test_types_are_left_to_tensorrt_where_it_refuses_a_strongly_typed_network(
    trt: Any, device_bundle: Bundle, caplog: pytest.LogCaptureFixture
) -> None:
    trt.fake_refuses_strong_typing = True
    gpu = open_gpu()

    def compile_int8() -> Any:
        with gpu.current():
            return build_plan(trt, device_bundle.model_path("int8"), "int8", BuildOptions())

    if hasattr(trt.BuilderFlag, "FP16"):
        assert not compile_int8().strongly_typed
        assert trt.fake_built == [(False, {"FP16", "INT8"}, 0)]
        assert "TensorRT chooses the types" in caplog.text
    else:
        with pytest.raises(BackendError, match=r"rejects model\.int8\.onnx: strong typing"):
            compile_int8()


@pytest.mark.usefixtures("trt", "cache")
def test_the_command_keeps_the_fastest_and_says_so(device_bundle: Bundle, tmp_path: Path) -> None:
    report = tmp_path / "engines.json"
    done = CliRunner().invoke(build, [str(device_bundle.path), "--json", str(report)], catch_exceptions=False)
    assert done.exit_code == 0 and "kept" in done.output and "building: tactics" in done.stderr
    document = json.loads(report.read_text())
    assert document["schema"] == "edgeseg/build/1" and document["precision"] in ("fp16", "int8")
    assert document["engines"][0]["precision"] == document["precision"]


def test_a_missing_tensorrt_is_named_with_its_fix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(BackendError, match=r"tensorrt cannot be loaded .*python3-libnvinfer"):
        load_tensorrt()


def test_an_old_tensorrt_is_named(trt: Any) -> None:
    trt.__version__ = "8.6.2"
    with pytest.raises(BackendError, match=r"TensorRT 8\.6\.2; expected 10\.3 or newer"):
        load_tensorrt()


@needs_rtx
def test_the_same_builder_drives_nvidias_compiler_without_a_gpu(tiny_bundle: Path) -> None:
    trt, seen = load_tensorrt("tensorrt_rtx"), list[tuple[str, float]]()
    model = open_bundle(tiny_bundle).model_path("fp32")
    options = BuildOptions(workspace_bytes=256 << 20, target="sm86")
    plan = build_plan(trt, model, "fp32", options, progress=lambda phase, share: seen.append((phase, share)))
    assert plan.strongly_typed and len(plan.data) > 10_000
    assert len({phase for phase, _ in seen}) > 2 and all(0 <= share <= 1 for _, share in seen)


@needs_rtx
def test_what_progress_raises_ends_the_build(tiny_bundle: Path) -> None:
    def interrupt(phase: str, share: float) -> None:
        raise KeyboardInterrupt

    trt, model = load_tensorrt("tensorrt_rtx"), open_bundle(tiny_bundle).model_path("fp32")
    with pytest.raises(KeyboardInterrupt):
        build_plan(trt, model, "fp32", BuildOptions(target="sm86"), progress=interrupt)


@needs_rtx
def test_a_graph_that_nvidias_compiler_rejects_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "bad.onnx").write_bytes(b"no graph")
    with pytest.raises(BackendError, match=r"rejects bad\.onnx: .*fix: edgeseg check") as raised:
        build_plan(load_tensorrt("tensorrt_rtx"), tmp_path / "bad.onnx", "fp32", BuildOptions(target="sm86"))
    assert "\n" not in str(raised.value)


def test_masks_are_the_callers_after_close(trt: Any, tiny_bundle: Path) -> None:
    bundle = open_bundle(tiny_bundle)
    with open_gpu().current():
        plan = build_plan(trt, bundle.model_path("fp32"), "fp32", BuildOptions()).data
    runner = _runner(trt, bundle)(plan, "fp32")
    ((_, frame, mask),) = bundle.golden_frames()
    kept = runner.infer(frame[None])
    runner.close()
    assert np.array_equal(kept[0], mask)
