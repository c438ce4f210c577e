from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from click.testing import CliRunner, Result

from edgeseg.runtime.cli import main

STREET = "synthetic://street?size=160x120&fps=25&seed=3&pace=none&frames=6"


def run_demo(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, ["demo", *map(str, arguments)])


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    path = tmp_path / "clip.mp4"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 25, (96, 64))
    for level in range(10):
        writer.write(np.full((64, 96, 3), 20 * level, np.uint8))
    writer.release()
    return path


def read_json(path: Path) -> dict[str, Any]:
    document = json.loads(path.read_text())
    assert isinstance(document, dict)
    return document


def test_street_camera_gives_summary_self_test_score_and_contact_sheet(tiny_bundle: Path, tmp_path: Path) -> None:
    out = tmp_path / "new"
    outcome = run_demo("--bundle", tiny_bundle, "--source", STREET, "--out", out, "--json", tmp_path / "demo.json")
    assert outcome.exit_code == 0, outcome.output
    assert "mIoU" in outcome.output and "self-test" in outcome.output
    assert "edgeseg-demo.png" in outcome.output
    sheet = cv2.imread(str(out / "edgeseg-demo.png"))
    assert sheet is not None and sheet.shape[1] > 3 * 480, "three columns: frame, prediction, truth"
    document = read_json(tmp_path / "demo.json")
    assert document["schema"] == "edgeseg/demo/1"
    assert document["frames"] == 6 and 0 <= document["miou"] <= 100
    assert document["bundle"]["name"] == "tiny" and document["precision"] == "fp32"


def test_clip_without_truth_has_no_score(tiny_bundle: Path, clip: Path, tmp_path: Path) -> None:
    outcome = run_demo("--bundle", tiny_bundle, "--source", clip, "--out", tmp_path, "--json", tmp_path / "demo.json")
    assert outcome.exit_code == 0, outcome.output
    assert "mIoU" not in outcome.output and "self-test" not in outcome.output
    document = read_json(tmp_path / "demo.json")
    assert document["frames"] == 10 and "miou" not in document
    sheet = cv2.imread(str(tmp_path / "edgeseg-demo.png"))
    assert sheet is not None and sheet.shape[1] < 3 * 480, "two columns: frame, prediction"


def test_endless_camera_is_left_after_the_seconds_asked_for(tiny_bundle: Path, tmp_path: Path) -> None:
    camera = "synthetic://street?size=64x64&fps=25"
    outcome = run_demo(
        "--bundle", tiny_bundle, "--source", camera, "--seconds", "0.3", "--out", tmp_path, "--json", tmp_path / "j"
    )
    assert outcome.exit_code == 0, outcome.output
    assert 1 <= read_json(tmp_path / "j")["frames"] < 25


def test_sheet_goes_to_the_current_folder_by_default(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_demo("--bundle", tiny_bundle, "--source", STREET).exit_code == 0
    assert (tmp_path / "edgeseg-demo.png").is_file()


@pytest.mark.parametrize(
    "arguments", [("--bundle", "no-such-bundle"), ("--source", "no-such-clip.mp4"), ("--out", "file/sub")]
)
def test_what_cannot_be_used_is_one_line(
    arguments: tuple[str, str], tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    given = {"--bundle": str(tiny_bundle), "--source": STREET, **dict([arguments])}
    outcome = run_demo(*(word for pair in given.items() for word in pair))
    assert outcome.exit_code == 1
    assert outcome.output.splitlines()[-1].startswith("error: ")
    assert "Traceback" not in outcome.output


def test_help_ends_with_an_example() -> None:
    assert "edgeseg demo --source drive.mp4" in run_demo("--help").output.splitlines()[-1]
