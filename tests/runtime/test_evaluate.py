from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from click.testing import CliRunner

from edgeseg.runtime.bundle import open_bundle
from edgeseg.runtime.commands.evaluate import evaluate as evaluate_command
from edgeseg.runtime.contract import Contract
from edgeseg.runtime.dataset import load_dataset
from edgeseg.runtime.errors import BundleError, DatasetError, EdgesegError
from edgeseg.runtime.evaluate import evaluate

DatasetMaker = Callable[..., Path]
Array = npt.NDArray[Any]

CONTRACT = Contract(
    height=32,
    width=64,
    fit="stretch",
    classes=("ground", "crate", "tree"),
    palette=((128, 64, 128), (0, 0, 142), (107, 142, 35)),
    ignore_index=200,
)
PALETTE_BGR = np.array(CONTRACT.palette, np.uint8)[:, ::-1]


@dataclass
class NearestColour:
    """Predicts the class of the nearest palette colour; notes what it was shown."""

    contract: Contract = CONTRACT
    closed: bool = False
    shapes: set[tuple[int, ...]] = field(default_factory=set)

    def infer(self, fitted: Array) -> Array:
        self.shapes.add(fitted.shape)
        assert fitted.dtype == np.uint8
        distance = ((fitted[..., None, :].astype(int) - PALETTE_BGR) ** 2).sum(axis=-1)
        nearest: Array = distance.argmin(axis=-1).astype(np.uint8)
        return nearest

    def close(self) -> None:
        self.closed = True


def halves(height: int, width: int) -> Array:
    """Labels: class 0 left, class 1 right."""
    labels = np.zeros((height, width), np.uint8)
    labels[:, width // 2 :] = 1
    return labels


def scene(name: str, labels: Array, painted: Array | None = None) -> dict[str, Array]:
    """A pair whose image is `painted` (default: the labels) in the palette's colours."""
    return {f"images/{name}.png": PALETTE_BGR[labels if painted is None else painted], f"masks/{name}.png": labels}


def test_scores_at_each_labels_own_resolution(make_dataset: DatasetMaker) -> None:
    files = scene("a", halves(64, 128)) | scene("b", halves(96, 64)) | scene("c", halves(64, 128))
    network = NearestColour()
    seen: list[int] = []
    matrix = evaluate(network, load_dataset(make_dataset(files)), "all", advance=lambda: seen.append(1))
    assert network.shapes == {(1, 32, 64, 3)}
    assert matrix.counts.sum() == 2 * 64 * 128 + 96 * 64
    assert matrix.miou == 100.0
    assert matrix.images == len(seen) == 3


def test_wrong_pixels_lower_the_score(make_dataset: DatasetMaker) -> None:
    labels = halves(32, 64)
    painted = labels.copy()
    painted[:16] = 0
    matrix = evaluate(NearestColour(), load_dataset(make_dataset(scene("a", labels, painted))), "all")
    assert matrix.pixel_accuracy == 75.0
    assert matrix.per_class_iou == {"ground": pytest.approx(200 / 3), "crate": 50.0}


def test_what_the_crop_cuts_away_counts_as_wrong(make_dataset: DatasetMaker) -> None:
    network = NearestColour(CONTRACT.model_copy(update={"fit": "crop"}))
    matrix = evaluate(network, load_dataset(make_dataset(scene("a", halves(64, 64)))), "all")
    assert matrix.pixel_accuracy == 50.0


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (("ground", "box", "tree"), "calls class 1 'box'; expected 'crate' as the network does"),
        (("crate", "ground", "tree"), "calls class 0 'crate'; expected 'ground'"),
    ],
)
def test_classes_that_disagree_are_refused(make_dataset: DatasetMaker, classes: tuple[str, ...], message: str) -> None:
    dataset = load_dataset(make_dataset(scene("a", halves(32, 64)), classes=classes))
    with pytest.raises(DatasetError, match=message):
        evaluate(NearestColour(), dataset, "all")


def test_class_count_that_disagrees_is_refused(make_dataset: DatasetMaker) -> None:
    folder = make_dataset(scene("a", halves(32, 64)), classes=("ground", "crate"), palette=CONTRACT.palette[:2])
    with pytest.raises(DatasetError, match="has 2 classes; expected the network's 3"):
        evaluate(NearestColour(), load_dataset(folder), "all")


