"""Pictures that cannot be read, on the way from training through scoring to a bundle."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from edgeseg.runtime.cli import main


def _edgeseg(*words: object) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words])


@pytest.fixture(scope="module")
def streets(street_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten pairs to train on and a hundred to select by, most of these by links."""
    folder = tmp_path_factory.mktemp("hundred") / "streets"
    shutil.copytree(street_dataset, folder)
    for kind in ("images", "masks"):
        for path in sorted((folder / kind / "val").iterdir()):
            for copy in range(24):
                (folder / kind / "val" / f"{path.stem}-{copy}.png").symlink_to(path)
    return folder


def _cut(folder: Path, *stems: str) -> None:
    for stem in stems:
        path = folder / "images" / f"{stem}.png"
        data = path.read_bytes()[:300]
        path.unlink()
        path.write_bytes(data)


def _train(folder: Path, out: Path, *flags: str) -> Result:
    size = ("--size", "96x64", "--batch", "10", "--network", "nano", "--from-scratch", "--workers", "0")
    return _edgeseg("train", folder, "--out", out, "--score-every", 1, *size, *flags)


def test_unreadable_picture_of_the_select_split_is_passed_over_at_every_scoring(streets: Path, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    shutil.copytree(streets, folder, symlinks=True)
    _cut(folder, "val/01-7")
    result = _train(folder, tmp_path / "run", "--epochs", "2")
    assert result.exit_code == 0, result.output
    assert result.output.count("passed over 1 of 110") == 1
    for row in json.loads((tmp_path / "run" / "metrics.json").read_text())["history"]:
        assert "miou" in row and [name.count("01-7.png") for name in row["unreadable"]] == [1]


def test_training_ends_when_too_many_of_the_select_split_cannot_be_read(streets: Path, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    shutil.copytree(streets, folder, symlinks=True)
    _cut(folder, "val/01-7", "val/03-2")
    result = _train(folder, tmp_path / "run", "--epochs", "1")
    assert result.exit_code == 1 and len(result.stderr.strip().splitlines()) == 1
    assert "2 of 110 pairs cannot be read" in result.stderr and "03-2.png" in result.stderr


def test_run_that_passed_over_a_picture_is_exported_without_it(streets: Path, tmp_path: Path) -> None:
    """Whether it would calibrate or be scored: nobody has to train again because of it."""
    folder = tmp_path / "data"
    shutil.copytree(streets, folder, symlinks=True)
    _cut(folder, "val/01-7")
    trained = _train(folder, tmp_path / "on-val", "--split", "val", "--select", "none", "--epochs", "1")
    assert trained.exit_code == 0 and "passed over 1 of 100" in trained.output, trained.output
    export = ("export", tmp_path / "on-val", "--data", folder)
    limits = ("--max-drop", 100, "--max-class-drop", 100, "--calibration-images", 100, "--holdout-images", 2)
    out = tmp_path / "calibrated"
    made = _edgeseg(*export, "--out", out, "--split", "train", "--precision", "int8-cpu", *limits)
    assert made.exit_code == 0, made.output
    assert json.loads((out / "manifest.json").read_text())["provenance"]["calibration"]["images"] == 79
    made = _edgeseg(*export, "--out", tmp_path / "scored", "--split", "val", "--precision", "fp32")
    assert made.exit_code == 0 and made.output.count("passed over 1 of 100") == 1, made.output
    assert json.loads((tmp_path / "scored" / "manifest.json").read_text())["stages"]["fp32"]["images"] == 99


def test_bundle_is_accepted_and_its_robustness_studied_without_it(
    streets: Path, tiny_bundle: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "data"
    shutil.copytree(streets, folder, symlinks=True)
    _cut(folder, "val/01-7")
    document = tmp_path / "found.json"
    on_val = ("--split", "val", "--threads", 1, "--json", document)
    made = _edgeseg("robustness", tiny_bundle, folder, *on_val, "--precision", "fp32", "--only", "contrast")
    assert made.exit_code == 0 and made.output.count("passed over 1 of 100") == 1, made.output
    (found,) = json.loads(document.read_text())["unreadable"]
    assert "01-7.png" in found
    _edgeseg("accept", tiny_bundle, "--data", folder, "--split", "val", "--json", document, "--duration", 0.5)
    scores = [line["found"] for line in json.loads(document.read_text())["lines"] if "on 99 images" in line["found"]]
    assert scores and all("(1 that cannot be read left out)" in found for found in scores)
