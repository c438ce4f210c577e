"""Odd datasets through every joint, as a new user would try them: import, check, train, evaluate, export, run."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import CliRunner, Result

from edgeseg.runtime.cli import main

SMALL = ("--size", "96x64", "--network", "nano", "--from-scratch", "--workers", "0", "--epochs", "1")


def _edgeseg(*words: object, status: int = 0) -> Result:
    result = CliRunner(env={"COLUMNS": "300"}).invoke(main, [str(word) for word in words])
    assert result.exit_code == status, result.output
    return result


def test_nuclei_of_12_bits_and_nine_sizes_go_from_a_folder_to_masks(tmp_path: Path) -> None:
    """One file for each nucleus, no splits, no description; some images are RGBA, one has no nucleus."""
    chance = np.random.default_rng(0)
    for number in range(12):
        folder = tmp_path / "nuclei" / f"{number:02}é b"
        size_hw = (24 + 3 * (number % 9), 30 if number else 480)
        image = chance.integers(0, 300, size_hw).astype(np.uint16)
        for kind in ("images", "masks"):
            (folder / kind).mkdir(parents=True)
        for nucleus in range(3):
            mask = np.zeros(size_hw, np.uint8)
            cv2.circle(mask, (int(chance.integers(30)), int(chance.integers(24))), 4, 255 * (number != 3), -1)
            image[mask > 0] = 3000
            (folder / "masks" / f"{number}{nucleus}.png").write_bytes(cv2.imencode(".png", mask)[1].tobytes())
        stored = np.dstack([image] * 3 + [np.full_like(image, 65535)]) if number % 3 == 0 else image
        (folder / "images" / f"{folder.name}.PNG").write_bytes(cv2.imencode(".png", stored)[1].tobytes())
    data, run, bundle, masks = (tmp_path / name for name in ("data", "run", "bundle", "masks"))
    _edgeseg("data", "import", tmp_path / "nuclei", "--from", "masks", "--class", "nucleus=255", "--out", data)
    _edgeseg("data", "check", data)
    _edgeseg("data", "stats", data, "--html", tmp_path / "page.html")
    _edgeseg("train", data, "--out", run, *SMALL)
    _edgeseg("evaluate", run, data, "--split", "val", "--json", tmp_path / "scores.json")
    assert set(json.loads((tmp_path / "scores.json").read_text())["per_class_iou"]) == {"background", "nucleus"}
    _edgeseg("export", run, "--data", data, "--out", bundle, "--precision", "fp32")
    assert json.loads((bundle / "manifest.json").read_text())["contract"]["white_level"] == 4095
    _edgeseg("run", bundle, "--source", data / "images" / "val", "--sink", f"masks:{masks}", "--precision", "fp32")
    for path in sorted((data / "masks" / "val").iterdir()):
        seen, truth = (cv2.imread(str(folder / path.name), cv2.IMREAD_UNCHANGED) for folder in (masks, path.parent))
        assert seen is not None and truth is not None and seen.shape == truth.shape


@pytest.mark.parametrize("is_void", [True, False])
def test_class_without_a_pixel_to_learn_from_is_named(tmp_path: Path, is_void: bool) -> None:
    """Masks of 0 and 255 where 255 is the ignore index: all that is left is background, and it scores 100 %."""
    for kind in ("images", "masks"):
        (tmp_path / kind).mkdir()
    for number in range(4):
        image = np.random.default_rng(number).integers(0, 256, (64, 96), np.uint8)
        cv2.imwrite(str(tmp_path / "images" / f"{number}.png"), image)
        cv2.imwrite(str(tmp_path / "masks" / f"{number}.png"), np.where(image > 99, 255, 0))
    index, white = (255, "[255, 0, 0]") if is_void else (254, "[255, 255, 255]")
    (tmp_path / "dataset.toml").write_text(
        f'name = "n"\nignore_index = {index}\nclasses = ["soil", "crop"]\npalette = [[0, 0, 0], {white}]\n'
        'val_share = 0.25\n[splits.train]\nimages = "images"\nmasks = "masks"\n'
    )
    output = _edgeseg("train", tmp_path, "--out", tmp_path / "run", *SMALL).output
    assert ("no pixel of crop to learn from" in output) is is_void
