"""Peers and cost: the real scripts of `benchmarks/peers`, in environments whose Ultralytics is a small stand-in."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import onnxruntime
import pytest
from click.testing import CliRunner

from edgeseg.benchmarks.contest import Contestant, Turn, hold_contest
from edgeseg.benchmarks.cost import cost, read_size
from edgeseg.benchmarks.document import published_schema
from edgeseg.benchmarks.errors import BenchmarkError
from edgeseg.benchmarks.peers import draw_clip, export_ultralytics, peers, strip_graph
from edgeseg.runtime.bundle import open_bundle

PEERS = Path(__file__).parents[2] / "benchmarks" / "peers"

# As much of Ultralytics as the peer's script calls. Its network is the identity on one picture, at the asked size.
ULTRALYTICS = """
import cv2, numpy as np, onnx, types
from onnx import TensorProto, helper

__version__ = "0"
print("settings were made")  # as the real one does at its first import

class YOLO:
    def __init__(self, model, task):
        self.model, self.layers = model, open(model).read() if model.endswith("yaml") else None

    def export(self, format, imgsz, opset):
        assert self.layers in (str({"nc": 11}), str({"nc": 19}))
        shape = [1, 3, *imgsz]
        tensors = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("images", "output0")]
        node = helper.make_node("Identity", ["images"], ["output0"])
        graph = helper.make_graph([node], "g", tensors[:1], tensors[1:])
        made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)
        onnx.save(made, "exported.onnx")
        return "exported.onnx"

    def predict(self, source, stream, imgsz, device, verbose):
        capture = cv2.VideoCapture(source)
        while True:
            ok, frame = capture.read()
            if not ok:
                return
            mask = np.zeros(frame.shape[:2], np.uint8)
            yield types.SimpleNamespace(semantic_mask=mask, orig_shape=frame.shape[:2])
"""
UTILS = """
class YAML:
    load = staticmethod(lambda path: {"nc": 19})
    save = staticmethod(lambda path, layers: open(path, "w").write(str(layers)))
"""
CHECKS = "check_yaml = lambda name: name\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `benchmarks/peers/set_up` makes, with this interpreter in place of environments."""
    folder = tmp_path_factory.mktemp("peers")
    for peer in ("ultralytics", "naive"):
        (folder / peer / "bin").mkdir(parents=True)
        python = folder / peer / "bin" / "python"
        python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
        python.chmod(0o755)
        (folder / peer / "peer.py").write_text((PEERS / f"{peer}_peer.py").read_text())
        (folder / peer / "answers.py").write_text((PEERS / "answers.py").read_text())
    package = folder / "ultralytics" / "ultralytics"
    (package / "utils").mkdir(parents=True)
    (package / "__init__.py").write_text(ULTRALYTICS)
    (package / "utils" / "__init__.py").write_text(UTILS)
    (package / "utils" / "checks.py").write_text(CHECKS)
    metadata = folder / "ultralytics" / "ultralytics-0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: ultralytics\nVersion: 0\n")
    return folder


def test_peers_are_measured_beside_edgeseg(folder: Path, tiny_bundle: Path, tmp_path: Path) -> None:
    words = [str(tiny_bundle), "--peers", str(folder), "--duration", "0.1", "--json", str(tmp_path / "peers.json")]
    result = CliRunner().invoke(peers, words)
    assert result.exit_code == 0, result.output
    document: dict[str, Any] = json.loads((tmp_path / "peers.json").read_text())
    jsonschema.validate(document, published_schema("contest"))
    yolo, naive = "yolo26n-sem 64x96 19 classes", "naive loop tiny fp32"
    assert set(document["sides"]) == {yolo, naive, "edgeseg tiny fp32", "edgeseg tiny fp32 overlays"}
    assert [(ratio["of"], ratio["over"]) for ratio in document["ratios"]] == [
        (yolo, "edgeseg tiny fp32"),
        (naive, "edgeseg tiny fp32 overlays"),
    ]
    for side in document["sides"].values():
        assert side["facts"]["input_size"] == [64, 96]
        assert side["frame_ms"]["count"] == document["rounds"]
    assert "times the frames a second of naive loop tiny fp32" in " ".join(result.output.split())


def test_cost_is_measured_against_the_peer_of_each_size(folder: Path, tiny_bundle: Path, tmp_path: Path) -> None:
    graph = tiny_bundle / "model.fp32.onnx"
    words = [str(graph), "--peers", str(folder), "--duration", "0.1", "--json", str(tmp_path / "cost.json")]
    result = CliRunner().invoke(cost, words)
    assert result.exit_code == 0, result.output
    document = json.loads((tmp_path / "cost.json").read_text())
    jsonschema.validate(document, published_schema("contest"))
    name, published, alike = "tiny/model.fp32.onnx", "yolo26n-sem 64x96 19 classes", "yolo26n-sem 64x96 11 classes"
    assert [(ratio["of"], ratio["over"]) for ratio in document["ratios"]] == [(name, published), (name, alike)]
    for peer in (published, alike):
        assert document["sides"][peer]["facts"]["shape"] == [1, 3, 64, 96]
    assert document["sides"][name]["facts"]["shape"] == [1, 64, 96, 3]


