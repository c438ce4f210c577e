"""`edgeseg baseline`: one bundle on several engines, two of them played by small modules of the same name."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from click.testing import CliRunner, Result

from edgeseg.benchmarks.baseline import REFERENCE, baseline, pack_masks, unpack_masks
from edgeseg.benchmarks.document import published_schema

SOURCE = "synthetic://street?size=128x96&fps=100"

# Gives every pixel class 0, through as much of OpenVINO's interface as a user of it needs.
OPENVINO = """
import numpy as np

class Request:
    def infer(self, inputs):
        return {0: np.zeros(inputs[0].shape[:3], np.uint8)}

class Compiled:
    def create_infer_request(self):
        return Request()

class Core:
    def read_model(self, path):
        return path

    def compile_model(self, model, device, settings):
        assert (device, settings["INFERENCE_NUM_THREADS"]) == ("CPU", 1)
        return Compiled()
"""

# The nearest palette colour, as the tiny bundle's graph has it: the right answer by another way.
ONNX2PYTORCH = """
import onnx, torch
from torchvision.io import decode_image  # as the real one does, for operators that no bundle has
from torchvision.ops import nms

class ConvertModel(torch.nn.Module):
    def __init__(self, model):
        super().__init__()
        arrays = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
        self.weight, self.bias = (torch.tensor(arrays[name]) for name in ("weight", "bias"))

    def forward(self, frame):
        planes = (frame.float().permute(0, 3, 1, 2) - 127) / 128
        return torch.nn.functional.conv2d(planes, self.weight, self.bias).argmax(1).to(torch.uint8)
"""


def install(folder: Path, name: str, code: str) -> None:
    (folder / f"{name}.py").write_text(code)
    (folder / f"{name}-9.0.dist-info").mkdir()
    (folder / f"{name}-9.0.dist-info" / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 9.0\n")


def run_baseline(*words: str | Path) -> Result:
    fixed = ("--source", SOURCE, "--duration", "0.1")
    return CliRunner().invoke(baseline, [str(word) for word in (*words, *fixed)])


@pytest.fixture
def engines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of packages that this process and its children find before all others."""
    folder = tmp_path / "engines"
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")]))
    return folder


def test_masks_stand_beside_times(tiny_bundle: Path, engines: Path, tmp_path: Path) -> None:
    install(engines, "openvino", OPENVINO)
    install(engines, "onnx2pytorch", ONNX2PYTORCH)
    result = run_baseline(tiny_bundle, "--json", tmp_path / "baseline.json")
    assert result.exit_code == 0, result.output
    document: dict[str, Any] = json.loads((tmp_path / "baseline.json").read_text())
    jsonschema.validate(document, published_schema("contest"))
    sides = document["sides"]
    assert set(sides) == {REFERENCE, "torch fp32", "openvino fp32"}
    assert sides[REFERENCE]["agreement"] == sides["torch fp32"]["agreement"] == 100
    assert sides["openvino fp32"]["agreement"] < 99  # a fast wrong answer is seen to be one
    assert sides["openvino fp32"]["facts"]["package"] == "openvino 9.0"
    assert {(ratio["of"], ratio["over"]) for ratio in document["ratios"]} == {
        ("torch fp32", REFERENCE),
        ("openvino fp32", REFERENCE),
    }
    assert document["absent"] == {}
    assert document["rounds"] * 2 == sides[REFERENCE]["frame_ms"]["count"]


def test_an_engine_that_is_not_installed_is_named(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = {"onnxruntime"}
    monkeypatch.setattr("edgeseg.benchmarks.baseline.find_spec", lambda name: name if name in known else None)
    result = run_baseline(tiny_bundle, "--json", tmp_path / "baseline.json")
    assert result.exit_code == 0, result.output
    document = json.loads((tmp_path / "baseline.json").read_text())
    assert set(document["sides"]) == {REFERENCE}
    assert document["absent"] == {
        "torch": "torch, onnx, onnx2pytorch not installed",
        "openvino": "openvino not installed",
    }
    assert "openvino: openvino not installed" in result.output


def test_an_engine_that_fails_is_named(tiny_bundle: Path, engines: Path) -> None:
    install(engines, "openvino", "raise SystemExit('broken')")
    install(engines, "onnx2pytorch", ONNX2PYTORCH)
    result = run_baseline(tiny_bundle)
    assert result.exit_code != 0
    assert "openvino fp32 ended with status" in str(result.exception)


def test_masks_survive_the_way_between_processes() -> None:
    masks = np.random.default_rng(0).integers(0, 256, (2, 3, 5), np.uint8)
    assert np.array_equal(unpack_masks(json.loads(json.dumps(pack_masks(masks)))), masks)