def test_pair_of_two_sizes_is_refused(make_dataset: DatasetMaker) -> None:
    files = scene("a", halves(32, 64)) | {"masks/a.png": halves(32, 60)}
    with pytest.raises(DatasetError, match=r"a\.png: mask 60×32; expected 64×32"):
        evaluate(NearestColour(), load_dataset(make_dataset(files)), "all")


# --- the command


@pytest.fixture
def run_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A training run's folder, and a training side that opens it as `NearestColour`."""
    run = tmp_path / "run-7"
    run.mkdir()
    (run / "checkpoint.pt").write_bytes(b"weights")
    module = ModuleType("edgeseg.train.predict")
    module.open_run_predictor = lambda path: NearestColour()  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "edgeseg.train.predict", module)
    return run


def run_evaluate(*arguments: object) -> Any:
    return CliRunner(env={"COLUMNS": "200"}).invoke(evaluate_command, list(map(str, arguments)))


def test_run_is_evaluated_and_documented(make_dataset: DatasetMaker, run_folder: Path, tmp_path: Path) -> None:
    folder = make_dataset(scene("a", halves(64, 128)))
    out = tmp_path / "scores.json"
    outcome = run_evaluate(run_folder, folder, "--split", "all", "--json", out)
    assert outcome.exit_code == 0, outcome.exception
    assert "mIoU 100.00 %" in outcome.output
    document = json.loads(out.read_text())
    assert document.pop("environment")["packages"]["numpy"] == np.__version__
    assert document.pop("calibration") == {"absent": "the graph has no output `confidence`"}
    assert document == {
        "schema": "edgeseg/evaluate/1",
        "miou": 100.0,
        "per_class_iou": {"ground": 100.0, "crate": 100.0},
        "pixel_accuracy": 100.0,
        "images": 1,
        "boundary_f": 100.0,
        "per_class_boundary_f": {"ground": 100.0, "crate": 100.0},
        "boundary_tolerance": 0.0075,
        "confusion": {
            "truth": ["ground", "crate", "tree"],
            "prediction": ["ground", "crate", "tree", None],
            "pixels": [[4096, 0, 0, 0], [0, 4096, 0, 0], [0, 0, 0, 0]],
        },
        "worst": [{"image": "a", "miou": 100.0}],
        "split": "all",
        "dataset": {"name": "yard", "digest": load_dataset(folder).digest("all")},
        "run": {"name": "run-7", "checkpoint_sha256": hashlib.sha256(b"weights").hexdigest()},
        "precision": "fp32",
        "backend": "torch",
    }