def test_naive_loop_gets_the_network_without_its_ends(tiny_bundle: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    frame = rng.integers(0, 256, (1, 64, 96, 3), np.uint8)
    with open_bundle(str(tiny_bundle)) as bundle:
        whole = bundle.model_path("fp32")
        strip_graph(whole, tmp_path / "stripped.onnx")
        mask = onnxruntime.InferenceSession(str(whole)).run(None, {"frame": frame})[0]
    stripped = onnxruntime.InferenceSession(str(tmp_path / "stripped.onnx"))
    pixels = ((frame.astype(np.float32) - 127) / 128).transpose(0, 3, 1, 2)
    scores = stripped.run(None, {stripped.get_inputs()[0].name: pixels})[0]
    assert np.array_equal(scores.argmax(1), mask)


def test_naive_loops_scores_lie_as_the_mask_does(tmp_path: Path) -> None:
    with open_bundle("street-nano") as bundle:
        strip_graph(bundle.model_path("fp32"), tmp_path / "stripped.onnx")
        _, frame, _ = next(iter(bundle.golden_frames()))
        mask = onnxruntime.InferenceSession(str(bundle.model_path("fp32"))).run(["mask"], {"frame": frame[None]})[0][0]
    stripped = onnxruntime.InferenceSession(str(tmp_path / "stripped.onnx"))
    pixels = ((frame[None].astype(np.float32) - 127) / 128).transpose(0, 3, 1, 2)
    cells = stripped.run(None, {stripped.get_inputs()[0].name: pixels})[0][0].argmax(0)
    assert cells.shape == (mask.shape[0] // 2, mask.shape[1] // 2)
    assert np.mean(cells.repeat(2, 0).repeat(2, 1) == mask) > 0.97  # outlines are smoothed in the mask


def test_folder_without_environments_is_refused(tiny_bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(BenchmarkError, match="holds no environment ultralytics"):
        export_ultralytics(tmp_path, tmp_path / "out.onnx", size_hw=(64, 96), classes=11)


def test_export_that_fails_says_why(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(BenchmarkError, match="Ultralytics could not export: AssertionError"):
        export_ultralytics(folder, tmp_path / "out.onnx", size_hw=(64, 96), classes=5)


def test_graph_of_no_picture_is_refused(tmp_path: Path) -> None:
    import onnx
    from onnx import TensorProto, helper

    tensors = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 7]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", tensors[:1], tensors[1:])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9), tmp_path / "g.onnx")
    with pytest.raises(BenchmarkError, match=r"g\.onnx takes x float32 \(1, 7\)"):
        read_size(tmp_path / "g.onnx")


def test_naive_loop_says_that_a_clip_is_too_short(folder: Path, tiny_bundle: Path, tmp_path: Path) -> None:
    clip = draw_clip(tmp_path / "clip.mp4")
    strip_graph(tiny_bundle / "model.fp32.onnx", tmp_path / "g.onnx")
    command = [str(folder / "naive" / "bin" / "python"), str(folder / "naive" / "peer.py"), "run"]
    order = json.dumps({"do": "run", "count": 1000}) + "\n"
    done = subprocess.run(
        [*command, str(tmp_path / "g.onnx"), "64", "96", "1", str(clip)], input=order, capture_output=True, text=True
    )
    assert done.returncode != 0
    assert "and 1001 are wanted" in done.stderr


TALKER = """
import json, sys
print(json.dumps({"name": sys.argv[1]}), flush=True)
for line in sys.stdin:
    count = json.loads(line)["count"]
    print(json.dumps({"ms": [float(sys.argv[2])] * count}), flush=True)
"""


def talker(name: str, time_ms: float, code: str = TALKER) -> Contestant:
    return Contestant(name=name, what="talks", command=(sys.executable, "-c", code, name, str(time_ms)))


TURN = Turn(timed="nothing", frames=3, uncounted=1, environment={})


def test_contest_gives_the_ratio_of_each_pair() -> None:
    sides = [talker("a", 2.0), talker("b", 4.0), talker("c", 1.0)]
    found = hold_contest("talk", sides, [("b", "a"), ("c", "a")], TURN, duration_s=0.01, source="none")
    assert [(ratio.of, ratio.over, ratio.time.value) for ratio in found.ratios] == [("b", "a", 2.0), ("c", "a", 0.5)]
    assert found.sides["b"].frame_ms.count == 2 * found.rounds
    assert found.sides["b"].facts == {"name": "b"}
    assert found.sides["b"].warm_up is not None and found.sides["b"].warm_up.steady


def test_contest_refuses_two_sides_of_one_name() -> None:
    with pytest.raises(BenchmarkError, match="sides a, a"):
        hold_contest("talk", [talker("a", 1), talker("a", 2)], [], TURN, duration_s=0.01, source="none")


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("print('hello')", "the process that measures a answers 'hello'"),
        ("raise SystemExit(3)", "the process that measures a ended with status 3"),
    ],
)
def test_contest_names_a_side_that_fails(code: str, message: str) -> None:
    with pytest.raises(BenchmarkError, match=message):
        hold_contest("talk", [talker("a", 1, code)], [], TURN, duration_s=0.01, source="none")


def test_contest_names_a_side_that_cannot_be_started() -> None:
    absent = Contestant(name="a", what="nothing", command=("/no/such/program",))
    with pytest.raises(BenchmarkError, match="cannot start /no/such/program"):
        hold_contest("talk", [absent], [], TURN, duration_s=0.01, source="none")
