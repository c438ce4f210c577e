from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from edgeseg.runtime.commands.data import data
from edgeseg.runtime.dataset import load_dataset
from edgeseg.runtime.dataset_check import check_dataset, distinct_entries
from edgeseg.runtime.errors import DatasetError

DatasetMaker = Callable[..., Path]

PHOTO, OTHER = (np.random.default_rng(seed).integers(0, 256, (6, 8, 3)).astype(np.uint8) for seed in (0, 1))
LABELS = np.arange(48, dtype=np.uint8).reshape(6, 8) % 3
GOOD = {"images/good.png": OTHER, "masks/good.png": LABELS}

BAD: dict[str, tuple[dict[str, Any], set[tuple[str, str]]]] = {
    "missing mask": ({"images/x.png": PHOTO}, {("missing-mask", "images/x.png")}),
    "missing image": ({"masks/x.png": LABELS}, {("missing-image", "masks/x.png")}),
    "two images": (
        {"images/x.png": PHOTO, "images/x.bmp": PHOTO, "masks/x.png": LABELS},
        {("several-files", "images/x.bmp")},
    ),
    "size": ({"images/x.png": PHOTO[:5], "masks/x.png": LABELS}, {("size-mismatch", "masks/x.png")}),
    "turned": ({"images/x.png": PHOTO, "masks/x.png": LABELS.T}, {("size-mismatch", "masks/x.png")}),
    "undecodable image": ({"images/x.png": b"no", "masks/x.png": LABELS}, {("undecodable-image", "images/x.png")}),
    "undecodable mask": ({"images/x.png": PHOTO, "masks/x.png": b""}, {("undecodable-mask", "masks/x.png")}),
    "both undecodable": (
        {"images/x.png": b"no", "masks/x.png": b"no"},
        {("undecodable-image", "images/x.png"), ("undecodable-mask", "masks/x.png")},
    ),
    "label": ({"images/x.png": PHOTO, "masks/x.png": LABELS + 1}, {("label-outside-classes", "masks/x.png")}),
    "colour": ({"images/x.png": PHOTO, "masks/x.png": PHOTO}, {("label-outside-classes", "masks/x.png")}),
    "void": ({"images/x.png": PHOTO, "masks/x.png": LABELS * 0 + 255}, {("only-void", "masks/x.png")}),
    "size and label": (
        {"images/x.png": PHOTO[:5], "masks/x.png": LABELS + 1},
        {("size-mismatch", "masks/x.png"), ("label-outside-classes", "masks/x.png")},
    ),
}


def run_check(*arguments: str | Path) -> Result:
    # Wide, so that no cell is folded.
    return CliRunner(env={"COLUMNS": "300"}).invoke(data, ["check", *map(str, arguments)])


@pytest.mark.parametrize(("files", "expected"), BAD.values(), ids=BAD.keys())
def test_every_bad_pair_is_named(
    make_dataset: DatasetMaker, tmp_path: Path, files: dict[str, Any], expected: set[tuple[str, str]]
) -> None:
    report = tmp_path / "report.json"
    outcome = run_check(make_dataset(GOOD | files), "--json", report)
    assert outcome.exit_code == 1
    document = json.loads(report.read_text())
    assert document["schema"] == "edgeseg/data-check/1"
    assert document["dataset"] == {"name": "yard"}
    assert {(finding["rule"], finding["file"]) for finding in document["findings"]} == expected
    assert len(document["findings"]) == len(expected)
    assert document["splits"] == {"all": {"stems": 2, "findings": len(expected)}}
    for finding in document["findings"]:
        assert finding["splits"] == ["all"]
        assert finding["severity"] == "error"
        assert finding["stem"] == "x"
        assert finding["found"]
        assert finding["fix"]
        assert finding["rule"] in outcome.output
        assert finding["file"] in outcome.output
        assert finding["found"] in outcome.output


def test_sound_dataset_passes_in_one_line(make_dataset: DatasetMaker, tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    outcome = run_check(make_dataset(GOOD), "--json", report)
    assert outcome.exit_code == 0
    assert outcome.output == "yard: 2 files, each decoded, no findings (all 1)\n"
    assert json.loads(report.read_text())["findings"] == []


def test_turned_pair_gets_the_advice_for_turned_photos(make_dataset: DatasetMaker) -> None:
    outcome = run_check(make_dataset({"images/x.png": PHOTO, "masks/x.png": LABELS.T}))
    assert "EXIF orientation" in outcome.output


def test_file_in_two_splits_is_looked_at_once_and_named_with_both(make_dataset: DatasetMaker) -> None:
    more = '[splits.again]\nimages = "images"\nmasks = "masks"\nexclude = ["good"]'
    dataset = load_dataset(make_dataset(GOOD | {"images/x.png": PHOTO, "masks/x.png": LABELS + 1}, more=more))
    entries = distinct_entries(dataset, ["all", "again"])
    looked_at = []
    report = check_dataset(dataset, entries, lambda: looked_at.append(1))
    assert len(looked_at) == 2
    assert report.files == 4
    assert [(f.problem.rule, f.splits) for f in report.findings if not f.is_warning] == [
        ("label-outside-classes", ("all", "again"))
    ]
    assert report.errors == 1


def test_only_the_named_split_is_checked(make_dataset: DatasetMaker) -> None:
    more = '[splits.clean]\nimages = "images"\nmasks = "masks"\ninclude = ["good"]'
    folder = make_dataset(GOOD | {"images/x.png": PHOTO}, more=more)
    assert run_check(folder, "--split", "clean").exit_code == 0
    assert run_check(folder, "--split", "clean", "--split", "all").exit_code == 1


def test_markup_in_a_file_name_is_shown_as_it_is(make_dataset: DatasetMaker) -> None:
    outcome = run_check(make_dataset({"images/[red]x.png": PHOTO}))
    assert "[red]x.png" in outcome.output


def test_dataset_that_cannot_be_loaded_is_one_error(make_dataset: DatasetMaker, tmp_path: Path) -> None:
    assert isinstance(run_check(tmp_path / "nowhere").exception, DatasetError)
    assert isinstance(run_check(make_dataset(GOOD), "--split", "test").exception, DatasetError)


def test_camvid_is_clean(camvid: Path) -> None:
    outcome = run_check(camvid)
    assert outcome.exit_code == 0
    assert "1402 files" in outcome.output


def test_help_ends_with_an_example() -> None:
    last = CliRunner().invoke(data, ["check", "--help"]).output.splitlines()[-1]
    assert last.strip().startswith("Example: edgeseg data check")
