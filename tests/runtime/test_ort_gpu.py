"""ONNX Runtime's providers for NVIDIA GPUs, on a fake that has them: they run all of a graph, or say why not."""

from __future__ import annotations

import shutil
import stat
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from edgeseg.runtime.backends import open_backend, ort_gpu
from edgeseg.runtime.backends.options import BackendOptions
from edgeseg.runtime.bundle import Bundle, open_bundle, write_bundle
from edgeseg.runtime.errors import BackendError
from edgeseg.runtime.manifest import Golden

CUDA, TENSORRT, RTX = "CUDAExecutionProvider", "TensorrtExecutionProvider", "NvTensorRTRTXExecutionProvider"


class FakeRuntime:
    """An onnxruntime with providers for a GPU, which computes on the CPU and remembers what it was asked for."""

    __version__ = "1.32.0"

    def __init__(self) -> None:
        self.available = [TENSORRT, CUDA, "CPUExecutionProvider"]
        self.loads = True
        self.fails_at_run: Exception | None = None
        self.asked: list[tuple[str, dict[str, str]]] = []
        self.entries: dict[str, str] = {}
        self.fallback_of_runs = True
        self.libraries: list[str] = []
        self.devices = [types.SimpleNamespace(ep_name=RTX)]
        fake = self

        class SessionOptions:
            log_severity_level = 2

            def add_session_config_entry(self, key: str, value: str) -> None:
                fake.entries[key] = value

            def add_provider_for_devices(self, devices: list[Any], options: dict[str, str]) -> None:
                fake.asked = [(devices[0].ep_name, options)]

        class InferenceSession(onnxruntime.InferenceSession):  # type: ignore[misc]
            def __init__(self, path: str, options: SessionOptions, providers: Any = ()) -> None:
                super().__init__(path, providers=["CPUExecutionProvider"])
                fake.asked = list(providers) or fake.asked
                if providers and isinstance(providers, list):
                    folder = dict(providers)[providers[0][0]].get("trt_engine_cache_path")
                    if folder:
                        (Path(folder) / "made.engine").write_bytes(b"engine")

            def get_providers(self) -> list[str]:
                loaded = [name for name, _ in fake.asked] if fake.loads else []
                return [*loaded, "CPUExecutionProvider"]

            def disable_fallback(self) -> None:
                fake.fallback_of_runs = False

            def run(self, *arguments: Any) -> Any:
                if fake.fails_at_run:
                    raise fake.fails_at_run
                return super().run(*arguments)

        self.SessionOptions, self.InferenceSession = SessionOptions, InferenceSession

    def get_available_providers(self) -> list[str]:
        return self.available

    def register_execution_provider_library(self, name: str, path: str) -> None:
        assert name not in self.libraries
        self.libraries.append(name)

    def get_ep_devices(self) -> list[Any]:
        return self.devices if self.libraries else []


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeRuntime:
    made = FakeRuntime()
    monkeypatch.setattr(ort_gpu, "ort", made)
    monkeypatch.setattr(ort_gpu, "_registered", [])
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return made


@pytest.fixture
def bundle(tiny_bundle: Path, tmp_path: Path) -> Bundle:
    """The tiny bundle with fp16 and int8 graphs as well, which compute the same."""
    source, folder = open_bundle(tiny_bundle), tmp_path / "device"
    shutil.copytree(tiny_bundle, folder)
    (folder / "manifest.json").unlink()
    for precision in ("fp16", "int8"):
        shutil.copy(folder / "model.fp32.onnx", folder / f"model.{precision}.onnx")
    stage = source.manifest.stages["fp32"]
    write_bundle(
        folder,
        name="device",
        contract=source.contract,
        stages={"fp32": stage, "fp16": stage, "int8": stage},
        golden=Golden(frames=source.manifest.golden.frames, agreement={"fp32": 1.0, "fp16": 1.0, "int8": 1.0}),
        provenance=source.manifest.provenance,
    )
    return open_bundle(folder)


@pytest.fixture
def rtx_plugin(monkeypatch: pytest.MonkeyPatch) -> None:
    plugin: Any = types.ModuleType("onnxruntime_ep_nv_tensorrt_rtx")
    plugin.get_library_path = lambda: "libonnxruntime_providers_nv_tensorrt_rtx.so"
    monkeypatch.setitem(sys.modules, plugin.__name__, plugin)


@pytest.mark.usefixtures("rtx_plugin")
@pytest.mark.parametrize(
    ("backend", "provider", "precision"),
    [("ort-cuda", CUDA, "fp16"), ("ort-tensorrt", TENSORRT, "int8"), ("ort-rtx", RTX, "int8")],
)
def test_a_provider_gives_the_golden_frames_and_nothing_falls_back(
    fake: FakeRuntime, bundle: Bundle, backend: str, provider: str, precision: str
) -> None:
    opened = open_backend(bundle, backend=backend)
    assert (opened.name, opened.precision, fake.asked[0][0]) == (backend, precision, provider)
    assert fake.entries == {"session.disable_cpu_ep_fallback": "1"} and not fake.fallback_of_runs
    opened.warm_up()
    for _, frame, mask in bundle.golden_frames():
        assert np.array_equal(opened.infer(frame[None])[0], mask)
    opened.close()
    assert all(isinstance(value, str) for _, options in fake.asked for value in options.values())


