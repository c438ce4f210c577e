"""The first use of a bundle on a machine: golden frames decide what `auto` may run."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edgeseg.runtime import first_use
from edgeseg.runtime.backends import open_backend
from edgeseg.runtime.bundle import Bundle, open_bundle, write_bundle
from edgeseg.runtime.environment import environment
from edgeseg.runtime.errors import BackendError
from edgeseg.runtime.first_use import find_failure
from edgeseg.runtime.frame import Image, Mask
from edgeseg.runtime.manifest import Golden


class Engine:
    """Gives class 0 everywhere, and counts how often it is asked."""

    name, precision = "fake", "fp32"

    def __init__(self) -> None:
        self.frames = 0

    def infer(self, frame: Image) -> Mask:
        self.frames += 1
        return np.zeros(frame.shape[:3], np.uint8)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(first_use, "_said", set())
    return tmp_path / "cache" / "edgeseg" / "first-use.json"


@pytest.fixture
def bundle(tiny_bundle: Path) -> Bundle:
    return open_bundle(tiny_bundle)


MakeBundle = Callable[..., Bundle]


@pytest.fixture
def make_bundle(tiny_bundle: Path, tmp_path: Path) -> MakeBundle:
    """A copy of the tiny bundle with an int8-cpu graph beside, whose golden frames must agree as told."""

    def make(*, agreement: dict[str, float], gated: bool = True) -> Bundle:
        folder = Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))
        shutil.copy(folder / "model.fp32.onnx", folder / "model.int8-cpu.onnx")
        manifest = open_bundle(tiny_bundle).manifest
        stages = dict(manifest.stages)
        if gated:
            stages["int8-cpu"] = stages["fp32"]
        golden = Golden.model_validate({"frames": manifest.golden.frames, "agreement": agreement})
        write_bundle(
            folder,
            name="two",
            contract=manifest.contract,
            stages=stages,
            golden=golden,
            provenance=manifest.provenance,
        )
        return open_bundle(folder)

    return make


def spoil(monkeypatch: pytest.MonkeyPatch, *precisions: str) -> None:
    """Let the engine compute these precisions wrongly, as saturating kernels do."""
    from edgeseg.runtime.backends.ort import OrtBackend

    right = OrtBackend.infer

    def infer(self: OrtBackend, frame: Image) -> Mask:
        mask = right(self, frame)
        return (10 - mask).astype(np.uint8) if self.precision in precisions else mask

    monkeypatch.setattr(OrtBackend, "infer", infer)


def test_auto_takes_the_fastest_that_gives_its_golden_frames(cache: Path, make_bundle: MakeBundle) -> None:
    bundle = make_bundle(agreement={"fp32": 1.0, "int8-cpu": 0.9})
    assert open_backend(bundle).precision == "int8-cpu"
    assert list(json.loads(cache.read_text()).values()) == [1.0]


def test_auto_passes_over_what_fails_here_and_says_so_once(
    cache: Path, make_bundle: MakeBundle, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = make_bundle(agreement={"fp32": 1.0, "int8-cpu": 0.9})
    spoil(monkeypatch, "int8-cpu")
    assert [open_backend(bundle).precision for _ in range(2)] == ["fp32", "fp32"]
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1 and "two: int8-cpu gives" in said[0] and "90.00% are required" in said[0]


def test_a_precision_that_is_named_is_opened_but_its_failure_is_said(
    cache: Path, make_bundle: MakeBundle, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = make_bundle(agreement={"fp32": 1.0, "int8-cpu": 0.9})
    spoil(monkeypatch, "int8-cpu")
    assert open_backend(bundle, precision="int8-cpu").precision == "int8-cpu"
    assert capsys.readouterr().err.startswith("warning: two: int8-cpu gives")


def test_auto_passes_over_what_passed_no_gate(cache: Path, make_bundle: MakeBundle) -> None:
    assert open_backend(make_bundle(agreement={"fp32": 1.0}, gated=False)).precision == "fp32"


def test_a_machine_on_which_nothing_comes_out_right_is_named(
    cache: Path, make_bundle: MakeBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = make_bundle(agreement={"fp32": 1.0, "int8-cpu": 0.9})
    spoil(monkeypatch, "int8-cpu", "fp32")
    with pytest.raises(BackendError, match="no precision of two gives its golden frames on this machine"):
        open_backend(bundle)


def test_the_answer_is_remembered(cache: Path, bundle: Bundle) -> None:
    engine = Engine()
    lines = [find_failure(bundle, engine) for _ in range(3)]
    assert engine.frames == len(bundle.golden_frames())
    assert len(set(lines)) == 1 and lines[0] is not None and "100.00% are required" in lines[0]


def test_another_processor_is_asked_anew(cache: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine()
    find_failure(bundle, engine)
    here = environment()
    for changed in ({"instruction_set": ["avx_vnni"]}, {"packages": {"onnxruntime": "0"}}, {"device": "another"}):
        monkeypatch.setattr(first_use, "environment", lambda changed=changed: {**here, **changed})
        find_failure(bundle, engine)
    assert engine.frames == 4 * len(bundle.golden_frames())


def test_another_gpu_is_asked_anew(
    cache: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    engine = Engine()
    find_failure(bundle, engine)
    for name in ("Orin (8.7)", "Thor (11.0)", "Orin (8.7)"):
        monkeypatch.setattr(engine, "device", name, raising=False)
        find_failure(bundle, engine)
    assert engine.frames == 3 * len(bundle.golden_frames())
    monkeypatch.setattr(first_use, "_DRIVER", tmp_path)
    for model in ("GeForce RTX 3060", "GeForce RTX 5090"):
        (tmp_path / "0000:01:00.0").mkdir(exist_ok=True)
        (tmp_path / "0000:01:00.0" / "information").write_text(f"Model: \t\t NVIDIA {model}\nIRQ:   \t 66\n")
        find_failure(bundle, engine)
    assert engine.frames == 5 * len(bundle.golden_frames())


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"a": "b"}', b"[" * 100_000, b"\xff", b'{"a": NaN}'])
def test_a_damaged_memory_is_ignored_and_mended(cache: Path, bundle: Bundle, content: bytes) -> None:
    cache.parent.mkdir(parents=True)
    cache.write_bytes(content)
    engine = Engine()
    assert find_failure(bundle, engine) == find_failure(bundle, engine) is not None
    assert engine.frames == len(bundle.golden_frames())


def test_a_place_that_cannot_be_written_only_costs_time(cache: Path, bundle: Bundle) -> None:
    cache.parent.parent.write_text("a file where the folder should be")
    engine = Engine()
    assert find_failure(bundle, engine) == find_failure(bundle, engine) is not None
    assert engine.frames == 2 * len(bundle.golden_frames())


def test_memory_is_bounded(cache: Path, bundle: Bundle) -> None:
    cache.parent.mkdir(parents=True)
    cache.write_text(json.dumps({str(number): 1.0 for number in range(1000)}))
    find_failure(bundle, Engine())
    kept = json.loads(cache.read_text())
    assert len(kept) == 256 and "999" in kept and "0" not in kept


def test_a_precision_without_requirement_is_not_run(cache: Path, bundle: Bundle) -> None:
    engine = Engine()
    engine.precision = "int8"
    assert find_failure(bundle, engine) is None and engine.frames == 0