def test_pictures_and_flicker_are_added_when_asked_for(
    make_dataset: DatasetMaker, run_folder: Path, tmp_path: Path
) -> None:
    writer = cv2.VideoWriter(str(tmp_path / "drive.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 10.0, (64, 32))
    for _ in range(4):
        writer.write(np.full((32, 64, 3), PALETTE_BGR[0], np.uint8))
    writer.release()
    folder, json_path = make_dataset(scene("a", halves(64, 128))), tmp_path / "scores.json"
    flags = ["--out", tmp_path / "pictures", "--video", tmp_path / "drive.avi", "--json", json_path]
    outcome = run_evaluate(run_folder, folder, "--split", "all", *flags)
    assert outcome.exit_code == 0, outcome.exception
    assert sorted(path.name for path in (tmp_path / "pictures").iterdir()) == ["confusion.png", "worst.png"]
    flicker = json.loads(json_path.read_text())["flicker"]
    assert flicker == {"video": "drive.avi", "frames": 4, "changed": 0, "flicker": 0}
    assert "boundary F 100.00 %" in outcome.output and "flicker 0.000 %" in outcome.output
    assert run_evaluate(run_folder, folder, "--split", "all", "--video", tmp_path / "none.avi").exit_code == 2


@pytest.mark.parametrize("bad", [1, 2])
def test_pair_that_cannot_be_read_is_named_passed_over_and_counted_up_to_one_in_a_hundred(
    make_dataset: DatasetMaker, run_folder: Path, tmp_path: Path, bad: int
) -> None:
    files: dict[str, Any] = {}
    for number in range(100):
        files |= scene(f"{number:03d}", halves(8, 16))
    folder = make_dataset(files)
    for name in ("images/017.png", "images/080.png")[:bad]:
        (folder / name).write_bytes((folder / name).read_bytes()[:40])
    report = tmp_path / "scores.json"
    result = run_evaluate(run_folder, folder, "--split", "all", "--json", report)
    if bad == 1:
        assert result.exit_code == 0, result.output
        assert "passed over 1 of 100" in result.output and "017.png" in result.output
        scores = json.loads(report.read_text())
        assert scores["images"] == 99 and scores["miou"] == 100
        assert len(scores["unreadable"]) == 1 and "017.png" in scores["unreadable"][0]
    else:
        assert isinstance(result.exception, DatasetError) and not report.exists()
        assert "2 of 100 pairs cannot be read" in str(result.exception) and "080.png" in str(result.exception)


@pytest.mark.parametrize("flag", [("--precision", "fp32"), ("--threads", "1"), ("--backend", "ort")])
def test_bundle_flags_are_refused_for_a_run(
    make_dataset: DatasetMaker, run_folder: Path, flag: tuple[str, str]
) -> None:
    outcome = run_evaluate(run_folder, make_dataset(scene("a", halves(32, 64))), "--split", "all", *flag)
    assert outcome.exit_code == 2
    assert "are for bundles" in outcome.output


def test_run_without_the_training_side_names_the_command_that_installs_it(
    make_dataset: DatasetMaker, run_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "edgeseg.train.predict", None)
    outcome = run_evaluate(run_folder, make_dataset(scene("a", halves(32, 64))), "--split", "all")
    assert isinstance(outcome.exception, EdgesegError)
    assert "pip install 'edgeseg[train]'" in str(outcome.exception)


def test_split_with_void_only_is_said_to_have_no_score(
    make_dataset: DatasetMaker, run_folder: Path, tmp_path: Path
) -> None:
    files = scene("a", halves(32, 64)) | {"masks/a.png": np.full((32, 64), 255, np.uint8)}
    out = tmp_path / "scores.json"
    outcome = run_evaluate(run_folder, make_dataset(files), "--split", "all", "--json", out)
    assert outcome.exit_code == 0
    assert "nothing to score" in outcome.output
    assert "miou" not in json.loads(out.read_text())


def test_what_is_neither_bundle_nor_run_is_refused(make_dataset: DatasetMaker, tmp_path: Path) -> None:
    outcome = run_evaluate(tmp_path / "nothing", make_dataset(scene("a", halves(32, 64))), "--split", "all")
    assert isinstance(outcome.exception, BundleError)


def test_bundle_is_evaluated_and_documented(
    make_dataset: DatasetMaker, tiny_bundle: Path, tiny_contract: Contract, tmp_path: Path
) -> None:
    labels = np.random.default_rng(0).integers(0, len(tiny_contract.classes), (8, 12)).astype(np.uint8)
    labels = labels.repeat(8, axis=0).repeat(8, axis=1)
    image = np.array(tiny_contract.palette, np.uint8)[labels][..., ::-1]
    folder = make_dataset(
        {"images/a.png": image, "masks/a.png": labels},
        classes=tiny_contract.classes,
        palette=tiny_contract.palette,
    )
    out = tmp_path / "scores.json"
    flags = ["--split", "all", "--precision", "fp32", "--threads", "1"]
    outcome = run_evaluate(tiny_bundle, folder, *flags, "--json", out)
    assert outcome.exit_code == 0, outcome.exception
    document = json.loads(out.read_text())
    with open_bundle(tiny_bundle) as bundle:
        assert document["bundle"] == {"name": bundle.name, "manifest_sha256": bundle.manifest_sha256}
        assert evaluate(bundle, load_dataset(folder), "all").miou == 100.0
    assert document["miou"] == 100.0
    assert (document["precision"], document["backend"]) == ("fp32", "ort")


def test_help_ends_with_an_example() -> None:
    last = CliRunner().invoke(evaluate_command, ["--help"]).output.splitlines()[-1]
    assert last.strip().startswith("Example: edgeseg evaluate street")