def test_tensorrt_is_told_the_precision_and_where_engines_are_kept(fake: FakeRuntime, bundle: Bundle) -> None:
    folders = set()
    for precision, fp16, int8 in (("fp32", "0", "0"), ("fp16", "1", "0"), ("int8", "1", "1")):
        open_backend(bundle, backend="ort-tensorrt", precision=precision).close()
        options = dict(fake.asked)[TENSORRT]
        assert (options["trt_fp16_enable"], options["trt_int8_enable"]) == (fp16, int8)
        assert options["trt_engine_cache_enable"] == options["trt_timing_cache_enable"] == "1"
        folders.add(Path(options["trt_engine_cache_path"]))
        assert fake.asked[1][0] == CUDA
    assert len(folders) == 3 and all(stat.S_IMODE(folder.stat().st_mode) == 0o700 for folder in folders)


def test_engines_that_others_may_have_written_are_refused(fake: FakeRuntime, bundle: Bundle) -> None:
    open_backend(bundle, backend="ort-tensorrt", precision="int8").close()
    Path(dict(fake.asked)[TENSORRT]["trt_engine_cache_path"]).chmod(0o777)
    with pytest.raises(BackendError, match=r"others may write in .* fix: remove that folder"):
        open_backend(bundle, backend="ort-tensorrt", precision="int8")


def test_a_service_loads_an_engine_that_is_there_and_builds_none(fake: FakeRuntime, bundle: Bundle) -> None:
    no_build = BackendOptions(build=False)
    with pytest.raises(BackendError, match=r"ort-tensorrt has no int8 engine of device .*fix: run once without"):
        open_backend(bundle, backend="ort-tensorrt", options=no_build)
    open_backend(bundle, backend="ort-tensorrt").close()
    assert open_backend(bundle, backend="ort-tensorrt", options=no_build).precision == "int8"


@pytest.mark.parametrize("backend", ["ort-cuda", "ort-tensorrt", "ort-rtx"])
def test_a_provider_that_is_missing_is_named_with_its_fix(
    fake: FakeRuntime, bundle: Bundle, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake.available = ["CPUExecutionProvider"]
    monkeypatch.setitem(sys.modules, "onnxruntime_ep_nv_tensorrt_rtx", None)
    with pytest.raises(BackendError, match=r"(has no .*Provider|is not installed).*; fix: pip install onnxruntime"):
        open_backend(bundle, backend=backend)


@pytest.mark.parametrize("backend", ["ort-cuda", "ort-tensorrt"])
def test_a_provider_that_cannot_be_loaded_does_not_become_the_cpu(
    fake: FakeRuntime, bundle: Bundle, backend: str
) -> None:
    fake.loads = False
    with pytest.raises(BackendError, match="cannot be loaded: onnxruntime would run on CPUExecutionProvider; fix: "):
        open_backend(bundle, backend=backend)


@pytest.mark.usefixtures("rtx_plugin")
def test_a_plugin_without_a_gpu_is_named(fake: FakeRuntime, bundle: Bundle) -> None:
    fake.devices = []
    with pytest.raises(BackendError, match=f"{RTX} finds no GPU"):
        open_backend(bundle, backend="ort-rtx")


@pytest.mark.usefixtures("rtx_plugin")
def test_the_plugin_is_registered_once(fake: FakeRuntime, bundle: Bundle) -> None:
    for _ in range(2):
        open_backend(bundle, backend="ort-rtx").close()
    assert fake.libraries == [RTX]


def test_a_run_that_fails_is_one_clear_line(fake: FakeRuntime, bundle: Bundle) -> None:
    backend = open_backend(bundle, backend="ort-cuda")
    fake.fails_at_run = RuntimeError("CUDA failure 719:\nunspecified launch failure")
    with pytest.raises(BackendError, match=r"CUDAExecutionProvider failed: CUDA failure 719: .*fix: restart"):
        backend.infer(np.zeros((1, 64, 96, 3), np.uint8))


@pytest.mark.usefixtures("fake")
@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"threads": 2}, "--threads with backend ort-cuda"),
        ({"options": BackendOptions(zero_copy=True)}, "zero-copy memory with backend ort-cuda"),
        ({"options": BackendOptions(graph=True)}, "a CUDA graph with backend ort-cuda"),
    ],
)
def test_what_it_cannot_follow_is_refused(bundle: Bundle, options: dict[str, Any], said: str) -> None:
    with pytest.raises(BackendError, match=said):
        open_backend(bundle, backend="ort-cuda", **options)


def test_the_real_onnxruntime_knows_the_names() -> None:
    assert {CUDA, TENSORRT} <= set(onnxruntime.get_all_providers())
    assert hasattr(onnxruntime, "register_execution_provider_library") and hasattr(onnxruntime, "get_ep_devices")
    assert hasattr(onnxruntime.InferenceSession, "disable_fallback")
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    assert hasattr(options, "add_provider_for_devices")
