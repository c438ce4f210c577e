"""How sure the network is: from the graph's second output to the summary, and what cannot be told without it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from edgeseg.runtime.backends import open_backend, read_confidence
from edgeseg.runtime.bundle import open_bundle, write_bundle
from edgeseg.runtime.cli import main
from edgeseg.runtime.contract import Contract, Fitter
from edgeseg.runtime.errors import BundleError
from edgeseg.runtime.frame import Confidence, Frame, Result
from edgeseg.runtime.health.hard_frames import LEAST_MASKS, HardFrames
from edgeseg.runtime.health.monitor import HealthMonitor
from edgeseg.runtime.health.store import FrameStore

ROAD, CAR = (128, 64, 128), (64, 0, 128)
"""RGB of two classes of the tiny contract."""


def picture(*colours: tuple[float, ...]) -> np.ndarray:
    """The contract's 64x96 pixels, as many bands as there are colours, BGR."""
    bands = np.array(colours, np.uint8)[:, ::-1].repeat(96 // len(colours), axis=0)
    return np.ascontiguousarray(np.broadcast_to(bands, (64, 96, 3)))


def test_what_lies_between_two_classes_is_less_sure_than_either(sure_bundle: Path) -> None:
    between = tuple(np.mean([ROAD, CAR], axis=0))
    with open_bundle(sure_bundle) as bundle:
        backend = open_backend(bundle, backend="ort", threads=1)
        backend.infer(picture(ROAD, between, CAR)[None])
        cells = read_confidence(backend)
    assert cells is not None and cells.shape == (1, 8, 12) and cells.dtype == np.uint8
    road, middle, car = cells[0, 0, 1], cells[0, 0, 5], cells[0, 0, 10]
    assert middle < road and middle < car and np.all(cells == cells[:, :1])


def test_an_engine_without_the_output_tells_nothing(tiny_bundle: Path, sure_bundle: Path) -> None:
    with open_bundle(tiny_bundle) as bundle:
        backend = open_backend(bundle, backend="ort", threads=1)
        backend.infer(picture(ROAD)[None])
        assert read_confidence(backend) is None
        assert read_confidence(open_backend(bundle, backend="null")) is None
    assert "confidence_cell" not in (tiny_bundle / "manifest.json").read_text()
    with open_bundle(sure_bundle) as bundle:
        cells = read_confidence(open_backend(bundle, backend="null"))
    assert cells is not None and cells.shape == (1, 8, 12)


@pytest.mark.parametrize(("graph", "cell"), [("tiny", 8), ("sure", None), ("sure", 16)])
def test_a_graph_that_gives_another_output_than_its_contract_says_is_refused(
    tiny_bundle: Path, sure_bundle: Path, tmp_path: Path, graph: str, cell: int | None
) -> None:
    folder = tmp_path / "bundle"
    shutil.copytree({"tiny": tiny_bundle, "sure": sure_bundle}[graph], folder)
    with open_bundle(folder) as bundle:
        manifest = bundle.manifest
    with pytest.raises(BundleError, match="output mask uint8"):
        write_bundle(
            folder,
            name="other",
            contract=manifest.contract.model_copy(update={"confidence_cell": cell}),
            stages=manifest.stages,
            golden=manifest.golden,
            provenance=manifest.provenance,
        )


def test_cells_are_whole(tiny_contract: Contract) -> None:
    assert Contract(**{**tiny_contract.model_dump(), "confidence_cell": 8}).confidence_hw == (8, 12)
    with pytest.raises(ValueError, match="64x96 pixels are not whole cells of 7"):
        Contract(**{**tiny_contract.model_dump(), "confidence_cell": 7})


@given(st.integers(1, 400), st.integers(1, 400), st.sampled_from(["letterbox", "stretch", "crop"]))
def test_cells_of_the_bars_are_left_out(height: int, width: int, fit: str) -> None:
    contract = Contract.model_validate(
        {"height": 64, "width": 96, "fit": fit, "classes": ("a",), "palette": ((0, 0, 0),), "ignore_index": 255}
    )
    fitter = Fitter(contract, (height, width))
    inside = np.zeros((64, 96), np.uint8)
    inside[fitter.target.slices] = 1
    share = inside.reshape(8, 8, 12, 8).mean(axis=(1, 3))
    cells = np.round(share * 255).astype(np.uint8)
    found = fitter.unfit_confidence(cells)
    assert found.size >= 1
    if found.size > max(found.shape):  # neither side is one cell for want of a whole one
        assert np.all(found == 255) and found.size == np.count_nonzero(share == 1)


def test_a_run_tells_the_unsure_share_everywhere(sure_bundle: Path, tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for index in range(3):
        assert cv2.imwrite(str(folder / f"{index}.png"), picture(ROAD, CAR))
    words = ("run", sure_bundle, "--backend", "ort", "--source", folder, "--sink", f"jsonl:{tmp_path}/r.jsonl")
    done = CliRunner().invoke(main, [*map(str, words), "--json", str(tmp_path / "run.json")])
    assert done.exit_code == 0, done.output
    health = json.loads((tmp_path / "run.json").read_text())["health"]
    records = [json.loads(line) for line in (tmp_path / "r.jsonl").read_text().splitlines()]
    assert len(records) == 3 and {record["unsure"] for record in records} == {health["unsure"]}
    assert 0 <= health["unsure"] <= 100


def _result(contract: Contract, index: int, cells: Confidence | None) -> Result:
    frame = Frame(image_bgr=picture(ROAD), id=index, captured_ns=index * 10**9, name=f"frame-{index:06d}")
    return Result(frame=frame, mask=np.zeros(contract.size_hw, np.uint8), inference_ms=1, confidence=cells)


def test_a_frame_that_is_less_sure_than_usual_is_hard(tiny_contract: Contract, tmp_path: Path) -> None:
    monitor = HealthMonitor(tiny_contract)
    hard = HardFrames(FrameStore(tmp_path, max_bytes=10**6, contract=tiny_contract), {})
    sure, unsure = np.full((8, 12), 250, np.uint8), np.full((8, 12), 90, np.uint8)
    for index in range(LEAST_MASKS + 2):
        result = _result(tiny_contract, index, unsure if index == LEAST_MASKS + 1 else sure)
        monitor.see(result)
        hard.consider(result, monitor.latest, "camera-1")
    (why,) = (tmp_path / "why").iterdir()
    reasons = json.loads(why.read_text())["reasons"]
    assert reasons == {"unsure": {"found": 1.0, "usual": 0.0}}
    health = monitor.health()
    assert health is not None and health.unsure == pytest.approx(100 / (LEAST_MASKS + 2), rel=0.05)


def test_health_without_confidence_has_no_such_figure(tiny_contract: Contract) -> None:
    monitor = HealthMonitor(tiny_contract)
    monitor.see(_result(tiny_contract, 0, None))
    health = monitor.health()
    assert health is not None and health.unsure is None and "unsure" not in health.document()
