"""Engines behind one protocol."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from edgeseg.runtime.backends import open_backend, run_until_steady
from edgeseg.runtime.backends.null import NullBackend
from edgeseg.runtime.backends.options import BackendOptions
from edgeseg.runtime.backends.ort import OrtBackend
from edgeseg.runtime.bundle import Bundle, open_bundle
from edgeseg.runtime.contract import Contract
from edgeseg.runtime.errors import BackendError, BundleError
from edgeseg.runtime.frame import Image


@dataclass(frozen=True)
class FakeBundle:
    """As much of a bundle as a backend looks at: one ONNX file under any precisions."""

    contract: Contract
    model: Path
    precisions: tuple[str, ...] = ("fp32",)
    name: str = "fake"

    def model_path(self, precision: str) -> Path:
        return self.model


@pytest.fixture
def bundle(tiny_bundle: Path) -> Bundle:
    return open_bundle(tiny_bundle)


@pytest.fixture
def fake(bundle: Bundle) -> FakeBundle:
    return FakeBundle(bundle.contract, bundle.model_path("fp32"))


def test_golden_frames_give_their_masks(bundle: Bundle) -> None:
    backend = open_backend(bundle)
    assert (backend.name, backend.precision) == ("ort", "fp32")
    backend.warm_up()
    for _, frame, mask in bundle.golden_frames():
        found = backend.infer(frame[None])
        assert found.dtype == np.uint8 and np.array_equal(found[0], mask)
    backend.close()
    backend.close()


def test_threads_are_passed_on(bundle: Bundle) -> None:
    backend = open_backend(bundle, threads=1)
    assert isinstance(backend, OrtBackend)
    assert backend._session.get_session_options().intra_op_num_threads == 1


@pytest.mark.parametrize(
    ("precisions", "chosen"), [(("fp32",), "fp32"), (("fp32", "fp16", "int8", "int8-cpu"), "int8-cpu")]
)
def test_auto_precision_is_the_fastest_made_for_the_cpu(
    fake: FakeBundle, precisions: tuple[str, ...], chosen: str
) -> None:
    assert OrtBackend(replace(fake, precisions=precisions)).precision == chosen  # type: ignore[arg-type]


def test_auto_precision_of_a_bundle_without_cpu_graphs_is_refused(fake: FakeBundle) -> None:
    with pytest.raises(BackendError, match="fake has only fp16, int8; expected int8-cpu or fp32"):
        OrtBackend(replace(fake, precisions=("fp16", "int8")))  # type: ignore[arg-type]


@pytest.mark.parametrize(("precision", "optimised"), [("int8", False), ("int8-cpu", True), ("fp32", True)])
def test_only_the_device_graph_is_computed_as_written(fake: FakeBundle, precision: str, optimised: bool) -> None:
    backend = OrtBackend(fake, precision)  # type: ignore[arg-type]
    level = backend._session.get_session_options().graph_optimization_level
    assert (level == onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL) is not optimised
    assert backend._session.get_providers() == ["CPUExecutionProvider"]


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"backend": "cuda"}, BackendError, "'cuda' is unknown; expected auto or one of ort"),
        (
            {"backend": "ort", "options": BackendOptions(zero_copy=True)},
            BackendError,
            "zero-copy memory with backend ort",
        ),
        ({"backend": "null", "options": BackendOptions(graph=True)}, BackendError, "a CUDA graph with backend null"),
        ({"precision": "int4"}, BundleError, "int4"),
        ({"precision": "int8-cpu"}, BundleError, "int8-cpu"),
        ({"threads": 0}, BackendError, "0 threads"),
    ],
)
def test_what_cannot_be_opened_is_named(
    bundle: Bundle, options: dict[str, object], error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        open_backend(bundle, **options)  # type: ignore[arg-type]


def test_options_come_from_the_environment() -> None:
    assert BackendOptions.from_environment({}) == BackendOptions()
    told = {"EDGESEG_ZERO_COPY": "1", "EDGESEG_CUDA_GRAPH": "Off", "EDGESEG_BUILD": " no "}
    assert BackendOptions.from_environment(told) == BackendOptions(zero_copy=True, graph=False, build=False)
    with pytest.raises(BackendError, match="EDGESEG_BUILD=maybe; expected 1 or 0"):
        BackendOptions.from_environment({"EDGESEG_BUILD": "maybe"})


def test_a_file_that_is_no_graph_is_refused_in_one_line(fake: FakeBundle, tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"not a graph\n" * 9)
    with pytest.raises(BackendError, match=r"refuses model\.onnx") as raised:
        OrtBackend(replace(fake, model=tmp_path / "model.onnx"))  # type: ignore[arg-type]
    assert "\n" not in str(raised.value)


def test_a_graph_of_another_size_than_the_contracts_is_refused(fake: FakeBundle) -> None:
    contract = fake.contract.model_copy(update={"height": 32})
    with pytest.raises(
        BackendError, match=r"input frame tensor\(uint8\) \[1, 64, 96, 3\]; expected .*\[1, 32, 96, 3\]"
    ):
        OrtBackend(replace(fake, contract=contract))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "frame", [np.zeros((64, 96, 3), np.uint8), np.zeros((1, 64, 96, 3), np.float32), np.zeros((1, 3, 64, 96), np.uint8)]
)
def test_a_frame_of_another_shape_or_dtype_is_refused(bundle: Bundle, frame: Image) -> None:
    with pytest.raises(BackendError, match=r"expected \(1, 64, 96, 3\), uint8"):
        open_backend(bundle).infer(frame)


def test_null_gives_class_0_everywhere(bundle: Bundle) -> None:
    backend = open_backend(bundle, backend="null")
    backend.warm_up()
    mask = backend.infer(np.full((1, 64, 96, 3), 9, np.uint8))
    backend.close()
    assert isinstance(backend, NullBackend)
    assert mask.shape == (1, 64, 96) and mask.dtype == np.uint8 and not mask.any()


def _run_fresh(program: str, *arguments: str) -> str:
    done = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_no_engine_is_imported_before_it_is_asked_for() -> None:
    program = "import sys, json, edgeseg.runtime.backends; print(json.dumps('onnxruntime' in sys.modules))"
    assert json.loads(_run_fresh(program)) is False


def test_a_missing_engine_is_named_with_its_fix(tiny_bundle: Path) -> None:
    program = (
        "import sys; sys.modules['onnxruntime'] = None\n"
        "from edgeseg.runtime.backends import open_backend\n"
        "from edgeseg.runtime.bundle import open_bundle\n"
        "from edgeseg.runtime.errors import BackendError\n"
        "try: open_backend(open_bundle(sys.argv[1]))\n"
        "except BackendError as error: print(error)\n"
    )
    said = _run_fresh(program, str(tiny_bundle))
    assert "pip install 'edgeseg[desktop]'" in said and "\n" not in said


def _counting() -> tuple[list[int], Callable[[], None]]:
    calls = [0]

    def run() -> None:
        calls[0] += 1

    return calls, run


def test_warm_up_is_bounded_though_times_keep_rising(monkeypatch: pytest.MonkeyPatch) -> None:
    calls, run = _counting()
    seconds = iter(float(2**i) for i in range(1000))
    monkeypatch.setattr("edgeseg.runtime.backends.time.perf_counter", lambda: next(seconds))
    run_until_steady(run)
    assert calls[0] == 12


def test_warm_up_ends_once_steady(monkeypatch: pytest.MonkeyPatch) -> None:
    calls, run = _counting()
    seconds = iter([0.0, 9.0, 10.0, 15.0, 20.0, 23.0, 30.0, 33.2])
    monkeypatch.setattr("edgeseg.runtime.backends.time.perf_counter", lambda: next(seconds))
    run_until_steady(run)
    assert calls[0] == 4
