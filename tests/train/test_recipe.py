"""Rows of the recipe: each differs from the baseline in its flags alone, and a stopped measurement goes on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from edgeseg.runtime.errors import TrainError
from edgeseg.train.commands import train
from edgeseg.train.recipe import BASELINE, ROWS, recipe


def _measure(dataset: Path, out: Path, *extra: str) -> Result:
    words = [str(dataset), "--out", str(out), "--epochs", "1", "--seed", "0", "--row", "smaller input", *extra]
    return CliRunner().invoke(recipe, words)


def test_flags_of_every_row_are_flags_of_train() -> None:
    known = {flag for option in train.params for flag in (*option.opts, *option.secondary_opts)}
    assert {flag for flags in ROWS.values() for flag in flags if flag.startswith("--")} <= known


def test_measurement_goes_on_where_it_was_stopped_and_compares_with_the_baseline(
    street_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows that are done are not trained again: `train` is taken away for them."""
    out = tmp_path / "recipe"
    asked: list[str] = []

    def stand_in(dataset: Path, folder: Path, flags: list[str]) -> None:
        asked.append(folder.name)
        if folder.name == "smaller-input-0" and len(asked) == 2:
            raise TrainError("stopped")
        folder.mkdir(parents=True)
        score = 50.0 if "--size" not in flags else 48.5
        (folder / "metrics.json").write_text(json.dumps({"miou": score, "seconds": 3.0, "per_class_iou": {"sky": 1.0}}))

    monkeypatch.setattr("edgeseg.train.recipe._train", stand_in)
    assert isinstance(_measure(street_dataset, out).exception, TrainError)
    assert _measure(street_dataset, out).exit_code == 0
    assert asked == ["baseline-0", "smaller-input-0", "smaller-input-0"]
    document = json.loads((out / "recipe.json").read_text())
    assert [row["row"] for row in document["rows"]] == [BASELINE, "smaller input"]
    assert "| smaller input | `--size 384x288` | 48.50 | -1.50 | 3 |" in (out / "recipe.md").read_text()

    other = _measure(street_dataset, out, "--network", "small")
    assert isinstance(other.exception, TrainError) and "choose another --out" in str(other.exception)


def test_failing_row_is_named_with_its_reason(street_dataset: Path, tmp_path: Path) -> None:
    result = _measure(street_dataset, tmp_path / "recipe", "--split", "nowhere")
    assert isinstance(result.exception, TrainError)
    assert "baseline-0: " in str(result.exception) and "nowhere" in str(result.exception)


def test_unknown_row_is_refused(street_dataset: Path, tmp_path: Path) -> None:
    result = _measure(street_dataset, tmp_path / "recipe", "--row", "luck")
    assert "no row 'luck'" in str(result.exception)
